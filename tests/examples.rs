//! The examples, as a user runs them.

use serde_json::Value;

use crate::support::{Chaski, model, repository};

#[test]
fn code_review_finds_only_lines_that_the_change_added() {
    model();
    let chaski = Chaski::new();
    let (code, events, errors) = chaski.run(&["run", "examples/code-review/workflow.yaml", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let hunks =
        events.iter().find(|event| event["tool"] == "review.hunks").expect("the hunks")["json"].clone();
    let findings = events.last().expect("events")["outputs"]["findings"].clone();
    let findings = findings.as_array().expect("findings");
    for finding in findings {
        let hunk = hunks.as_array().expect("hunks").iter().find(|hunk| {
            hunk["path"] == finding["path"]
                && hunk["lines"].as_array().expect("lines").contains(&finding["line"])
        });
        assert!(hunk.is_some(), "no hunk added the line of {finding}");
    }
    // The model must call a tool for each hunk, and the tool answers from the real file.
    let read =
        events.iter().filter(|event| event["event"] == "tool_answered" && event["tool"] == "workspace.read");
    assert!(read.count() >= hunks.as_array().expect("hunks").len());
    // Every turn after the first finds its beginning in the cache.
    let replies: Vec<&Value> = events.iter().filter(|event| event["event"] == "model_replied").collect();
    assert!(
        replies
            .iter()
            .filter(|reply| reply["turn"] == 2)
            .all(|reply| reply["usage"]["cached_tokens"].as_u64() > Some(200))
    );

    let (code, list, _) = chaski.run(&["runs", "list", "--json"]);
    assert_eq!(code, 0);
    let runs: Value = serde_json::from_str(&list).expect("JSON");
    let (code, shown, _) = chaski.run(&["runs", "show", runs[0]["id"].as_str().expect("an id")]);
    assert_eq!(code, 0);
    assert!(shown.contains("state    succeeded") && shown.contains("→ workspace.read"), "{shown}");
}

#[test]
fn the_patch_of_the_example_fits_its_repository() {
    let folder = repository().join("examples/code-review");
    let patch = std::fs::read(folder.join("change.diff")).expect("the patch");
    for file in chaski::review::diff::parse(&patch).expect("a diff") {
        let text = std::fs::read_to_string(folder.join("repository").join(file.path())).expect("the file");
        let lines: Vec<&str> = text.lines().collect();
        for line in file.hunks.iter().flat_map(|hunk| &hunk.lines) {
            if let Some(number) = line.new_line {
                assert_eq!(lines[number as usize - 1], line.text, "{}:{number}", file.path());
            }
        }
    }
}

#[test]
fn a_python_program_runs_in_the_sandbox() {
    let chaski = Chaski::new();
    let (code, output, errors) =
        chaski.run(&["run", "examples/run-python/workflow.yaml", "--input", "numbers=2 4 6"]);
    assert_eq!((code, output.trim()), (0, "result: 3 numbers, mean 4.000, median 4.0"), "{errors}");
}

#[test]
fn document_search_cites_a_passage_that_was_found() {
    model();
    let chaski = Chaski::new();
    let (code, events, errors) = chaski.run(&["run", "examples/document-search/workflow.yaml", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let found =
        events.iter().find(|event| event["tool"] == "doc-search.search").expect("a search")["json"].clone();
    let cited = &events.last().expect("events")["outputs"]["answer"]["passage"];
    assert!(
        found.as_array().expect("hits").iter().any(|hit| hit["id"] == *cited),
        "{cited} is not in {found}"
    );
}

#[test]
fn chat_answers_on_standard_output() {
    model();
    let chaski = Chaski::new();
    let system = "You are a helpful assistant.";
    let (code, output, errors) =
        chaski.run(&["chat", "--system", system, "--reply-tokens", "12", "What is the capital of France?"]);
    assert_eq!((code, output.as_str()), (0, "The capital of France is Paris.\n"), "{errors}");
}

#[test]
fn a_script_drives_the_loop_with_real_plugins() {
    let chaski = Chaski::new();
    let script = chaski.file(
        "script.json",
        r#"[
            {"tool_calls": [
                {"name": "workspace.read", "arguments": {"path": "src/limiter.py", "start": 21, "end": 21}},
                {"name": "code-runner.run", "arguments": {"code": "6 * 7"}}
            ]},
            {"content": "done", "expect_contains": "=> 42"}
        ]"#,
    );
    let model = format!("script:{script}");
    let (code, output, errors) = chaski.run(&[
        "chat",
        "--model",
        &model,
        "--tools",
        "workspace.*",
        "--tools",
        "code-runner.run",
        "--root",
        "workspace=examples/code-review/repository",
        "Look.",
    ]);
    assert_eq!((code, output.as_str()), (0, "done\n"), "{errors}");
    assert!(errors.contains("21 |         if count > self.limit:"), "{errors}");
}
