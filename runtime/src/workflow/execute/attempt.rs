//! One item of a step, tried until it works or may not be tried again.
//!
//! An attempt that runs out of time is cancelled and comes to its end; it is not dropped, so what its tools did
//! is in the journal.

use std::time::Duration;

use chaski_engine::{EngineError, Sampling, ToolCall};
use serde_json::{Map, Value};

use super::Run;
use crate::agent::model::ModelError;
use crate::agent::transcript::Transcript;
use crate::agent::turn::{Agent, AgentError, AgentLimits, work};
use crate::run::calls::CallSite;
use crate::run::event::{FinalState, Place, RunEvent};
use crate::run::journal::JournalError;
use crate::run::recorder::Recorder;
use crate::tools::ToolOutcome;
use crate::workflow::plan::Shape;
use crate::workflow::schema::{AgentSpec, OnError, WorkflowStep};
use crate::workflow::template::{Scope, TemplateError};

/// Wait before the first repetition of a step that names none.
const BACKOFF: Duration = Duration::from_secs(1);
/// Longest wait before a repetition.
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// Most time for a tool step that names no timeout.
const TOOL_TIME: Duration = Duration::from_secs(300);
/// How long a cancelled attempt may take to come to its end; longer than dispatch waits for a tool.
const GRACE: Duration = Duration::from_secs(2);

/// Why a step came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error("{0}")]
    Template(#[from] TemplateError),
    #[error("{0}")]
    Agent(AgentError),
    #[error("{text}")]
    Tool { outcome: ToolOutcome, text: String },
    #[error("{0}")]
    Value(String),
    #[error("it did not end within {0:?}")]
    Timeout(Duration),
    /// What went wrong, and in which part of the run.
    #[error("{part}{}{source}", if matches!(**source, Self::In { .. }) { ", " } else { ": " })]
    In { part: String, source: Box<StepError> },
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl From<AgentError> for StepError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Cancelled => Self::Cancelled,
            AgentError::Journal(error) => Self::Journal(error),
            other => Self::Agent(other),
        }
    }
}

impl StepError {
    /// The same error, in `part` of the run.
    pub(super) fn within(self, part: String) -> Self {
        match self {
            Self::Cancelled | Self::Journal(_) => self,
            other => Self::In { part, source: Box::new(other) },
        }
    }

    /// The message without the part of the run: for an event that has the place already.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::In { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    /// The way out, if one is known.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Template(error) => error.hint.clone(),
            Self::Agent(error) => error.hint(),
            Self::In { source, .. } => source.hint(),
            _ => None,
        }
    }

    /// Whether trying again could end differently.
    fn may_pass(&self) -> bool {
        match self {
            Self::Template(_) | Self::Value(_) | Self::Cancelled | Self::Journal(_) => false,
            Self::Tool { outcome, .. } => {
                use ToolOutcome::{Denied, InvalidArguments, UnknownTool};
                !matches!(outcome, UnknownTool | InvalidArguments | Denied)
            }
            Self::Agent(AgentError::Model(ModelError::Engine(error))) => {
                use EngineError::{Compute, Overloaded};
                matches!(error, Compute(_) | Overloaded { .. })
            }
            Self::Agent(_) | Self::Timeout(_) => true,
            Self::In { source, .. } => source.may_pass(),
        }
    }
}

/// One item of a step, or the step itself when it has no `foreach`.
pub(super) struct Work<'a> {
    /// The step's index.
    pub index: usize,
    /// The step.
    pub step: &'a WorkflowStep,
    /// The item's index.
    pub item: Option<usize>,
    /// Records the run; its token ends this item.
    pub recorder: &'a Recorder,
}

impl Work<'_> {
    /// Where it happens.
    pub(super) fn place(&self) -> Place {
        Place { step: self.step.id.value.clone(), item: self.item }
    }
}

impl Run<'_> {
    /// Tries `work` as often as its step allows. A failure that the step forgives gives `null`.
    pub(super) async fn item(
        &self,
        work: &Work<'_>,
        scope: &Scope,
    ) -> Result<(Value, FinalState, Option<String>), StepError> {
        let retry = work.step.retry.as_ref();
        let most = retry.map_or(0, |retry| retry.max.value);
        let mut wait = retry.and_then(|retry| retry.backoff).map_or(BACKOFF, |backoff| backoff.value.0);
        let cancel = work.recorder.cancel();
        for attempt in 0.. {
            let error = match self.attempt(work, attempt, scope).await {
                Ok(output) => return Ok((output, FinalState::Succeeded, None)),
                Err(error @ (StepError::Cancelled | StepError::Journal(_))) => return Err(error),
                Err(error) => error,
            };
            if attempt >= most || !error.may_pass() {
                return match work.step.on_error {
                    OnError::Continue => Ok((Value::Null, FinalState::Failed, Some(error.to_string()))),
                    OnError::Fail => Err(error),
                };
            }
            let message = format!("{error}; trying again in {wait:?}");
            self.recorder.record(RunEvent::Notice { place: Some(work.place()), message })?;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = cancel.cancelled() => return Err(StepError::Cancelled),
            }
            wait = (wait * 2).min(MAX_BACKOFF);
        }
        unreachable!("the attempts are bounded by `retry.max`")
    }

    /// One attempt, in the time that the step gives it.
    async fn attempt(&self, work: &Work<'_>, attempt: usize, scope: &Scope) -> Result<Value, StepError> {
        if work.recorder.cancel().is_cancelled() {
            return Err(StepError::Cancelled);
        }
        let cancel = work.recorder.cancel().child_token();
        let recorder = work.recorder.with_cancel(cancel.clone());
        let trial = async {
            match (&work.step.agent, &work.step.tool) {
                (Some(agent), _) => self.agent(work, &agent.value, attempt, scope, &recorder).await,
                (None, Some(tool)) => self.tool(work, &tool.value, scope, &recorder).await,
                (None, None) => unreachable!("`check` refuses a step without agent and tool"),
            }
        };
        let Some(timeout) = work.step.timeout.map(|timeout| timeout.value.0) else { return trial.await };
        tokio::pin!(trial);
        tokio::select! {
            biased;
            result = &mut trial => result,
            () = tokio::time::sleep(timeout) => {
                cancel.cancel();
                let ended = tokio::time::timeout(GRACE, trial).await;
                match ended {
                    Ok(Err(error @ StepError::Journal(_))) => Err(error),
                    _ if work.recorder.cancel().is_cancelled() => Err(StepError::Cancelled),
                    _ => Err(StepError::Timeout(timeout)),
                }
            }
        }
    }

    async fn agent(
        &self,
        item: &Work<'_>,
        name: &str,
        attempt: usize,
        scope: &Scope,
        recorder: &Recorder,
    ) -> Result<Value, StepError> {
        let spec = &self.plan.workflow.spec;
        let agent = spec.agents.get(name).expect("`check` knows every agent");
        let patterns: Vec<String> = agent.tools.iter().map(|tool| tool.value.clone()).collect();
        let tools = self.environment.tools.grant(&patterns);
        let instructions = self.plan.instructions.get(name).map_or("", String::as_str);
        let output = match &self.plan.shapes[item.index] {
            Shape::Text => None,
            Shape::File(schema) => Some(schema.clone()),
            Shape::Inline(data) => Some(self.templates.data(data, scope)?),
        };
        let mut sampling = agent.sampling.over(spec.sampling.over(Sampling::default()));
        // The same seed would give the same failure again.
        let seed = self.environment.seed.unwrap_or(sampling.seed);
        sampling.seed = seed.wrapping_add(attempt as u64);
        let agent = Agent {
            name: name.to_owned(),
            instructions: self.templates.text(instructions, scope)?.trim().to_owned(),
            tools: tools
                .map_err(|error| StepError::Value(error.to_string()))?
                .narrowed("the workflow", spec.permissions.rules())
                .narrowed(&format!("the agent `{name}`"), agent.permissions.rules()),
            tool_choice: agent.tool_choice.into(),
            output,
            sampling,
            adapter: agent.adapter.as_ref().map(|adapter| adapter.value.clone()),
            limits: limits(agent),
        };
        let file = scope.item_path();
        let (agent, notices) = self.environment.workplace.furnish(agent, file.as_deref());
        for message in notices {
            recorder.record(RunEvent::Notice { place: Some(item.place()), message })?;
        }
        let prompt = item.step.prompt.as_ref().map_or("", |prompt| prompt.value.as_str());
        let mut transcript = Transcript::of_user(self.templates.text(prompt, scope)?.trim());
        let model = self.environment.model.as_ref();
        let model = model.ok_or_else(|| StepError::Value("the run has no model".into()))?;
        let answer = work(&agent, model, &mut transcript, &item.place(), recorder).await?;
        Ok(answer.json.unwrap_or(Value::String(answer.text)))
    }

    async fn tool(
        &self,
        item: &Work<'_>,
        name: &str,
        scope: &Scope,
        recorder: &Recorder,
    ) -> Result<Value, StepError> {
        let place = item.place();
        let mut arguments = Map::new();
        for (key, value) in item.step.with.iter().flat_map(|with| with.iter()) {
            arguments.insert(key.value.clone(), self.templates.data(value, scope)?);
        }
        // The step names one tool; which others that one may call is for its plugin's grant to say.
        let tools = self.environment.tools.all();
        let tools = tools.narrowed("the workflow", self.plan.workflow.spec.permissions.rules());
        let id = match place.item {
            None => format!("{}-call", place.step),
            Some(item) => format!("{}-{item}-call", place.step),
        };
        let call = ToolCall { id, name: name.to_owned(), arguments: Value::Object(arguments) };
        let site = CallSite::new(tools, place.clone(), recorder.clone());
        let admitted = site.admit(&call).await?;
        let timeout = item.step.timeout.map_or(TOOL_TIME, |timeout| timeout.value.0);
        let context = site.context(&call, format!("{}-{}", recorder.run().as_str(), call.id), timeout);
        let (result, cached) = site.run(&call, admitted, context).await;
        site.answered(&call, &result, cached)?;
        if recorder.cancel().is_cancelled() {
            return Err(StepError::Cancelled);
        }
        if result.is_error() {
            return Err(StepError::Tool { outcome: result.outcome, text: result.text });
        }
        if result.truncated && result.json.is_none() {
            let message = format!("the answer of `{name}` was cut; the step's output is not the whole of it");
            recorder.record(RunEvent::Notice { place: Some(place), message })?;
        }
        Ok(result.json.unwrap_or(Value::String(result.text)))
    }
}

/// The bounds that an agent declares, and the defaults of the others.
fn limits(agent: &AgentSpec) -> AgentLimits {
    let (declared, defaults) = (&agent.limits, AgentLimits::default());
    AgentLimits {
        turns: declared.turns.map_or(defaults.turns, |turns| turns.value),
        tokens: declared.tokens.map_or(defaults.tokens, |tokens| tokens.value),
        reply_tokens: declared.reply_tokens.map_or(defaults.reply_tokens, |tokens| tokens.value),
        time: declared.time.map_or(defaults.time, |time| time.value.0),
        tool_time: declared.tool_time.map_or(defaults.tool_time, |time| time.value.0),
        tool_room: defaults.tool_room,
    }
}
