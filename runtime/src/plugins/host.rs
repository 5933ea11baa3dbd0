//! The wasmtime engine that all plugins share, and the plugins loaded into it.

mod queue;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use jsonschema::Validator;
use serde_json::Value;
use tokio::sync::Semaphore;
use wasmtime::component::Linker;
use wasmtime::{Config, Engine};

use super::contract::chaski::plugin::types::{Effect as GuestEffect, ToolSpec};
use super::contract::{PluginAll as Contract, PluginAllPre as PluginPre};
pub use super::error::PluginError;
use super::grant::Grant;
use super::http::HttpHost;
use super::load;
use super::lock::{self, Pin};
use super::manifest::Manifest;
use super::permissions::{Effective, Roots, check_apart, check_roots, weakest_claim};
use super::sandbox::{self, Call, Ended, HostPart, Reach, State};
use crate::config::Config as Settings;
use crate::tools::arguments::check_guaranteed;
use crate::tools::{CallContext, Effect, Tool, ToolDefinition, ToolOutcome, ToolResult};
use queue::{NoTurn, Queue};

/// How often running guests are asked whether their time is over, and let others have the processor. A call
/// waits for one such slice of each endless neighbour, so 10 ms were too long with four of them on two cores.
const TICK: Duration = Duration::from_millis(1);
/// Calls at one time for each processor: more than it can compute, so that a few that never end do not hold up
/// the rest. A plugin's own `concurrency` bounds the large ones.
const TURNS_PER_PROCESSOR: usize = 32;
/// Bytes of native stack that a guest may use.
const STACK_BYTES: usize = 1 << 20;
/// Time that a plugin has to say which tools it has.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);
/// Tools of one plugin. Each costs every prompt its description.
const MAX_TOOLS: usize = 64;
/// Bytes of a tool's description, and of its schema.
const MAX_DESCRIPTION: usize = 2 << 10;
const MAX_SCHEMA: usize = 32 << 10;

/// Called with the tool's name and text that a running call emitted.
pub type OutputObserver = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// What a plugin host is built from.
#[derive(Clone)]
pub struct HostOptions {
    /// Compiled components are kept here.
    pub cache_dir: PathBuf,
    /// Plugins' private folders are kept below here.
    pub data_dir: PathBuf,
    /// The folders of this run.
    pub roots: Roots,
    /// Sees what running calls emit.
    pub output: OutputObserver,
    /// What the operator granted each plugin, by its id.
    pub grants: BTreeMap<String, Grant>,
    /// The folder with the operator's settings: no root may cover it.
    pub settings_dir: Option<PathBuf>,
    /// Where plugins are pinned; `None` loads one whatever it is, to look at it.
    pub lock: Option<PathBuf>,
}

impl HostOptions {
    /// The options that follow from the settings.
    pub fn of(config: &Settings, roots: Roots, output: OutputObserver) -> Self {
        Self {
            cache_dir: config.cache_dir.clone(),
            data_dir: config.data_dir.clone(),
            roots,
            output,
            grants: config.grants.clone(),
            settings_dir: config.user_file.parent().map(Path::to_owned),
            lock: Some(config.plugins_dir.join(lock::FILE_NAME)),
        }
    }
}

/// The wasmtime engine, its ticker and its own tokio runtime. They end with the host and the last of its tools:
/// a call must never run without the ticker that stops it.
pub struct PluginHost {
    options: HostOptions,
    shared: Arc<Shared>,
}

/// What running calls need of the host.
struct Shared {
    engine: Engine,
    runtime: Option<tokio::runtime::Runtime>,
    queue: Queue,
    output: OutputObserver,
    _ticker: Ticker,
}

/// A plugin ready to be called.
pub struct LoadedPlugin {
    /// What it says about itself.
    pub manifest: Manifest,
    /// What it may touch in this run.
    pub effective: Effective,
    /// SHA-256 of its component.
    pub digest: String,
    /// What it is, for a lock file.
    pub pin: Pin,
    /// Its tools, named `plugin.tool`.
    pub tools: Vec<Arc<dyn Tool>>,
}

impl PluginHost {
    /// A host with no plugin loaded.
    ///
    /// # Errors
    /// [`PluginError::UnsafeRoot`] when a root would let plugins write to chaski's own files.
    pub fn new(options: HostOptions) -> Result<Self, PluginError> {
        check_roots(&options.roots, &[&options.cache_dir, &options.data_dir])?;
        if let Some(settings) = &options.settings_dir {
            check_apart(&options.roots, settings)?;
        }
        let host = |error: String| PluginError::Host(error);
        let mut config = Config::new();
        config.epoch_interruption(true).max_wasm_stack(STACK_BYTES);
        // Proposals that no guest needs are so much less code to trust. Multiple memories are needed: a component
        // may be made of several modules (QuickJS is), and wasmtime joins them by an adapter that sees the memories
        // of both sides.
        config.wasm_relaxed_simd(false).wasm_tail_call(false).wasm_memory64(false);
        let engine = Engine::new(&config).map_err(|error| host(load::first_line(&error)))?;
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("chaski-sandbox")
            .worker_threads(threads)
            // Guests yield every tick; with the usual 61 a timer would be looked at after 610 ms.
            .event_interval(3)
            // New calls come from outside and go first: with the usual rule each would wait for a slice of a
            // guest that never ends. Those only wait while new ones keep coming, whose number is bounded.
            .global_queue_interval(1)
            .enable_all()
            .build()
            .map_err(|error| host(error.to_string()))?;
        let ticker = Ticker::start(&engine).map_err(|error| host(error.to_string()))?;
        let (queue, output) = (Queue::new(threads * TURNS_PER_PROCESSOR), options.output.clone());
        let shared = Arc::new(Shared { engine, runtime: Some(runtime), queue, output, _ticker: ticker });
        Ok(Self { options, shared })
    }

    /// Loads the plugin in `dir` (its `plugin.toml` and component; compiled once, then from the cache).
    ///
    /// # Errors
    /// Whatever is wrong with the manifest, the component, or the tools it lists.
    pub async fn load(&self, dir: &Path) -> Result<LoadedPlugin, PluginError> {
        let manifest = Manifest::read(dir)?;
        let pin = self.pin(&manifest.id)?;
        let grant = self.options.grants.get(&manifest.id).cloned().unwrap_or_default();
        let effective = Effective::of(&manifest, &self.options.roots, &self.options.data_dir)
            .with_grant(&manifest, &grant);
        effective.create_private_folders()?;
        let file = dir.join(&manifest.component);
        let (engine, cache, id) =
            (self.shared.engine.clone(), self.options.cache_dir.clone(), manifest.id.clone());
        let (dir, path, asked, pinned) = (dir.to_owned(), file.clone(), manifest.clone(), pin.clone());
        let loading = tokio::task::spawn_blocking(move || {
            let mut found = None;
            let accept = |component: &str| {
                let is = found.insert(Pin::with_component(&dir, &asked, component.to_owned())?);
                pinned.as_ref().map_or(Ok(()), |pin| pin.check(&asked.id, is))
            };
            let expected = pinned.as_ref().map(|pin| pin.component.as_str());
            let compiled = load::load(&engine, &id, &path, &cache, expected, accept)?;
            Ok((compiled, found.expect("a component that loaded was accepted")))
        });
        let (compiled, mut found) = loading.await.map_err(|error| PluginError::Host(error.to_string()))??;

        let fault = |reason: String| PluginError::Component {
            plugin: manifest.id.clone(),
            file: file.clone(),
            reason,
            hint: Some(
                "a plugin exports `chaski:plugin/tool` and imports no more than `host` and WASI 0.2".into(),
            ),
        };
        load::check_world(&self.shared.engine, &compiled.component, &manifest.permissions).map_err(fault)?;
        let mut linker: Linker<State> = Linker::new(&self.shared.engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)
            .map_err(|error| fault(load::first_line(&error)))?;
        // A component that does not import one of these does not notice it.
        Contract::add_to_linker::<State, HostPart>(&mut linker, |state| state)
            .map_err(|error| fault(load::first_line(&error)))?;
        let code = linker
            .instantiate_pre(&compiled.component)
            .and_then(PluginPre::new)
            .map_err(|error| fault(load::first_line(&error)))?;

        let plugin = Arc::new(Plugin {
            id: manifest.id.clone(),
            manifest: manifest.clone(),
            effective: effective.clone(),
            code,
            http: HttpHost::new(&manifest.id, &effective)?.map(Arc::new),
            turns: Arc::new(Semaphore::new(manifest.limits.concurrency)),
            shared: self.shared.clone(),
        });
        let listing = plugin.clone();
        let listed = self
            .shared
            .spawn(async move {
                let memory = listing.manifest.limits.memory;
                sandbox::list_tools(&listing.shared.engine, &listing.id, &listing.code, memory, LIST_TIMEOUT)
                    .await
            })
            .await?;
        let specs = match listed {
            Ended::Returned(specs) => specs,
            Ended::Killed(reason) => return Err(PluginError::NoTools { plugin: manifest.id, reason }),
        };
        if specs.is_empty() || specs.len() > MAX_TOOLS {
            let reason = format!("it has {} tools; a plugin has 1 to {MAX_TOOLS}", specs.len());
            return Err(PluginError::NoTools { plugin: manifest.id, reason });
        }
        let mut tools: Vec<Arc<dyn Tool>> = Vec::new();
        for spec in specs {
            let (definition, answers) = definition(&manifest, spec)?;
            if tools.iter().any(|tool| tool.definition().name == definition.name) {
                let (plugin, tool) = (manifest.id, definition.name);
                return Err(PluginError::Tool { plugin, tool, reason: "it is listed twice".into() });
            }
            let (definition, answers) = (Arc::new(definition), answers.map(Arc::new));
            tools.push(Arc::new(PluginTool { definition, answers, plugin: plugin.clone() }));
        }
        found.tools = Some(lock::tools_digest(tools.iter().map(|tool| tool.definition())));
        if let (Some(file), Some(pin)) = (&self.options.lock, pin) {
            pin.check(&manifest.id, &found)?;
            if pin.tools.is_none() {
                let tools = found.tools.clone();
                lock::change(file, |pins| {
                    if let Some(pin) =
                        pins.get_mut(&manifest.id).filter(|pin| pin.component == found.component)
                    {
                        pin.tools = tools;
                    }
                })?;
            }
        }
        Ok(LoadedPlugin { manifest, effective, digest: compiled.digest, pin: found, tools })
    }

    /// Loads several plugins at the same time; the first that cannot be loaded is the error.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn load_all(&self, dirs: &[PathBuf]) -> Result<Vec<LoadedPlugin>, PluginError> {
        futures::future::try_join_all(dirs.iter().map(|dir| self.load(dir))).await
    }

    /// What the plugin was when it was installed; `None` where this host does not ask.
    fn pin(&self, plugin: &str) -> Result<Option<Pin>, PluginError> {
        let Some(file) = &self.options.lock else { return Ok(None) };
        let pin = lock::read(file)?.remove(plugin);
        pin.map(Some).ok_or_else(|| PluginError::NotPinned { plugin: plugin.to_owned(), file: file.clone() })
    }
}

impl Shared {
    /// Runs `work` to its end, or until nobody waits for it any more.
    async fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, PluginError> {
        let runtime = self.runtime.as_ref().expect("only `drop` takes the runtime");
        AbortOnDrop(runtime.spawn(work)).await.map_err(|error| PluginError::Host(error.to_string()))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The last owner may be a task of another runtime, where waiting is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A task that ends when nobody waits for it: a call that was given up must not go on and change something
/// after its caller was told that it failed.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(context)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The thread that moves the engine's epoch: a task would stop ticking when guests keep the runtime busy.
struct Ticker {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: &Engine) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let engine = engine.clone();
        let tick = move || {
            while stopped.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        };
        let thread = std::thread::Builder::new().name("chaski-ticker".into()).spawn(tick)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Nothing in it panics; if something did, there would be nothing left to stop.
            let _ = thread.join();
        }
    }
}

struct Plugin {
    id: String,
    manifest: Manifest,
    effective: Effective,
    code: PluginPre<State>,
    http: Option<Arc<HttpHost>>,
    turns: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// One tool of a plugin.
struct PluginTool {
    definition: Arc<ToolDefinition>,
    /// Checks its structured answers.
    answers: Option<Arc<Validator>>,
    plugin: Arc<Plugin>,
}

impl Tool for PluginTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    fn reach(&self) -> Vec<String> {
        self.plugin.effective.lines()
    }

    fn call<'a>(&'a self, arguments: Value, context: CallContext) -> BoxFuture<'a, ToolResult> {
        Box::pin(async move {
            let (plugin, definition, answers) =
                (self.plugin.clone(), self.definition.clone(), self.answers.clone());
            let call = async move { plugin.call(&definition, answers.as_deref(), arguments, context).await };
            self.plugin.shared.spawn(call).await.unwrap_or_else(|error| {
                let name = &self.definition.name;
                tracing::error!(tool = name, %error, "a call was lost");
                ToolResult::failed(ToolOutcome::Trapped, format!("The tool `{name}` broke down."))
            })
        })
    }
}

impl Plugin {
    async fn call(
        &self,
        definition: &ToolDefinition,
        answers: Option<&Validator>,
        arguments: Value,
        context: CallContext,
    ) -> ToolResult {
        let tool = definition.name.as_str();
        if let [root, ..] = &self.effective.missing_roots[..] {
            let text = format!(
                "The tool `{tool}` needs the folder `{root}`, which this run does not offer. The operator can \
                 offer it: `roots: {{ {root}: {{ path: … }} }}` in the workflow, or `--root {root}=PATH`."
            );
            return ToolResult::failed(ToolOutcome::Denied, text);
        }
        let deadline = Instant::now() + context.timeout;
        // A call inside of another runs in that one's turn: waiting for a second could be waiting for itself.
        let turn = match context.nested {
            true => None,
            false => Some(self.shared.queue.turn(&self.turns, deadline, &context.cancel).await),
        };
        let _turn = match turn.transpose() {
            Ok(turn) => turn,
            Err(no_turn) => return without_turn(tool, &no_turn),
        };
        let (output, name) = (self.shared.output.clone(), tool.to_owned());
        let call = Call {
            plugin: &self.id,
            tool,
            arguments: arguments.to_string(),
            call_id: &context.call_id,
            limits: &self.manifest.limits,
            timeout: deadline.saturating_duration_since(Instant::now()),
            effective: &self.effective,
            cancel: &context.cancel,
            observer: Some(Box::new(move |text| output(&name, text))),
            reach: Reach {
                http: self.http.clone(),
                tools: self.effective.tools.clone(),
                session: context.session,
            },
            answers,
        };
        sandbox::call(&self.shared.engine, &self.code, call).await
    }
}

fn without_turn(tool: &str, no_turn: &NoTurn) -> ToolResult {
    let busy = format!("The tool `{tool}` is busy with other calls");
    let (outcome, text) = match no_turn {
        NoTurn::Cancelled => (ToolOutcome::Cancelled, format!("The call of `{tool}` was cancelled.")),
        NoTurn::TooManyWaiting => {
            (ToolOutcome::Overloaded, format!("{busy}, and too many are waiting: try again later."))
        }
        NoTurn::WaitedTooLong(waited) => {
            let seconds = waited.as_secs_f64();
            (ToolOutcome::Overloaded, format!("{busy}: no turn came within {seconds:.1} s. Try again later."))
        }
    };
    ToolResult::failed(outcome, text)
}

/// Checks what a plugin says about one tool; gives the check of its structured answers along.
fn definition(
    manifest: &Manifest,
    spec: ToolSpec,
) -> Result<(ToolDefinition, Option<Validator>), PluginError> {
    let (shown, _) = crate::tools::result::cut_middle(&spec.name, 80);
    let fault =
        |reason: String| PluginError::Tool { plugin: manifest.id.clone(), tool: shown.clone(), reason };
    let valid_name = spec.name.len() <= 64
        && spec.name.starts_with(|first: char| first.is_ascii_lowercase())
        && spec.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !valid_name {
        return Err(fault("its name is not of the form `[a-z][a-z0-9_]{0,63}`".into()));
    }
    if spec.description.len() > MAX_DESCRIPTION {
        return Err(fault(format!("its description has more than {MAX_DESCRIPTION} bytes")));
    }
    let schema = |text: &str, what: &str| -> Result<Value, PluginError> {
        if text.len() > MAX_SCHEMA {
            return Err(fault(format!("its {what} has more than {MAX_SCHEMA} bytes")));
        }
        serde_json::from_str(text).map_err(|error| fault(format!("its {what} is no JSON: {error}")))
    };
    let input_schema = schema(&spec.input_schema, "input schema")?;
    if input_schema["type"] != "object" {
        return Err(fault("its input schema is not of `type: object`".into()));
    }
    let output_schema = spec.output_schema.map(|text| schema(&text, "output schema")).transpose()?;
    let answers = output_schema.as_ref().map(jsonschema::validator_for).transpose();
    let answers = answers.map_err(|error| fault(format!("its output schema is no JSON Schema: {error}")))?;
    let effect = match spec.effect {
        GuestEffect::Pure => Effect::Pure,
        GuestEffect::Idempotent => Effect::Idempotent,
        GuestEffect::Effectful => Effect::Effectful,
    };
    let weakest = weakest_claim(manifest);
    if effect < weakest {
        return Err(fault(format!(
            "it claims to be {effect:?}, but with what its manifest asks for it is {weakest:?} at least"
        )));
    }
    let name = format!("{}.{}", manifest.id, spec.name);
    let definition =
        ToolDefinition { name, description: spec.description, input_schema, output_schema, effect };
    check_guaranteed(&definition).map_err(fault)?;
    Ok((definition, answers))
}
