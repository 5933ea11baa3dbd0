use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::agent::scripted_model::{ScriptedCall, ScriptedModel, ScriptedReply};
use crate::run::journal::Journal;
use crate::tools::permission::{Policy, Rules};
use crate::tools::{CallContext, Effect, Tool, ToolDefinition, ToolOutcome, ToolRegistry, ToolResult};

/// `test.echo` answers its text, `test.write` too but leaves a trace, `test.meet` answers when two calls of it
/// run at once, `test.hang` waits for the cancellation.
struct TestTool {
    definition: ToolDefinition,
    meeting: tokio::sync::Barrier,
    runs: AtomicUsize,
}

impl Tool for TestTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    fn call<'a>(&'a self, arguments: Value, context: CallContext) -> BoxFuture<'a, ToolResult> {
        Box::pin(async move {
            self.runs.fetch_add(1, Ordering::SeqCst);
            match self.definition.name.as_str() {
                "test.meet" => {
                    self.meeting.wait().await;
                }
                "test.hang" => {
                    context.cancel.cancelled().await;
                    return ToolResult::failed(ToolOutcome::Cancelled, "stopped");
                }
                _ => {}
            }
            ToolResult::ok(format!("you said {}", arguments["text"].as_str().unwrap_or_default()))
        })
    }
}

/// One piece of work: a script, an agent to change, and everything that was seen of it.
struct Scene {
    agent: Agent,
    model: Arc<dyn ChatModel>,
    transcript: Transcript,
    cancel: CancellationToken,
    tools: Vec<Arc<TestTool>>,
    seen: Arc<Mutex<Vec<LiveEvent>>>,
}

fn scene(replies: Vec<ScriptedReply>) -> Scene {
    let mut registry = ToolRegistry::default();
    let mut tools = Vec::new();
    for (name, effect) in [
        ("test.echo", Effect::Pure),
        ("test.look", Effect::Idempotent),
        ("test.write", Effect::Effectful),
        ("test.meet", Effect::Pure),
        ("test.hang", Effect::Pure),
    ] {
        let definition = ToolDefinition {
            name: name.into(),
            description: "A tool.".into(),
            input_schema: json!({"type": "object", "properties": {"text": {"type": "string"}}}),
            output_schema: None,
            effect,
        };
        let (meeting, runs) = (tokio::sync::Barrier::new(2), AtomicUsize::new(0));
        let tool = Arc::new(TestTool { definition, meeting, runs });
        registry.insert(tool.clone());
        tools.push(tool);
    }
    let everything = Rules { allow: vec!["*".parse().expect("a pattern")], ..Rules::default() };
    registry.set_policy(Policy::new(everything, "test".into()));
    Scene {
        agent: Agent {
            name: "tester".into(),
            instructions: "Be brief.".into(),
            tools: registry.grant(&["test.*".into()]).expect("the tools were just inserted"),
            tool_choice: ToolChoice::Auto,
            output: None,
            sampling: Sampling::default(),
            adapter: None,
            limits: AgentLimits::default(),
        },
        model: Arc::new(ScriptedModel::from_replies(replies)),
        transcript: Transcript::of_user("Go."),
        cancel: CancellationToken::new(),
        tools,
        seen: Arc::default(),
    }
}

impl Scene {
    fn work(&mut self) -> Result<AgentAnswer, AgentError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let journal = Arc::new(Journal::in_memory().expect("memory needs no disk"));
        let run = journal.new_run();
        let started = RunEvent::RunStarted {
            name: "test".into(),
            source: None,
            model: self.model.name().into(),
            inputs: json!({}),
        };
        journal.append(&run, &started).expect("the first event");
        let (seen, cancel) = (self.seen.clone(), self.cancel.clone());
        let observer = Arc::new(move |live: &LiveEvent| {
            seen.lock().expect("nothing panics while it is held").push(live.clone());
            // Two signs to cancel: a streamed word, and a call of `test.hang`.
            match live {
                LiveEvent::Text { text, .. } if text == "CANCEL" => cancel.cancel(),
                LiveEvent::Event(RunEvent::ToolCalled { call, .. }) if call.name == "test.hang" => {
                    cancel.cancel();
                }
                _ => {}
            }
        });
        let place = Place { step: "look".into(), item: Some(2) };
        let recorder = Recorder::new(run.clone(), journal.clone(), observer, self.cancel.clone());
        let answer =
            runtime.block_on(work(&self.agent, &self.model, &mut self.transcript, &place, &recorder));
        let (_, entries) = journal.run(run.as_str()).expect("it has started");
        let kept: Vec<RunEvent> = entries.into_iter().skip(1).map(|entry| entry.event).collect();
        assert_eq!(kept, self.events(), "what was shown is what is kept, in the same order");
        answer
    }

    fn events(&self) -> Vec<RunEvent> {
        let seen = self.seen.lock().expect("nothing panics while it is held");
        let event = |live: &LiveEvent| match live {
            LiveEvent::Event(event) => Some(event.clone()),
            _ => None,
        };
        seen.iter().filter_map(event).collect()
    }

    /// The events, a word or two each.
    fn story(&self) -> Vec<String> {
        let line = |event: RunEvent| match event {
            RunEvent::TurnStarted { turn, .. } => format!("turn {turn}"),
            RunEvent::ModelReplied { tool_calls, .. } => format!("reply with {} calls", tool_calls.len()),
            RunEvent::ToolCalled { call, .. } => format!("call {}", call.id),
            RunEvent::ToolDenied { call, decision, .. } => format!("{} denied: {}", call.id, decision.why),
            RunEvent::ToolAnswered { call_id, outcome, .. } => format!("answer {call_id} {outcome:?}"),
            RunEvent::Notice { message, .. } => format!("notice: {message}"),
            other => format!("{other:?}"),
        };
        self.events().into_iter().map(line).collect()
    }

    fn runs(&self, tool: &str) -> usize {
        let tool = self.tools.iter().find(|known| known.definition.name == tool).expect("a test tool");
        tool.runs.load(Ordering::SeqCst)
    }

    /// What the model read as results, in order.
    fn results(&self) -> Vec<&str> {
        let messages = self.transcript.messages.iter();
        messages.filter(|m| m.role == chaski_engine::Role::Tool).map(|m| m.content.as_str()).collect()
    }
}

fn says(content: &str) -> ScriptedReply {
    ScriptedReply { content: content.into(), ..ScriptedReply::default() }
}

fn calls(calls: &[(&str, &str)]) -> ScriptedReply {
    let call = |(name, text): &(&str, &str)| ScriptedCall {
        id: None,
        name: (*name).into(),
        arguments: json!({"text": text}),
    };
    ScriptedReply { tool_calls: calls.iter().map(call).collect(), ..ScriptedReply::default() }
}

/// A reply that comes only if the prompt holds `text`.
fn told(text: &str, reply: ScriptedReply) -> ScriptedReply {
    ScriptedReply { expect_contains: Some(text.into()), ..reply }
}

#[test]
fn an_answer_without_calls_takes_one_turn() {
    let mut scene = scene(vec![told("Be brief.", says("Done."))]);
    let answer = scene.work().expect("an answer");
    assert_eq!((answer.text.as_str(), answer.json, answer.turns), ("Done.", None, 1));
    assert_eq!(scene.story(), ["turn 1", "reply with 0 calls"]);
    assert_eq!(scene.transcript.messages.last(), Some(&Message::assistant("Done.", vec![])));
}

#[test]
fn every_event_is_written_before_it_is_acted_on() {
    let mut scene = scene(vec![calls(&[("test.echo", "a")]), says("Done.")]);
    assert_eq!(scene.work().expect("an answer").turns, 2);
    assert_eq!(
        scene.story(),
        ["turn 1", "reply with 1 calls", "call call_1", "answer call_1 Ok", "turn 2", "reply with 0 calls"]
    );
}

#[test]
fn a_reply_with_text_and_calls_keeps_both() {
    let both = ScriptedReply { content: "Let me see.".into(), ..calls(&[("test.echo", "a")]) };
    let mut scene = scene(vec![both, says("Done.")]);
    scene.work().expect("an answer");
    let reply = &scene.transcript.messages[1];
    assert_eq!((reply.content.as_str(), reply.tool_calls.len()), ("Let me see.", 1));
}

#[test]
fn calls_of_one_turn_run_together_and_answer_in_order() {
    let together = calls(&[("test.meet", "a"), ("test.echo", "b"), ("test.meet", "c")]);
    let mut scene = scene(vec![together, says("Done.")]);
    scene.work().expect("an answer");
    assert_eq!(scene.results(), ["you said a", "you said b", "you said c"]);
}

#[test]
fn an_effectful_call_runs_alone_and_after_those_before_it() {
    let mixed = calls(&[("test.echo", "a"), ("test.write", "b"), ("test.write", "c"), ("test.echo", "d")]);
    let mut scene = scene(vec![mixed, says("Done.")]);
    scene.work().expect("an answer");
    let middle = ["call call_2", "answer call_2 Ok", "call call_3", "answer call_3 Ok", "call call_4"];
    assert_eq!(scene.story()[4..9], middle);
}

#[test]
fn ids_that_a_model_uses_twice_are_made_unique() {
    let mut twice = calls(&[("test.echo", "a"), ("test.echo", "b")]);
    twice.tool_calls.iter_mut().for_each(|call| call.id = Some("x".into()));
    let mut scene = scene(vec![twice, says("Done.")]);
    scene.work().expect("an answer");
    let ids: Vec<_> = scene.transcript.messages.iter().filter_map(|m| m.tool_call_id.as_deref()).collect();
    assert_eq!(ids, ["x", "x_2"]);
}

#[test]
fn a_wrong_call_is_told_to_the_model_and_the_work_goes_on() {
    let mut scene =
        scene(vec![calls(&[("test.ecko", "a")]), told("Did you mean `test.echo`?", says("Sorry."))]);
    assert_eq!(scene.work().expect("an answer").text, "Sorry.");
}

#[test]
fn a_call_that_was_cut_is_reported_and_never_run() {
    let half = r#"{"name": "test.echo", "arguments": {"te"#;
    let cut = ScriptedReply { cut_call: Some(half.into()), ..ScriptedReply::default() };
    let mut scene = scene(vec![cut, told("Write a shorter one.", says("Done."))]);
    scene.work().expect("an answer");
    assert_eq!(scene.runs("test.echo"), 0);
    assert_eq!(scene.story()[2], "notice: a tool call was cut by the limit of 1024 tokens and was not run");
}

#[test]
fn the_whole_calls_before_a_cut_one_run() {
    let cut = ScriptedReply { cut_call: Some("{".into()), ..calls(&[("test.echo", "a")]) };
    let mut scene = scene(vec![cut, told("Write a shorter one.", says("Done."))]);
    scene.work().expect("an answer");
    assert_eq!((scene.runs("test.echo"), scene.results()), (1, vec!["you said a"]));
}

#[test]
fn the_last_turn_must_answer() {
    let mut scene = scene(vec![calls(&[("test.echo", "a")]), calls(&[("test.echo", "b")])]);
    scene.agent.limits.turns = 2;
    let error = scene.work().expect_err("it called again");
    assert_eq!(error.to_string(), "agent `tester` reached its limit of 2 turns");
    assert!(error.hint().is_some());
    assert_eq!(scene.runs("test.echo"), 1, "the call of the last turn did not run");
    assert_eq!(scene.results(), ["you said a", "`test.echo` was not run: no tool may be called now."]);
}

#[test]
fn tokens_are_bounded_over_all_turns() {
    let mut scene = scene(vec![calls(&[("test.echo", &"a".repeat(400))]), says("never asked")]);
    scene.agent.limits.tokens = 100;
    let error = scene.work().expect_err("too many tokens").to_string();
    assert_eq!(error, "agent `tester` reached its limit of 100 tokens");
    assert_eq!(scene.results().len(), 1, "what was done is kept");
}

#[test]
fn time_is_bounded_and_what_was_seen_is_kept() {
    let mut scene = scene(vec![ScriptedReply { hang: true, ..says("Once upon") }]);
    scene.agent.limits.time = Duration::from_millis(20);
    let error = scene.work().expect_err("it hangs").to_string();
    assert_eq!(error, "agent `tester` reached its limit of 20ms of time");
    assert_eq!(scene.transcript.messages.last(), Some(&Message::assistant("Once upon", vec![])));
}

#[test]
fn a_cancelled_reply_ends_the_work() {
    let mut scene = scene(vec![ScriptedReply { hang: true, ..says("CANCEL") }]);
    assert!(matches!(scene.work(), Err(AgentError::Cancelled)));
}

#[test]
fn a_cancelled_call_keeps_its_result_and_later_ones_do_not_run() {
    let mut scene = scene(vec![calls(&[("test.hang", ""), ("test.write", "b")])]);
    assert!(matches!(scene.work(), Err(AgentError::Cancelled)));
    assert_eq!(scene.runs("test.write"), 0);
    assert_eq!(scene.results(), ["stopped", "`test.write` was not run: the run was cancelled."]);
}

#[test]
fn the_third_equal_call_is_not_run() {
    let again = || calls(&[("test.look", "a")]);
    let mut scene = scene(vec![again(), again(), again(), says("Done.")]);
    scene.work().expect("an answer");
    assert_eq!(scene.runs("test.look"), 2);
    assert!(scene.results()[2].contains("you already have its result"));
    assert!(scene.story().iter().any(|line| line.starts_with("notice: the model called `test.look`")));
}

#[test]
fn a_change_in_between_makes_a_call_worth_repeating() {
    let again = || calls(&[("test.look", "a")]);
    let mut scene = scene(vec![again(), again(), calls(&[("test.write", "x")]), again(), says("Done.")]);
    scene.work().expect("an answer");
    assert_eq!(scene.runs("test.look"), 3);
}

#[test]
fn a_pure_call_runs_once_and_the_log_says_where_its_answer_came_from() {
    let twice = calls(&[("test.echo", "a"), ("test.echo", "a")]);
    let mut scene =
        scene(vec![twice, calls(&[("test.write", "x")]), calls(&[("test.echo", "a")]), says("Done.")]);
    scene.work().expect("an answer");
    assert_eq!(scene.runs("test.echo"), 1);
    assert_eq!(scene.results(), ["you said a", "you said a", "you said x", "you said a"]);
    let cached: Vec<bool> = scene
        .events()
        .into_iter()
        .filter_map(|event| match event {
            RunEvent::ToolAnswered { cached, .. } => Some(cached),
            _ => None,
        })
        .collect();
    assert_eq!(cached, [false, true, false, true]);
}

#[test]
fn a_denied_call_does_not_run_and_the_log_says_why() {
    let mut scene = scene(vec![calls(&[("test.write", "b"), ("test.echo", "a")]), says("Done.")]);
    let deny = Rules { deny: vec!["test.write(text=b*)".parse().expect("a pattern")], ..Rules::default() };
    scene.agent.tools = scene.agent.tools.clone().narrowed("agent `tester`", deny);
    scene.work().expect("an answer");
    assert_eq!(scene.runs("test.write"), 0);
    let denied = "`test.write` was denied and did not run: `deny` of agent `tester` has `test.write(text=b*)`. \
                  Do not try it again; go on without it.";
    assert_eq!(scene.results(), [denied, "you said a"]);
    assert_eq!(
        scene.story()[2..5],
        [
            "call_1 denied: `deny` of agent `tester` has `test.write(text=b*)`",
            "answer call_1 Denied",
            "call call_2"
        ]
    );
}

#[test]
fn a_flood_of_calls_is_bounded() {
    let texts: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    let flood: Vec<(&str, &str)> = texts.iter().map(|text| ("test.echo", text.as_str())).collect();
    let mut scene = scene(vec![calls(&flood), says("Done.")]);
    scene.work().expect("an answer");
    assert_eq!((scene.runs("test.echo"), scene.results().len()), (32, 40));
    assert_eq!(scene.results()[39], "`test.echo` was not run: one reply may call at most 32 tools.");
}

fn number_schema() -> Option<Value> {
    Some(json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}))
}

#[test]
fn an_answer_with_a_schema_is_json() {
    let mut scene = scene(vec![says(r#"{"n": 3}"#)]);
    scene.agent.output = number_schema();
    assert_eq!(scene.work().expect("an answer").json, Some(json!({"n": 3})));
}

#[test]
fn an_answer_that_does_not_fit_is_asked_for_once_more() {
    let mut scene = scene(vec![says(r#"{"n": "three"}"#), told("at `/n`", says(r#"{"n": 3}"#))]);
    scene.agent.output = number_schema();
    assert_eq!(scene.work().expect("an answer").turns, 2);
}

#[test]
fn a_second_answer_that_does_not_fit_is_an_error() {
    let mut scene = scene(vec![says("three"), says("{}")]);
    scene.agent.output = number_schema();
    assert_eq!(
        scene.work().expect_err("no answer fits").to_string(),
        "agent `tester` gave an answer that does not fit its output schema: \"n\" is a required property"
    );
}

#[test]
fn an_answer_that_was_cut_is_an_error_with_a_schema() {
    let mut scene = scene(vec![ScriptedReply { cut: true, ..says(r#"{"n": 3"#) }]);
    scene.agent.output = number_schema();
    let error = scene.work().expect_err("half an object").to_string();
    assert!(error.contains("it was cut by the limit of 1024 tokens"), "{error}");
}

#[test]
fn a_text_that_was_cut_is_an_answer_with_a_notice() {
    let mut scene = scene(vec![ScriptedReply { cut: true, ..says("Once upon a") }]);
    assert_eq!(scene.work().expect("an answer").text, "Once upon a");
    assert_eq!(scene.story()[2], "notice: the answer was cut by the limit of 1024 tokens");
}

#[test]
fn an_empty_answer_is_said_to_be_empty() {
    let mut scene = scene(vec![says("")]);
    assert_eq!(scene.work().expect("an answer").text, "");
    assert_eq!(scene.story()[2], "notice: the model gave an empty answer");
}

#[test]
fn a_schema_that_is_none_is_refused_before_the_model_is_asked() {
    let mut scene = scene(vec![]);
    scene.agent.output = Some(json!({"type": 3}));
    let error = scene.work().expect_err("no schema").to_string();
    assert!(error.contains("the schema itself is not valid"), "{error}");
    assert!(scene.events().is_empty());
}

#[test]
fn a_failing_model_ends_the_work_with_its_error() {
    let broken = ScriptedReply { error: Some("out of order".into()), ..ScriptedReply::default() };
    let error = scene(vec![broken]).work().expect_err("it fails");
    assert_eq!(error.to_string(), "scripted model: out of order");
}

/// The turns of an agent and, turn for turn, whether the model may, must or must not call a tool.
#[track_caller]
fn check_choice(first: ToolChoice, turns: usize, expected: &[ToolChoice]) {
    let mut scene = scene(vec![]);
    let replies = (1..turns).map(|turn| calls(&[("test.echo", turn.to_string().as_str())]));
    let watched = Arc::new(Watched {
        inner: ScriptedModel::from_replies(replies.chain([says("Done.")]).collect()),
        context: 8_192,
        choices: Mutex::default(),
    });
    scene.model = watched.clone();
    scene.agent.tool_choice = first;
    scene.agent.limits.turns = turns;
    scene.work().expect("an answer");
    assert_eq!(*watched.choices.lock().expect("nothing panics while it is held"), expected);
}

#[test]
fn a_call_may_be_required_in_the_first_turn_and_never_in_the_last() {
    check_choice(ToolChoice::Required, 3, &[ToolChoice::Required, ToolChoice::Auto, ToolChoice::None]);
    check_choice(ToolChoice::Required, 1, &[ToolChoice::None]);
}

#[test]
fn a_long_tool_loop_stays_within_the_context() {
    let texts: Vec<String> = (0..12).map(|number| format!("{number} {}", "word ".repeat(200))).collect();
    let turns = texts.iter().map(|text| calls(&[("test.echo", text.as_str())]));
    let mut scene = scene(vec![]);
    scene.model = Arc::new(Watched {
        inner: ScriptedModel::from_replies(turns.chain([says("Done.")]).collect()),
        context: 1_500,
        choices: Mutex::default(),
    });
    scene.agent.limits = AgentLimits { turns: 20, reply_tokens: 300, ..AgentLimits::default() };
    assert_eq!(scene.work().expect("an answer").text, "Done.");
    assert!(scene.story().iter().any(|line| line.contains("of this task left out")));
}

/// A script whose requests are checked: none may be longer than the context.
struct Watched {
    inner: ScriptedModel,
    context: usize,
    choices: Mutex<Vec<ToolChoice>>,
}

impl ChatModel for Watched {
    fn name(&self) -> &str {
        "watched"
    }

    fn context(&self) -> usize {
        self.context
    }

    fn count_tokens(&self, request: &GenerateRequest) -> Result<usize, ModelError> {
        self.inner.count_tokens(request)
    }

    fn reply<'a>(
        &'a self,
        request: GenerateRequest,
        observe: &'a mut (dyn FnMut(ReplyDelta) + Send),
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<ModelReply, ModelError>> {
        let tokens = self.count_tokens(&request).expect("a script counts everything");
        assert!(tokens + request.max_tokens <= self.context, "{tokens} and {}", request.max_tokens);
        self.choices.lock().expect("nothing panics while it is held").push(request.tool_choice.clone());
        self.inner.reply(request, observe, cancel)
    }
}
