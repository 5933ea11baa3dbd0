//! A workflow as a tool: its inputs are the arguments, its outputs the answer, each call a run of its own.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;

use crate::run::event::FinalState;
use crate::run::journal::Journal;
use crate::run::recorder::Recorder;
use crate::tools::{CallContext, Effect, Tool, ToolDefinition, ToolOutcome, ToolResult};
use crate::workflow::{Plan, RunEnvironment, execute, inputs};

/// Bytes of a tool's name in the protocol.
const MAX_NAME: usize = 64;

/// A workflow that can be called.
pub struct WorkflowTool {
    definition: ToolDefinition,
    plan: Plan,
    environment: RunEnvironment,
    journal: Arc<Journal>,
}

impl WorkflowTool {
    /// The workflow `plan` as a tool of its own name, run with `environment`.
    ///
    /// # Errors
    /// When its name cannot be a tool's; the message says what one looks like.
    pub fn new(plan: Plan, environment: RunEnvironment, journal: Arc<Journal>) -> Result<Self, String> {
        let spec = &plan.workflow.spec;
        let name = spec.name.value.clone();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(allowed) {
            return Err(format!(
                "the workflow's name `{name}` cannot be a tool's: letters, digits, `-` and `_`, at most {MAX_NAME}"
            ));
        }
        let definition = ToolDefinition {
            description: spec.description.clone().unwrap_or_else(|| format!("Runs the workflow `{name}`.")),
            name,
            input_schema: inputs::schema(&spec.inputs),
            output_schema: None,
            effect: Effect::Effectful,
        };
        Ok(Self { definition, plan, environment, journal })
    }

    async fn run(&self, arguments: Value, context: CallContext) -> ToolResult {
        let inputs = inputs::filled(&self.plan.workflow.spec.inputs, &arguments);
        let cancel = context.cancel.child_token();
        let run = self.journal.new_run();
        let recorder = Recorder::new(run.clone(), self.journal.clone(), Arc::new(|_| {}), cancel.clone());
        let running = execute(&self.plan, &inputs, &self.environment, &recorder);
        tokio::pin!(running);
        // A run is cancelled when its time is over, not dropped: its end is in the journal.
        let outcome = tokio::select! {
            biased;
            outcome = &mut running => outcome,
            () = tokio::time::sleep(context.timeout) => {
                cancel.cancel();
                running.await
            }
        };
        let failed = |outcome, error: Option<String>| {
            let error = error.unwrap_or_else(|| "it gave no reason".into());
            ToolResult::failed(outcome, format!("The run {run} did not succeed: {error}"))
        };
        match outcome {
            Err(error) => failed(ToolOutcome::Unavailable, Some(error.to_string())),
            Ok(outcome) => match outcome.state {
                FinalState::Succeeded | FinalState::Skipped => ToolResult::json(outcome.outputs),
                FinalState::Failed => failed(ToolOutcome::Error, outcome.error),
                FinalState::Cancelled => failed(ToolOutcome::Cancelled, outcome.error),
            },
        }
    }
}

impl Tool for WorkflowTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    fn call<'a>(&'a self, arguments: Value, context: CallContext) -> BoxFuture<'a, ToolResult> {
        Box::pin(self.run(arguments, context))
    }
}
