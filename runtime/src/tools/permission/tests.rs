//! Who decides what.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::*;

fn rules(deny: &[&str], allow: &[&str], ask: &[&str]) -> Rules {
    let patterns = |list: &[&str]| list.iter().map(|text| text.parse().expect("a pattern")).collect();
    Rules { deny: patterns(deny), allow: patterns(allow), ask: patterns(ask) }
}

fn policy(deny: &[&str], allow: &[&str], ask: &[&str]) -> Policy {
    Policy::new(rules(deny, allow, ask), "config.toml".into())
}

fn tool(effect: Effect) -> ToolDefinition {
    ToolDefinition {
        name: "w.write".into(),
        description: String::new(),
        input_schema: json!({}),
        output_schema: None,
        effect,
    }
}

fn decide_in(policy: &Policy, effect: Effect, run: &RunAnswers) -> Decision {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (arguments, cancel) = (json!({"path": "src/a.rs"}), CancellationToken::new());
    let tool = tool(effect);
    let decision = policy.decide(&tool, &arguments, &Vec::new, run, &cancel);
    runtime.block_on(decision).expect("nothing has to be written")
}

#[track_caller]
fn check(policy: &Policy, effect: Effect, allowed: bool, why: &str) {
    let decision = decide_in(policy, effect, &RunAnswers::default());
    assert_eq!(decision.allowed, allowed, "{}", decision.why);
    assert!(decision.why.contains(why), "{}", decision.why);
}

/// Says what it was told to say, and counts.
struct Says(Answer, AtomicUsize);

impl Person for Says {
    fn ask<'a>(&'a self, _: &'a Question, _: &'a CancellationToken) -> BoxFuture<'a, Answer> {
        self.1.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(self.0))
    }
}

fn person(answer: Answer) -> Arc<Says> {
    Arc::new(Says(answer, AtomicUsize::new(0)))
}

#[test]
fn what_leaves_no_trace_runs_and_an_effectful_call_needs_somebody() {
    check(&Policy::default(), Effect::Pure, true, "leaves nothing behind");
    check(&Policy::default(), Effect::Idempotent, true, "leaves nothing behind");
    check(
        &policy(&[], &[], &[]),
        Effect::Effectful,
        false,
        "`--allow w.write` allows it, or `[permissions]`",
    );
}

#[test]
fn deny_beats_allow_and_allow_beats_ask() {
    check(
        &policy(&["w.*"], &["w.write"], &[]),
        Effect::Effectful,
        false,
        "`deny` of `config.toml` has `w.*`",
    );
    check(
        &policy(&[], &["w.*"], &["w.write"]),
        Effect::Effectful,
        true,
        "`allow` of `config.toml` has `w.*`",
    );
    check(&policy(&[], &[], &["w.write(path=src/**)"]), Effect::Pure, false, "`ask` of `config.toml`");
}

#[test]
fn a_flag_allows_and_the_settings_still_forbid() {
    let flag = |policy: Policy| policy.and("`--allow`", rules(&[], &["w.write"], &[]));
    check(&flag(policy(&[], &[], &[])), Effect::Effectful, true, "`allow` of `--allow`");
    check(&flag(policy(&["*"], &[], &[])), Effect::Effectful, false, "`deny`");
}

#[test]
fn a_workflow_can_only_narrow() {
    let base = || policy(&[], &["w.*"], &[]);
    check(&base().narrowed("agent `a`", rules(&["w.*"], &[], &[])), Effect::Pure, false, "agent `a`");
    check(&base().narrowed("agent `a`", rules(&[], &[], &["w.*"])), Effect::Pure, false, "agent `a`");
    let widened = policy(&[], &[], &[]).narrowed("agent `a`", rules(&[], &["*"], &[]));
    check(&widened, Effect::Effectful, false, "nobody can be asked");
}

#[test]
fn a_person_decides_once_or_for_the_run() {
    for (answer, allowed, asked) in
        [(Answer::No, false, 2), (Answer::Once, true, 2), (Answer::Run, true, 1), (Answer::Always, true, 1)]
    {
        let says = person(answer);
        let policy = policy(&[], &[], &[]).asking(says.clone());
        let run = RunAnswers::default();
        for _ in 0..2 {
            assert_eq!(decide_in(&policy, Effect::Effectful, &run).allowed, allowed, "{answer:?}");
        }
        assert_eq!(says.1.load(Ordering::SeqCst), asked, "{answer:?}");
    }
}

#[test]
fn an_answer_for_good_is_remembered_where_it_was_given() {
    let home = tempfile::tempdir().expect("a folder");
    let (here, elsewhere) = (home.path().join("here"), home.path().join("elsewhere"));
    let remembered = |dir: &Path| Arc::new(Remembered::open(home.path(), dir).expect("it is readable"));
    let asks = |dir: &Path, answer| {
        let says = person(answer);
        let policy = policy(&[], &[], &[]).asking(says.clone()).remembering(remembered(dir));
        let allowed = decide_in(&policy, Effect::Effectful, &RunAnswers::default()).allowed;
        (allowed, says.1.load(Ordering::SeqCst))
    };
    assert_eq!(asks(&here, Answer::Project), (true, 1));
    assert_eq!(asks(&here, Answer::No), (true, 0));
    assert_eq!(asks(&elsewhere, Answer::Always), (true, 1));
    assert_eq!(asks(&home.path().join("third"), Answer::No), (true, 0));
    // A workflow that wants its reader to be asked gets that, whatever was said elsewhere.
    let strict = policy(&[], &[], &[]).remembering(remembered(&here)).narrowed("it", rules(&[], &[], &["*"]));
    check(&strict, Effect::Effectful, false, "`ask` of it");
}

#[test]
fn a_damaged_memory_is_an_error() {
    let home = tempfile::tempdir().expect("a folder");
    std::fs::write(home.path().join("permissions.toml"), "allow = 3").expect("writes");
    let error = Remembered::open(home.path(), home.path()).err().expect("it is damaged").to_string();
    assert!(error.contains("permissions.toml` cannot be read"), "{error}");
}

use std::path::Path;
