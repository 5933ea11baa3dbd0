//! What a run does with a checked workflow, and what its journal holds afterwards.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::agent::scripted_model::{ScriptedModel, ScriptedReply};
use crate::run::event::LiveEvent;
use crate::run::journal::Journal;
use crate::tools::{CallContext, Effect, Tool, ToolDefinition, ToolOutcome, ToolResult};
use crate::workflow::Workflow;

/// Longest that a run here may take; one that waits for itself fails its test instead of hanging it.
const DEADLINE: Duration = Duration::from_secs(20);

type Behaviour = dyn Fn(Value, CallContext) -> BoxFuture<'static, ToolResult> + Send + Sync;

struct TestTool {
    definition: ToolDefinition,
    behaviour: Box<Behaviour>,
}

impl Tool for TestTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    fn call<'a>(&'a self, arguments: Value, context: CallContext) -> BoxFuture<'a, ToolResult> {
        (self.behaviour)(arguments, context)
    }
}

fn tool<Answer: Future<Output = ToolResult> + Send + 'static>(
    name: &str,
    behaviour: impl Fn(Value, CallContext) -> Answer + Send + Sync + 'static,
) -> Arc<dyn Tool> {
    let definition = ToolDefinition {
        name: name.into(),
        description: "For tests.".into(),
        input_schema: json!({"type": "object"}),
        output_schema: None,
        effect: Effect::Idempotent,
    };
    let behaviour = Box::new(move |arguments, context| -> BoxFuture<'static, ToolResult> {
        Box::pin(behaviour(arguments, context))
    });
    Arc::new(TestTool { definition, behaviour })
}

/// `test.echo` answers its `value`, `test.say` in text, `test.cut` in part, `test.fail` says no, `test.flaky` says no `failures`
/// times, `test.hang` waits for the run's end, `test.queue` answers once `after` other calls of it have.
fn tools() -> ToolRegistry {
    let calls = AtomicU64::new(0);
    let answered = watch::Sender::new(0);
    let mut registry = ToolRegistry::default();
    registry.insert(tool("test.echo", async |arguments, _| ToolResult::json(arguments["value"].clone())));
    registry.insert(tool("test.say", async |_, _| ToolResult::ok("some text")));
    registry.insert(tool("test.cut", async |_, _| ToolResult { truncated: true, ..ToolResult::ok("some") }));
    registry.insert(tool("test.fail", async |_, _| ToolResult::failed(ToolOutcome::Error, "no such file")));
    registry.insert(tool("test.hang", async |_, context| {
        context.cancel.cancelled().await;
        ToolResult::failed(ToolOutcome::Cancelled, "stopped")
    }));
    registry.insert(tool("test.flaky", move |arguments, _| {
        let earlier = calls.fetch_add(1, Ordering::SeqCst);
        std::future::ready(match earlier < arguments["failures"].as_u64().unwrap_or(0) {
            true => ToolResult::failed(ToolOutcome::Error, "not yet"),
            false => ToolResult::json(json!({ "after": earlier })),
        })
    }));
    registry.insert(tool("test.queue", move |arguments, _| {
        let answered = answered.clone();
        async move {
            let after = arguments["after"].as_u64().unwrap_or(0);
            answered.subscribe().wait_for(|answered| *answered >= after).await.expect("the sender lives");
            answered.send_modify(|answered| *answered += 1);
            ToolResult::json(arguments["after"].clone())
        }
    }));
    registry
}

/// One run, over.
struct TestRun {
    outcome: RunOutcome,
    events: Vec<RunEvent>,
}

/// Runs `yaml`, which begins after the workflow's version and name, with `inputs` and a model that replies
/// with `replies`. The run is cancelled when its step `stop` begins.
#[track_caller]
fn run_with(yaml: &str, inputs: Value, replies: Vec<ScriptedReply>) -> TestRun {
    let text = format!("version: 1\nname: test\n{yaml}\n");
    let workflow = Workflow::parse(Path::new("test.yaml"), text).expect("it can be read");
    let tools = tools();
    let plan = crate::workflow::check::check(&workflow, Some(&tools)).expect("it is valid");
    let model = Arc::new(ScriptedModel::from_replies(replies));
    let environment = RunEnvironment { tools, model: Some(model), seed: None, workplace: Default::default() };

    let journal = Arc::new(Journal::in_memory().expect("memory is there"));
    let cancel = CancellationToken::new();
    let canceller = cancel.clone();
    let observer = Arc::new(move |live: &LiveEvent| {
        if matches!(live, LiveEvent::Event(RunEvent::StepStarted { step, .. }) if step == "stop") {
            canceller.cancel();
        }
    });
    let recorder = Recorder::new(journal.new_run(), journal.clone(), observer, cancel);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let outcome = runtime
        .block_on(async {
            tokio::time::timeout(DEADLINE, execute(&plan, &inputs, &environment, &recorder)).await
        })
        .expect("the run waits for nothing that never comes")
        .expect("the journal works");
    let (_, entries) = journal.run(recorder.run().as_str()).expect("the run is there");
    TestRun { outcome, events: entries.into_iter().map(|entry| entry.event).collect() }
}

#[track_caller]
fn run(yaml: &str) -> TestRun {
    run_with(yaml, json!({}), Vec::new())
}

fn reply(content: &str) -> ScriptedReply {
    ScriptedReply { content: content.into(), ..ScriptedReply::default() }
}

impl TestRun {
    /// Holds the outputs of a run that succeeded against `expected`.
    #[track_caller]
    fn gives(self, expected: Value) -> Self {
        assert_eq!(self.outcome, RunOutcome { state: FinalState::Succeeded, outputs: expected, error: None });
        self.ends_once()
    }

    /// Holds the state and the error of a run that came to nothing against these.
    #[track_caller]
    fn ends(self, state: FinalState, error: &str) -> Self {
        let error = Some(error.to_owned());
        assert_eq!(self.outcome, RunOutcome { state, outputs: Value::Null, error });
        self.ends_once()
    }

    /// `RunFinished` is there once, at the end, and says what the outcome says.
    #[track_caller]
    fn ends_once(self) -> Self {
        let finished = |event: &&RunEvent| matches!(event, RunEvent::RunFinished { .. });
        assert_eq!(self.events.iter().filter(finished).count(), 1);
        let RunOutcome { state, outputs, error } = self.outcome.clone();
        assert_eq!(self.events.last(), Some(&RunEvent::RunFinished { state, outputs, error }));
        self
    }

    /// Steps and items as they ended, and how: `look[2] succeeded`.
    fn ended(&self) -> Vec<String> {
        let line = |event: &RunEvent| match event {
            RunEvent::StepFinished { place, state, .. } => {
                let item = place.item.map(|item| format!("[{item}]")).unwrap_or_default();
                Some(format!("{}{item} {state:?}", place.step).to_lowercase())
            }
            _ => None,
        };
        self.events.iter().filter_map(line).collect()
    }

    fn notices(&self) -> Vec<&str> {
        let notices = self.events.iter().filter_map(|event| match event {
            RunEvent::Notice { message, .. } => Some(message.as_str()),
            _ => None,
        });
        notices.collect()
    }
}

#[test]
fn values_keep_their_type_from_step_to_step() {
    let yaml = "
inputs: { count: { type: integer } }
steps:
  - { id: one, tool: test.echo, with: { value: { n: '{{ inputs.count }}', list: [1, a, null] } } }
  - { id: two, tool: test.echo, with: { value: '{{ steps.one.output.list }}' } }
outputs:
  list: '{{ steps.two.output }}'
  more: '{{ steps.one.output.n + 1 }}'
  text: 'n is {{ steps.one.output.n }}'";
    let outputs = json!({"list": [1, "a", null], "more": 4, "text": "n is 3"});
    run_with(yaml, json!({"count": 3}), Vec::new()).gives(outputs);
}

#[test]
fn a_tool_that_answers_in_text_gives_text() {
    run("steps: [{ id: a, tool: test.say }]\noutputs: { a: '{{ steps.a.output }}' }")
        .gives(json!({"a": "some text"}));
}

#[test]
fn items_run_in_parallel_and_their_outputs_keep_the_order_of_the_list() {
    let yaml = "
steps:
  - { id: look, foreach: [2, 1, 0], parallel: 3, tool: test.queue, with: { after: '{{ item }}' } }
outputs: { all: '{{ steps.look.output }}' }";
    let run = run(yaml).gives(json!({"all": [2, 1, 0]}));
    let ended = ["look[2] succeeded", "look[1] succeeded", "look[0] succeeded", "look succeeded"];
    assert_eq!(run.ended(), ended);
}

#[test]
fn an_item_knows_its_index() {
    let yaml = "
steps: [{ id: a, foreach: [x, y], tool: test.echo, with: { value: '{{ item }}{{ index }}' } }]
outputs: { all: '{{ steps.a.output }}' }";
    run(yaml).gives(json!({"all": ["x0", "y1"]}));
}

#[test]
fn a_list_without_items_gives_an_empty_list() {
    let yaml = "
steps: [{ id: a, foreach: [], tool: test.fail }]
outputs: { all: '{{ steps.a.output }}' }";
    run(yaml).gives(json!({"all": []}));
}

#[test]
fn foreach_over_something_else_fails_the_run() {
    run("steps: [{ id: a, foreach: '{{ run.id }}', tool: test.say }]")
        .ends(FinalState::Failed, "step `a`: `foreach` needs a list, found text");
}

#[test]
fn a_step_begins_when_those_it_waits_for_have_ended_whatever_else_runs() {
    let yaml = "
steps:
  - { id: slow, needs: [], tool: test.queue, with: { after: 1 } }
  - { id: quick, needs: [], tool: test.say }
  - { id: next, needs: [quick], tool: test.queue, with: { after: 0 } }";
    let run = run(yaml).gives(json!({}));
    assert_eq!(run.ended(), ["quick succeeded", "next succeeded", "slow succeeded"]);
}

#[test]
fn a_condition_that_is_false_skips_the_step() {
    let yaml = "
steps:
  - { id: a, if: '{{ 1 > 2 }}', tool: test.fail }
  - { id: b, if: '{{ steps.a.state == \"skipped\" }}', tool: test.say }
outputs: { a: '{{ steps.a.output }}', b: '{{ steps.b.output }}' }";
    let run = run(yaml).gives(json!({"a": null, "b": "some text"}));
    assert_eq!(run.ended(), ["a skipped", "b succeeded"]);
}

#[test]
fn a_condition_that_is_no_boolean_fails_the_run() {
    run("steps: [{ id: a, if: '{{ run.id }}', tool: test.say }]")
        .ends(FinalState::Failed, "step `a`: `if` must be true or false, and is text");
}

#[test]
fn a_step_that_fails_is_tried_again() {
    let yaml = "
steps: [{ id: a, tool: test.flaky, with: { failures: 2 }, retry: { max: 2, backoff: 1ms } }]
outputs: { a: '{{ steps.a.output }}' }";
    let run = run(yaml).gives(json!({"a": {"after": 2}}));
    assert_eq!(run.notices(), ["not yet; trying again in 1ms", "not yet; trying again in 2ms"]);
    assert_eq!(run.ended(), ["a succeeded"]);
}

#[test]
fn a_step_that_fails_too_often_fails_the_run_and_nothing_follows() {
    let yaml = "
steps:
  - { id: a, tool: test.flaky, with: { failures: 3 }, retry: { max: 1, backoff: 1ms } }
  - { id: b, tool: test.say }";
    let run = run(yaml).ends(FinalState::Failed, "step `a`: not yet");
    assert_eq!(run.ended(), ["a failed"]);
}

#[test]
fn a_step_that_fails_lets_its_neighbours_end() {
    let yaml = "
steps:
  - { id: bad, needs: [], tool: test.fail }
  - { id: good, needs: [], tool: test.queue, with: { after: 0 } }
  - { id: never, needs: [good], tool: test.say }";
    let run = run(yaml).ends(FinalState::Failed, "step `bad`: no such file");
    assert_eq!(run.ended(), ["bad failed", "good succeeded"]);
}

#[test]
fn an_item_that_fails_is_named() {
    let yaml = "
steps: [{ id: a, foreach: [0, 1], tool: test.echo, with: { value: '{{ [7][item] }}' } }]";
    let run = run(yaml).ends(FinalState::Failed, "step `a`, item 1: `[7][item]` has no value");
    assert_eq!(run.ended(), ["a[0] succeeded", "a[1] failed", "a failed"]);
}

#[test]
fn on_error_continue_gives_null_and_goes_on() {
    let yaml = "
steps:
  - { id: a, tool: test.fail, on_error: continue }
  - id: b
    foreach: [0, 1]
    tool: test.echo
    with: { value: '{{ [7][item] }}' }
    on_error: continue
outputs: { a: '{{ steps.a.output }}', state: '{{ steps.a.state }}', b: '{{ steps.b.output }}' }";
    let run = run(yaml).gives(json!({"a": null, "state": "failed", "b": [7, null]}));
    assert_eq!(run.ended(), ["a failed", "b[0] succeeded", "b[1] failed", "b succeeded"]);
}

#[test]
fn a_step_has_only_so_much_time() {
    run("steps: [{ id: a, tool: test.hang, timeout: 5ms }]")
        .ends(FinalState::Failed, "step `a`: it did not end within 5ms");
    let replies = vec![ScriptedReply { hang: true, ..ScriptedReply::default() }];
    run_with("agents: { a: {} }\nsteps: [{ id: a, agent: a, prompt: x, timeout: 5ms }]", json!({}), replies)
        .ends(FinalState::Failed, "step `a`: it did not end within 5ms");
}

#[test]
fn a_run_that_is_cancelled_ends_as_cancelled() {
    let yaml = "
steps:
  - { id: before, tool: test.say }
  - { id: wait, needs: [before], tool: test.hang, retry: { max: 3 }, on_error: continue }
  - { id: stop, needs: [before], tool: test.hang }
  - { id: after, needs: [stop], tool: test.say }";
    let run = run(yaml).ends(FinalState::Cancelled, "cancelled");
    assert_eq!(run.ended(), ["before succeeded"]);
}

#[test]
fn an_agent_reads_its_prompt_and_answers_in_text() {
    let yaml = "
inputs: { base: {} }
agents: { a: { instructions: 'Compare with {{ inputs.base }}.', tools: [test.say] } }
steps: [{ id: a, agent: a, prompt: 'Look at {{ inputs.base }}.' }]
outputs: { a: '{{ steps.a.output }}' }";
    let expected = "System: Compare with main.\nUser: Look at main.\n";
    let replies = vec![ScriptedReply {
        expect_contains: Some(expected.into()),
        expect_tools: Some(vec!["test.say".into()]),
        ..reply("Fine.")
    }];
    run_with(yaml, json!({"base": "main"}), replies).gives(json!({"a": "Fine."}));
}

#[test]
fn an_agent_with_a_schema_answers_in_json() {
    let yaml = "
agents: { a: {} }
steps:
  - { id: a, agent: a, prompt: x, output: { schema: { type: object, required: [n] } } }
outputs: { n: '{{ steps.a.output.n }}' }";
    run_with(yaml, json!({}), vec![reply(r#"{"n": 3}"#)]).gives(json!({"n": 3}));
}

#[test]
fn a_schema_allows_exactly_what_the_item_has() {
    let yaml = "
agents: { a: {} }
steps:
  - id: a
    foreach: [{ lines: [4, 7] }, { lines: [9] }]
    agent: a
    prompt: Which line?
    output: { schema: { properties: { line: { enum: '{{ item.lines }}' } } } }
outputs: { all: '{{ steps.a.output }}' }";
    let second = "at `/line`: 4 is not one of 9";
    let replies = vec![
        reply(r#"{"line": 4}"#),
        reply(r#"{"line": 4}"#),
        ScriptedReply { expect_contains: Some(second.into()), ..reply(r#"{"line": 9}"#) },
    ];
    run_with(yaml, json!({}), replies).gives(json!({"all": [{"line": 4}, {"line": 9}]}));
}

#[test]
fn a_model_that_fails_fails_the_run() {
    let replies = vec![ScriptedReply { error: Some("out of memory".into()), ..ScriptedReply::default() }];
    run_with("agents: { a: {} }\nsteps: [{ id: a, agent: a, prompt: x }]", json!({}), replies)
        .ends(FinalState::Failed, "step `a`: scripted model: out of memory");
}

#[test]
fn an_output_without_a_value_fails_the_run() {
    run("steps: [{ id: a, tool: test.say }]\noutputs: { a: '{{ steps.a.output.findings }}' }").ends(
        FinalState::Failed,
        "output `a`: `steps.a.output.findings` has no value: there is no `findings`",
    );
}

mod endings;
