//! The way of every tool call of a run, whoever asks for it: decided, written down, run, written down again.
//!
//! Invariant: a call is in the journal, with who allowed it, before it runs, and its answer before anybody
//! reads it. A call that was denied is there too, and never runs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chaski_engine::ToolCall;
use futures::future::BoxFuture;
use serde_json::Value;

use super::event::{Place, RunEvent};
use super::journal::JournalError;
use super::recorder::Recorder;
use crate::tools::cache::CallCache;
use crate::tools::dispatch::dispatch;
use crate::tools::permission::{DecidedBy, Decision, RunAnswers};
use crate::tools::result::cut_middle;
use crate::tools::{Audit, CallContext, CallSession, ToolDefinition, ToolOutcome, ToolResult, ToolSet};

/// Calls inside of calls.
const MAX_DEPTH: usize = 3;
/// Calls that one call makes.
const MAX_NESTED: usize = 64;
/// Bytes of a nested call's answer that go into the journal; the caller has its own bounds.
const MAX_NESTED_BYTES: usize = 256 << 10;

/// What a run remembers of its calls.
#[derive(Default)]
pub struct CallMemory {
    cache: Mutex<CallCache>,
    answers: RunAnswers,
}

/// Where calls come from: who may call what, at which place of which run.
#[derive(Clone)]
pub struct CallSite {
    /// The tools that may be called.
    pub tools: ToolSet,
    /// Where in the run.
    pub place: Place,
    /// Writes it down.
    pub recorder: Recorder,
    /// The calls that this one is inside of, outermost first: their [`ToolCall::id`]s.
    pub within: Vec<String>,
}

/// What becomes of a call.
pub enum Admitted {
    /// It is in the journal and is to be run.
    Run,
    /// It is in the journal and was answered before.
    Known(ToolResult),
    /// It must not run; this is what is told instead.
    Refused(ToolResult),
}

impl CallSite {
    /// A site for the calls that nothing else calls.
    pub fn new(tools: ToolSet, place: Place, recorder: Recorder) -> Self {
        Self { tools, place, recorder, within: Vec::new() }
    }

    /// Decides whether `call` may run, asking a person if that is what the rules say, and writes it down.
    ///
    /// # Errors
    /// [`JournalError`]: what is not written down does not happen.
    pub async fn admit(&self, call: &ToolCall) -> Result<Admitted, JournalError> {
        let decision = self.decide(call).await;
        let (place, call, within) = (self.place.clone(), call.clone(), self.within.last().cloned());
        if let Some(decision) = decision.clone().filter(|decision| !decision.allowed) {
            let text = denied_text(&call.name, &decision.why);
            self.recorder.record(RunEvent::ToolDenied { place, call, decision, within })?;
            return Ok(Admitted::Refused(ToolResult::failed(ToolOutcome::Denied, text)));
        }
        let known = self.cache().get(&self.tools, &call);
        self.recorder.record(RunEvent::ToolCalled { place, call, decision, within })?;
        Ok(known.map_or(Admitted::Run, Admitted::Known))
    }

    /// `None` where there is nothing to decide: no such tool, or arguments that it does not take. Nobody is
    /// asked about those.
    async fn decide(&self, call: &ToolCall) -> Option<Decision> {
        let granted = self.tools.granted(&call.name)?;
        if granted.arguments.faults(&call.arguments).is_some() {
            return None;
        }
        let (definition, reach) = (granted.tool.definition(), || granted.tool.reach());
        let (memory, cancel) = (self.recorder.memory(), self.recorder.cancel());
        let decided =
            self.tools.policy().decide(definition, &call.arguments, &reach, &memory.answers, cancel).await;
        // What cannot be remembered as it was said is not taken as said.
        Some(decided.unwrap_or_else(|error| Decision {
            allowed: false,
            by: DecidedBy::Person,
            why: error.to_string(),
        }))
    }

    /// What a call here is told about itself. `key` names it in this run, the same whenever it is repeated.
    pub fn context(&self, call: &ToolCall, key: String, timeout: Duration) -> CallContext {
        let mut inside = self.clone();
        inside.within.push(call.id.clone());
        CallContext {
            call_id: key.clone(),
            timeout,
            cancel: self.recorder.cancel().clone(),
            session: Some(Arc::new(Nested { site: inside, key, made: AtomicUsize::new(0) })),
            nested: !self.within.is_empty(),
        }
    }

    /// Runs a call that was admitted; `true` when the answer was known already.
    pub async fn run(&self, call: &ToolCall, admitted: Admitted, context: CallContext) -> (ToolResult, bool) {
        match admitted {
            Admitted::Known(result) => (result, true),
            Admitted::Refused(result) => (result, false),
            Admitted::Run => {
                let result = dispatch(&self.tools, call, context).await;
                self.cache().keep(&self.tools, call, &result);
                (result, false)
            }
        }
    }

    /// Writes the answer down.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn answered(&self, call: &ToolCall, result: &ToolResult, cached: bool) -> Result<(), JournalError> {
        self.recorder.record(RunEvent::ToolAnswered {
            place: self.place.clone(),
            call_id: call.id.clone(),
            tool: call.name.clone(),
            outcome: result.outcome,
            text: result.text.clone(),
            json: result.json.clone(),
            truncated: result.truncated,
            seconds: if cached { 0.0 } else { result.duration.as_secs_f64() },
            cached,
        })
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, CallCache> {
        self.recorder.memory().cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is told instead of an answer: to a model, that it was denied; to an operator, what would allow it.
fn denied_text(tool: &str, why: &str) -> String {
    format!("`{tool}` was denied and did not run: {why}. Do not try it again; go on without it.")
}

/// The run, as one running call sees it.
struct Nested {
    /// Where its calls come from.
    site: CallSite,
    /// The call's own key.
    key: String,
    /// Calls made.
    made: AtomicUsize,
}

impl CallSession for Nested {
    fn tools(&self) -> Vec<ToolDefinition> {
        self.site.tools.iter().map(|tool| tool.definition().clone()).collect()
    }

    fn call<'a>(&'a self, name: &'a str, arguments: Value, timeout: Duration) -> BoxFuture<'a, ToolResult> {
        Box::pin(async move {
            let number = self.made.fetch_add(1, Ordering::Relaxed);
            if self.site.within.len() >= MAX_DEPTH {
                let why = format!("`{name}` was not run: calls are {MAX_DEPTH} deep already.");
                return ToolResult::failed(ToolOutcome::Overloaded, why);
            }
            if number >= MAX_NESTED {
                let why = format!("`{name}` was not run: one call may make at most {MAX_NESTED} others.");
                return ToolResult::failed(ToolOutcome::Overloaded, why);
            }
            let outer = self.site.within.last().map_or("", String::as_str);
            let call = ToolCall { id: format!("{outer}.{}", number + 1), name: name.to_owned(), arguments };
            let key = format!("{}.{}", self.key, number + 1);
            self.recorded(&call, key, timeout).await.unwrap_or_else(|error| {
                tracing::error!(tool = name, %error, "a nested call was not run");
                ToolResult::failed(ToolOutcome::Unavailable, format!("`{name}` was not run: no log."))
            })
        })
    }

    fn audit(&self, audit: Audit) {
        let (what, _) = cut_middle(&audit.what, 1024);
        let written = self.site.recorder.record(RunEvent::CapabilityUsed {
            place: self.site.place.clone(),
            call_id: self.site.within.last().cloned().unwrap_or_default(),
            capability: audit.capability.to_owned(),
            what,
            refused: audit.refused,
        });
        if let Err(error) = written {
            tracing::error!(%error, "the use of a capability could not be written down");
        }
    }
}

/// A nested call that runs. Dropped when the call that makes it is stopped.
struct Unanswered<'a> {
    site: &'a CallSite,
    call: &'a ToolCall,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let text = format!("The call of `{}` ended with the call that made it.", self.call.name);
        let result = ToolResult::failed(ToolOutcome::Cancelled, text);
        if let Err(error) = self.site.answered(self.call, &result, false) {
            tracing::error!(%error, "the end of a nested call could not be written down");
        }
    }
}

impl Nested {
    async fn recorded(
        &self,
        call: &ToolCall,
        key: String,
        timeout: Duration,
    ) -> Result<ToolResult, JournalError> {
        let admitted = self.site.admit(call).await?;
        let context = self.site.context(call, key, timeout);
        // The outer call may be stopped while this one runs: then this is its answer.
        let unanswered = Unanswered { site: &self.site, call };
        let (mut result, cached) = self.site.run(call, admitted, context).await;
        std::mem::forget(unanswered);
        let (text, cut) = cut_middle(&result.text, MAX_NESTED_BYTES);
        (result.text, result.truncated) = (text, result.truncated || cut);
        self.site.answered(call, &result, cached)?;
        Ok(result)
    }
}
