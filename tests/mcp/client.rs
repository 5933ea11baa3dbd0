//! chaski as a client of a server that the official SDK made.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use super::{OLDER_SDK, SDK, chaski_with, command, finish, python, script};

const WORKFLOW: &str = "version: 1\nname: w\nsteps:\n  - id: add\n    tool: sdk.add\n    with: { a: 2, b: 40 }\n  \
    - id: fail\n    tool: sdk.fail\n    with: { reason: tired }\n    on_error: continue\n\
    outputs: { sum: \"{{ steps.add.output.sum }}\" }\n";

/// Runs [`WORKFLOW`] with the server that `table` describes.
#[track_caller]
fn check(table: &str) {
    let chaski = chaski_with(&format!("[permissions]\nallow = ['sdk.*']\n[mcp.sdk]\n{table}\n"));
    let file = chaski.file("w.yaml", WORKFLOW);
    let (code, events, errors) = finish(command(&chaski, &["run", &file, "--json"]));
    assert_eq!(code, 0, "{errors}");
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(events.last().expect("events")["outputs"]["sum"], 42);
    let failed = events.iter().find(|event| event["tool"] == "sdk.fail").expect("it was called");
    assert_eq!(failed["outcome"], "error");
    assert!(failed["text"].as_str().expect("text").contains("tired"), "{failed}");
}

fn check_stdio(sdk: &str) {
    check(&format!("command = '{}'\nargs = ['{}']", python(sdk).display(), script("server.py")));
}

#[test]
fn a_server_on_standard_input_and_output_answers() {
    check_stdio(SDK);
}

#[test]
fn a_server_of_the_older_era_answers_on_standard_output() {
    check_stdio(OLDER_SDK);
}

/// A server over HTTP, ended when it is dropped.
struct HttpServer(Child);

impl Drop for HttpServer {
    fn drop(&mut self) {
        // It may have ended by itself; the test then has failed already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn check_http(sdk: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let port_file = folder.path().join("port");
    let child = std::process::Command::new(python(sdk))
        .arg(script("server.py"))
        .arg(&port_file)
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut server = HttpServer(child);
    let mut line = String::new();
    let output = server.0.stdout.take().expect("it is piped");
    BufReader::new(output).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    let port = std::fs::read_to_string(port_file).expect("the port");
    check(&format!("url = 'http://127.0.0.1:{port}/mcp'"));
}

#[test]
fn a_server_over_http_answers() {
    check_http(SDK);
}

#[test]
fn a_server_of_the_older_era_answers_over_http() {
    check_http(OLDER_SDK);
}

#[test]
fn a_program_gets_the_named_variables_and_no_others() {
    let table =
        format!("command = '{}'\nargs = ['{}']\nenv = ['SHOWN']", python(SDK).display(), script("server.py"));
    let chaski = chaski_with(&format!("[permissions]\nallow = ['sdk.*']\n[mcp.sdk]\n{table}\n"));
    let file = chaski.file("w.yaml", "version: 1\nname: w\nsteps:\n  - id: look\n    tool: sdk.variables\noutputs: { names: \"{{ steps.look.output }}\" }\n");
    let mut run = command(&chaski, &["run", &file, "--json"]);
    run.env("SHOWN", "1").env("HIDDEN", "1").env("LANG", "C.UTF-8");
    let (code, events, errors) = finish(run);
    assert_eq!(code, 0, "{errors}");
    let last: Value = serde_json::from_str(events.lines().last().expect("events")).expect("JSON");
    let names = last["outputs"]["names"].to_string();
    assert!(names.contains("SHOWN") && names.contains("PATH"), "{names}");
    assert!(!names.contains("HIDDEN") && !names.contains("CHASKI_DATA_DIR"), "{names}");
}

#[test]
fn a_variable_that_is_not_set_is_named() {
    let chaski = chaski_with("[mcp.sdk]\ncommand = 'true'\nenv = ['CHASKI_NO_SUCH_KEY']\n");
    let file = chaski.file("w.yaml", WORKFLOW);
    let (code, _, errors) = finish(command(&chaski, &["run", &file]));
    assert_eq!(code, 2);
    assert!(
        errors
            .contains("the MCP server `sdk` cannot be started: the variable `CHASKI_NO_SUCH_KEY` is not set"),
        "{errors}"
    );
}

#[test]
fn a_server_of_a_plugins_name_is_refused() {
    let chaski = chaski_with("[mcp.workspace]\ncommand = 'true'\n");
    let script = chaski.file("script.json", "[]");
    let model = format!("script:{script}");
    let (code, _, errors) =
        finish(command(&chaski, &["chat", "--model", &model, "--tools", "workspace.*", "hi"]));
    assert_eq!(code, 2);
    assert!(
        errors.contains("the MCP server `workspace` cannot be used: a plugin has the same name"),
        "{errors}"
    );
}

#[test]
fn a_call_that_nobody_allowed_does_not_reach_the_server() {
    let table = format!("command = 'python3'\nargs = ['{}', '']", script("hostile.py"));
    let chaski = chaski_with(&format!("[mcp.sdk]\n{table}\n"));
    let file = chaski.file(
        "w.yaml",
        "version: 1\nname: w\nsteps:\n  - id: act\n    tool: sdk.act\n    with: { do: fine }\n",
    );
    let (code, _, errors) = finish(command(&chaski, &["run", &file]));
    assert!(code == 1 && errors.contains("`sdk.act` was denied") && errors.contains("--allow"), "{errors}");
    // Whoever knows that the tool leaves nothing behind may say so; nobody is asked then.
    let chaski = chaski_with(&format!("[mcp.sdk]\n{table}\neffects = {{ act = 'idempotent' }}\n"));
    let file = chaski.file("w.yaml", std::fs::read_to_string(&file).expect("reads"));
    let (code, _, errors) = finish(command(&chaski, &["run", &file]));
    assert_eq!(code, 0, "{errors}");
}
