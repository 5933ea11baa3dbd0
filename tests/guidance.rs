//! What agents are told beside their instructions: a project's AGENTS.md, skills, a catalogue of many tools.

use std::process::Command;

use serde_json::{Value, json};

use crate::mcp::{chaski_with, command, finish, script};
use crate::support::{Chaski, model};

/// A command in the folder `project`, with a model that plays `replies`.
fn scripted(chaski: &Chaski, replies: Value, arguments: &[&str]) -> Command {
    let script = chaski.file("script.json", replies.to_string());
    let mut command = command(chaski, arguments);
    let project = chaski.data.path().join("project");
    std::fs::create_dir_all(&project).expect("a folder");
    command.args(["--json", "--model", &format!("script:{script}")]).current_dir(project);
    command
}

/// The notices of a run.
fn notices(events: &str) -> Vec<String> {
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    events.filter_map(|event| Some(event.get("message")?.as_str()?.to_owned())).collect()
}

const NOTICE: &str = "the project's `AGENTS.md` is part of the instructions (10 bytes)";

#[test]
fn a_chat_is_told_what_the_project_says() {
    let chaski = Chaski::new();
    chaski.file("project/AGENTS.md", "Use tabs.\n");
    let told = json!([{"content": "yes", "expect_contains": "guidance about the project; it cannot allow anything \
        that is not allowed already.\n> Use tabs."}]);
    let (code, events, errors) =
        finish(scripted(&chaski, told, &["chat", "--root", "workspace=.", "Do you know?"]));
    assert_eq!((code, notices(&events)), (0, vec![NOTICE.to_owned()]), "{errors}");
}

#[test]
fn a_chat_is_told_nothing_when_that_is_switched_off() {
    let quiet = json!([{"content": "no"}]);
    let chaski = Chaski::new();
    chaski.file("project/AGENTS.md", "Use tabs.\n");
    let arguments = ["chat", "--root", "workspace=.", "--no-agents-md", "Do you know?"];
    let (code, events, errors) = finish(scripted(&chaski, quiet.clone(), &arguments));
    assert_eq!((code, notices(&events)), (0, Vec::new()), "{errors}");

    let chaski = chaski_with("[agents]\nagents_md = false\n");
    chaski.file("project/AGENTS.md", "Use tabs.\n");
    let (code, events, errors) =
        finish(scripted(&chaski, quiet, &["chat", "--root", "workspace=.", "Do you know?"]));
    assert_eq!((code, notices(&events)), (0, Vec::new()), "{errors}");
}

#[test]
fn the_guidance_nearest_to_an_items_file_is_told() {
    let chaski = Chaski::new();
    chaski.file("project/AGENTS.md", "Use tabs.\n");
    chaski.file("project/src/AGENTS.md", "Use spaces.\n");
    let workflow = chaski.file(
        "project/w.yaml",
        "version: 1\nname: w\nroots: { workspace: { path: . } }\nagents: { a: {} }\nsteps:\n  - id: look\n    \
         foreach: [{ path: src/a.py }, { path: docs/a.md }]\n    agent: a\n    prompt: Look at {{ item.path }}.\n",
    );
    let replies = json!([
        {"content": "one", "expect_contains": "> Use spaces."},
        {"content": "two", "expect_contains": "> Use tabs."},
    ]);
    let (code, events, errors) = finish(scripted(&chaski, replies, &["run", &workflow]));
    assert_eq!(code, 0, "{errors}");
    assert_eq!(
        notices(&events),
        ["the project's `src/AGENTS.md` is part of the instructions (12 bytes)", NOTICE]
    );
}

const SKILL: &str = "---\nname: release\ndescription: How to release.\n---\nTag it, then read steps.md.\n";

#[test]
fn a_skill_is_told_in_three_steps() {
    let chaski = Chaski::new();
    chaski.file("project/.chaski/skills/release/SKILL.md", SKILL);
    chaski.file("project/.chaski/skills/release/steps.md", "Sign it.\n");
    chaski.file(
        "chaski/skills/review/SKILL.md",
        "---\nname: review\ndescription: How to review.\n---\nRead.\n",
    );
    let read = |arguments: Value| json!([{"name": "skill.read", "arguments": arguments}]);
    let replies = json!([
        {"tool_calls": read(json!({"skill": "release"})), "expect_tools": ["skill.read"],
         "expect_contains": "\n- release: How to release.\n- review: How to review.\n"},
        {"tool_calls": read(json!({"skill": "release", "path": "steps.md"})),
         "expect_contains": "Tag it, then read steps.md.\n\n[Files of this skill: steps.md]"},
        {"tool_calls": read(json!({"skill": "release", "path": "../review/SKILL.md"})), "expect_contains": "Sign it."},
        {"content": "done", "expect_contains": "it must name a file in the skill's folder"},
    ]);
    let (code, _, errors) = finish(scripted(&chaski, replies, &["chat", "Release it."]));
    assert_eq!(code, 0, "{errors}");
}

#[test]
fn an_agent_of_a_workflow_has_the_skills_that_it_names() {
    let chaski = Chaski::new();
    chaski.file("project/.chaski/skills/release/SKILL.md", SKILL);
    chaski.file("project/skills/lint/SKILL.md", "---\nname: lint\ndescription: How to lint.\n---\nRun it.\n");
    let workflow = chaski.file(
        "project/w.yaml",
        "version: 1\nname: w\nagents: { a: { skills: [skills/lint] } }\nsteps:\n  - id: look\n    agent: a\n    \
         prompt: Go.\n",
    );
    let replies = json!([{"content": "done", "expect_tools": ["skill.read"], "expect_contains": ":\n- lint: How to lint."}]);
    let (code, events, errors) = finish(scripted(&chaski, replies, &["run", &workflow]));
    assert_eq!(code, 0, "{errors}");
    assert!(!events.contains("How to release"), "{events}");
}

#[test]
fn a_malformed_skill_is_named_with_its_line() {
    let chaski = Chaski::new();
    chaski.file("project/.chaski/skills/release/SKILL.md", "---\nname: Release\ndescription: x\n---\n");
    let (code, _, errors) = finish(scripted(&chaski, json!([]), &["chat", "Release it."]));
    assert_eq!(code, 2);
    assert!(errors.contains("release/SKILL.md` is no skill\n  line 2: `name` is `Release`"), "{errors}");
    let (code, _, errors) =
        finish(scripted(&chaski, json!([{"content": "done"}]), &["chat", "--no-skills", "Release it."]));
    assert_eq!(code, 0, "{errors}");
}

fn many_tools() -> Chaski {
    let script = script("hostile.py");
    let server = format!("[mcp.bad]\ncommand = 'python3'\nargs = ['{script}', 'many']\n");
    chaski_with(&format!("[permissions]\nallow = ['bad.*']\n{server}"))
}

#[test]
fn many_tools_are_searched_for_before_they_are_called() {
    let chaski = many_tools();
    let replies = json!([
        {"tool_calls": [{"name": "tool_search", "arguments": {"query": "topic7"}}], "expect_tools": ["tool_search"]},
        {"tool_calls": [{"name": "bad.topic7", "arguments": {"do": "seven"}}],
         "expect_tools": ["tool_search", "bad.topic7"], "expect_contains": "bad.topic7: Speaks of topic 7."},
        {"content": "done", "expect_contains": "did seven"},
    ]);
    let (code, events, errors) = finish(scripted(&chaski, replies, &["chat", "--tools", "bad.*", "Go."]));
    assert_eq!(code, 0, "{errors}");
    let notices = notices(&events);
    assert!(
        notices[0].starts_with("40 tools would take ") && notices[0].ends_with("with `tool_search`"),
        "{notices:?}"
    );
}

#[test]
fn what_was_found_is_told_behind_what_the_cache_holds() {
    model();
    let chaski = many_tools();
    let workflow = chaski.file(
        "w.yaml",
        "version: 1\nname: w\nagents: { a: { tools: [bad.*], tool_choice: required, limits: { turns: 2, reply_tokens: 60 } } }\n\
         steps:\n  - id: look\n    agent: a\n    prompt: Search for the tool topic7.\n",
    );
    let (code, events, errors) = finish(command(&chaski, &["run", &workflow, "--json"]));
    assert_eq!(code, 0, "{errors}");
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let usage: Vec<(u64, u64)> = events
        .iter()
        .filter(|event| event["event"] == "model_replied")
        .map(|event| &event["usage"])
        .map(|usage| {
            (
                usage["prompt_tokens"].as_u64().expect("tokens"),
                usage["cached_tokens"].as_u64().expect("tokens"),
            )
        })
        .collect();
    let (first, second) = (usage[0], usage[1]);
    assert!(first.0 < 700, "the catalogue is short: {first:?}");
    // All but the last, unfinished block of 16 tokens.
    assert!(second.1 + 16 > first.0, "{usage:?}");
    assert!(events.iter().any(|event| event["tool"] == "tool_search"));
}
