//! Runs a plan: steps as soon as those they wait for have ended (`step.rs`), each item with its repetitions
//! (`attempt.rs`).
//!
//! Invariants: `RunFinished` is recorded exactly once, however the run ends, unless the journal itself fails. No
//! work is dropped while a tool runs: a call that is in the journal has its answer there too.

mod attempt;
mod step;

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::{Map, Value};

use self::attempt::StepError;
use self::step::StepEnd;
use super::plan::Plan;
use super::template::{Scope, Templates};
use crate::agent::model::ChatModel;
use crate::agent::workplace::Workplace;
use crate::run::event::{FinalState, RunEvent};
use crate::run::journal::JournalError;
use crate::run::recorder::Recorder;
use crate::tools::ToolRegistry;

/// What a run has at hand.
#[derive(Clone)]
pub struct RunEnvironment {
    /// Every tool.
    pub tools: ToolRegistry,
    /// The model of every agent; `None` for a workflow without agents.
    pub model: Option<Arc<dyn ChatModel>>,
    /// The seed that takes the place of the file's.
    pub seed: Option<u64>,
    /// What agents find beside their tools.
    pub workplace: Workplace,
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
        Err(StepError::Journal(error)) => {
            // If the journal has recovered, the log at least says that the run is over.
            let (outputs, message) = (Value::Null, Some(error.to_string()));
            let _ =
                recorder.record(RunEvent::RunFinished { state: FinalState::Failed, outputs, error: message });
            return Err(error);
        }
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

/// A run under way.
struct Run<'a> {
    plan: &'a Plan,
    environment: &'a RunEnvironment,
    recorder: &'a Recorder,
    templates: Templates,
}

impl Run<'_> {
    /// Runs every step and gives the workflow's outputs. After a failure no step begins, those that run end.
    async fn steps(&self, inputs: &Value) -> Result<Value, StepError> {
        let steps = &self.plan.workflow.spec.steps;
        let mut scope = Scope::new(inputs, self.recorder.run().as_str());
        let mut begun = vec![false; steps.len()];
        let mut ended = vec![false; steps.len()];
        let mut running = FuturesUnordered::new();
        let mut failure = None;
        loop {
            let waiting =
                |index: &usize| !begun[*index] && self.plan.needs[*index].iter().all(|&need| ended[need]);
            let ready: Vec<usize> = (0..steps.len()).filter(waiting).filter(|_| failure.is_none()).collect();
            for index in ready {
                begun[index] = true;
                let scope = scope.clone();
                running.push(async move { (index, self.step(index, &scope).await) });
            }
            let Some((index, result)) = running.next().await else { break };
            match result {
                Ok(StepEnd { output, state }) => {
                    scope.add_step(&steps[index].id.value, &output, state);
                    ended[index] = true;
                }
                Err(error) => failure = Some(worse(failure, error)),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let mut outputs = Map::new();
        for (name, value) in self.plan.workflow.spec.outputs.iter() {
            let filled = self.templates.data(value, &scope);
            let filled =
                filled.map_err(|error| StepError::from(error).within(format!("output `{}`", name.value)))?;
            outputs.insert(name.value.clone(), filled);
        }
        Ok(Value::Object(outputs))
    }
}

/// The failure that a run ends with: the first one, but a broken journal before anything else, and a reason
/// before a mere end.
fn worse(first: Option<StepError>, next: StepError) -> StepError {
    match (first, next) {
        (None, next) => next,
        (Some(_), next @ StepError::Journal(_)) => next,
        (Some(StepError::Cancelled), next) => next,
        (Some(first), _) => first,
    }
}

#[cfg(test)]
mod tests;
