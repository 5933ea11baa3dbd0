//! One call in a sandbox of its own: a fresh store and instance, dropped however the call ends.
//!
//! Three clocks bound it, because each alone has a hole: the epoch callback stops code that computes, the
//! timeout drops a call that waits inside the host, and a runtime of its own keeps both on time whatever the
//! rest of the process does.

mod output;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonschema::Validator;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use wasmtime::component::{HasData, ResourceTable};
use wasmtime::{Engine, ResourceLimiter, Store, Trap, UpdateDeadline};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{FsPerms, HostWallClock, I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::contract::PluginAllPre as PluginPre;
use super::contract::chaski::plugin::types::{CallContext as GuestContext, Content, Failure, Output};
use super::contract::chaski::plugin::{host, http, tools, types};
use super::http::{HttpHost, MAX_REQUESTS};
use super::manifest::Limits;
use super::permissions::{Access, Effective, ToolAccess};
use crate::tools::result::cut_middle;
use crate::tools::{Audit, CallSession, ToolOutcome, ToolResult};
use output::{KeptText, Pipe};

/// Bytes shown to the user while a call runs.
const SHOWN_OUTPUT: usize = 256 << 10;
/// Log lines of one call, and bytes of one line.
const LOG_LINES: usize = 100;
const LOG_BYTES: usize = 1 << 10;
/// Bytes that a guest may hand to the host at once, an answer above all. Past it the guest is stopped before
/// anything is copied: its structured answers go whole into the journal and into later steps.
const HOSTCALL_BYTES: usize = (1 << 20) + HOSTCALL_FRAME;
/// Room for an answer's records around its bytes.
const HOSTCALL_FRAME: usize = 64 << 10;
/// CPython's tables have more than 10,000 elements.
const TABLE_ELEMENTS: usize = 40_000;
/// Bytes of one request for random numbers.
const RANDOM_BYTES: u64 = 1 << 20;

/// Sees what a call puts out while it runs.
pub(super) type Watcher = Box<dyn Fn(&str) + Send>;

/// What a call's other imports need.
#[derive(Default)]
pub(super) struct Reach {
    /// Sends its requests.
    pub(super) http: Option<Arc<HttpHost>>,
    /// The tools that it may call.
    pub(super) tools: ToolAccess,
    /// The run.
    pub(super) session: Option<Arc<dyn CallSession>>,
}

/// What the host keeps for one call.
pub(super) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    limiter: Limiter,
    plugin: String,
    reach: Reach,
    deadline: Instant,
    requests: usize,
    log_lines: usize,
    emitted: KeptText,
    shown: usize,
    observer: Option<Watcher>,
    stdout: Pipe,
    stderr: Pipe,
}

impl State {
    /// What the call put out so far.
    fn put_out(&self) -> String {
        let emitted = self.emitted.text();
        // A guest that emits its output may print it as well.
        let stdout = if emitted.is_empty() { self.stdout.text() } else { String::new() };
        let parts = [emitted, stdout, self.stderr.text()];
        let parts: Vec<&str> =
            parts.iter().map(|part| part.trim_end()).filter(|part| !part.is_empty()).collect();
        parts.join("\n")
    }
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
        let plugin = &self.plugin;
        if self.log_lines > LOG_LINES {
            if self.log_lines == LOG_LINES + 1 {
                tracing::warn!(plugin, "the call logs more than {LOG_LINES} lines; the rest is dropped");
            }
            return;
        }
        let (message, _) = cut_middle(&message, LOG_BYTES);
        let message = message.escape_debug();
        match level {
            host::Level::Debug => tracing::debug!(plugin, "{message}"),
            host::Level::Info => tracing::info!(plugin, "{message}"),
            host::Level::Warn => tracing::warn!(plugin, "{message}"),
            host::Level::Error => tracing::error!(plugin, "{message}"),
        }
    }

    fn emit(&mut self, chunk: String) {
        self.emitted.push(chunk.as_bytes());
        let (Some(observer), Some(room)) = (&self.observer, SHOWN_OUTPUT.checked_sub(self.shown)) else {
            return;
        };
        let shown = &chunk[..chunk.floor_char_boundary(room)];
        observer(shown);
        self.shown += shown.len();
        if shown.len() < chunk.len() {
            self.shown = usize::MAX;
            observer("\n[the rest of the output is not shown]\n");
        }
    }
}

impl http::Host for State {
    async fn send(&mut self, request: http::Request) -> Result<http::Response, http::Error> {
        let session = self.reach.session.clone();
        let audit = move |audit: Audit| match &session {
            Some(session) => session.audit(audit),
            None => tracing::info!(?audit, "a request outside of a run"),
        };
        self.requests += 1;
        let plugin = &self.plugin;
        let refused = match &self.reach.http {
            _ if self.requests > MAX_REQUESTS => format!("one call sends at most {MAX_REQUESTS} requests"),
            Some(host) => return host.send(request, self.deadline, &audit).await,
            None => format!(
                "`{plugin}` was granted no requests; the operator can grant them: `chaski plugin grant {plugin} \
                 http=ORIGIN`"
            ),
        };
        if self.requests <= MAX_REQUESTS + 1 {
            let (what, _) = cut_middle(&request.url, LOG_BYTES);
            let what =
                format!("{} {}", request.method.escape_debug(), what.split('?').next().unwrap_or_default());
            audit(Audit { capability: "http", what, refused: Some(refused.clone()) });
        }
        Err(http::Error::Denied(refused))
    }
}

impl tools::Host for State {
    fn list(&mut self) -> Vec<tools::ToolInfo> {
        let known = self.reach.session.as_ref().map(|session| session.tools()).unwrap_or_default();
        let granted = known.into_iter().filter(|tool| self.reach.tools.covers(&tool.name));
        granted
            .map(|tool| tools::ToolInfo {
                name: tool.name,
                description: tool.description,
                input_schema: tool.input_schema.to_string(),
                output_schema: tool.output_schema.map(|schema| schema.to_string()),
            })
            .collect()
    }

    async fn call(&mut self, name: String, arguments: String) -> Result<tools::Answer, Failure> {
        let plugin = &self.plugin;
        let Some(session) = self.reach.session.clone() else {
            return Err(Failure::Unavailable("tools can be called in a run alone".into()));
        };
        if !self.reach.tools.covers(&name) {
            let shown = name.escape_debug().to_string();
            let refused = format!(
                "`{plugin}` was not granted the tool `{shown}`; the operator can grant it if its manifest asks for \
                 it: `chaski plugin grant {plugin} tools={shown}`"
            );
            self.requests += 1;
            if self.requests <= MAX_REQUESTS {
                session.audit(Audit { capability: "tools", what: shown, refused: Some(refused.clone()) });
            }
            return Err(Failure::Denied(refused));
        }
        let arguments = serde_json::from_str(&arguments)
            .map_err(|error| Failure::InvalidArguments(format!("the arguments are no JSON: {error}")))?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let ToolResult { outcome, text, json, truncated, .. } = session.call(&name, arguments, left).await;
        match outcome {
            ToolOutcome::Ok | ToolOutcome::Error => Ok(tools::Answer {
                text,
                json: json.map(|json| json.to_string()),
                is_error: outcome == ToolOutcome::Error,
                truncated,
            }),
            ToolOutcome::InvalidArguments | ToolOutcome::UnknownTool => Err(Failure::InvalidArguments(text)),
            ToolOutcome::Denied => Err(Failure::Denied(text)),
            ToolOutcome::Overloaded | ToolOutcome::Unavailable => Err(Failure::Unavailable(text)),
            ToolOutcome::Timeout
            | ToolOutcome::MemoryLimit
            | ToolOutcome::Trapped
            | ToolOutcome::Cancelled => Err(Failure::Internal(text)),
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
    /// What its other imports need.
    pub(super) reach: Reach,
    /// Holds structured answers to what the tool promised.
    pub(super) answers: Option<&'a Validator>,
}

/// How a guest's function ended.
pub(super) enum Ended<T> {
    Returned(T),
    Killed(String),
}

/// A store with its bounds set.
struct Sandbox {
    store: Store<State>,
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
    let (stdout, stderr) = (Pipe::default(), Pipe::default());
    let mut wasi = WasiCtxBuilder::new();
    wasi.stdin(MemoryInputPipe::new(Vec::new()))
        .stdout(stdout.clone())
        .stderr(stderr.clone())
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
    for name in &effective.env {
        if let Ok(value) = std::env::var(name) {
            wasi.env(name, value);
        }
    }
    for folder in &effective.folders {
        let permissions = match folder.access {
            Access::Read => FsPerms::ReadOnly,
            Access::ReadWrite => FsPerms::ReadWrite,
        };
        wasi.preopened_dir(&folder.host, &folder.guest, permissions)?;
    }
    let state = State {
        wasi: wasi.build(),
        table: ResourceTable::new(),
        limiter: Limiter { most: memory, used: 0, refused: false },
        plugin: plugin.to_owned(),
        reach: Reach::default(),
        deadline: Instant::now() + timeout,
        requests: 0,
        log_lines: 0,
        emitted: KeptText::default(),
        shown: 0,
        observer: None,
        stdout,
        stderr,
    };
    let deadline = state.deadline;
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(HOSTCALL_BYTES);
    let cancel = cancel.clone();
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        let over = Instant::now() >= deadline || cancel.is_cancelled();
        Ok(if over { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
    });
    Ok(Sandbox { store, deadline })
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
    sandbox.store.data_mut().observer = call.observer;
    sandbox.store.data_mut().reach = call.reach;
    let context = GuestContext {
        call_id: call.call_id.to_owned(),
        deadline_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        max_output_bytes: u32::try_from(call.limits.output).unwrap_or(u32::MAX),
    };
    let short = call.tool.rsplit('.').next().unwrap_or(call.tool);
    let Sandbox { store, deadline } = &mut sandbox;
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
    let (outcome, why) = match ended {
        Ok(Ok(Ok(output))) => return answer(call.tool, output, call.answers, call.limits.output),
        Ok(Ok(Err(failure))) => return refusal(call.tool, failure, call.limits.output),
        Ok(Err(error)) => {
            tracing::debug!(tool = call.tool, error = %format!("{error:#}"), "a call ended early");
            let outcome = outcome_of(&error, store.data().limiter.refused, *deadline, call.cancel);
            (outcome, breakdown(&error))
        }
        Err(outcome) => (outcome, String::new()),
    };
    killed(call.tool, outcome, &why, timeout, call.limits, &store.data().put_out())
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

/// How a guest broke down, in words that help whoever has to repair it.
fn breakdown(error: &wasmtime::Error) -> String {
    // The engine's error for this has no public type, only its words.
    let too_much = |cause: &(dyn std::error::Error + 'static)| {
        cause.to_string().contains("fuel allocated for hostcalls")
    };
    match (error.downcast_ref::<Trap>(), error.downcast_ref::<I32Exit>()) {
        (Some(Trap::StackOverflow), _) => "it called itself too deeply".into(),
        // Compilers keep a second stack in the guest's memory; where that one ends, memory does.
        (Some(Trap::MemoryOutOfBounds), _) => "it left its memory, or called itself too deeply".into(),
        (Some(trap), _) => trap.to_string(),
        (None, Some(I32Exit(code))) => format!("it exited with code {code} instead of answering"),
        (None, None) if error.chain().any(too_much) => "it answered with more than 1 MiB".into(),
        (None, None) => error.root_cause().to_string(),
    }
}

/// What the model reads of a call that was stopped: why, and what it had put out by then.
fn killed(
    tool: &str,
    outcome: ToolOutcome,
    breakdown: &str,
    timeout: Duration,
    limits: &Limits,
    before: &str,
) -> ToolResult {
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
        _ => format!("The tool `{tool}` broke down: {breakdown}."),
    };
    let (before, truncated) = cut_middle(before, limits.output);
    let text = if before.is_empty() { why } else { format!("{why} Its output until then:\n{before}") };
    ToolResult { truncated, ..ToolResult::failed(outcome, text) }
}

/// A guest's answer: its texts joined, its JSON kept, all cut to `limit` bytes for the model.
///
/// Structured answers are checked against the schema that the tool promised, because a workflow was checked
/// against it before it began.
fn answer(tool: &str, output: Output, answers: Option<&Validator>, limit: usize) -> ToolResult {
    let broke = |why: String| {
        let (why, truncated) = cut_middle(&why, limit);
        let text = format!("The tool `{tool}` broke down: {why}.");
        ToolResult { truncated, ..ToolResult::failed(ToolOutcome::Trapped, text) }
    };
    let mut texts = Vec::new();
    let mut values = Vec::new();
    for content in output.content {
        match content {
            Content::Text(text) => texts.push(text),
            Content::Json(text) => match serde_json::from_str::<Value>(&text) {
                Ok(value) => values.push(value),
                Err(error) => return broke(format!("it answered with JSON that is none: {error}")),
            },
            Content::Blob((kind, bytes)) => texts.push(format!("[{} bytes of {kind}]", bytes.len())),
        }
    }
    let json = if values.len() > 1 { Some(Value::Array(values)) } else { values.pop() };
    // A tool that says no does not have to keep its promise.
    if let (Some(value), Some(schema), false) = (&json, answers, output.is_error)
        && let Err(fault) = schema.validate(value)
    {
        let place = fault.instance_path();
        return broke(format!("its answer does not fit its own schema, at `{place}`: {fault}"));
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
