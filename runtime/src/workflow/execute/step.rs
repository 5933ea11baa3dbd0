//! One step: its condition, its items, and what they come to.

use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::Value;

use super::Run;
use super::attempt::{StepError, Work};
use crate::run::event::{FinalState, Place, RunEvent};
use crate::run::journal::JournalError;
use crate::workflow::schema::{At, Data, WorkflowStep};
use crate::workflow::template::{Scope, kind};

/// Most items of one `foreach`: a list this long is a mistake, or someone else's.
const MAX_ITEMS: usize = 10_000;

/// How a step ended that did not fail the run.
pub(super) struct StepEnd {
    /// Its output; `null` when it was skipped, or failed and may.
    pub output: Value,
    /// How it ended.
    pub state: FinalState,
}

impl Run<'_> {
    /// Runs the step `index` with all its items. How it ended is recorded, unless the run was cancelled.
    pub(super) async fn step(&self, index: usize, scope: &Scope) -> Result<StepEnd, StepError> {
        let step = &self.plan.workflow.spec.steps[index];
        let place = Place { step: step.id.value.clone(), item: None };
        match self.unrecorded(index, step, scope).await {
            Ok((end, error)) => {
                self.finished(place, end.state, end.output.clone(), error)?;
                Ok(end)
            }
            Err(error @ (StepError::Cancelled | StepError::Journal(_))) => Err(error),
            Err(error) => {
                let error = error.within(format!("step `{}`", step.id.value));
                if let Some(hint) = error.hint() {
                    let message = format!("hint: {hint}");
                    self.recorder.record(RunEvent::Notice { place: Some(place.clone()), message })?;
                }
                self.finished(place, FinalState::Failed, Value::Null, Some(error.reason()))?;
                Err(error)
            }
        }
    }

    async fn unrecorded(
        &self,
        index: usize,
        step: &WorkflowStep,
        scope: &Scope,
    ) -> Result<(StepEnd, Option<String>), StepError> {
        if let Some(condition) = &step.condition
            && !self.templates.condition(condition, scope)?
        {
            return Ok((StepEnd { output: Value::Null, state: FinalState::Skipped }, None));
        }
        let items = step.foreach.as_ref().map(|foreach| self.list(foreach, scope)).transpose()?;
        let started =
            RunEvent::StepStarted { step: step.id.value.clone(), items: items.as_ref().map(Vec::len) };
        self.recorder.record(started)?;
        let Some(items) = items else {
            let work = Work { index, step, item: None, recorder: self.recorder };
            let (output, state, error) = self.item(&work, scope).await?;
            return Ok((StepEnd { output, state }, error));
        };
        let outputs = self.items(index, step, &items, scope).await?;
        Ok((StepEnd { output: Value::Array(outputs), state: FinalState::Succeeded }, None))
    }

    /// The items of a `foreach`.
    fn list(&self, foreach: &At<Data>, scope: &Scope) -> Result<Vec<Value>, StepError> {
        match self.templates.data(foreach, scope)? {
            Value::Array(items) if items.len() <= MAX_ITEMS => Ok(items),
            Value::Array(items) => {
                let count = items.len();
                Err(StepError::Value(format!("`foreach` has {count} items, the most is {MAX_ITEMS}")))
            }
            other => Err(StepError::Value(format!("`foreach` needs a list, found {}", kind(&other)))),
        }
    }

    /// Runs every item, `parallel` at a time, and gives their outputs in the order of the list. After a failure
    /// no item begins, and those that run are cancelled and come to their end.
    async fn items(
        &self,
        index: usize,
        step: &WorkflowStep,
        items: &[Value],
        scope: &Scope,
    ) -> Result<Vec<Value>, StepError> {
        let cancel = self.recorder.cancel().child_token();
        let recorder = self.recorder.with_cancel(cancel.clone());
        let parallel = step.parallel.map_or(1, |parallel| parallel.value);
        let mut outputs = vec![Value::Null; items.len()];
        let mut waiting = items.iter().enumerate();
        let mut running = FuturesUnordered::new();
        let mut failure = None;
        loop {
            while running.len() < parallel && failure.is_none() {
                let Some((number, item)) = waiting.next() else { break };
                let work = Work { index, step, item: Some(number), recorder: &recorder };
                let scope = scope.with_item(number, item);
                running.push(async move { (number, self.recorded_item(&work, &scope).await) });
            }
            let Some((number, result)) = running.next().await else { break };
            match result {
                Ok(output) => outputs[number] = output,
                Err(error) => {
                    cancel.cancel();
                    failure = Some(super::worse(failure, error));
                }
            }
        }
        failure.map_or(Ok(outputs), Err)
    }

    /// One item of several; how it ended is recorded, unless it was cancelled.
    async fn recorded_item(&self, work: &Work<'_>, scope: &Scope) -> Result<Value, StepError> {
        let place = work.place();
        match self.item(work, scope).await {
            Ok((output, state, error)) => {
                self.finished(place, state, output.clone(), error)?;
                Ok(output)
            }
            Err(error @ (StepError::Cancelled | StepError::Journal(_))) => Err(error),
            Err(error) => {
                self.finished(place, FinalState::Failed, Value::Null, Some(error.reason()))?;
                Err(error.within(format!("item {}", work.item.unwrap_or_default())))
            }
        }
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
}
