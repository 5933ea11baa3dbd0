//! What a hostile plugin tries, in the real sandbox: with the capability it works, without it the same call is
//! refused, and the next call is normal.

mod capabilities;
mod hostile;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use chaski::plugins::host::{HostOptions, PluginError, PluginHost};
use chaski::plugins::permissions::{Access, Root, Roots};
use chaski::tools::{CallContext, Tool, ToolOutcome, ToolResult};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{config, plugin};

fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| plugin("tests/guests/probe"))
}

/// What one call may use in most tests. A limit is lowered where a test is about it.
const LIMITS: &str = "memory = \"32MiB\"\ntimeout = \"1s\"\noutput = \"4KiB\"";

/// The probe plugin under a manifest that asks for `permissions`, with `workspace` as its root if it is given.
struct Probe {
    tools: Vec<Arc<dyn Tool>>,
    host: PluginHost,
    /// What its calls showed while they ran.
    shown: Arc<Mutex<String>>,
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Probe {
    #[track_caller]
    fn new(permissions: &str, workspace: Option<(&Path, Access)>) -> Self {
        Self::with_limits(LIMITS, permissions, workspace)
    }

    #[track_caller]
    fn with_limits(limits: &str, permissions: &str, workspace: Option<(&Path, Access)>) -> Self {
        Self::load(&probe().join("component.wasm"), limits, permissions, workspace).expect("the probe loads")
    }

    fn load(
        component: &Path,
        limits: &str,
        permissions: &str,
        workspace: Option<(&Path, Access)>,
    ) -> Result<Self, PluginError> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::copy(component, folder.path().join("component.wasm")).expect("copies");
        let manifest = format!(
            "[plugin]\nid = \"probe\"\nversion = \"0.1.0\"\ncomponent = \"component.wasm\"\ndescription = \"d\"\n\
             [limits]\n{limits}\n[permissions]\n{permissions}\n"
        );
        std::fs::write(folder.path().join("plugin.toml"), manifest).expect("writes");
        let roots =
            workspace.map(|(path, access)| ("workspace".into(), Root { path: path.to_owned(), access }));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let shown = Arc::new(Mutex::new(String::new()));
        let screen = shown.clone();
        let host = PluginHost::new(HostOptions {
            cache_dir: config().cache_dir.clone(),
            data_dir: folder.path().join("data"),
            roots: Roots::from_iter(roots),
            output: Arc::new(move |_, text| screen.lock().expect("whole").push_str(text)),
            grants: Default::default(),
            settings_dir: None,
            lock: None,
        })?;
        let tools = runtime.block_on(host.load(folder.path()))?.tools;
        Ok(Self { tools, host, shown, folder, runtime })
    }

    fn tool(&self, name: &str) -> Arc<dyn Tool> {
        let name = format!("probe.{name}");
        self.tools.iter().find(|tool| tool.definition().name == name).expect("the tool").clone()
    }

    fn call(&self, tool: &str, arguments: Value) -> ToolResult {
        let tool = self.tool(tool);
        self.runtime.block_on(async move { tool.call(arguments, within(5_000)).await })
    }

    /// After whatever happened, the next call is normal.
    #[track_caller]
    fn still_works(&self) {
        let result = self.call("echo", json!({"text": "still here"}));
        assert_eq!((result.outcome, result.text.as_str()), (ToolOutcome::Ok, "still here"));
    }
}

fn within(milliseconds: u64) -> CallContext {
    let timeout = Duration::from_millis(milliseconds);
    CallContext { call_id: "call".into(), timeout, ..CallContext::default() }
}

#[track_caller]
fn ends(tool: &str, arguments: Value, expected: ToolOutcome) -> ToolResult {
    let probe = Probe::new("", None);
    let started = Instant::now();
    let result = probe.call(tool, arguments);
    assert_eq!(result.outcome, expected, "{}", result.text);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    probe.still_works();
    result
}

#[test]
fn an_endless_loop_is_stopped_in_time() {
    ends("spin", json!({}), ToolOutcome::Timeout);
}

#[test]
fn a_sleep_in_the_host_is_stopped_in_time() {
    ends("sleep", json!({"milliseconds": 60_000}), ToolOutcome::Timeout);
}

#[test]
fn memory_has_a_bound() {
    ends("hoard", json!({}), ToolOutcome::MemoryLimit);
}

#[test]
fn a_trap_ends_the_call_alone() {
    ends("trap", json!({}), ToolOutcome::Trapped);
}

#[test]
fn endless_recursion_ends_the_call_alone() {
    ends("stack", json!({}), ToolOutcome::Trapped);
}

#[test]
fn an_exit_ends_the_call_alone() {
    ends("exit", json!({"code": 7}), ToolOutcome::Trapped);
}

#[test]
fn a_flood_is_cut_and_says_so() {
    let result = ends("flood", json!({"bytes": 100_000}), ToolOutcome::Ok);
    assert!(result.truncated && result.text.len() < 5_000 && result.text.contains("bytes left out"));
}

#[test]
fn a_flood_beyond_all_bounds_ends_the_call() {
    ends("flood", json!({"bytes": 20_000_000}), ToolOutcome::Trapped);
}

#[test]
fn what_was_put_out_before_the_end_is_told() {
    let result = ends("emit_then_spin", json!({"text": "step 1"}), ToolOutcome::Timeout);
    assert!(result.text.contains("step 1"), "{}", result.text);
    let result = ends("emit_then_trap", json!({"text": "step 2"}), ToolOutcome::Trapped);
    assert!(result.text.contains("step 2"), "{}", result.text);
}

#[test]
fn nothing_is_kept_between_calls() {
    let probe = Probe::new("", None);
    let first = probe.call("count", json!({})).text;
    assert_eq!(probe.call("count", json!({})).text, first);
}

#[test]
fn files_need_a_grant() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.txt"), "content").expect("writes");
    let asks = "fs = [{ host = \"root:workspace\", guest = \"/workspace\", access = \"read\" }]";
    let path = json!({"path": "/workspace/a.txt"});

    let granted = Probe::new(asks, Some((folder.path(), Access::Read)));
    assert_eq!(granted.call("read_file", path.clone()).text, "content");

    let not_offered = Probe::new(asks, None);
    let result = not_offered.call("read_file", path.clone());
    assert_eq!(result.outcome, ToolOutcome::Denied);
    assert!(result.text.contains("`workspace`"), "{}", result.text);

    let not_asked = Probe::new("", Some((folder.path(), Access::Read)));
    assert_ne!(not_asked.call("read_file", path).text, "content");
}

#[test]
fn a_read_only_folder_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.txt"), "content").expect("writes");
    let asks = "fs = [{ host = \"root:workspace\", guest = \"/workspace\", access = \"read-write\" }]";
    let write = json!({"path": "/workspace/b.txt", "text": "x"});

    // The run grants less than the manifest asks for.
    let read_only = Probe::new(asks, Some((folder.path(), Access::Read)));
    assert_ne!(read_only.call("write_file", write.clone()).outcome, ToolOutcome::Ok);
    assert_ne!(read_only.call("remove_file", json!({"path": "/workspace/a.txt"})).outcome, ToolOutcome::Ok);
    let names: Vec<_> = std::fs::read_dir(folder.path()).expect("lists").collect();
    assert_eq!(names.len(), 1);

    let writable = Probe::new(asks, Some((folder.path(), Access::ReadWrite)));
    assert_eq!(writable.call("write_file", write).outcome, ToolOutcome::Ok);
    assert_eq!(std::fs::read_to_string(folder.path().join("b.txt")).expect("reads"), "x");
}

#[test]
fn links_and_dots_do_not_lead_out() {
    let outside = tempfile::tempdir().expect("a folder");
    std::fs::write(outside.path().join("secret"), "secret").expect("writes");
    let folder = tempfile::tempdir().expect("a folder");
    #[cfg(unix)]
    std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).expect("links");
    let asks = "fs = [{ host = \"root:workspace\", guest = \"/workspace\", access = \"read\" }]";
    let probe = Probe::new(asks, Some((folder.path(), Access::Read)));
    for path in
        ["/workspace/link/secret", "/workspace/../secret", "/etc/passwd", "/workspace/../../etc/passwd"]
    {
        let result = probe.call("read_file", json!({"path": path}));
        assert!(result.is_error() && !result.text.contains("secret\n"), "{path}: {}", result.text);
        assert_ne!(result.text, "secret", "{path}");
    }
}

#[test]
fn the_network_is_closed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let probe = Probe::new("", None);
    for (tool, arguments) in [
        ("connect", json!({"port": port})),
        ("send", json!({"port": port})),
        ("resolve", json!({"name": "localhost"})),
    ] {
        let result = probe.call(tool, arguments);
        assert_ne!(result.outcome, ToolOutcome::Ok, "{tool}: {}", result.text);
    }
    listener.set_nonblocking(true).expect("non-blocking");
    assert!(listener.accept().is_err(), "nobody connected");
}

#[test]
fn time_and_chance_need_a_grant() {
    let without = Probe::new("", None);
    assert_eq!(without.call("now", json!({})).text, "0");
    assert_eq!(without.call("random", json!({})).text, without.call("random", json!({})).text);
    let with = Probe::new("random = true\nwall-clock = true", None);
    assert_ne!(with.call("now", json!({})).text, "0");
    assert_ne!(with.call("random", json!({})).text, with.call("random", json!({})).text);
}

#[test]
fn a_cancelled_call_ends_at_once() {
    let probe = Probe::new("", None);
    let tool =
        probe.tools.iter().find(|tool| tool.definition().name == "probe.spin").expect("the tool").clone();
    let cancel = CancellationToken::new();
    let context = CallContext { cancel: cancel.clone(), ..within(5_000) };
    let started = Instant::now();
    let result = probe.runtime.block_on(async move {
        let call = tokio::spawn(async move { tool.call(json!({}), context).await });
        tokio::task::yield_now().await;
        cancel.cancel();
        call.await.expect("it ends")
    });
    assert_eq!(result.outcome, ToolOutcome::Cancelled);
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    probe.still_works();
}

#[test]
fn deadlines_hold_among_endless_neighbours() {
    let probe = Probe::with_limits("timeout = \"1s\"\nconcurrency = 4", "", None);
    let spin = probe.tool("spin");
    let started = Instant::now();
    let calls = (0..4).map(|_| spin.call(json!({}), within(5_000)));
    let results = probe.runtime.block_on(futures::future::join_all(calls));
    assert!(results.iter().all(|result| result.outcome == ToolOutcome::Timeout));
    assert!(started.elapsed() < Duration::from_millis(2_500), "{:?}", started.elapsed());
}

#[test]
fn tools_are_still_stopped_in_time_when_their_host_is_gone() {
    let probe = Probe::new("", None);
    let spin = probe.tool("spin");
    drop(probe.host);
    let started = Instant::now();
    let result = probe.runtime.block_on(spin.call(json!({}), within(5_000)));
    assert_eq!(result.outcome, ToolOutcome::Timeout);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn a_call_that_had_no_turn_in_its_time_never_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let asks = "fs = [{ host = \"root:workspace\", guest = \"/workspace\", access = \"read-write\" }]";
    let limits = format!("{LIMITS}\nconcurrency = 1");
    let probe = Probe::with_limits(&limits, asks, Some((folder.path(), Access::ReadWrite)));
    let (spin, write, echo) = (probe.tool("spin"), probe.tool("write_file"), probe.tool("echo"));
    let (first, second, third) = probe.runtime.block_on(async {
        tokio::join!(
            spin.call(json!({}), within(5_000)),
            write.call(json!({"path": "/workspace/late.txt", "text": "x"}), within(200)),
            echo.call(json!({"text": "patient"}), within(5_000)),
        )
    });
    assert_eq!(first.outcome, ToolOutcome::Timeout);
    assert_eq!(second.outcome, ToolOutcome::Overloaded, "{}", second.text);
    assert_eq!(third.text, "patient");
    assert!(!folder.path().join("late.txt").exists(), "the caller was told that it did not run");
}

#[test]
fn a_call_that_waits_for_its_turn_can_be_cancelled() {
    let probe = Probe::with_limits("timeout = \"1s\"\nconcurrency = 1", "", None);
    let (spin, echo) = (probe.tool("spin"), probe.tool("echo"));
    let context = within(5_000);
    let cancel = context.cancel.clone();
    let waiting = async {
        let started = Instant::now();
        let cancel_soon = async {
            tokio::task::yield_now().await;
            cancel.cancel();
        };
        let (result, ()) = tokio::join!(echo.call(json!({"text": ""}), context), cancel_soon);
        (result.outcome, started.elapsed())
    };
    let (_, (outcome, waited)) =
        probe.runtime.block_on(async { tokio::join!(spin.call(json!({}), within(5_000)), waiting) });
    assert_eq!(outcome, ToolOutcome::Cancelled);
    assert!(waited < Duration::from_millis(800), "{waited:?}");
}

#[test]
fn a_call_that_nobody_waits_for_gives_its_turn_back() {
    let probe = Probe::with_limits("timeout = \"60s\"\nconcurrency = 1", "", None);
    let (spin, echo) = (probe.tool("spin"), probe.tool("echo"));
    let result = probe.runtime.block_on(async {
        let left = tokio::time::timeout(Duration::from_millis(100), spin.call(json!({}), within(60_000)));
        assert!(left.await.is_err(), "the loop has no end");
        echo.call(json!({"text": "next"}), within(5_000)).await
    });
    assert_eq!(result.text, "next");
}

#[test]
fn memory_can_be_used_up_to_the_limit() {
    let probe = Probe::with_limits("memory = \"16MiB\"", "", None);
    let got: usize = probe.call("grow", json!({})).text.parse().expect("a number");
    assert!((8 << 20..16 << 20).contains(&got), "{got}");
}

#[test]
fn a_guest_that_prints_emits_and_logs_without_end_does_not_die_of_it() {
    let probe = Probe::new("", None);
    assert_eq!(probe.call("flood_stdout", json!({"bytes": 4 << 20})).text, "printed");
    assert_eq!(probe.call("flood_log", json!({"lines": 10_000})).text, "logged");
    assert_eq!(probe.call("flood_emit", json!({"bytes": 4 << 20})).text, "emitted");
    let shown = probe.shown.lock().expect("whole");
    assert!((256 << 10..(256 << 10) + 100).contains(&shown.len()), "{}", shown.len());
    assert!(shown.ends_with("[the rest of the output is not shown]\n"));
}

#[test]
fn the_model_reads_how_a_tool_broke_down() {
    #[track_caller]
    fn check(tool: &str, arguments: Value, told: &[&str]) {
        let text = Probe::new("", None).call(tool, arguments).text;
        assert!(told.iter().all(|part| text.contains(part)), "{text}");
    }
    check("stack", json!({}), &["broke down", "called itself too deeply."]);
    check("emit_then_trap", json!({"text": "step 1"}), &["unreachable", "step 1", "breaks down on purpose"]);
    check("exit", json!({"code": 7}), &["it exited with code"]);
    check("flood", json!({"bytes": 20_000_000}), &["it answered with more than 1 MiB."]);
}

#[test]
fn a_structured_answer_keeps_the_tools_promise_or_is_none() {
    let probe = Probe::new("", None);
    assert_eq!(probe.call("structured", json!({})).json, Some(json!({"answer": 42})));
    for tool in ["bad_json", "off_schema"] {
        let result = probe.call(tool, json!({}));
        assert_eq!((result.outcome, result.json), (ToolOutcome::Trapped, None), "{}", result.text);
    }
}

#[test]
fn a_private_folder_outlives_the_call_and_holds_large_files() {
    let asks = "fs = [{ host = \"private:notes\", guest = \"/notes\", access = \"read-write\" }]";
    let probe = Probe::with_limits("memory = \"64MiB\"", asks, None);
    let text = "x".repeat(3 << 20);
    let result = probe.call("write_file", json!({"path": "/notes/a.txt", "text": text}));
    assert_eq!(result.text, "written");
    let folder = probe.folder.path().join("data/plugin-data/probe/notes");
    assert_eq!(std::fs::metadata(folder.join("a.txt")).expect("there").len(), 3 << 20);
    assert_eq!(probe.call("list_dir", json!({"path": "/notes"})).text, "a.txt");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(folder.metadata().expect("there").permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn there_is_no_environment_no_argument_and_no_input() {
    let text = Probe::new("", None).call("env", json!({})).text;
    assert_eq!(text, "variables [], arguments [], input 0 bytes");
}

/// `(component (import "wasi:http/outgoing-handler@0.2.0" (instance)))`
const IMPORTS_HTTP: &[u8] =
    b"\0asm\x0d\0\x01\0\x07\x03\x01B\0\x0a%\x01\0 wasi:http/outgoing-handler@0.2.0\x05\0";

#[track_caller]
fn refused(component: &[u8], limits: &str, told: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("component.wasm");
    std::fs::write(&file, component).expect("writes");
    let error = Probe::load(&file, limits, "", None).err().expect("the plugin is refused");
    assert!(error.to_string().contains(told), "{error}");
}

#[test]
fn a_file_that_is_no_component_is_refused() {
    refused(b"MZ this is no component", LIMITS, "it is no component that can be run here");
}

#[test]
fn a_component_without_tools_is_no_plugin() {
    refused(b"\0asm\x0d\0\x01\0", LIMITS, "does not export `chaski:plugin/tool@0.1.0`");
}

#[test]
fn a_component_that_wants_more_than_the_contract_is_refused_by_name() {
    refused(IMPORTS_HTTP, LIMITS, "imports `wasi:http/outgoing-handler@0.2.0`, which plugins cannot have");
}

#[test]
fn a_plugin_without_the_memory_to_start_is_refused() {
    let component = std::fs::read(probe().join("component.wasm")).expect("the probe");
    refused(&component, "memory = \"64KiB\"", "did not list its tools");
}
