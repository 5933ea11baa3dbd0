//! The loop itself, turn after turn: ask the model, run the calls it wants, until it answers.
//!
//! Invariant: a reply is in the journal before its calls run, a call before it runs, and its result before the
//! model reads it. Every call in the transcript has its result behind it, however the work ends.

mod answer;
mod calls;

use std::sync::Arc;
use std::time::Duration;

use chaski_engine::{
    FinishReason, GenerateRequest, Message, OutputFormat, Prompt, Sampling, SessionId, ToolChoice, Usage,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use self::answer::OutputCheck;
use self::calls::{CallHistory, make_ids_unique};
use super::model::{ChatModel, ModelError, ModelReply, ReplyDelta};
use super::offer::{Offer, ToolRoom};
use super::transcript::{Room, Transcript};
use crate::run::event::{LiveEvent, Place, RunEvent};
use crate::run::journal::JournalError;
use crate::run::recorder::Recorder;
use crate::tools::ToolSet;

/// An agent: instructions, tools, limits and the shape of its answer. A workflow or `chat` builds it.
#[derive(Clone)]
pub struct Agent {
    /// Its name in the workflow.
    pub name: String,
    /// The system message; empty for none.
    pub instructions: String,
    /// The tools it was granted.
    pub tools: ToolSet,
    /// For its first turn. Later turns are `Auto`, and the last turn of the limit is `None`: it must answer.
    pub tool_choice: ToolChoice,
    /// JSON Schema of its final answer; `None` for text.
    pub output: Option<Value>,
    /// How its tokens are picked.
    pub sampling: Sampling,
    /// The adapter of the engine that it speaks through; `None` is the model itself.
    pub adapter: Option<String>,
    /// Its bounds.
    pub limits: AgentLimits,
}

/// The bounds of one agent's work on one prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AgentLimits {
    /// Most turns, at least 1.
    pub turns: usize,
    /// Most tokens that all its replies have together.
    pub tokens: usize,
    /// Most tokens of one reply.
    pub reply_tokens: usize,
    /// Most time, tools included.
    pub time: Duration,
    /// Most time for one tool call.
    pub tool_time: Duration,
    /// What descriptions of its tools may take before the model has to search for them.
    pub tool_room: ToolRoom,
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            turns: 8,
            tokens: 8_192,
            reply_tokens: 1_024,
            time: Duration::from_secs(600),
            tool_time: Duration::from_secs(30),
            tool_room: ToolRoom::default(),
        }
    }
}

/// What an agent's work came to.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentAnswer {
    /// The final answer's text.
    pub text: String,
    /// The final answer as JSON, when the agent has an output schema.
    pub json: Option<Value>,
    /// Turns taken.
    pub turns: usize,
    /// Tokens of all turns.
    pub usage: Usage,
}

/// Why an agent came to no answer.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A limit ended the work before an answer.
    #[error("agent `{agent}` reached its limit of {limit}")]
    Limit {
        /// Whose.
        agent: String,
        /// Which, with its value.
        limit: String,
    },
    /// The answer is not valid under the output schema (remote models only; the engine guarantees it).
    #[error("agent `{agent}` gave an answer that does not fit its output schema: {reason}")]
    Output {
        /// Whose.
        agent: String,
        /// The fault and its place.
        reason: String,
    },
    /// The event log failed, so nothing may go on.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl AgentError {
    /// What to do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Model(error) => error.hint(),
            Self::Limit { .. } => {
                Some("raise it under the agent's `limits`, or give the agent a smaller task".into())
            }
            Self::Output { .. } => Some(
                "simplify the schema, raise `limits.reply_tokens`, or use a model that follows schemas"
                    .into(),
            ),
            Self::Journal(_) | Self::Cancelled => None,
        }
    }
}

/// Works on `transcript`, whose last message is the user's, until the agent answers. The replies and tool
/// results are added to the transcript, also when the work ends early; what no longer fits the context gives
/// way there ([`Transcript::fit`]).
pub async fn work(
    agent: &Agent,
    model: &Arc<dyn ChatModel>,
    transcript: &mut Transcript,
    place: &Place,
    recorder: &Recorder,
) -> Result<AgentAnswer, AgentError> {
    let offer = Offer::of(agent, model.as_ref(), &transcript.messages)?;
    let agent = &Agent { tools: offer.tools.clone(), ..agent.clone() };
    let work = Work {
        agent,
        offer,
        model: model.as_ref(),
        task: transcript.messages.len().saturating_sub(1),
        transcript,
        place,
        // A place is worked on by one agent at a time, and its turns begin alike.
        session: SessionId::new(format!("{} {}", recorder.run(), json!(place))),
        recorder,
        output: OutputCheck::new(agent)?,
        deadline: Instant::now() + agent.limits.time,
        turn: 0,
        usage: Usage::default(),
        history: CallHistory::default(),
        asked_again: false,
    };
    work.run().await
}

/// The work on one task, between two turns.
struct Work<'a> {
    agent: &'a Agent,
    offer: Offer,
    model: &'a dyn ChatModel,
    transcript: &'a mut Transcript,
    /// Index of the message that is worked on.
    task: usize,
    place: &'a Place,
    /// Keeps the turns' KV blocks together.
    session: SessionId,
    recorder: &'a Recorder,
    output: OutputCheck,
    deadline: Instant,
    /// Turns begun.
    turn: usize,
    usage: Usage,
    history: CallHistory,
    /// The model was told once that its answer does not fit the schema.
    asked_again: bool,
}

impl Work<'_> {
    async fn run(mut self) -> Result<AgentAnswer, AgentError> {
        if let Some(notice) = self.offer.notice.take() {
            self.notice(notice)?;
        }
        loop {
            self.check_limits()?;
            self.turn += 1;
            let request = self.next_request()?;
            let choice = request.tool_choice.clone();
            let max_tokens = request.max_tokens;
            let mut reply = self.ask(request).await?;
            make_ids_unique(&self.transcript.messages, &mut reply.tool_calls);
            self.record_reply(&reply)?;
            if reply.tool_calls.is_empty() && reply.cut_call.is_none() {
                match self.finish(reply, &choice, max_tokens)? {
                    Some(answer) => return Ok(answer),
                    None => continue,
                }
            }
            self.act(reply, &choice, max_tokens).await?;
        }
    }

    /// Whether another turn may begin.
    fn check_limits(&self) -> Result<(), AgentError> {
        let limits = &self.agent.limits;
        if self.recorder.cancel().is_cancelled() {
            return Err(AgentError::Cancelled);
        }
        if self.turn >= limits.turns {
            return Err(self.limit(format!("{} turns", limits.turns)));
        }
        if self.usage.completion_tokens >= limits.tokens {
            return Err(self.limit(format!("{} tokens", limits.tokens)));
        }
        if Instant::now() >= self.deadline {
            return Err(self.time_is_over());
        }
        Ok(())
    }

    /// The request of this turn, within the context and the limits.
    fn next_request(&mut self) -> Result<GenerateRequest, AgentError> {
        let limits = &self.agent.limits;
        let room = Room {
            context: self.model.context(),
            reply: limits.reply_tokens.min(limits.tokens - self.usage.completion_tokens).max(1),
        };
        let request = GenerateRequest {
            prompt: Prompt::Chat(Vec::new()),
            tools: self.offer.described(),
            late_tools: self.offer.found(),
            tool_choice: self.tool_choice(),
            output: self.agent.output.clone().map_or(OutputFormat::Text, OutputFormat::JsonSchema),
            sampling: self.agent.sampling.clone(),
            adapter: self.agent.adapter.clone(),
            max_tokens: room.reply,
            session: Some(self.session.clone()),
            ..GenerateRequest::chat(Vec::new(), room.reply)
        };
        let instructions = &self.agent.instructions;
        let with = |messages: &[Message]| GenerateRequest {
            prompt: Prompt::Chat(prompt_messages(instructions, messages)),
            ..request.clone()
        };
        let model = self.model;
        let fit =
            self.transcript.fit(&mut self.task, room, &|messages| model.count_tokens(&with(messages)))?;
        let request = with(&self.transcript.messages);
        for notice in fit.notices {
            self.notice(notice)?;
        }
        Ok(GenerateRequest { max_tokens: room.reply.min(room.context - fit.prompt_tokens), ..request })
    }

    /// The agent's own choice at first, then the model's; in the last turn it must answer.
    fn tool_choice(&self) -> ToolChoice {
        if self.turn == self.agent.limits.turns || self.agent.tools.is_empty() {
            return ToolChoice::None;
        }
        match &self.agent.tool_choice {
            ToolChoice::None => ToolChoice::None,
            choice if self.turn == 1 => choice.clone(),
            _ => ToolChoice::Auto,
        }
    }

    /// One reply of the model, in the time that is left. What was shown of a reply that broke off is kept in
    /// the transcript, so that a conversation can go on from what its reader saw.
    async fn ask(&mut self, request: GenerateRequest) -> Result<ModelReply, AgentError> {
        let (place, recorder) = (self.place, self.recorder);
        recorder.record(RunEvent::TurnStarted { place: place.clone(), turn: self.turn })?;
        let mut shown = String::new();
        let mut observe = |delta: ReplyDelta| match delta {
            ReplyDelta::Started { prompt_tokens, cached_tokens } => {
                recorder.show(LiveEvent::Prefilled { place: place.clone(), prompt_tokens, cached_tokens });
            }
            ReplyDelta::Text(text) => {
                shown.push_str(&text);
                recorder.show(LiveEvent::Text { place: place.clone(), text });
            }
            // The whole reply brings the calls again, with ids that are unique.
            ReplyDelta::ToolCall(_) => {}
        };
        let cancel = recorder.cancel();
        let reply = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(AgentError::Cancelled),
            reply = tokio::time::timeout_at(self.deadline, self.model.reply(request, &mut observe, cancel)) => {
                match reply {
                    Ok(Ok(reply)) => Ok(reply),
                    Ok(Err(ModelError::Cancelled)) => Err(AgentError::Cancelled),
                    Ok(Err(error)) => Err(error.into()),
                    Err(_elapsed) => Err(self.time_is_over()),
                }
            }
        };
        if reply.is_err() && !shown.is_empty() {
            self.notice(format!("the reply broke off after {} characters", shown.chars().count()))?;
            self.say(Message::assistant(shown, Vec::new()));
        }
        reply
    }

    /// Writes the reply down before anything is done about it.
    fn record_reply(&mut self, reply: &ModelReply) -> Result<(), AgentError> {
        self.usage.prompt_tokens += reply.usage.prompt_tokens;
        self.usage.cached_tokens += reply.usage.cached_tokens;
        self.usage.completion_tokens += reply.usage.completion_tokens;
        self.recorder.record(RunEvent::ModelReplied {
            place: self.place.clone(),
            turn: self.turn,
            content: reply.content.clone(),
            tool_calls: reply.tool_calls.clone(),
            cut_call: reply.cut_call.clone(),
            finish: reply.finish,
            usage: reply.usage,
            timings: reply.timings,
        })?;
        Ok(())
    }

    /// Runs the calls of a reply; a call that was cut is reported and never run.
    async fn act(
        &mut self,
        reply: ModelReply,
        choice: &ToolChoice,
        max_tokens: usize,
    ) -> Result<(), AgentError> {
        let ModelReply { content, tool_calls, cut_call, .. } = reply;
        // Some chat templates refuse a message without any content.
        let content = match (content.is_empty(), tool_calls.is_empty()) {
            (true, true) => "[a tool call that was cut off]".to_owned(),
            _ => content,
        };
        self.say(Message::assistant(content, tool_calls.clone()));
        self.run_calls(tool_calls, *choice != ToolChoice::None).await?;
        if cut_call.is_some() {
            self.notice(format!("a tool call was cut by the limit of {max_tokens} tokens and was not run"))?;
            self.say(Message::user(format!(
                "Your tool call was cut by the limit of {max_tokens} tokens and was not run. Write a shorter one."
            )));
        }
        Ok(())
    }

    /// Takes a reply without calls as the answer. `None`: it does not fit the schema and the model was told.
    fn finish(
        &mut self,
        reply: ModelReply,
        choice: &ToolChoice,
        max_tokens: usize,
    ) -> Result<Option<AgentAnswer>, AgentError> {
        let cut = reply.finish == FinishReason::Length;
        let text = reply.content;
        self.say(Message::assistant(text.clone(), Vec::new()));
        if matches!(choice, ToolChoice::Required | ToolChoice::Named(_)) {
            self.notice("the model had to call a tool and answered without one".into())?;
        }
        match self.output.check(&text) {
            Ok(json) => {
                if cut && json.is_none() {
                    self.notice(format!("the answer was cut by the limit of {max_tokens} tokens"))?;
                } else if text.is_empty() {
                    self.notice("the model gave an empty answer".into())?;
                }
                Ok(Some(AgentAnswer { text, json, turns: self.turn, usage: self.usage }))
            }
            Err(fault) if cut => {
                Err(self.bad_output(format!("it was cut by the limit of {max_tokens} tokens ({fault})")))
            }
            Err(fault) if self.asked_again || self.turn == self.agent.limits.turns => {
                Err(self.bad_output(fault))
            }
            Err(fault) => {
                self.asked_again = true;
                self.notice(format!(
                    "the answer does not fit its schema, so the model was asked again: {fault}"
                ))?;
                self.say(Message::user(format!(
                    "Your answer does not fit the required JSON schema: {fault}. Answer again, with the JSON alone."
                )));
                Ok(None)
            }
        }
    }

    fn say(&mut self, message: Message) {
        self.transcript.messages.push(message);
    }

    fn notice(&self, message: String) -> Result<(), JournalError> {
        self.recorder.record(RunEvent::Notice { place: Some(self.place.clone()), message })
    }

    fn limit(&self, limit: String) -> AgentError {
        AgentError::Limit { agent: self.agent.name.clone(), limit }
    }

    fn time_is_over(&self) -> AgentError {
        self.limit(format!("{:?} of time", self.agent.limits.time))
    }

    fn bad_output(&self, reason: String) -> AgentError {
        AgentError::Output { agent: self.agent.name.clone(), reason }
    }
}

/// What the model reads: the instructions, if any, and the conversation.
fn prompt_messages(instructions: &str, messages: &[Message]) -> Vec<Message> {
    let system = (!instructions.is_empty()).then(|| Message::system(instructions));
    system.into_iter().chain(messages.iter().cloned()).collect()
}

#[cfg(test)]
mod tests;
