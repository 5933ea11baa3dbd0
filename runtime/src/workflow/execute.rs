//! Runs a plan: steps as soon as those they wait for have ended, items of a step in parallel, outputs in order.
//!
//! Invariant: `RunFinished` is recorded exactly once, however the run ends.

use std::sync::Arc;
use std::time::Duration;

use chaski_engine::{Message, Sampling};
use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use serde_json::{Map, Value};

use super::plan::{Plan, Shape};
use super::schema::{OnError, WorkflowStep};
use super::template::{Scope, TemplateError, Templates};
use crate::agent::model::ChatModel;
use crate::agent::transcript::Transcript;
use crate::agent::turn::{Agent, AgentError, AgentLimits, work};
use crate::run::event::{FinalState, Place, RunEvent};
use crate::run::journal::JournalError;
use crate::run::recorder::Recorder;
use crate::tools::dispatch::dispatch;
use crate::tools::{CallContext, ToolRegistry};
use chaski_engine::ToolCall;

/// Longest wait before a repetition.
const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// Most time for a tool step that names no timeout.
const TOOL_TIME: Duration = Duration::from_secs(300);

/// What a run has at hand.
#[derive(Clone)]
pub struct RunEnvironment {
    /// Every tool.
    pub tools: ToolRegistry,
    /// The model of every agent; `None` for a workflow without agents.
    pub model: Option<Arc<dyn ChatModel>>,
    /// The seed that takes the place of the file's.
    pub seed: Option<u64>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct RunOutcome {
    /// How.
    pub state: FinalState,
    /// The workflow's outputs.
    pub outputs: Value,
    /// What went wrong.
    pub error: Option<String>,
}

/// Runs `plan` with `inputs`, defaults filled in.
///
/// # Errors
/// [`JournalError`] alone: nothing may go on that is not in the log. Whatever else goes wrong is in the outcome.
pub async fn execute(
    plan: &Plan,
    inputs: &Value,
    environment: &RunEnvironment,
    recorder: &Recorder,
) -> Result<RunOutcome, JournalError> {
    let model = environment.model.as_ref().map_or_else(|| "none".to_owned(), |model| model.name().to_owned());
    recorder.record(RunEvent::RunStarted {
        name: plan.workflow.spec.name.value.clone(),
        source: Some(plan.workflow.path.display().to_string()),
        model,
        inputs: inputs.clone(),
    })?;
    let run = Run { plan, environment, recorder, templates: Templates::default() };
    let outcome = match run.steps(inputs).await {
        Ok(outputs) => RunOutcome { state: FinalState::Succeeded, outputs, error: None },
        Err(StepError::Journal(error)) => return Err(error),
        Err(StepError::Cancelled) => {
            RunOutcome { state: FinalState::Cancelled, outputs: Value::Null, error: Some("cancelled".into()) }
        }
        Err(error) => {
            RunOutcome { state: FinalState::Failed, outputs: Value::Null, error: Some(error.to_string()) }
        }
    };
    recorder.record(RunEvent::RunFinished {
        state: outcome.state,
        outputs: outcome.outputs.clone(),
        error: outcome.error.clone(),
    })?;
    Ok(outcome)
}

/// Why a step came to nothing.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("{0}")]
    Template(#[from] TemplateError),
    #[error("{0}")]
    Agent(AgentError),
    #[error("{0}")]
    Tool(String),
    #[error("{0}")]
    Value(String),
    #[error("it did not end within {0:?}")]
    Timeout(Duration),
    #[error("step `{step}`{}: {reason}", item.map(|item| format!(", item {item}")).unwrap_or_default())]
    In { step: String, item: Option<usize>, reason: String },
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

struct Run<'a> {
    plan: &'a Plan,
    environment: &'a RunEnvironment,
    recorder: &'a Recorder,
    templates: Templates,
}

impl Run<'_> {
    /// Runs every step, those that are ready together, and gives the workflow's outputs.
    async fn steps(&self, inputs: &Value) -> Result<Value, StepError> {
        let steps = &self.plan.workflow.spec.steps;
        let mut scope = Scope::new(inputs, &self.recorder.run().to_string());
        let (mut begun, mut ended) = (vec![false; steps.len()], vec![false; steps.len()]);
        let mut running = FuturesUnordered::new();
        let mut failure = None;
        loop {
            // After a failure nothing begins any more; what runs already may end, so that the log says how.
            let ready = if failure.is_none() { self.ready(&begun, &ended) } else { Vec::new() };
            for index in ready {
                begun[index] = true;
                let scope = scope.clone();
                running.push(async move { (index, self.step(index, &scope).await) });
            }
            let Some((index, result)) = running.next().await else { break };
            match result {
                Ok((output, state)) => {
                    scope.add_step(&steps[index].id.value, &output, state);
                    ended[index] = true;
                }
                Err(error @ StepError::Journal(_)) => return Err(error),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let mut outputs = Map::new();
        for (name, value) in self.plan.workflow.spec.outputs.iter() {
            outputs.insert(name.value.clone(), self.templates.data(value, &scope)?);
        }
        Ok(Value::Object(outputs))
    }

    /// The steps that can begin: not begun, and all they wait for has ended.
    fn ready(&self, begun: &[bool], ended: &[bool]) -> Vec<usize> {
        let is_ready =
            |index: &usize| !begun[*index] && self.plan.needs[*index].iter().all(|&need| ended[need]);
        (0..begun.len()).filter(is_ready).collect()
    }

    /// One step with all its items.
    async fn step(&self, index: usize, scope: &Scope) -> Result<(Value, FinalState), StepError> {
        let step = &self.plan.workflow.spec.steps[index];
        let id = step.id.value.clone();
        let place = Place { step: id.clone(), item: None };
        let told = |error: StepError| match error {
            StepError::Cancelled | StepError::Journal(_) | StepError::In { .. } => error,
            other => StepError::In { step: id.clone(), item: None, reason: other.to_string() },
        };
        if let Some(condition) = &step.condition
            && !self.templates.condition(condition, scope).map_err(|error| told(error.into()))?
        {
            self.finished(place, FinalState::Skipped, Value::Null, None)?;
            return Ok((Value::Null, FinalState::Skipped));
        }
        let items = match &step.foreach {
            None => None,
            Some(foreach) => {
                let found = self.templates.data(foreach, scope).map_err(|error| told(error.into()))?;
                match found {
                    Value::Array(items) => Some(items),
                    other => {
                        let kind = super::template::kind(&other);
                        return Err(told(StepError::Value(format!("`foreach` needs a list, found {kind}"))));
                    }
                }
            }
        };
        self.recorder
            .record(RunEvent::StepStarted { step: id.clone(), items: items.as_ref().map(Vec::len) })?;
        let Some(items) = items else {
            let (output, state, error) = self.item(index, None, scope).await?;
            self.finished(place, state, output.clone(), error)?;
            return Ok((output, state));
        };
        let parallel = step.parallel.map_or(1, |parallel| parallel.value);
        let scopes: Vec<(usize, Scope)> =
            items.iter().enumerate().map(|(number, item)| (number, scope.with_item(number, item))).collect();
        let running = stream::iter(scopes.into_iter().map(|(number, scope)| async move {
            let (output, state, error) = self.item(index, Some(number), &scope).await?;
            let place = Place { step: step.id.value.clone(), item: Some(number) };
            self.finished(place, state, output.clone(), error)?;
            Ok::<Value, StepError>(output)
        }))
        .buffered(parallel);
        let outputs: Vec<Value> = match running.try_collect().await {
            Ok(outputs) => outputs,
            Err(StepError::In { step, item: Some(item), reason }) => {
                self.finished(
                    place,
                    FinalState::Failed,
                    Value::Null,
                    Some(format!("item {item}: {reason}")),
                )?;
                return Err(StepError::In { step, item: Some(item), reason });
            }
            Err(error) => return Err(error),
        };
        let output = Value::Array(outputs);
        self.finished(place, FinalState::Succeeded, output.clone(), None)?;
        Ok((output, FinalState::Succeeded))
    }

    fn finished(
        &self,
        place: Place,
        state: FinalState,
        output: Value,
        error: Option<String>,
    ) -> Result<(), JournalError> {
        self.recorder.record(RunEvent::StepFinished { place, state, output, error })
    }

    /// One item, with its repetitions; a failure that the step forgives becomes `null`.
    async fn item(
        &self,
        index: usize,
        number: Option<usize>,
        scope: &Scope,
    ) -> Result<(Value, FinalState, Option<String>), StepError> {
        let step = &self.plan.workflow.spec.steps[index];
        let place = Place { step: step.id.value.clone(), item: number };
        let mut left = step.retry.as_ref().map_or(0, |retry| retry.max.value);
        let mut wait = step
            .retry
            .as_ref()
            .and_then(|retry| retry.backoff)
            .map_or(Duration::from_secs(1), |backoff| backoff.value.0);
        loop {
            let attempt = self.attempt(index, step, &place, scope);
            let result = match step.timeout {
                None => attempt.await,
                Some(timeout) => tokio::time::timeout(timeout.value.0, attempt)
                    .await
                    .unwrap_or(Err(StepError::Timeout(timeout.value.0))),
            };
            let error = match result {
                Ok(output) => return Ok((output, FinalState::Succeeded, None)),
                Err(error @ (StepError::Cancelled | StepError::Journal(_))) => return Err(error),
                Err(error) => error,
            };
            if left > 0 {
                left -= 1;
                let message = format!("{error}; trying again in {wait:?}");
                self.recorder.record(RunEvent::Notice { place: Some(place.clone()), message })?;
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.recorder.cancel().cancelled() => return Err(StepError::Cancelled),
                }
                wait = (wait * 2).min(MAX_BACKOFF);
                continue;
            }
            if step.on_error == OnError::Continue {
                return Ok((Value::Null, FinalState::Failed, Some(error.to_string())));
            }
            let reason = error.to_string();
            self.finished(place.clone(), FinalState::Failed, Value::Null, Some(reason.clone()))?;
            return Err(StepError::In { step: place.step, item: number, reason });
        }
    }

    async fn attempt(
        &self,
        index: usize,
        step: &WorkflowStep,
        place: &Place,
        scope: &Scope,
    ) -> Result<Value, StepError> {
        if self.recorder.cancel().is_cancelled() {
            return Err(StepError::Cancelled);
        }
        match (&step.agent, &step.tool) {
            (Some(agent), _) => self.agent(index, step, &agent.value, place, scope).await,
            (None, Some(tool)) => self.tool(step, &tool.value, place, scope).await,
            (None, None) => unreachable!("`check` refuses a step without agent and tool"),
        }
    }

    async fn agent(
        &self,
        index: usize,
        step: &WorkflowStep,
        name: &str,
        place: &Place,
        scope: &Scope,
    ) -> Result<Value, StepError> {
        let spec = &self.plan.workflow.spec;
        let agent = spec.agents.get(name).expect("`check` knows every agent");
        let patterns: Vec<String> = agent.tools.iter().map(|tool| tool.value.clone()).collect();
        let tools =
            self.environment.tools.grant(&patterns).map_err(|error| StepError::Value(error.to_string()))?;
        let instructions = self.plan.instructions.get(name).map_or("", String::as_str);
        let output = match &self.plan.shapes[index] {
            Shape::Text => None,
            Shape::File(schema) => Some(schema.clone()),
            Shape::Inline(data) => Some(self.templates.data(data, scope)?),
        };
        let mut sampling = agent.sampling.over(spec.sampling.over(Sampling::default()));
        sampling.seed = self.environment.seed.unwrap_or(sampling.seed);
        let defaults = AgentLimits::default();
        let limits = AgentLimits {
            turns: agent.limits.turns.map_or(defaults.turns, |turns| turns.value),
            tokens: agent.limits.tokens.map_or(defaults.tokens, |tokens| tokens.value),
            reply_tokens: agent.limits.reply_tokens.map_or(defaults.reply_tokens, |tokens| tokens.value),
            time: agent.limits.time.map_or(defaults.time, |time| time.value.0),
            tool_time: agent.limits.tool_time.map_or(defaults.tool_time, |time| time.value.0),
        };
        let agent = Agent {
            name: name.to_owned(),
            instructions: self.templates.text(instructions, scope)?.trim().to_owned(),
            tools,
            tool_choice: agent.tool_choice.into(),
            output,
            sampling,
            limits,
        };
        let prompt = step.prompt.as_ref().map_or("", |prompt| prompt.value.as_str());
        let mut transcript =
            Transcript { messages: vec![Message::user(self.templates.text(prompt, scope)?.trim())] };
        let model = self.environment.model.as_ref();
        let model = model.ok_or_else(|| StepError::Value("the run has no model".into()))?;
        let answer = work(&agent, model, &mut transcript, place, self.recorder).await?;
        Ok(answer.json.unwrap_or(Value::String(answer.text)))
    }

    async fn tool(
        &self,
        step: &WorkflowStep,
        name: &str,
        place: &Place,
        scope: &Scope,
    ) -> Result<Value, StepError> {
        let mut arguments = Map::new();
        for (key, value) in step.with.iter().flat_map(|with| with.iter()) {
            arguments.insert(key.value.clone(), self.templates.data(value, scope)?);
        }
        let tools = self
            .environment
            .tools
            .grant(&[name.to_owned()])
            .map_err(|error| StepError::Tool(error.to_string()))?;
        let id = match place.item {
            None => format!("{}-call", place.step),
            Some(item) => format!("{}-{item}-call", place.step),
        };
        let call = ToolCall { id, name: name.to_owned(), arguments: Value::Object(arguments) };
        self.recorder.record(RunEvent::ToolCalled { place: place.clone(), call: call.clone() })?;
        let context = CallContext {
            call_id: format!("{}-{}", self.recorder.run(), call.id),
            timeout: step.timeout.map_or(TOOL_TIME, |timeout| timeout.value.0),
            cancel: self.recorder.cancel().clone(),
        };
        let result = dispatch(&tools, &call, context).await;
        self.recorder.record(RunEvent::ToolAnswered {
            place: place.clone(),
            call_id: call.id,
            tool: name.to_owned(),
            outcome: result.outcome,
            text: result.text.clone(),
            json: result.json.clone(),
            truncated: result.truncated,
            seconds: result.duration.as_secs_f64(),
        })?;
        if self.recorder.cancel().is_cancelled() {
            return Err(StepError::Cancelled);
        }
        match result.is_error() {
            true => Err(StepError::Tool(result.text)),
            false => Ok(result.json.unwrap_or(Value::String(result.text))),
        }
    }
}

#[cfg(test)]
mod tests;
