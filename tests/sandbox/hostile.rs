//! Plugins that lie about themselves: broken components, changed ones, forged answers, races.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chaski::cli::display::escape::escape_control;
use chaski::plugins::host::{HostOptions, PluginError, PluginHost};
use chaski::plugins::lock;
use chaski::plugins::permissions::Access;
use chaski::tools::ToolOutcome;
use serde_json::json;

use super::{LIMITS, Probe, probe, refused};
use crate::support::config;

/// `(module)` with its version: code that is no component.
const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

#[test]
fn a_component_that_was_cut_is_refused() {
    let whole = std::fs::read(probe().join("component.wasm")).expect("the probe");
    for part in [2, 3, 10, 100] {
        refused(&whole[..whole.len() - whole.len() / part], LIMITS, "component.wasm`: it ");
    }
    refused(&[], LIMITS, "component.wasm`: it ");
}

#[test]
fn bytes_by_chance_are_refused() {
    let mut state = 1u64;
    let mut byte = || {
        // A generator of Knuth's: the test is about bytes that mean nothing.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for head in [&b""[..], b"\0asm\x0d\0\x01\0", b"\0asm\x01\0\0\0"] {
        let bytes: Vec<u8> = head.iter().copied().chain((0..4096).map(|_| byte())).collect();
        refused(&bytes, LIMITS, "it is no component that can be run here");
    }
}

#[test]
fn a_damaged_component_is_refused_or_runs_as_bounded_as_any() {
    let whole = std::fs::read(probe().join("component.wasm")).expect("the probe");
    for at in [9, whole.len() / 4, whole.len() / 2] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("component.wasm");
        std::fs::write(&file, damaged).expect("writes");
        if let Ok(probe) = Probe::load(&file, LIMITS, "", None) {
            probe.call("echo", json!({"text": "x"}));
        }
    }
    Probe::new("", None).still_works();
}

#[test]
fn a_core_module_is_no_plugin() {
    refused(CORE_MODULE, LIMITS, "it is no component that can be run here");
}

/// The probe installed in a folder of its own, pinned, and a host that asks for pins.
struct Installed {
    plugins: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Installed {
    fn new() -> Self {
        let plugins = tempfile::tempdir().expect("a folder");
        let dir = plugins.path().join("probe");
        std::fs::create_dir(&dir).expect("a folder");
        for name in ["plugin.toml", "component.wasm"] {
            std::fs::copy(probe().join(name), dir.join(name)).expect("copies");
        }
        lock::pin(&plugins.path().join(lock::FILE_NAME), "probe", &dir).expect("it is writable");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { plugins, runtime }
    }

    fn load(&self) -> Result<(), PluginError> {
        let host = PluginHost::new(HostOptions {
            cache_dir: config().cache_dir.clone(),
            data_dir: self.plugins.path().join("data"),
            roots: Default::default(),
            output: Arc::new(|_, _| {}),
            grants: Default::default(),
            settings_dir: None,
            lock: Some(self.plugins.path().join(lock::FILE_NAME)),
        })?;
        self.runtime.block_on(host.load(&self.plugins.path().join("probe"))).map(drop)
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.plugins.path().join(name)
    }

    #[track_caller]
    fn changed(&self, what: &str) -> String {
        let error = self.load().expect_err("it is another plugin now");
        assert!(error.hint().is_some_and(|hint| hint.contains("chaski plugin update probe")));
        let text = error.to_string();
        assert!(text.contains(&format!("the {what} of plugin `probe` changed")), "{text}");
        text
    }
}

#[test]
fn a_component_that_changes_after_it_was_installed_does_not_load() {
    let installed = Installed::new();
    installed.load().expect("it is what was installed");
    let before =
        chaski::digest::sha256_hex(&std::fs::read(installed.file("probe/component.wasm")).expect("there"));
    std::fs::write(installed.file("probe/component.wasm"), CORE_MODULE).expect("writes");
    let text = installed.changed("component");
    assert!(text.contains(&before) && text.contains(&chaski::digest::sha256_hex(CORE_MODULE)), "{text}");
}

#[test]
fn a_manifest_that_asks_for_more_later_does_not_load() {
    let installed = Installed::new();
    let manifest = std::fs::read_to_string(installed.file("probe/plugin.toml")).expect("there");
    let more = manifest.replace("[permissions]", "[permissions]\nrandom = true");
    std::fs::write(installed.file("probe/plugin.toml"), more).expect("writes");
    installed.changed("manifest");
}

#[test]
fn a_tool_list_that_is_another_than_the_first_does_not_load() {
    let installed = Installed::new();
    installed.load().expect("the first list is pinned");
    let file = installed.file(lock::FILE_NAME);
    let pins = lock::read(&file).expect("readable");
    assert!(pins["probe"].tools.is_some());
    lock::change(&file, |pins| pins.get_mut("probe").expect("pinned").tools = Some("0".repeat(64)))
        .expect("writable");
    installed.changed("tool list");
}

#[test]
fn a_plugin_that_was_only_put_there_does_not_load() {
    let installed = Installed::new();
    std::fs::remove_file(installed.file(lock::FILE_NAME)).expect("it was there");
    let error = installed.load().expect_err("nobody installed it").to_string();
    assert!(error.contains("plugin `probe` was not installed"), "{error}");
}

#[test]
#[cfg(unix)]
fn a_cache_that_others_can_write_to_is_refused_and_a_damaged_entry_is_made_again() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let load = || {
        let host = PluginHost::new(HostOptions {
            cache_dir: home.path().join("cache"),
            data_dir: home.path().join("data"),
            roots: Default::default(),
            output: Arc::new(|_, _| {}),
            grants: Default::default(),
            settings_dir: None,
            lock: None,
        })?;
        runtime.block_on(host.load(probe())).map(drop)
    };
    load().expect("it is compiled");
    let components = home.path().join("cache/components");
    let entry = std::fs::read_dir(&components)
        .expect("lists")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "cwasm"))
        .expect("an entry");
    let whole = std::fs::read(&entry).expect("reads");
    let mut poisoned = whole.clone();
    let middle = poisoned.len() / 2;
    poisoned[middle..middle + 64].fill(0xcc);
    std::fs::write(&entry, &poisoned).expect("writes");
    load().expect("it is compiled again");
    assert_ne!(std::fs::read(&entry).expect("reads"), poisoned, "what was poisoned is gone");
    std::fs::set_permissions(&components, std::fs::Permissions::from_mode(0o777)).expect("changes");
    let error = load().expect_err("anybody could write code there").to_string();
    assert!(error.contains("is not a folder that only you can write to"), "{error}");
}

const WRITABLE: &str =
    "fs = [{ host = \"root:workspace\", guest = \"/workspace\", access = \"read-write\" }]";

#[test]
#[cfg(unix)]
fn a_link_that_changes_while_it_is_followed_does_not_lead_out() {
    let outside = tempfile::tempdir().expect("a folder");
    std::fs::write(outside.path().join("file"), "outside").expect("writes");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("real")).expect("a folder");
    std::fs::write(folder.path().join("real/file"), "inside").expect("writes");
    let (turn, next) = (folder.path().join("turn"), folder.path().join("next"));
    let stop = Arc::new(AtomicBool::new(false));
    let racing = {
        let (stop, real, outside) = (stop.clone(), folder.path().join("real"), outside.path().to_owned());
        std::thread::spawn(move || {
            for target in [Path::new("real"), &outside, &real].into_iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let _ = std::fs::remove_file(&next);
                std::os::unix::fs::symlink(target, &next).expect("links");
                std::fs::rename(&next, &turn).expect("moves");
            }
        })
    };
    let probe = Probe::new(WRITABLE, Some((folder.path(), Access::ReadWrite)));
    let texts: Vec<String> =
        (0..400).map(|_| probe.call("read_file", json!({"path": "/workspace/turn/file"})).text).collect();
    stop.store(true, Ordering::Relaxed);
    racing.join().expect("it ends");
    assert!(texts.iter().all(|text| text != "outside"));
    assert!(texts.iter().any(|text| text == "inside"), "{:?}", texts.first());
}

#[test]
fn a_guest_cannot_link_or_move_its_way_out() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.txt"), "content").expect("writes");
    let probe = Probe::new(WRITABLE, Some((folder.path(), Access::ReadWrite)));
    let outward = probe.call("link", json!({"path": "/etc/passwd", "text": "/workspace/out"}));
    let through = probe.call("read_file", json!({"path": "/workspace/out"}));
    assert!(through.is_error() && !through.text.contains("root:"), "{} {}", outward.text, through.text);
    let climbing = probe.call("link", json!({"path": "../../../../etc/passwd", "text": "/workspace/up"}));
    let through = probe.call("read_file", json!({"path": "/workspace/up"}));
    assert!(through.is_error() && !through.text.contains("root:"), "{} {}", climbing.text, through.text);
    for target in ["/tmp/moved", "/workspace/../moved", "/workspace/../../moved"] {
        let moved = probe.call("rename", json!({"path": "/workspace/a.txt", "text": target}));
        assert!(moved.is_error(), "{target}: {}", moved.text);
    }
    let inside = probe.call("rename", json!({"path": "/workspace/a.txt", "text": "/workspace/b.txt"}));
    assert_eq!(inside.text, "renamed");
}

#[test]
fn there_are_no_processes() {
    let result = Probe::new("", None).call("process", json!({"path": "/bin/true"}));
    assert_eq!(result.outcome, ToolOutcome::Error, "{}", result.text);
}

#[test]
fn an_answer_that_looks_like_something_else_is_an_answer() {
    let result = Probe::new("", None).call("forge", json!({}));
    assert_eq!(result.outcome, ToolOutcome::Ok);
    assert!(result.text.contains("<|im_start|>system"), "it is told as it stands: {}", result.text);
    assert!(!escape_control(&result.text).contains('\u{1b}'));
}
