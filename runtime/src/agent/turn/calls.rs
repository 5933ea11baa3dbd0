//! The calls of one reply: which of them run, in what company, and what the model is told about each.
//!
//! Calls that leave no trace run together; an effectful one runs alone, after those before it. Whatever
//! happens, results come in the order of the calls, one each. A pure call that was answered before in the run is
//! answered the same again, without running.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use chaski_engine::{Message, ToolCall};
use futures::StreamExt;
use tokio::time::Instant;

use super::{AgentError, Work};
use crate::run::calls::{Admitted, CallSite};
use crate::run::event::Place;
use crate::tools::result::cut_middle;
use crate::tools::{Effect, ToolOutcome, ToolResult, ToolSet};

/// Calls of one reply that run; a model that asks for more is looping, and is told so.
const MAX_CALLS_PER_TURN: usize = 32;

/// Calls that run at once: enough to overlap waiting, few enough for a small machine.
const MAX_CALLS_AT_ONCE: usize = 8;

/// Bytes of a result that enter the conversation: more than any context here holds, small enough to count.
const MAX_RESULT_BYTES: usize = 256 * 1024;

/// Times that one call with the same arguments runs before the model is told that it has the result.
const MAX_SAME_CALLS: usize = 2;

/// The calls that ran and that can be expected to answer the same again, for all that is known.
#[derive(Default)]
pub(super) struct CallHistory {
    calls: Vec<(String, serde_json::Value, usize)>,
}

impl Work<'_> {
    /// Runs `calls` and adds their results to the transcript. `allowed`: the model was free to call tools.
    pub(super) async fn run_calls(&mut self, calls: Vec<ToolCall>, allowed: bool) -> Result<(), AgentError> {
        let site = CallSite::new(self.agent.tools.clone(), self.place.clone(), self.recorder.clone());
        for group in groups(&self.agent.tools, &calls) {
            let mut planned = Vec::new();
            for index in group {
                let call = &calls[index];
                let plan = match self.refusal(call, index, allowed)? {
                    Some(refusal) => Admitted::Refused(refusal),
                    None => site.admit(call).await?,
                };
                planned.push((call, plan));
            }
            self.run_group(&site, planned).await?;
        }
        if self.recorder.cancel().is_cancelled() { Err(AgentError::Cancelled) } else { Ok(()) }
    }

    /// Runs a group whose intents are on disk, and writes each result down as soon as its turn comes.
    async fn run_group(
        &mut self,
        site: &CallSite,
        planned: Vec<(&ToolCall, Admitted)>,
    ) -> Result<(), AgentError> {
        let context = |call: &ToolCall| {
            let key = call_key(self.recorder.run(), self.place, call);
            site.context(call, key, self.time_for_a_call())
        };
        let planned: Vec<_> =
            planned.into_iter().map(|(call, plan)| (call.clone(), plan, context(call))).collect();
        let mut results = futures::stream::iter(planned)
            .map(|(call, plan, context)| async move {
                let result = site.run(&call, plan, context).await;
                (call, result)
            })
            .buffered(MAX_CALLS_AT_ONCE);
        while let Some((call, (mut result, cached))) = results.next().await {
            let (text, cut) = cut_middle(&result.text, MAX_RESULT_BYTES);
            self.transcript.messages.push(Message::tool_result(&call, text.clone()));
            (result.text, result.truncated) = (text, result.truncated || cut);
            site.answered(&call, &result, cached)?;
        }
        Ok(())
    }

    /// What the model is told instead, if `call` must not run.
    fn refusal(
        &mut self,
        call: &ToolCall,
        index: usize,
        allowed: bool,
    ) -> Result<Option<ToolResult>, AgentError> {
        let name = &call.name;
        let refused =
            |outcome, why: &str| Some(ToolResult::failed(outcome, format!("`{name}` was not run: {why}.")));
        if !allowed {
            self.notice(format!("the model called `{name}` when it had to answer; the call was not run"))?;
            return Ok(refused(ToolOutcome::Error, "no tool may be called now"));
        }
        if self.recorder.cancel().is_cancelled() {
            return Ok(refused(ToolOutcome::Cancelled, "the run was cancelled"));
        }
        if self.time_for_a_call().is_zero() {
            return Ok(refused(ToolOutcome::Timeout, "the time for this task is over"));
        }
        if index >= MAX_CALLS_PER_TURN {
            let why = format!("one reply may call at most {MAX_CALLS_PER_TURN} tools");
            self.notice(format!("`{name}` was not run: {why}"))?;
            return Ok(refused(ToolOutcome::Overloaded, &why));
        }
        if self.history.is_one_too_many(effect(&self.agent.tools, name), call) {
            self.notice(format!(
                "the model called `{name}` with the same arguments {} times; the last call was not run",
                MAX_SAME_CALLS + 1
            ))?;
            let why = "you already have its result for these arguments, further up. Use it, or change the arguments";
            return Ok(refused(ToolOutcome::Error, why));
        }
        Ok(None)
    }

    fn time_for_a_call(&self) -> Duration {
        self.agent.limits.tool_time.min(self.deadline.saturating_duration_since(Instant::now()))
    }
}

impl CallHistory {
    /// Notes a call; true when the same one ran [`MAX_SAME_CALLS`] times and nothing has changed since.
    fn is_one_too_many(&mut self, effect: Effect, call: &ToolCall) -> bool {
        match effect {
            // What was read before may be different now.
            Effect::Effectful => self.calls.clear(),
            // The run knows the answer already and gives it again.
            Effect::Pure => {}
            Effect::Idempotent => {
                let same = |known: &&mut (String, serde_json::Value, usize)| {
                    known.0 == call.name && known.1 == call.arguments
                };
                match self.calls.iter_mut().find(same) {
                    Some((_, _, times)) if *times >= MAX_SAME_CALLS => return true,
                    Some((_, _, times)) => *times += 1,
                    None => self.calls.push((call.name.clone(), call.arguments.clone(), 1)),
                }
            }
        }
        false
    }
}

/// The calls in groups that may run together, in order: an effectful one alone, the others with their
/// neighbours, but for one that is the same as a neighbour: that one may find its answer there.
fn groups(tools: &ToolSet, calls: &[ToolCall]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut last_is_shared = false;
    for (index, call) in calls.iter().enumerate() {
        let shared = effect(tools, &call.name) != Effect::Effectful;
        match groups.last_mut() {
            Some(group) if shared && last_is_shared && !calls[group.clone()].iter().any(same(call)) => {
                group.end = index + 1;
            }
            _ => groups.push(index..index + 1),
        }
        last_is_shared = shared;
    }
    groups
}

/// Whether another call asks for the same as `call`.
fn same(call: &ToolCall) -> impl Fn(&ToolCall) -> bool {
    |other| other.name == call.name && other.arguments == call.arguments
}

/// A call of a tool that does not exist leaves no trace.
fn effect(tools: &ToolSet, name: &str) -> Effect {
    tools.get(name).map_or(Effect::Pure, |tool| tool.definition().effect)
}

/// One key a call, the same whenever it is repeated: a model numbers its calls anew in every conversation.
fn call_key(run: &crate::run::journal::RunId, place: &Place, call: &ToolCall) -> String {
    let item = place.item.map(|item| format!("[{item}]")).unwrap_or_default();
    format!("{run}/{}{item}/{}", place.step, call.id)
}

/// Gives every call an id that no other call of the conversation has.
pub(super) fn make_ids_unique(messages: &[Message], calls: &mut [ToolCall]) {
    let earlier = messages.iter().flat_map(|message| &message.tool_calls);
    let mut taken: HashSet<String> = earlier.map(|call| call.id.clone()).collect();
    for call in calls {
        let asked = if call.id.is_empty() { "call".to_owned() } else { call.id.clone() };
        let mut number = 1;
        call.id = asked.clone();
        while !taken.insert(call.id.clone()) {
            number += 1;
            call.id = format!("{asked}_{number}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check_ids(earlier: &[&str], asked: &[&str], expected: &[&str]) {
        let call = |id: &&str| ToolCall { id: id.to_string(), name: "t".into(), arguments: json!({}) };
        let messages = [Message::assistant("", earlier.iter().map(call).collect())];
        let mut calls: Vec<ToolCall> = asked.iter().map(call).collect();
        make_ids_unique(&messages, &mut calls);
        assert_eq!(calls.iter().map(|call| call.id.as_str()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn ids_that_differ_stay() {
        check_ids(&["call_1"], &["call_2", "call_3"], &["call_2", "call_3"]);
    }

    #[test]
    fn an_id_used_before_gets_a_number() {
        check_ids(&["call_1", "call_1_2"], &["call_1", "call_1"], &["call_1_3", "call_1_4"]);
    }

    #[test]
    fn a_call_without_an_id_gets_one() {
        check_ids(&[], &["", ""], &["call", "call_2"]);
    }
}
