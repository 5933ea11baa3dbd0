//! What is granted by name: requests, variables, secrets, calls of other tools. With the grant it works; without
//! it the same call is refused, and the run's log says why.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chaski::plugins::grant::Grant;
use chaski::plugins::host::{HostOptions, PluginError, PluginHost};
use chaski::run::calls::CallSite;
use chaski::run::event::{Place, RunEvent};
use chaski::run::journal::Journal;
use chaski::run::recorder::Recorder;
use chaski::tools::permission::{Policy, Rules};
use chaski::tools::{ToolOutcome, ToolRegistry, ToolResult};
use chaski_engine::ToolCall;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{config, plugin};

/// A variable that is set in every test, and long enough to pass for a secret.
const VARIABLE: &str = "CARGO_MANIFEST_DIR";

/// The guest `outside` and, to be called by it, the guest `probe`; calls go the way of a run's.
struct Outside {
    site: CallSite,
    journal: Arc<Journal>,
    runtime: tokio::runtime::Runtime,
    _host: PluginHost,
    _folder: tempfile::TempDir,
}

impl Outside {
    /// `asks` is the manifest's `[permissions]`, `grants` are like `http=https://api.example.com`.
    #[track_caller]
    fn new(asks: &str, grants: &[&str]) -> Self {
        Self::load(asks, grants, Rules::default()).expect("the plugin loads")
    }

    fn load(asks: &str, grants: &[&str], rules: Rules) -> Result<Self, PluginError> {
        static GUESTS: OnceLock<[PathBuf; 2]> = OnceLock::new();
        let guests = GUESTS.get_or_init(|| ["tests/guests/outside", "tests/guests/probe"].map(plugin));
        let folder = tempfile::tempdir().expect("a folder");
        let mut grant = Grant::default();
        for item in grants {
            let (capability, text) = item.split_once('=').expect("CAPABILITY=WHAT");
            grant.add(capability, text).expect("a grant");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let host = PluginHost::new(HostOptions {
            cache_dir: config().cache_dir.clone(),
            data_dir: folder.path().join("data"),
            roots: Default::default(),
            output: Arc::new(|_, _| {}),
            grants: [("outside".to_owned(), grant)].into(),
            settings_dir: None,
            lock: None,
        })?;
        let mut registry = ToolRegistry::default();
        for (id, guest, asks) in [("outside", &guests[0], asks), ("probe", &guests[1], "")] {
            let dir = folder.path().join(id);
            std::fs::create_dir(&dir).expect("a folder");
            std::fs::copy(guest.join("component.wasm"), dir.join("component.wasm")).expect("copies");
            let manifest = format!(
                "[plugin]\nid = \"{id}\"\nversion = \"0.1.0\"\ncomponent = \"component.wasm\"\n\
                 description = \"d\"\n[limits]\ntimeout = \"3s\"\n[permissions]\n{asks}\n"
            );
            std::fs::write(dir.join("plugin.toml"), manifest).expect("writes");
            runtime.block_on(host.load(&dir))?.tools.into_iter().for_each(|tool| registry.insert(tool));
        }
        let allow = vec!["*".parse().expect("a pattern")];
        registry.set_policy(Policy::new(Rules { allow, ..rules }, "config.toml".into()));
        let journal = Arc::new(Journal::in_memory().expect("memory is there"));
        let recorder =
            Recorder::new(journal.new_run(), journal.clone(), Arc::new(|_| {}), CancellationToken::new());
        let (name, model) = ("test".to_owned(), "none".to_owned());
        recorder
            .record(RunEvent::RunStarted { name, source: None, model, inputs: json!({}) })
            .expect("the journal works");
        let site = CallSite::new(registry.all(), Place::default(), recorder);
        Ok(Self { site, journal, runtime, _host: host, _folder: folder })
    }

    fn call(&self, tool: &str, arguments: Value) -> ToolResult {
        let call = ToolCall { id: "c".into(), name: format!("outside.{tool}"), arguments };
        self.runtime.block_on(async {
            let admitted = self.site.admit(&call).await.expect("the journal works");
            let context = self.site.context(&call, "key".into(), Duration::from_secs(10));
            let (result, cached) = self.site.run(&call, admitted, context).await;
            self.site.answered(&call, &result, cached).expect("the journal works");
            result
        })
    }

    fn get(&self, url: &str) -> ToolResult {
        self.call("request", json!({"method": "GET", "url": url, "header": "", "body": ""}))
    }

    /// A nested call of `probe.echo`.
    fn echo(&self, text: &str) -> ToolResult {
        let arguments = json!({ "text": text }).to_string();
        self.call("call", json!({"name": "probe.echo", "arguments": arguments, "count": 1}))
    }

    /// What the log says about capabilities and nested calls, a line each.
    fn log(&self) -> Vec<String> {
        let (_, entries) = self.journal.run(self.site.recorder.run().as_str()).expect("the run is there");
        let line = |event: RunEvent| match event {
            RunEvent::CapabilityUsed { capability, what, refused: None, .. } => {
                Some(format!("{capability} {what}"))
            }
            RunEvent::CapabilityUsed { capability, what, refused: Some(why), .. } => {
                Some(format!("{capability} {what} refused: {why}"))
            }
            RunEvent::ToolCalled { call, within: Some(outer), .. } => {
                Some(format!("{} {} from {outer}", call.id, call.name))
            }
            RunEvent::ToolDenied { call, decision, within: Some(outer), .. } => {
                Some(format!("{} {} from {outer} denied: {}", call.id, call.name, decision.why))
            }
            _ => None,
        };
        entries.into_iter().filter_map(|entry| line(entry.event)).collect()
    }

    /// The log's only line holds each of `parts`.
    #[track_caller]
    fn logged(&self, parts: &[&str]) {
        let log = self.log();
        let [line] = &log[..] else { panic!("one line: {log:?}") };
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
}

/// A server on this machine: `/hello`, `/big`, `/slow`, `/echo` (its headers), `/to/URL` (a redirect there).
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    format!("http://{address}")
}

fn serve(mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let path = lines.first()?.split(' ').nth(1)?.to_owned();
    let (status, header, body) = match path.as_str() {
        "/hello" => ("200 OK", String::new(), "hello".to_owned()),
        "/big" => ("200 OK", String::new(), "x".repeat(5 << 20)),
        "/echo" => ("200 OK", format!("x-got: {}\r\n", lines.join(" ")), lines.join("\n")),
        // Nothing comes: the connection stays open until the client leaves.
        "/slow" => return reader.read_to_end(&mut Vec::new()).ok().map(drop),
        other => ("302 Found", format!("location: {}\r\n", other.strip_prefix("/to/")?), String::new()),
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\n{header}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
        .ok()
}

const ANY: &str = "http = [\"*\"]\ntools = [\"none.*\"]";

#[test]
fn a_request_needs_a_grant() {
    let server = server();
    let granted = Outside::new(ANY, &[&format!("http={server}")]);
    let result = granted.get(&format!("{server}/hello"));
    assert!(result.text.starts_with(&format!("200 {server}/hello, 5 bytes")), "{}", result.text);
    granted.logged(&[&format!("http GET {server}/hello")]);

    let without = Outside::new(ANY, &[]);
    let result = without.get(&format!("{server}/hello?key=private"));
    assert!(result.text.contains("denied: `outside` was granted no requests"), "{}", result.text);
    without.logged(&[&format!("GET {server}/hello refused: "), "chaski plugin grant outside http="]);
}

#[test]
fn a_grant_is_for_one_scheme_host_and_port() {
    let (granted, other) = (server(), server());
    let outside = Outside::new(ANY, &[&format!("http={granted}")]);
    for url in [
        format!("{other}/hello"),
        granted.replace("127.0.0.1", "localhost"),
        granted.replace("http://", "https://"),
        granted.replace("127.0.0.1", "[::ffff:127.0.0.1]"),
    ] {
        let result = outside.get(&url);
        assert!(result.text.starts_with("denied: `outside` was not granted requests to"), "{}", result.text);
    }
    let odd = outside.get(&granted.replace("127.0.0.1", "127.1"));
    assert!(!odd.text.starts_with("denied"), "another way to write the same address: {}", odd.text);
    assert!(outside.get("file:///etc/passwd").text.contains("its scheme is `file`"));
    assert!(outside.get(&granted.replace("http://", "http://user:pass@")).text.contains("credentials"));
}

#[test]
fn a_manifest_that_asks_for_reading_gets_no_more() {
    let server = server();
    let post = json!({"method": "POST", "url": format!("{server}/hello"), "header": "", "body": "x"});
    let reads = Outside::new(ANY, &[&format!("http={server}")]);
    let result = reads.call("request", post.clone());
    assert!(result.text.contains("asks for GET, HEAD at"), "{}", result.text);
    let asks = "http = [{ origin = \"*\", methods = [\"POST\"] }]\ntools = [\"none.*\"]";
    let writes = Outside::new(asks, &[&format!("http={server}")]);
    assert!(writes.call("request", post).text.starts_with("200 "));
    // What is granted and not asked for is not there.
    let asks = "http = [\"https://api.example.com\"]\ntools = [\"none.*\"]";
    let elsewhere = Outside::new(asks, &[&format!("http={server}")]);
    assert!(elsewhere.get(&format!("{server}/hello")).text.starts_with("denied"));
}

#[test]
fn each_redirect_is_checked_again() {
    let (first, second) = (server(), server());
    let url = format!("{first}/to/{second}/hello");
    let one = Outside::new(ANY, &[&format!("http={first}")]);
    let result = one.get(&url);
    assert!(result.text.contains(&format!("not granted requests to {second}")), "{}", result.text);
    let log = one.log();
    assert_eq!(log.len(), 2, "{log:?}");
    assert!(log[1].starts_with(&format!("http GET {second}/hello refused: ")), "{log:?}");

    let both = Outside::new(ANY, &[&format!("http={first}"), &format!("http={second}")]);
    assert!(both.get(&url).text.starts_with(&format!("200 {second}/hello")));
    let metadata = one.get(&format!("{first}/to/http://169.254.169.254/latest/meta-data"));
    assert!(metadata.text.starts_with("denied"), "{}", metadata.text);
    let circle = format!("{first}/to/").repeat(8);
    let circle = one.get(&format!("{circle}{first}/hello"));
    assert!(circle.text.contains("more than 5 redirects"), "{}", circle.text);
}

#[test]
fn an_answer_has_bounds_in_size_and_time() {
    let server = server();
    let outside = Outside::new(ANY, &[&format!("http={server}")]);
    let big = outside.get(&format!("{server}/big")).text;
    assert!(big.contains(&format!(", cut, {} bytes", 4 << 20)), "{}", &big[..80]);
    let started = Instant::now();
    let slow = outside.get(&format!("{server}/slow"));
    assert_eq!(slow.outcome, ToolOutcome::Timeout, "{}", slow.text);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let many = outside.call("many", json!({"url": format!("{server}/hello"), "count": 33}));
    assert!(many.text.contains("one call sends at most 32 requests"), "{}", many.text);
}

#[test]
fn headers_that_are_the_hosts_cannot_be_set() {
    let server = server();
    let outside = Outside::new(ANY, &[&format!("http={server}")]);
    for (header, expected) in [
        ("Host: evil.example", "invalid: the header `host` is set by the host"),
        ("Transfer-Encoding: chunked", "invalid: the header `transfer-encoding` is set by the host"),
        ("X-A: b\r\nHost: evil", "invalid: the header `x-a` has a value that is none"),
        ("X-Fine: yes", "x-fine: yes"),
    ] {
        let arguments =
            json!({"method": "GET", "url": format!("{server}/echo"), "header": header, "body": ""});
        let result = outside.call("request", arguments);
        assert!(result.text.contains(expected), "{header}: {}", result.text);
    }
}

#[test]
fn a_secret_reaches_its_origin_and_never_the_guest() {
    let (server, other) = (server(), server());
    let secret = std::env::var(VARIABLE).expect("cargo sets it");
    let asks = format!(
        "{ANY}\nsecrets = [{{ name = \"token\", origin = \"{server}\", header = \"authorization\", prefix = \"Bearer \" }}]"
    );
    let grants =
        [format!("http={server}"), format!("http={other}"), format!("secrets=token:{VARIABLE}@{server}")];
    let grants: Vec<&str> = grants.iter().map(String::as_str).collect();
    let granted = Outside::new(&asks, &grants);
    // The server sends its headers back, in a header and in the body.
    let text = granted.get(&format!("{server}/echo")).text;
    assert_eq!(text.matches("authorization: Bearer [secret token]").count(), 2, "{text}");
    assert!(!text.contains(&secret), "{text}");
    granted.logged(&["with the secret `token`"]);
    let elsewhere = granted.get(&format!("{other}/echo")).text;
    assert!(elsewhere.starts_with("200") && !elsewhere.contains("authorization"), "{elsewhere}");
    let redirected = granted.get(&format!("{server}/to/{other}/echo")).text;
    assert!(redirected.starts_with("200") && !redirected.contains("authorization"), "{redirected}");

    let without = Outside::new(&asks, &grants[..2]);
    assert!(!without.get(&format!("{server}/echo")).text.contains("authorization"));
    // A grant for another origin is none: the manifest cannot choose where a secret goes.
    let moved = format!("secrets=token:{VARIABLE}@https://api.example.com");
    let moved = Outside::new(&asks, &[grants[0], &moved]);
    assert!(!moved.get(&format!("{server}/echo")).text.contains("authorization"));
}

#[test]
fn a_secret_that_is_not_there_is_said_at_load() {
    let asks = "http = [\"https://a.example\"]\ntools = [\"none.*\"]\n\
                secrets = [{ name = \"token\", origin = \"https://a.example\", header = \"x-key\" }]";
    let grants = ["http=https://a.example", "secrets=token:CHASKI_NO_SUCH_VARIABLE@https://a.example"];
    let error = Outside::load(asks, &grants, Rules::default()).err().expect("it cannot be used").to_string();
    assert!(error.contains("needs the variable `CHASKI_NO_SUCH_VARIABLE`, which is not set"), "{error}");
}

#[test]
fn a_variable_needs_a_grant() {
    let asks = format!("{ANY}\nenv = [\"{VARIABLE}\", \"HOME\"]");
    let outside = Outside::new(&asks, &[&format!("env={VARIABLE}"), "env=PATH"]);
    let value = |name: &str| outside.call("variable", json!({ "name": name })).text;
    assert_eq!(value(VARIABLE), std::env::var(VARIABLE).expect("cargo sets it"));
    assert_eq!(value("HOME"), "not set", "asked for and not granted");
    assert_eq!(value("PATH"), "not set", "granted and not asked for");
}

const TOOLS: &str = "http = [\"*\"]\ntools = [\"probe.*\", \"outside.*\"]";

#[test]
fn a_nested_call_needs_a_grant_and_is_in_the_log() {
    let granted = Outside::new(TOOLS, &["tools=probe.*"]);
    assert_eq!(granted.echo("hello").text, "hello");
    granted.logged(&["c.1 probe.echo from c"]);
    let listed = granted.call("list", json!({})).text;
    assert!(listed.contains("probe.echo") && !listed.contains("outside."), "{listed}");

    let without = Outside::new(TOOLS, &[]);
    let result = without.echo("hello");
    assert!(
        result.text.contains("Denied") && result.text.contains("not granted the tool"),
        "{}",
        result.text
    );
    without.logged(&["tools probe.echo refused: ", "chaski plugin grant outside tools=probe.echo"]);
    assert_eq!(without.call("list", json!({})).text, "");
    let not_asked = Outside::new("http = [\"*\"]\ntools = [\"other.*\"]", &["tools=*"]);
    assert!(not_asked.echo("hello").text.contains("not granted the tool"));
}

#[test]
fn rules_and_schemas_hold_for_nested_calls() {
    let deny = vec!["probe.echo(text=secret*)".parse().expect("a pattern")];
    let outside =
        Outside::load(TOOLS, &["tools=*"], Rules { deny, ..Rules::default() }).expect("the plugin loads");
    assert_eq!(outside.echo("hello").text, "hello");
    let denied = outside.echo("secret plans");
    assert!(denied.text.contains("`probe.echo` was denied and did not run"), "{}", denied.text);
    let log = outside.log();
    assert!(log[1].contains("probe.echo from c denied: `deny` of `config.toml`"), "{log:?}");
    let wrong = outside.call("call", json!({"name": "probe.echo", "arguments": "{\"txt\": 1}", "count": 1}));
    assert!(wrong.text.contains("InvalidArguments") && wrong.text.contains("is a required property"));
    let no_json = outside.call("call", json!({"name": "probe.echo", "arguments": "{", "count": 1}));
    assert!(no_json.text.contains("the arguments are no JSON"), "{}", no_json.text);
}

#[test]
fn nested_calls_are_bounded_in_number_and_depth() {
    let outside = Outside::new(TOOLS, &["tools=*"]);
    let echo = json!({"text": "x"}).to_string();
    let many = outside.call("call", json!({"name": "probe.echo", "arguments": echo, "count": 65}));
    assert!(many.text.contains("at most 64 others"), "{}", many.text);
    let nested = |inner: &str, name: &str| json!({"name": name, "arguments": inner, "count": 1});
    let mut arguments = nested(&echo, "probe.echo");
    for _ in 0..3 {
        arguments = nested(&arguments.to_string(), "outside.call");
    }
    let deep = outside.call("call", arguments.clone());
    assert!(deep.text.contains("calls are 3 deep already"), "{}", deep.text);
    let fits: Value = serde_json::from_str(arguments["arguments"].as_str().expect("text")).expect("JSON");
    let fits: Value = serde_json::from_str(fits["arguments"].as_str().expect("text")).expect("JSON");
    assert_eq!(outside.call("call", fits).text, "x");
}

#[test]
fn a_nested_call_ends_with_the_one_that_made_it_and_has_its_answer_in_the_log() {
    let outside = Outside::new(TOOLS, &["tools=*"]);
    let spin = json!({"name": "probe.spin", "arguments": "{}", "count": 1});
    let started = Instant::now();
    let result = outside.call("call", spin);
    assert!(result.is_error() || result.text.contains("did not finish"), "{}", result.text);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let (_, entries) = outside.journal.run(outside.site.recorder.run().as_str()).expect("the run is there");
    let called = entries.iter().filter(|entry| matches!(entry.event, RunEvent::ToolCalled { .. })).count();
    let answered =
        entries.iter().filter(|entry| matches!(entry.event, RunEvent::ToolAnswered { .. })).count();
    assert_eq!((called, answered), (2, 2));
}

#[test]
fn a_component_that_imports_what_its_manifest_does_not_ask_for_is_refused() {
    for (asks, expected) in [
        ("", "it imports `chaski:plugin/http@0.1.0`, and its manifest does not ask for `http`"),
        (
            "http = [\"*\"]",
            "it imports `chaski:plugin/tools@0.1.0`, and its manifest does not ask for `tools`",
        ),
    ] {
        let error = Outside::load(asks, &["http=https://a.example", "tools=*"], Rules::default())
            .err()
            .expect("the manifest lies")
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_folder_with_the_settings_is_never_a_root() {
    use chaski::plugins::permissions::{Access, Root, Roots};
    let home = tempfile::tempdir().expect("a folder");
    let settings = home.path().join("config/chaski");
    std::fs::create_dir_all(&settings).expect("a folder");
    let host = |path: &Path, access| {
        PluginHost::new(HostOptions {
            cache_dir: home.path().join("cache"),
            data_dir: home.path().join("data"),
            roots: Roots::from([("w".to_owned(), Root { path: path.to_owned(), access })]),
            output: Arc::new(|_, _| {}),
            grants: Default::default(),
            settings_dir: Some(settings.clone()),
            lock: None,
        })
    };
    for path in [home.path(), &settings, &home.path().join("config")] {
        let error = host(path, Access::Read).err().expect("it covers the settings").to_string();
        assert!(error.contains("covers chaski's settings"), "{error}");
    }
    std::fs::create_dir(home.path().join("project")).expect("a folder");
    host(&home.path().join("project"), Access::ReadWrite).map(drop).expect("it is apart");
}
