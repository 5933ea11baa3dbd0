//! chaski as a server for a client that the official SDK made, in both eras.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::{SDK, command, python, script};
use crate::support::{Chaski, repository};

const ROOT: &str = "workspace=examples/code-review/repository";
const KEY: &str = "a key that nobody would guess";

/// What the client says of a server at `target` after `calls`.
#[track_caller]
fn ask(chaski: &Chaski, mode: &str, key: &str, target: &[&str], calls: &[Value]) -> Value {
    let environment = command(chaski, &[]);
    let mut client = Command::new(python(SDK));
    client.arg(script("client.py")).args([mode, key]).args(target).current_dir(repository());
    for (name, value) in environment.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        client.env(name, value);
    }
    let piped = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("Python starts");
    let mut input = child.stdin.take().expect("it is piped");
    for call in calls {
        writeln!(input, "{call}").expect("it reads");
    }
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn workflow(chaski: &Chaski) -> String {
    chaski.file(
        "w.yaml",
        "version: 1\nname: numbers\ndescription: Says a number.\ninputs:\n  n: { type: integer }\n  \
         unit: { default: m }\nsteps:\n  - id: look\n    tool: code-runner.run\n    \
         with: { code: \"print({{ inputs.n }} * 2)\" }\noutputs: { text: \"{{ inputs.n }} {{ inputs.unit }}\" }\n",
    )
}

/// The checks that hold for every transport and era.
#[track_caller]
fn check(chaski: &Chaski, mode: &str, key: &str, target: &[&str], version: &str) {
    let calls = [
        json!(["workspace.read", {"path": "src/limiter.py", "start": 21, "end": 21}]),
        json!(["workspace.read", {"path": 7}]),
        json!(["workspace.read", {"path": "../../../README.md"}]),
        json!(["numbers", {"n": 21}]),
        json!(["code-runner.run", {"code": "1"}]),
    ];
    let said = ask(chaski, mode, key, target, &calls);
    assert_eq!(said["version"], version);
    let names: Vec<&str> =
        said["tools"].as_array().expect("a list").iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert_eq!(names, ["workspace.read", "numbers"]);
    assert_eq!(said["tools"][1]["schema"]["required"], json!(["n"]));
    let answers = &said["answers"];
    assert!(answers[0]["text"].as_str().expect("text").contains("if count > self.limit"), "{answers}");
    assert_eq!(answers[1]["error"], true, "{answers}");
    assert!(answers[1]["text"].as_str().expect("text").contains("at `/path`"), "{answers}");
    assert_eq!(answers[2]["error"], true, "{answers}");
    assert_eq!(answers[3]["json"], json!({"text": "21 m"}), "{answers}");
    assert!(answers[4]["refused"].as_str().expect("a refusal").contains("code-runner.run"), "{answers}");
}

fn check_stdio(mode: &str, version: &str) {
    let chaski = Chaski::new();
    let file = workflow(&chaski);
    let binary = env!("CARGO_BIN_EXE_chaski");
    let target = [binary, "mcp", "--tools", "workspace.read", "--root", ROOT, "--workflow", &file];
    check(&chaski, mode, "-", &target, version);
    let (code, list, _) = chaski.run(&["runs", "list", "--json"]);
    let runs: Value = serde_json::from_str(&list).expect("JSON");
    let names: Vec<&str> =
        runs.as_array().expect("runs").iter().filter_map(|run| run["name"].as_str()).collect();
    assert_eq!((code, names), (0, vec!["numbers", "mcp"]));
}

#[test]
fn a_client_of_the_newer_era_is_served_on_standard_input() {
    // Not `auto`: its probe gives up after ten seconds, and a busy machine may compile a plugin for longer.
    check_stdio("2026-07-28", "2026-07-28");
}

#[test]
fn a_client_of_the_older_era_is_served_on_standard_input() {
    check_stdio("legacy", "2025-11-25");
}

/// `chaski mcp --http`, ended when it is dropped.
struct Server {
    chaski: Chaski,
    child: Child,
    url: String,
}

impl Server {
    fn start(more: &[&str]) -> Self {
        let chaski = Chaski::new();
        let file = workflow(&chaski);
        let arguments = [
            "mcp",
            "--http",
            "127.0.0.1:0",
            "--tools",
            "workspace.read",
            "--root",
            ROOT,
            "--workflow",
            &file,
        ];
        let mut server = command(&chaski, &[&arguments, more].concat());
        let mut child = server.env("MCP_KEY", KEY).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let mut errors = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        // Building plugins may come first, and says so.
        while !line.contains("MCP at ") {
            line.clear();
            assert_ne!(errors.read_line(&mut line).expect("text"), 0, "it ended");
        }
        let url = line.trim().strip_prefix("MCP at ").expect("the address").to_owned();
        Self { chaski, child, url }
    }

    /// The status and text of a request by hand.
    fn post(&self, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let client = reqwest::Client::builder().no_proxy().build().expect("a client");
            let accept = "application/json, text/event-stream";
            let mut request = client.post(&self.url).header("Accept", accept).body(body.to_owned());
            request = request.header("Content-Type", "application/json");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let response = request.send().await.expect("an answer");
            (response.status().as_u16(), response.text().await.expect("text"))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; the test then has failed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

#[test]
fn clients_of_both_eras_are_served_over_http() {
    let server = Server::start(&[]);
    check(&server.chaski, "auto", "", &[&server.url], "2026-07-28");
    check(&server.chaski, "legacy", "", &[&server.url], "2025-11-25");
}

#[test]
fn a_key_is_asked_for() {
    let server = Server::start(&["--key-env", "MCP_KEY"]);
    check(&server.chaski, "auto", KEY, &[&server.url], "2026-07-28");
    let bearer = format!("Bearer {KEY}");
    assert_eq!(server.post(&[("Authorization", &bearer)], LIST).0, 200);
    for wrong in [vec![], vec![("Authorization", "Bearer wrong")], vec![("Authorization", KEY)]] {
        assert_eq!(server.post(&wrong, LIST).0, 401, "{wrong:?}");
    }
}

#[test]
fn a_page_in_a_browser_is_no_client() {
    let server = Server::start(&[]);
    assert_eq!(server.post(&[], LIST).0, 200);
    assert_eq!(server.post(&[("Origin", "https://evil.example")], LIST).0, 403);
    assert_eq!(server.post(&[("Host", "evil.example")], LIST).0, 403);
}

#[test]
fn what_is_no_message_is_refused_and_the_next_is_served() {
    let server = Server::start(&[]);
    for broken in ["", "{", "[]", "7", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":7}"#] {
        let (status, text) = server.post(&[], broken);
        assert!((400..500).contains(&status) || text.contains("error"), "{broken}: {status} {text}");
    }
    assert_eq!(server.post(&[], &format!("{{\"x\":\"{}\"}}", "y".repeat(9 << 20))).0, 413);
    assert_eq!(server.post(&[], LIST).0, 200);
}

#[test]
fn nothing_is_offered_unless_it_is_named() {
    let (code, output, errors) = Chaski::new().run(&["mcp"]);
    assert_eq!((code, output.as_str()), (2, ""));
    assert!(errors.starts_with("error: nothing is offered\nhint: name what clients may call"), "{errors}");
}

#[test]
fn an_address_beyond_this_machine_needs_a_key() {
    let arguments = ["mcp", "--http", "0.0.0.0:0", "--tools", "workspace.*"];
    let (code, _, errors) = Chaski::new().run(&arguments);
    assert_eq!(code, 2);
    assert!(errors.contains("can be reached from other machines"), "{errors}");
    let short = Chaski::new()
        .command(&[&arguments[..], &["--key-env", "MCP_KEY"]].concat())
        .env("MCP_KEY", "short")
        .output();
    let errors = String::from_utf8(short.expect("the binary starts").stderr).expect("UTF-8");
    assert!(errors.contains("`MCP_KEY` holds no key of at least 16 bytes"), "{errors}");
}
