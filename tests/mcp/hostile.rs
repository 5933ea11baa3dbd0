//! Servers that misbehave: the call says so, and the run goes on.

use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{chaski_with, command, finish, script};
use crate::support::Chaski;

fn chaski(mode: &str, more: &str) -> Chaski {
    let script = script("hostile.py");
    let server = format!("[mcp.bad]\ncommand = 'python3'\nargs = ['{script}', '{mode}']\n{more}\n");
    chaski_with(&format!("[permissions]\nallow = ['bad.*']\n{server}"))
}

/// Calls `bad.act` once for each of `acts`, whatever becomes of it; outcome and text of each.
#[track_caller]
fn calls(chaski: &Chaski, acts: &[&str]) -> Vec<(String, String)> {
    let steps: Vec<String> = acts
        .iter()
        .enumerate()
        .map(|(index, act)| {
            format!(
                "  - id: s{index}\n    tool: bad.act\n    with: {{ do: {act} }}\n    on_error: continue\n"
            )
        })
        .collect();
    let file = chaski.file("w.yaml", format!("version: 1\nname: w\nsteps:\n{}", steps.concat()));
    let (code, events, errors) = finish(command(chaski, &["run", &file, "--json"]));
    assert_eq!(code, 0, "{errors}");
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let text = |event: &Value, key: &str| event[key].as_str().expect("text").to_owned();
    events
        .filter(|event| event["event"] == "tool_answered")
        .map(|event| (text(&event, "outcome"), text(&event, "text")))
        .collect()
}

/// One call that goes wrong as `outcome` and says `text`, and one behind it that is fine.
#[track_caller]
fn check(act: &str, outcome: &str, text: &str) {
    let found = calls(&chaski("", "timeout = '2s'"), &[act, "fine"]);
    assert_eq!(found[0].0, outcome, "{found:?}");
    assert!(found[0].1.contains(text), "{found:?}");
    assert_eq!(found[1], ("ok".into(), "did fine".into()));
}

#[test]
fn a_crash_is_told_and_the_server_started_again() {
    check(
        "crash",
        "unavailable",
        "The MCP server `bad` gave no answer: it has ended. The call may have worked.",
    );
}

#[test]
fn a_call_without_an_answer_ends_in_time() {
    check("hang", "timeout", "The tool `bad.act` did not answer within 2s.");
}

#[test]
fn a_message_without_an_end_is_cut_off() {
    check("long-line", "unavailable", "it sent a message of more than 8 MiB");
}

#[test]
fn a_flood_of_messages_is_cut_off() {
    check("flood", "unavailable", "it sent more than 64 MiB that nobody asked for");
}

#[test]
fn garbage_between_messages_does_no_harm() {
    check("garbage", "ok", "did garbage");
}

#[test]
fn an_answer_of_the_wrong_shape_is_refused() {
    check("wrong-shape", "error", "its answer is not what the protocol asks for");
}

#[test]
fn a_server_that_writes_much_to_its_standard_error_is_heard_out() {
    check("chatter", "ok", "did chatter");
}

#[test]
fn a_long_answer_is_cut() {
    let found = calls(&chaski("", ""), &["big"]);
    assert!(found[0].1.len() < 70_000 && found[0].1.contains("bytes left out"), "{}", found[0].1.len());
}

#[test]
fn a_tool_that_changed_is_not_called() {
    let found = calls(&chaski("", ""), &["change", "fine"]);
    assert_eq!(found[0].0, "ok");
    assert_eq!(found[1].0, "unavailable", "{found:?}");
    assert!(found[1].1.contains("its arguments are no longer what they were"), "{found:?}");
}

#[test]
fn a_server_that_keeps_crashing_is_given_up() {
    let found = calls(&chaski("", ""), &["crash", "crash", "crash", "crash", "fine"]);
    assert!(found[4].1.contains("the MCP server `bad` has ended"), "{found:?}");
}

/// The error of a run that needs a server which does not start.
#[track_caller]
fn check_start(mode: &str, more: &str, error: &str) {
    let chaski = chaski(mode, more);
    let steps = "version: 1\nname: w\nsteps:\n  - id: s\n    tool: bad.act\n    with: { do: x }\n";
    let file = chaski.file("w.yaml", steps);
    let (code, _, errors) = finish(command(&chaski, &["run", &file]));
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains(error), "{errors}");
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for() {
    check_start("silent", "start_timeout = '500ms'", "the MCP server `bad` did not answer within 500ms");
}

#[test]
fn a_server_that_dies_is_quoted() {
    check_start("dies", "", "it ended before it answered; its last words: no licence");
}

#[test]
fn a_server_without_a_usable_tool_is_refused() {
    check_start(
        "unusable",
        "",
        "offers no tool that can be used: `bad.no good`: its name is not of the form",
    );
}

#[test]
fn an_effect_of_an_unknown_tool_is_refused() {
    check_start(
        "",
        "effects = { atc = 'pure' }",
        "`mcp.bad.effects` names the tool `atc`, which the server does not",
    );
}

#[test]
fn a_tool_that_cannot_be_used_is_named_with_its_reason() {
    let chaski = chaski("names", "");
    let script = chaski.file("script.json", r#"[{"content": "done", "expect_tools": ["bad.act"]}]"#);
    let model = format!("script:{script}");
    let (code, _, errors) = finish(command(&chaski, &["chat", "--model", &model, "--tools", "bad.*", "hi"]));
    assert_eq!(code, 0, "{errors}");
    for (tool, reason) in [
        ("bad.twin", "`bad.twin` is offered, but cannot be used: the server lists two tools of this name"),
        ("bad.broken", "`bad.broken` is offered, but cannot be used: its input schema is no JSON Schema"),
    ] {
        let (code, _, errors) = finish(command(&chaski, &["chat", "--model", &model, "--tools", tool, "hi"]));
        assert_eq!(code, 2);
        assert!(errors.contains(reason), "{errors}");
    }
}

#[test]
fn what_a_server_started_ends_with_the_run() {
    let chaski = chaski("", "");
    let pipe = chaski.data.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo starts").success());
    let file = chaski.file(
        "w.yaml",
        format!(
            "version: 1\nname: w\nsteps:\n  - id: s\n    tool: bad.act\n    with: {{ do: child, file: \"{}\" }}\n",
            pipe.display()
        ),
    );
    let mut run = command(&chaski, &["run", &file]).stderr(Stdio::null()).spawn().expect("the binary starts");
    let mut said = String::new();
    // The pipe ends when the last process that holds it has ended.
    std::fs::File::open(&pipe).expect("the pipe").read_to_string(&mut said).expect("text");
    assert!(run.wait().expect("it ends").success());
    assert_eq!(said, "alive\n");
}
