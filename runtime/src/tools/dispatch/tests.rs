use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::tools::{Effect, ToolDefinition, ToolRegistry};

/// Adds two numbers; 0 makes it panic and 1 makes it wait for ever.
struct Add(ToolDefinition);

impl Tool for Add {
    fn definition(&self) -> &ToolDefinition {
        &self.0
    }

    fn call<'a>(&'a self, arguments: Value, _context: CallContext) -> BoxFuture<'a, ToolResult> {
        Box::pin(async move {
            match arguments["a"].as_i64() {
                Some(0) => panic!("zero"),
                Some(1) => std::future::pending().await,
                a => ToolResult::ok((a.unwrap_or(0) + arguments["b"].as_i64().unwrap_or(0)).to_string()),
            }
        })
    }
}

fn tools() -> ToolSet {
    let schema = json!({
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": false,
    });
    let mut registry = ToolRegistry::default();
    registry.insert(Arc::new(Add(ToolDefinition {
        name: "math.add".into(),
        description: "Adds.".into(),
        input_schema: schema,
        output_schema: None,
        effect: Effect::Pure,
    })));
    registry.grant(&["math.*".into()]).expect("the tool was just inserted")
}

#[track_caller]
fn check(name: &str, arguments: Value, outcome: ToolOutcome, text: &str) {
    let call = ToolCall { id: "call_1".into(), name: name.into(), arguments };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let result = runtime.expect("a runtime").block_on(async {
        let context = CallContext {
            call_id: call.id.clone(),
            timeout: Duration::from_millis(5),
            cancel: CancellationToken::new(),
            ..CallContext::default()
        };
        dispatch(&tools(), &call, context).await
    });
    assert_eq!((result.outcome, result.text.as_str()), (outcome, text));
}

#[test]
fn a_valid_call_is_answered() {
    check("math.add", json!({"a": 2, "b": 3}), ToolOutcome::Ok, "5");
}

#[test]
fn an_unknown_tool_is_answered_with_the_known_ones() {
    check(
        "math.ad",
        json!({}),
        ToolOutcome::UnknownTool,
        "There is no tool `math.ad`. Did you mean `math.add`? Your tools are: math.add.",
    );
}

#[test]
fn every_fault_of_the_arguments_is_named() {
    check(
        "math.add",
        json!({"b": "x"}),
        ToolOutcome::InvalidArguments,
        "The arguments of `math.add` are not valid: at `/b`: \"x\" is not of type \"integer\"; \
         \"a\" is a required property.",
    );
}

#[test]
fn arguments_that_are_no_object_are_refused() {
    check(
        "math.add",
        json!("a=1"),
        ToolOutcome::InvalidArguments,
        "The arguments of `math.add` are not valid: \"a=1\" is not of type \"object\".",
    );
}

#[test]
fn a_panic_ends_the_call_alone() {
    check("math.add", json!({"a": 0}), ToolOutcome::Trapped, "The tool `math.add` broke down.");
}

#[test]
fn a_tool_that_hangs_is_given_up() {
    check(
        "math.add",
        json!({"a": 1}),
        ToolOutcome::Timeout,
        "The tool `math.add` did not answer within 5ms.",
    );
}
