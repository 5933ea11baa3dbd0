//! One tool call from the model to its result: find the tool, validate the arguments, run it in time.
//!
//! Invariant: every call ends with a [`ToolResult`]. What goes wrong is text that tells the model what to
//! do better; nothing here ends a run.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use chaski_engine::ToolCall;
use futures::FutureExt;

use super::{CallContext, Tool, ToolOutcome, ToolResult, ToolSet};
use crate::suggest::closest;

/// How long after its own deadline a tool may take to clean up before the call is dropped.
const GRACE: Duration = Duration::from_millis(500);

/// Runs `call` among the granted `tools`.
pub async fn dispatch(tools: &ToolSet, call: &ToolCall, context: CallContext) -> ToolResult {
    let started = Instant::now();
    let result = match tools.granted(&call.name) {
        None => unknown_tool(tools, &call.name),
        Some(granted) => match granted.arguments.faults(&call.arguments) {
            Some(faults) => {
                let text = format!("The arguments of `{}` are not valid: {faults}.", call.name);
                ToolResult::failed(ToolOutcome::InvalidArguments, text)
            }
            None => run(granted.tool.as_ref(), call, context).await,
        },
    };
    ToolResult { duration: started.elapsed(), ..result }
}

fn unknown_tool(tools: &ToolSet, asked: &str) -> ToolResult {
    let known: Vec<&str> = tools.names().collect();
    let suggestion = closest(asked, known.iter().copied()).map(|name| format!(" Did you mean `{name}`?"));
    let text = format!(
        "There is no tool `{asked}`.{} Your tools are: {}.",
        suggestion.unwrap_or_default(),
        if known.is_empty() { "none".to_owned() } else { known.join(", ") },
    );
    ToolResult::failed(ToolOutcome::UnknownTool, text)
}

/// Runs the tool; a panic or an overrun of its own deadline becomes a result too.
async fn run(tool: &dyn Tool, call: &ToolCall, context: CallContext) -> ToolResult {
    let timeout = context.timeout;
    let cancel = context.cancel.clone();
    let answer = AssertUnwindSafe(tool.call(call.arguments.clone(), context)).catch_unwind();
    tokio::select! {
        biased;
        answer = tokio::time::timeout(timeout + GRACE, answer) => match answer {
            Ok(Ok(result)) => result,
            Ok(Err(_panic)) => {
                tracing::error!(tool = call.name, call = call.id, "the tool panicked");
                ToolResult::failed(ToolOutcome::Trapped, format!("The tool `{}` broke down.", call.name))
            }
            Err(_elapsed) => {
                let text = format!("The tool `{}` did not answer within {timeout:?}.", call.name);
                ToolResult::failed(ToolOutcome::Timeout, text)
            }
        },
        () = cancelled_for(&cancel, GRACE) => {
            ToolResult::failed(ToolOutcome::Cancelled, format!("The call of `{}` was cancelled.", call.name))
        }
    }
}

/// Ends once `cancel` was set and the tool had `grace` to answer for itself.
async fn cancelled_for(cancel: &tokio_util::sync::CancellationToken, grace: Duration) {
    cancel.cancelled().await;
    tokio::time::sleep(grace).await;
}

#[cfg(test)]
mod tests;
