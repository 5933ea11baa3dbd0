//! What a hostile plugin tries, in the real sandbox: with the capability it works, without it the same call is
//! refused, and the next call is normal.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chaski::plugins::host::{HostOptions, PluginHost};
use chaski::plugins::permissions::{Access, Root, Roots};
use chaski::tools::{CallContext, Tool, ToolOutcome, ToolResult};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{config, plugin};

fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| plugin("tests/guests/probe"))
}

/// The probe plugin under a manifest that asks for `permissions`, with `workspace` as its root if it is given.
struct Probe {
    tools: Vec<Arc<dyn Tool>>,
    _host: PluginHost,
    _folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Probe {
    fn new(permissions: &str, workspace: Option<(&Path, Access)>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::copy(probe().join("component.wasm"), folder.path().join("component.wasm")).expect("copies");
        let manifest = format!(
            "[plugin]\nid = \"probe\"\nversion = \"0.1.0\"\ncomponent = \"component.wasm\"\ndescription = \"d\"\n\
             [limits]\nmemory = \"32MiB\"\ntimeout = \"1s\"\noutput = \"4KiB\"\n[permissions]\n{permissions}\n"
        );
        std::fs::write(folder.path().join("plugin.toml"), manifest).expect("writes");
        let mut roots = Roots::new();
        if let Some((path, access)) = workspace {
            roots.insert("workspace".into(), Root { path: path.to_owned(), access });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let (tools, host) = runtime.block_on(async {
            let host = PluginHost::new(HostOptions {
                cache_dir: config().cache_dir.clone(),
                data_dir: folder.path().join("data"),
                roots,
                output: Arc::new(|_, _| {}),
            })
            .expect("a host");
            let tools = host.load(folder.path()).await.expect("the probe loads").tools;
            (tools, host)
        });
        Self { tools, _host: host, _folder: folder, runtime }
    }

    fn call(&self, tool: &str, arguments: Value) -> ToolResult {
        let name = format!("probe.{tool}");
        let tool = self.tools.iter().find(|tool| tool.definition().name == name).expect("the tool").clone();
        let context = CallContext {
            call_id: "call".into(),
            timeout: Duration::from_secs(5),
            cancel: CancellationToken::new(),
        };
        self.runtime.block_on(async move { tool.call(arguments, context).await })
    }

    /// After whatever happened, the next call is normal.
    #[track_caller]
    fn still_works(&self) {
        let result = self.call("echo", json!({"text": "still here"}));
        assert_eq!((result.outcome, result.text.as_str()), (ToolOutcome::Ok, "still here"));
    }
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
    let context =
        CallContext { call_id: "call".into(), timeout: Duration::from_secs(5), cancel: cancel.clone() };
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
