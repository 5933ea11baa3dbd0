//! Answers of pure calls: the same call in the same run is not run again.
//!
//! Invariant: what is kept is bounded in number and in bytes; the oldest answers make room.

use std::collections::{BTreeMap, HashMap, VecDeque};

use chaski_engine::ToolCall;
use serde_json::Value;

use super::{Effect, ToolOutcome, ToolResult, ToolSet};

/// Answers kept of one run.
const MAX_ENTRIES: usize = 256;
/// Bytes of all answers kept of one run, calls included.
const MAX_BYTES: usize = 4 << 20;

/// The answers of one run's pure calls.
#[derive(Default)]
pub struct CallCache {
    answers: HashMap<String, ToolResult>,
    /// The keys, oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

impl CallCache {
    /// What `call` was answered before, if it is a pure tool's among `tools`.
    pub fn get(&self, tools: &ToolSet, call: &ToolCall) -> Option<ToolResult> {
        is_pure(tools, call).then(|| self.answers.get(&key(call)).cloned()).flatten()
    }

    /// Keeps `result` if it is a pure tool's answer. A no is not kept: whoever tries again has a reason.
    pub fn keep(&mut self, tools: &ToolSet, call: &ToolCall, result: &ToolResult) {
        if result.outcome != ToolOutcome::Ok || !is_pure(tools, call) {
            return;
        }
        let key = key(call);
        let size = size(&key, result);
        if size > MAX_BYTES / 4 || self.answers.contains_key(&key) {
            return;
        }
        while self.order.len() >= MAX_ENTRIES || self.bytes + size > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(result) = self.answers.remove(&oldest) {
                self.bytes -= self::size(&oldest, &result);
            }
        }
        self.bytes += size;
        self.order.push_back(key.clone());
        self.answers.insert(key, result.clone());
    }
}

fn is_pure(tools: &ToolSet, call: &ToolCall) -> bool {
    tools.get(&call.name).is_some_and(|tool| tool.definition().effect == Effect::Pure)
}

fn size(key: &str, result: &ToolResult) -> usize {
    key.len() + result.text.len() + result.json.as_ref().map_or(0, |json| json.to_string().len())
}

/// The same for the same arguments, in whatever order a model wrote them.
fn key(call: &ToolCall) -> String {
    format!("{} {}", call.name, sorted(&call.arguments))
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<&String, Value> =
                fields.iter().map(|(name, value)| (name, sorted(value))).collect();
            Value::Object(fields.into_iter().map(|(name, value)| (name.clone(), value)).collect())
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::future::BoxFuture;
    use serde_json::json;

    use super::*;
    use crate::tools::{CallContext, Tool, ToolDefinition, ToolRegistry};

    struct Nothing(ToolDefinition);

    impl Tool for Nothing {
        fn definition(&self) -> &ToolDefinition {
            &self.0
        }

        fn call<'a>(&'a self, _: Value, _: CallContext) -> BoxFuture<'a, ToolResult> {
            Box::pin(async { ToolResult::ok("") })
        }
    }

    fn tools() -> ToolSet {
        let mut registry = ToolRegistry::default();
        for (name, effect) in [("t.pure", Effect::Pure), ("t.look", Effect::Idempotent)] {
            registry.insert(Arc::new(Nothing(ToolDefinition {
                name: name.into(),
                description: String::new(),
                input_schema: json!({}),
                output_schema: None,
                effect,
            })));
        }
        registry.grant(&["t.*".into()]).expect("the tools were just inserted")
    }

    fn call(name: &str, arguments: Value) -> ToolCall {
        ToolCall { id: "c".into(), name: name.into(), arguments }
    }

    /// Whether the answer `result` of `kept` is given for `asked`.
    #[track_caller]
    fn check(kept: ToolCall, result: ToolResult, asked: ToolCall, expected: bool) {
        let mut cache = CallCache::default();
        cache.keep(&tools(), &kept, &result);
        assert_eq!(cache.get(&tools(), &asked), expected.then_some(result));
    }

    #[test]
    fn a_pure_call_is_answered_once_and_known_in_any_order_of_its_arguments() {
        let kept = call("t.pure", json!({"a": 1, "b": {"c": 2, "d": 3}}));
        let asked = call("t.pure", json!({"b": {"d": 3, "c": 2}, "a": 1}));
        check(kept.clone(), ToolResult::ok("x"), asked, true);
        check(kept, ToolResult::ok("x"), call("t.pure", json!({"a": 2})), false);
    }

    #[test]
    fn what_may_differ_next_time_is_not_kept() {
        let look = call("t.look", json!({}));
        check(look.clone(), ToolResult::ok("x"), look, false);
        let pure = call("t.pure", json!({}));
        check(pure.clone(), ToolResult::failed(ToolOutcome::Error, "no"), pure.clone(), false);
        check(pure.clone(), ToolResult::failed(ToolOutcome::Timeout, "slow"), pure, false);
    }

    #[test]
    fn the_oldest_answers_make_room() {
        let (mut cache, tools) = (CallCache::default(), tools());
        for number in 0..MAX_ENTRIES + 1 {
            cache.keep(&tools, &call("t.pure", json!({"n": number})), &ToolResult::ok("x"));
        }
        assert_eq!(cache.order.len(), MAX_ENTRIES);
        assert_eq!(cache.get(&tools, &call("t.pure", json!({"n": 0}))), None);
        assert!(cache.get(&tools, &call("t.pure", json!({"n": 1}))).is_some());
        for number in 0..20 {
            let text = "x".repeat(MAX_BYTES / 8);
            cache.keep(&tools, &call("t.pure", json!({"big": number})), &ToolResult::ok(text));
        }
        assert!(cache.bytes <= MAX_BYTES, "{}", cache.bytes);
        let counted: usize = cache.answers.iter().map(|(key, result)| size(key, result)).sum();
        assert_eq!(cache.bytes, counted);
    }
}
