//! A plugin from nothing to a workflow, with the commands of plugins/README.md, in each language.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Chaski, config, repository};

/// `chaski` in a folder of its own, with plugins of its own.
struct Workbench {
    chaski: Chaski,
    folder: tempfile::TempDir,
}

impl Workbench {
    fn new() -> Self {
        Self { chaski: Chaski::new(), folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.chaski.command(arguments);
        command.current_dir(self.path()).env("CHASKI_PLUGINS", self.path().join("installed"));
        command
    }

    /// Exit code, standard output, standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().expect("the binary starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().expect("an exit code"), text(&output.stdout), text(&output.stderr))
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str]) -> String {
        let (code, output, errors) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {output}{errors}");
        output
    }
}

/// The shell lines of plugins/README.md in the block after `<!-- commands: NAME -->`.
fn guide(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository().join("plugins/README.md")).expect("the guide");
    let mark = format!("<!-- commands: {name} -->");
    let block = text.split_once(&mark).unwrap_or_else(|| panic!("no `{mark}`")).1;
    let block = block.split("```").nth(1).expect("a code block");
    let lines: Vec<String> =
        block.lines().skip(1).map(str::to_owned).filter(|line| !line.is_empty()).collect();
    assert!(!lines.is_empty());
    lines
}

/// Follows the guide in `language`, word by word.
#[track_caller]
fn follow(language: &str) {
    let bench = Workbench::new();
    let binary = Path::new(env!("CARGO_BIN_EXE_chaski"));
    let path = format!(
        "{}:{}",
        binary.parent().expect("a folder").display(),
        std::env::var("PATH").expect("a path")
    );
    let expected = [
        ("plugin new", "numbers"),
        ("plugin test", "2 passed, 0 failed"),
        ("plugin add", "numbers.describe (pure)"),
        ("plugin call", "3 numbers: mean 5, median 4, least 2, most 9"),
        ("run workflow.yaml", "answer: the mean is 5"),
        ("plugin test numbers --record", "2 numbers: mean 1.5"),
        ("plugin update", "numbers.describe (pure)"),
    ];
    std::fs::write(bench.path().join("workflow.yaml"), code_of_guide("workflow.yaml")).expect("writes");
    let mut seen = 0;
    for line in guide("five minutes") {
        let line = line.replace("--lang rust", &format!("--lang {language}"));
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &line]).current_dir(bench.path()).env("PATH", &path);
        for (name, value) in bench.command(&[]).get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let output = shell.output().expect("bash");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {text}{errors}");
        let (_, told) = expected
            .iter()
            .rev()
            .find(|(part, _)| line.contains(part))
            .unwrap_or_else(|| panic!("what should `{line}` come to?"));
        assert!(text.contains(told), "{line}: {text}{errors}");
        seen += 1;
    }
    assert_eq!(seen, expected.len());

    // Used by a model.
    let script = bench.path().join("script.json");
    let calls = r#"[{"tool_calls": [{"name": "numbers.describe", "arguments": {"numbers": [1, 2]}}]},
                    {"content": "done", "expect_contains": "2 numbers: mean 1.5"}]"#;
    std::fs::write(&script, calls).expect("writes");
    let model = format!("script:{}", script.display());
    assert_eq!(bench.succeeds(&["chat", "--model", &model, "--tools", "numbers.describe", "Go."]), "done\n");
}

/// The block of plugins/README.md after `<!-- file: NAME -->`.
fn code_of_guide(name: &str) -> String {
    let text = std::fs::read_to_string(repository().join("plugins/README.md")).expect("the guide");
    let block = text.split_once(&format!("<!-- file: {name} -->")).expect("the file").1;
    block.split("```").nth(1).expect("a code block").split_once('\n').expect("a line").1.to_owned()
}

#[test]
fn a_plugin_in_rust_goes_the_way_of_the_guide() {
    follow("rust");
}

#[test]
fn a_plugin_in_python_goes_the_way_of_the_guide() {
    follow("python");
}

#[test]
fn a_plugin_in_javascript_goes_the_way_of_the_guide() {
    follow("js");
}

#[test]
fn the_code_of_a_template_has_tests_of_its_own() {
    let bench = Workbench::new();
    for (language, program, arguments) in [
        ("rust", "cargo", &["test", "--lib", "--quiet"][..]),
        ("python", "python3", &["-m", "unittest", "--quiet"]),
        ("js", "node", &["--test"]),
    ] {
        bench.succeeds(&["plugin", "new", language, "--lang", language]);
        let mut command = Command::new(program);
        command.args(arguments).current_dir(bench.path().join(language));
        command.env("CARGO_TARGET_DIR", config().cache_dir.join("template-tests"));
        command.env_remove("CARGO_ENCODED_RUSTFLAGS");
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{language}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_project_is_not_written_over_another() {
    let bench = Workbench::new();
    std::fs::create_dir(bench.path().join("notes")).expect("a folder");
    let (code, _, errors) = bench.run(&["plugin", "new", "notes", "--lang", "js"]);
    assert_eq!(
        (code, errors.as_str()),
        (2, "error: `notes` was not made: something of that name is there already\n")
    );
    assert_eq!(std::fs::read_dir(bench.path().join("notes")).expect("lists").count(), 0);
}

#[test]
fn a_wrong_answer_fails_the_test_and_is_shown() {
    let bench = Workbench::new();
    bench.succeeds(&["plugin", "new", "numbers", "--lang", "js"]);
    let case = r#"{"tool": "describe", "arguments": {"numbers": [1]}, "expect": {"contains": "2 numbers"}}"#;
    std::fs::write(bench.path().join("numbers/cases/wrong.json"), case).expect("writes");
    let (code, output, errors) = bench.run(&["plugin", "test", "numbers"]);
    assert_eq!(code, 1, "{errors}");
    assert!(
        output.contains("wrong: expected \"2 numbers\" in the text, found \"1 numbers: mean 1"),
        "{output}"
    );
    assert!(output.ends_with("2 passed, 1 failed\n"), "{output}");
    let (code, output, _) = bench.run(&["plugin", "test", "numbers", "--json"]);
    let report: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!((code, &report["failed"]), (1, &Value::from(1)));
    assert!(report["cases"][0]["seconds"].as_f64() > Some(0.0));
}

#[test]
fn a_malformed_case_is_named_with_its_place() {
    let bench = Workbench::new();
    bench.succeeds(&["plugin", "new", "numbers", "--lang", "js"]);
    let case = "{\n  \"tool\": \"describe\",\n  \"expects\": {}\n}\n";
    std::fs::write(bench.path().join("numbers/cases/odd.json"), case).expect("writes");
    let (code, _, errors) = bench.run(&["plugin", "test", "numbers"]);
    assert_eq!(
        (code, errors.as_str()),
        (
            2,
            "error: `numbers/cases/odd.json`: unknown field `expects`, expected one of `tool`, `arguments`, `expect` at \
             line 3 column 11\n"
        )
    );
}

#[test]
fn a_recorded_case_is_not_written_over() {
    let bench = Workbench::new();
    bench.succeeds(&["plugin", "new", "numbers", "--lang", "js"]);
    let record = ["plugin", "test", "numbers", "--record", "one", "describe", r#"{"numbers": [1]}"#];
    bench.succeeds(&record);
    let (code, _, errors) = bench.run(&record);
    assert_eq!(code, 2);
    assert!(errors.contains("`numbers/cases/one.json`: it is there already"), "{errors}");
}

#[test]
fn a_call_by_hand_says_what_is_wrong_with_it() {
    let chaski = Chaski::new();
    let (code, output, errors) = chaski.run(&["plugin", "call", "js-runner.run", r#"{"code": "6 * 7"}"#]);
    assert_eq!((code, output.as_str()), (0, "=> 42\n"), "{errors}");
    let root = "workspace=examples/code-review/repository";
    let arguments = r#"{"path": "src/limiter.py", "start": 21, "end": 21}"#;
    let (code, output, errors) = chaski.run(&["plugin", "call", "workspace.read", arguments, "--root", root]);
    assert!(code == 0 && output.contains("if count > self.limit:"), "{output}{errors}");
    let (code, _, errors) = chaski.run(&["plugin", "call", "workspace.read", arguments]);
    assert_eq!(code, 1);
    assert!(errors.contains("denied: ") && errors.contains("--root workspace=PATH"), "{errors}");
    let (code, _, errors) = chaski.run(&["plugin", "call", "js-runner.run", "{code}"]);
    assert_eq!(code, 2);
    assert!(errors.starts_with("error: the arguments `{code}` are no JSON: "), "{errors}");
    let (code, _, errors) = chaski.run(&["plugin", "call", "js-runner.run", "{}"]);
    assert_eq!(code, 1);
    assert!(
        errors.contains("invalid arguments: ") && errors.contains("\"code\" is a required property"),
        "{errors}"
    );
    let (code, _, errors) = chaski.run(&["plugin", "call", "js-runner.rum"]);
    assert_eq!(code, 2);
    assert!(errors.contains("did you mean `js-runner.run`?"), "{errors}");
    let (code, _, errors) = chaski.run(&["plugin", "call", "js-runner"]);
    assert_eq!(code, 2);
    assert!(errors.contains("is not of the form `plugin.tool`"), "{errors}");
}

/// Makes the template in `language` send a request, and gives what its tool then answers.
#[track_caller]
fn with_requests(language: &str, app: &str, changes: &[(&str, &str)]) -> String {
    let bench = Workbench::new();
    bench.succeeds(&["plugin", "new", "numbers", "--lang", language]);
    let asks = ("plugin.toml", "http = [] ", "http = [\"https://api.example.com\"] ");
    for (file, was, is) in changes.iter().map(|(was, is)| (app, *was, *is)).chain([asks]) {
        let path = bench.path().join("numbers").join(file);
        let text = std::fs::read_to_string(&path).expect("the file");
        assert!(text.contains(was), "{file} has `{was}`");
        std::fs::write(&path, text.replacen(was, is, 1)).expect("writes");
    }
    let record = ["plugin", "test", "numbers", "--record", "request", "describe", r#"{"numbers": [1]}"#];
    bench.succeeds(&record)
}

#[test]
fn a_javascript_plugin_that_asks_for_requests_has_them() {
    let send = "let why;\n    try {\n      http.send({ method: \"GET\", url: \"https://api.example.com/\", headers: [], \
                body: null, maxBytes: null, timeoutMs: null });\n    } catch (error) {\n      why = error.payload.tag;\n    \
                }\n    return { content: [{ tag: \"text\", val: why }], isError: false, truncated: false };\n    \
                const found =";
    let told = with_requests(
        "js",
        "app.js",
        &[
            ("import {", "import http from \"chaski:plugin/http@0.1.0\";\nimport {"),
            ("effect: \"pure\"", "effect: \"idempotent\""),
            ("const found =", send),
        ],
    );
    assert_eq!(told, "denied\n");
}

#[test]
fn a_python_plugin_that_asks_for_requests_has_them() {
    let send = "try:\n            http.send(http.Request(\"GET\", \"https://api.example.com/\", [], None, None, None))\n        \
                except Err as error:\n            why = types.Content_Text(type(error.value).__name__)\n        \
                return types.Output(content=[why], is_error=False, truncated=False)\n        found =";
    let told = with_requests(
        "python",
        "app.py",
        &[
            ("imports import types", "imports import http, types"),
            ("Effect.PURE", "Effect.IDEMPOTENT"),
            ("found =", send),
        ],
    );
    assert_eq!(told, "Error_Denied\n");
}
