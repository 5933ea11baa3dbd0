//! One call in a sandbox of its own: a fresh store and instance, dropped however the call ends.
//!
//! Three clocks bound it, because each alone has a hole: the epoch callback stops code that computes, the
//! timeout drops a call that waits inside the host, and a runtime of its own keeps both on time whatever the
//! rest of the process does.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{HasData, ResourceTable};
use wasmtime::{Engine, ResourceLimiter, Store, Trap, UpdateDeadline};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{FsPerms, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::contract::PluginPre;
use super::contract::chaski::plugin::types::{CallContext as GuestContext, Content, Failure, Output};
use super::contract::chaski::plugin::{host, types};
use super::manifest::Limits;
use super::permissions::{Access, Effective};
use crate::tools::result::cut_middle;
use crate::tools::{ToolOutcome, ToolResult};

/// Bytes kept of what a call emits or prints, to be told when it is killed.
const KEPT_OUTPUT: usize = 16 << 10;
/// Bytes shown to the user while a call runs.
const SHOWN_OUTPUT: usize = 256 << 10;
/// Log lines of one call, and bytes of one line.
const LOG_LINES: usize = 100;
const LOG_BYTES: usize = 1 << 10;
/// Bytes that one host call may take out of the guest: more than any honest answer.
const HOSTCALL_BYTES: usize = 8 << 20;
/// CPython's tables have more than 10,000 elements.
const TABLE_ELEMENTS: usize = 40_000;
/// Bytes of one request for random numbers.
const RANDOM_BYTES: u64 = 1 << 20;

/// Sees what a call puts out while it runs.
pub(super) type Watcher = Box<dyn Fn(&str) + Send>;

/// What the host keeps for one call.
pub(super) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    limiter: Limiter,
    plugin: String,
    log_lines: usize,
    emitted: Arc<Mutex<Emitted>>,
}

/// What a call put out so far.
#[derive(Default)]
struct Emitted {
    kept: String,
    shown: usize,
    observer: Option<Watcher>,
}

/// Counts memory over all of a call's instances.
struct Limiter {
    most: usize,
    used: usize,
    refused: bool,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _most: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.most {
            self.refused = true;
            return Ok(false);
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _most: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        8
    }

    fn memories(&self) -> usize {
        4
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl types::Host for State {}

impl host::Host for State {
    fn log(&mut self, level: host::Level, message: String) {
        self.log_lines += 1;
        if self.log_lines > LOG_LINES {
            return;
        }
        let (message, _) = cut_middle(&message, LOG_BYTES);
        let (plugin, message) = (&self.plugin, message.escape_debug());
        match level {
            host::Level::Debug => tracing::debug!(plugin, "{message}"),
            host::Level::Info => tracing::info!(plugin, "{message}"),
            host::Level::Warn => tracing::warn!(plugin, "{message}"),
            host::Level::Error => tracing::error!(plugin, "{message}"),
        }
    }

    fn emit(&mut self, chunk: String) {
        let mut emitted = self.emitted.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let room = KEPT_OUTPUT.saturating_sub(emitted.kept.len());
        let kept = &chunk[..chunk.floor_char_boundary(room)];
        emitted.kept.push_str(kept);
        if emitted.shown < SHOWN_OUTPUT {
            emitted.shown += chunk.len();
            if let Some(observer) = &emitted.observer {
                observer(&chunk);
            }
        }
    }
}

/// How `add_to_linker` finds the host's part of a store.
pub(super) struct HostPart;

impl HasData for HostPart {
    type Data<'a> = &'a mut State;
}

/// Time stands still for a plugin that was not granted the clock.
struct FixedClock;

impl HostWallClock for FixedClock {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// One call, as the sandbox needs it.
pub(super) struct Call<'a> {
    pub(super) plugin: &'a str,
    pub(super) tool: &'a str,
    pub(super) arguments: String,
    pub(super) call_id: &'a str,
    pub(super) limits: &'a Limits,
    pub(super) timeout: Duration,
    pub(super) effective: &'a Effective,
    pub(super) cancel: &'a CancellationToken,
    pub(super) observer: Option<Watcher>,
}

/// How a guest's function ended.
pub(super) enum Ended<T> {
    Returned(T),
    Killed(String),
}

/// A store with its bounds set, and its output pipe.
struct Sandbox {
    store: Store<State>,
    printed: MemoryOutputPipe,
    emitted: Arc<Mutex<Emitted>>,
    deadline: Instant,
}

fn sandbox(
    engine: &Engine,
    plugin: &str,
    memory: usize,
    timeout: Duration,
    effective: &Effective,
    cancel: &CancellationToken,
) -> wasmtime::Result<Sandbox> {
    let printed = MemoryOutputPipe::new(KEPT_OUTPUT);
    let mut wasi = WasiCtxBuilder::new();
    wasi.stdin(MemoryInputPipe::new(Vec::new()))
        .stdout(printed.clone())
        .stderr(printed.clone())
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(RANDOM_BYTES);
    if !effective.random {
        wasi.secure_random(ChaCha8Rng::seed_from_u64(0)).insecure_random(ChaCha8Rng::seed_from_u64(0));
        wasi.insecure_random_seed(0);
    }
    if !effective.wall_clock {
        wasi.wall_clock(FixedClock);
    }
    for folder in &effective.folders {
        let permissions = match folder.access {
            Access::Read => FsPerms::ReadOnly,
            Access::ReadWrite => FsPerms::ReadWrite,
        };
        wasi.preopened_dir(&folder.host, &folder.guest, permissions)?;
    }
    let emitted = Arc::new(Mutex::new(Emitted::default()));
    let state = State {
        wasi: wasi.build(),
        table: ResourceTable::new(),
        limiter: Limiter { most: memory, used: 0, refused: false },
        plugin: plugin.to_owned(),
        log_lines: 0,
        emitted: emitted.clone(),
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(HOSTCALL_BYTES);
    let deadline = Instant::now() + timeout;
    let cancel = cancel.clone();
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        let over = Instant::now() >= deadline || cancel.is_cancelled();
        Ok(if over { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
    });
    Ok(Sandbox { store, printed, emitted, deadline })
}

/// What the plugin says its tools are. It is asked with nothing granted.
pub(super) async fn list_tools(
    engine: &Engine,
    plugin: &str,
    code: &PluginPre<State>,
    memory: usize,
    timeout: Duration,
) -> Ended<Vec<types::ToolSpec>> {
    let cancel = CancellationToken::new();
    let nothing = Effective::default();
    let mut sandbox = match sandbox(engine, plugin, memory, timeout, &nothing, &cancel) {
        Ok(sandbox) => sandbox,
        Err(error) => return Ended::Killed(super::load::first_line(&error)),
    };
    let deadline = sandbox.deadline;
    let work = async {
        let instance = code.instantiate_async(&mut sandbox.store).await?;
        instance.chaski_plugin_tool().call_list_tools(&mut sandbox.store).await
    };
    match tokio::time::timeout_at(deadline.into(), work).await {
        Ok(Ok(tools)) => Ended::Returned(tools),
        Ok(Err(error)) => Ended::Killed(super::load::first_line(&error)),
        Err(_) => Ended::Killed(format!("no answer within {timeout:?}")),
    }
}

/// Runs one call to its end.
pub(super) async fn call(engine: &Engine, code: &PluginPre<State>, call: Call<'_>) -> ToolResult {
    let timeout = call.timeout.min(call.limits.timeout);
    let made = sandbox(engine, call.plugin, call.limits.memory, timeout, call.effective, call.cancel);
    let mut sandbox = match made {
        Ok(sandbox) => sandbox,
        Err(error) => {
            tracing::error!(plugin = call.plugin, error = %format!("{error:#}"), "a sandbox could not be made");
            let text =
                format!("The tool `{}` is not available: a folder it needs cannot be opened.", call.tool);
            return ToolResult::failed(ToolOutcome::Unavailable, text);
        }
    };
    lock(&sandbox.emitted).observer = call.observer;
    let context = GuestContext {
        call_id: call.call_id.to_owned(),
        deadline_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        max_output_bytes: u32::try_from(call.limits.output).unwrap_or(u32::MAX),
    };
    let short = call.tool.rsplit('.').next().unwrap_or(call.tool);
    let Sandbox { store, printed, emitted, deadline } = &mut sandbox;
    let work = async {
        let instance = code.instantiate_async(&mut *store).await?;
        instance.chaski_plugin_tool().call_call_tool(&mut *store, short, &call.arguments, &context).await
    };
    let late = *deadline + Duration::from_millis(50);
    let ended = tokio::select! {
        biased;
        ended = work => Ok(ended),
        () = call.cancel.cancelled() => Err(ToolOutcome::Cancelled),
        () = tokio::time::sleep_until(late.into()) => Err(ToolOutcome::Timeout),
    };
    let outcome = match ended {
        Ok(Ok(Ok(output))) => return answer(output, call.limits.output),
        Ok(Ok(Err(failure))) => return refusal(call.tool, failure, call.limits.output),
        Ok(Err(error)) => {
            tracing::debug!(tool = call.tool, error = %format!("{error:#}"), "a call ended early");
            outcome_of(&error, store.data().limiter.refused, *deadline, call.cancel)
        }
        Err(outcome) => outcome,
    };
    let mut before = lock(emitted).kept.clone();
    if before.is_empty() {
        before = String::from_utf8_lossy(&printed.contents()).into_owned();
    }
    killed(call.tool, outcome, timeout, call.limits, &before)
}

fn lock(emitted: &Mutex<Emitted>) -> std::sync::MutexGuard<'_, Emitted> {
    emitted.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn outcome_of(
    error: &wasmtime::Error,
    memory_refused: bool,
    deadline: Instant,
    cancel: &CancellationToken,
) -> ToolOutcome {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) if cancel.is_cancelled() => ToolOutcome::Cancelled,
        Some(Trap::Interrupt) => ToolOutcome::Timeout,
        _ if memory_refused => ToolOutcome::MemoryLimit,
        _ if Instant::now() >= deadline => ToolOutcome::Timeout,
        _ => ToolOutcome::Trapped,
    }
}

/// What the model reads of a call that was stopped: why, and what it had put out by then.
fn killed(tool: &str, outcome: ToolOutcome, timeout: Duration, limits: &Limits, before: &str) -> ToolResult {
    let why = match outcome {
        ToolOutcome::Timeout => {
            format!("The tool `{tool}` did not finish within {timeout:?} and was stopped.")
        }
        ToolOutcome::MemoryLimit => {
            format!(
                "The tool `{tool}` needed more than its {} MiB of memory and was stopped.",
                limits.memory >> 20
            )
        }
        ToolOutcome::Cancelled => format!("The call of `{tool}` was cancelled."),
        _ => format!("The tool `{tool}` broke down."),
    };
    let (before, truncated) = cut_middle(before, limits.output);
    let text = if before.is_empty() { why } else { format!("{why} Its output until then:\n{before}") };
    ToolResult { truncated, ..ToolResult::failed(outcome, text) }
}

/// A guest's answer: its texts joined, its JSON kept, all cut to `limit` bytes for the model.
fn answer(output: Output, limit: usize) -> ToolResult {
    let mut texts = Vec::new();
    let mut json = None;
    for content in output.content {
        match content {
            Content::Text(text) => texts.push(text),
            Content::Json(text) => match serde_json::from_str::<Value>(&text) {
                Ok(value) => json = Some(value),
                Err(error) => {
                    let text = format!("The tool answered with JSON that is none: {error}.");
                    return ToolResult::failed(ToolOutcome::Error, text);
                }
            },
            Content::Blob((kind, bytes)) => texts.push(format!("[{} bytes of {kind}]", bytes.len())),
        }
    }
    if texts.is_empty() {
        texts.extend(json.as_ref().map(Value::to_string));
    }
    let (text, cut) = cut_middle(&texts.join("\n"), limit);
    let outcome = if output.is_error { ToolOutcome::Error } else { ToolOutcome::Ok };
    ToolResult { json, truncated: cut || output.truncated, ..ToolResult::failed(outcome, text) }
}

fn refusal(tool: &str, failure: Failure, limit: usize) -> ToolResult {
    let (outcome, reason) = match failure {
        Failure::InvalidArguments(reason) => (ToolOutcome::InvalidArguments, reason),
        Failure::Denied(reason) => (ToolOutcome::Denied, reason),
        Failure::Unavailable(reason) => (ToolOutcome::Unavailable, reason),
        Failure::Internal(reason) => (ToolOutcome::Error, reason),
    };
    let (reason, truncated) = cut_middle(&reason, limit);
    ToolResult {
        truncated,
        ..ToolResult::failed(outcome, format!("The tool `{tool}` did not run: {reason}"))
    }
}
