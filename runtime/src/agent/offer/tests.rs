use std::sync::Arc;

use chaski_engine::{Sampling, ToolCall};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::*;
use crate::agent::scripted_model::ScriptedModel;
use crate::agent::turn::AgentLimits;
use crate::tools::{CallContext, Effect, Tool, ToolDefinition, ToolRegistry, ToolResult};

struct Quiet(ToolDefinition);

impl Tool for Quiet {
    fn definition(&self) -> &ToolDefinition {
        &self.0
    }

    fn call<'a>(&'a self, _: Value, _: CallContext) -> BoxFuture<'a, ToolResult> {
        async { ToolResult::ok("") }.boxed()
    }
}

/// An agent with `count` tools, each with a description of `bytes`.
fn agent(count: usize, bytes: usize) -> Agent {
    let mut registry = ToolRegistry::default();
    for number in 0..count {
        registry.insert(Arc::new(Quiet(ToolDefinition {
            name: format!("test.tool{number}"),
            description: "x".repeat(bytes),
            input_schema: json!({"type": "object"}),
            output_schema: None,
            effect: Effect::Pure,
        })));
    }
    Agent {
        name: "tester".into(),
        instructions: String::new(),
        tools: registry.grant(&["test.*".into()]).expect("they were just inserted"),
        tool_choice: ToolChoice::Auto,
        output: None,
        sampling: Sampling::default(),
        adapter: None,
        limits: AgentLimits::default(),
    }
}

fn offer(agent: &Agent, messages: &[Message]) -> Offer {
    Offer::of(agent, &ScriptedModel::from_replies(Vec::new()), messages).expect("a script counts anything")
}

fn names(specs: &[ToolSpec]) -> Vec<&str> {
    specs.iter().map(|spec| spec.name.as_str()).collect()
}

#[test]
fn a_few_small_tools_are_described() {
    let offer = offer(&agent(20, 10), &[]);
    assert_eq!((offer.described().len(), offer.notice.is_none()), (20, true));
}

#[test]
fn many_tools_are_searched_for() {
    let offer = offer(&agent(21, 10), &[]);
    assert_eq!(names(&offer.described()), ["tool_search"]);
    assert!(offer.found().is_empty() && offer.tools.get("test.tool3").is_some());
}

#[test]
fn long_descriptions_are_searched_for() {
    // The scripted model's context is 8,192 tokens, and a token has four bytes.
    let offer = offer(&agent(2, 2_000), &[]);
    assert_eq!(names(&offer.described()), ["tool_search"]);
    let notice = offer.notice.expect("it is said");
    assert!(notice.starts_with("2 tools would take 1005 of the context's 8192 tokens"), "{notice}");
}

#[test]
fn a_tool_that_must_be_called_is_described() {
    let agent = Agent { tool_choice: ToolChoice::Named("test.tool7".into()), ..agent(30, 10) };
    assert_eq!(names(&offer(&agent, &[]).described()), ["tool_search", "test.tool7"]);
}

#[test]
fn what_an_earlier_task_found_is_found_still() {
    let call = ToolCall { id: "1".into(), name: SEARCH.into(), arguments: json!({"query": "tool3"}) };
    let offer = offer(&agent(30, 10), &[Message::assistant("", vec![call])]);
    assert_eq!(names(&offer.found()), ["test.tool3"]);
}
