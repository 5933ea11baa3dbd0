//! The engine thread: requests in, engine steps, token events out.
//!
//! A request is checked, laid out, tokenized and its grammar compiled on the caller's side ([`Shared`]), so
//! that a bad one costs the thread nothing. The thread takes prepared requests between its steps and computes
//! many of them in one step; those that the scheduler has no room for yet hold a place in a queue of bounded
//! length. The thread owns the model, the KV cache and the scheduler.
//!
//! Invariant: every accepted request ends with exactly one `Finished` or `Failed`, unless its receiver is gone.

mod identity;
mod memory;
mod reply;
mod restore;
mod outbox;
mod task;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use candle_core::Device;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::chat::message::ToolSpec;
use crate::chat::template::ChatTemplate;
use crate::chat::tool_calls::ToolCallParser;
use crate::config::EngineOptions;
use crate::error::EngineError;
use crate::kv_store::KvStore;
use crate::model::{Adapter, Checkpoint, LlamaConfig, Model};
use crate::request::{GenerateRequest, OutputFormat, Prompt, Sampling, SessionId, TokenEvent, ToolChoice};
use crate::sampling::grammar::GrammarCompiler;
use crate::scheduler::{SchedulerOptions, blocks_for};
use crate::tokenizer::Tokenizer;
use identity::cache_keys;
use memory::MemoryPlan;
use task::Place;
use worker::{Command, Job, Worker};

/// Events that may wait for a slow reader before its generation waits for it.
const EVENT_CAPACITY: usize = 256;

/// Commands on their way to the engine thread that hold no place in the queue: ends of sessions.
const OTHER_COMMANDS: usize = 64;

/// What is known about the loaded model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The file it was loaded from.
    pub path: PathBuf,
    /// `general.name` of the GGUF file, or the file's name.
    pub name: String,
    /// Tokens of context in use.
    pub context: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Which chat template is in use: `checkpoint`, `llama-3`, `chatml`, …
    pub template: String,
    /// Where it computes: `cpu`, or the GPU's name.
    pub device: String,
    /// What whoever asked for these options should know: a stretched context, and what it costs.
    pub notes: Vec<String>,
}

/// A loaded model and the thread that runs it. Cheap to share by `Arc`; ends its thread when dropped.
pub struct Engine {
    shared: Shared,
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

/// What callers need of the model without asking the thread.
struct Shared {
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    grammars: GrammarCompiler,
    /// Their names, in the model's order.
    adapters: Vec<String>,
    num_blocks: usize,
    /// Places for requests that wait, `queue` of them.
    places: Arc<Semaphore>,
    queue: usize,
}

/// The events of one generation. Dropping it cancels the generation within one engine step.
pub struct Generation {
    /// The events; the last is `Finished` or `Failed`.
    pub events: mpsc::Receiver<TokenEvent>,
}

impl Engine {
    /// Loads the model and starts the engine thread. Blocks while it reads the weights.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged or unsupported; when the context asked for is more than the
    /// model was trained for, or does not fit into memory.
    pub fn load(options: EngineOptions) -> Result<Self, EngineError> {
        let checkpoint = Checkpoint::open(&options.model)?;
        let tokenizer = Arc::new(match &options.tokenizer {
            Some(path) => Tokenizer::from_file(path)?,
            None => checkpoint.tokenizer()?,
        });
        let template = ChatTemplate::choose(
            options.chat_template.as_deref(),
            checkpoint.chat_template(),
            &tokenizer.specials(),
        )?;
        let grammars = GrammarCompiler::new(tokenizer.clone())?;

        let (device, device_name) = compute_device();
        let mut config = checkpoint.config()?;
        let notes = extend_context(&options, &mut config)?;
        let adapters = open_adapters(&options, &config)?;
        let names = options.adapters.iter().map(|adapter| adapter.name.clone()).collect();
        let available = match &device {
            Device::Cpu => {
                memory::available(usize::try_from(checkpoint.loaded_bytes(&config)).unwrap_or(usize::MAX))
            }
            _ => None,
        };
        let MemoryPlan { context, num_blocks } = MemoryPlan::new(
            &options,
            config.context,
            config.kv_bytes_per_token(options.kv_format),
            available,
        )?;
        let cache_keys = cache_keys(&options, &config);
        let name = config.name.clone().unwrap_or_else(|| {
            options.model.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
        });
        let model = Model::load(&checkpoint, config, context, adapters, &device, options.threads)?;
        if tokenizer.vocabulary() > model.config().vocabulary {
            return Err(EngineError::Tokenizer {
                path: options.tokenizer.unwrap_or(options.model),
                reason: format!(
                    "it has {} tokens, the model has {}",
                    tokenizer.vocabulary(),
                    model.config().vocabulary
                ),
            });
        }
        let info = ModelInfo {
            path: options.model,
            name,
            context,
            vocabulary: tokenizer.vocabulary(),
            template: template.name().to_owned(),
            device: device_name,
            notes,
        };
        let dealt = SchedulerOptions {
            num_blocks,
            step_tokens: options.step_tokens.max(1),
            max_sequences: options.max_sequences.max(1),
        };
        let store =
            options.kv_store.map(|store| KvStore::open(&store.folder, store.most_bytes)).transpose()?;
        let kv_cache = model.new_kv_cache(num_blocks, options.kv_format)?;
        let worker =
            Worker::new(model, kv_cache, tokenizer.clone(), cache_keys, store, dealt, options.speculate)?;
        let queue = options.queue.max(1);
        let (commands, inbox) = mpsc::channel(queue + OTHER_COMMANDS);
        let thread = std::thread::Builder::new()
            .name("chaski-engine".into())
            .spawn(move || worker.run(inbox))
            .map_err(|error| EngineError::Compute(format!("cannot start the engine thread: {error}")))?;
        let places = Arc::new(Semaphore::new(queue));
        let shared =
            Shared { info, tokenizer, template, grammars, adapters: names, num_blocks, places, queue };
        Ok(Self { shared, commands: Some(commands), thread: Some(thread) })
    }

    /// What is known about the loaded model.
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// Starts a generation. Refuses a request that cannot work before it costs anything.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`], [`EngineError::Template`], [`EngineError::Grammar`],
    /// [`EngineError::ContextTooLong`], [`EngineError::OutOfBlocks`], [`EngineError::Overloaded`] or
    /// [`EngineError::Stopped`].
    pub async fn generate(&self, request: GenerateRequest) -> Result<Generation, EngineError> {
        let arrived = Instant::now();
        let (events, receiver) = mpsc::channel(EVENT_CAPACITY);
        let job = self.shared.prepare(request, events, arrived)?;
        self.send(Command::Generate(Box::new(job))).await?;
        Ok(Generation { events: receiver })
    }

    /// Keeps no KV blocks for `session` any more. Requests of it that run are not touched.
    ///
    /// # Errors
    /// [`EngineError::Stopped`].
    pub async fn end_session(&self, session: SessionId) -> Result<(), EngineError> {
        self.send(Command::EndSession(session)).await
    }

    /// Tokens of the request's prompt, tool specifications included.
    pub fn count_tokens(&self, request: &GenerateRequest) -> Result<usize, EngineError> {
        Ok(self.shared.prompt_tokens(request)?.len())
    }

    /// The mean negative log-likelihood, in nats, of the tokens 2 to n of `text`: each given those before it.
    /// No begin-of-text token is added; at most `most` tokens are scored.
    ///
    /// # Errors
    /// When the text has fewer than two tokens or more than the context.
    pub async fn mean_nll(&self, text: &str, most: usize) -> Result<f64, EngineError> {
        let mut tokens = self.shared.tokenizer.encode(text)?;
        tokens.truncate(most);
        if tokens.len() < 2 {
            return Err(EngineError::InvalidRequest("a likelihood needs at least two tokens".into()));
        }
        self.shared.check_context(tokens.len())?;
        let place = self.shared.place()?;
        let (answer, receiver) = oneshot::channel();
        self.send(Command::Score { tokens, place, answer }).await?;
        receiver.await.map_err(|_| EngineError::Stopped)?
    }

    /// Waits only if the ends of many sessions are on their way: requests hold a place, and there is one for
    /// each.
    async fn send(&self, command: Command) -> Result<(), EngineError> {
        let commands = self.commands.as_ref().expect("only `drop` takes the sender");
        commands.send(command).await.map_err(|_| EngineError::Stopped)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Closing the channel ends the thread after the requests that run; their receivers are usually gone.
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was logged where it happened.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn prepare(
        &self,
        request: GenerateRequest,
        events: mpsc::Sender<TokenEvent>,
        arrived: Instant,
    ) -> Result<Job, EngineError> {
        check(&request)?;
        let prompt = self.prompt_tokens(&request)?;
        self.check_context(prompt.len())?;
        let style = self.template.tool_call_style();
        let callable = callable_tools(&request);
        let grammar = self.grammars.compile(&callable, &request.tool_choice, &request.output, style)?;
        let first_call = match &request.prompt {
            Prompt::Chat(messages) => {
                1 + messages.iter().map(|message| message.tool_calls.len()).sum::<usize>()
            }
            _ => 1,
        };
        let callable: &[_] = if request.tool_choice == ToolChoice::None { &[] } else { &callable };
        let parser = ToolCallParser::bound(callable, first_call, style, request.output == OutputFormat::Text);
        let most = request.max_tokens.min(self.info.context - prompt.len());
        let needed = blocks_for(prompt.len() + most);
        if needed > self.num_blocks {
            return Err(EngineError::OutOfBlocks { needed, num_blocks: self.num_blocks });
        }
        Ok(Job {
            prompt,
            adapter: self.adapter(request.adapter.as_deref())?,
            grammar,
            parser,
            sampling: request.sampling,
            max_tokens: most,
            stop: request.stop,
            priority: request.priority,
            session: request.session,
            place: self.place()?,
            events,
            arrived,
        })
    }

    /// The place of the adapter `name`.
    fn adapter(&self, name: Option<&str>) -> Result<Option<usize>, EngineError> {
        let Some(name) = name else { return Ok(None) };
        let place = self.adapters.iter().position(|known| known == name);
        place.map(Some).ok_or_else(|| {
            EngineError::InvalidRequest(format!(
                "there is no adapter `{name}`; known are: {}",
                if self.adapters.is_empty() { "none".to_owned() } else { self.adapters.join(", ") }
            ))
        })
    }

    fn prompt_tokens(&self, request: &GenerateRequest) -> Result<Vec<u32>, EngineError> {
        match &request.prompt {
            Prompt::Chat(messages) => {
                // With `ToolChoice::None` too: a prompt that stays the same keeps its KV cache.
                self.tokenizer.encode_prompt(&self.template.render(messages, &request.tools)?)
            }
            Prompt::Text(text) => {
                let mut tokens: Vec<u32> = self.tokenizer.begin_of_text().into_iter().collect();
                tokens.extend(self.tokenizer.encode(text)?);
                Ok(tokens)
            }
            Prompt::Tokens(tokens) => match tokens.iter().find(|id| **id as usize >= self.info.vocabulary) {
                None => Ok(tokens.clone()),
                Some(id) => Err(EngineError::InvalidRequest(format!(
                    "token {id} of the prompt is outside the vocabulary of {}",
                    self.info.vocabulary
                ))),
            },
        }
    }

    /// A place among the requests that wait.
    fn place(&self) -> Result<Place, EngineError> {
        let place = self.places.clone().try_acquire_owned();
        place.map(Some).map_err(|_| EngineError::Overloaded { waiting: self.queue })
    }

    /// A prompt must leave room for one token of an answer.
    fn check_context(&self, prompt_tokens: usize) -> Result<(), EngineError> {
        match prompt_tokens {
            0 => Err(EngineError::InvalidRequest("the prompt is empty".into())),
            fits if fits < self.info.context => Ok(()),
            _ => Err(EngineError::ContextTooLong { prompt_tokens, context: self.info.context }),
        }
    }
}

/// Every tool that `request` may call.
fn callable_tools(request: &GenerateRequest) -> Vec<ToolSpec> {
    request.tools.iter().chain(&request.late_tools).cloned().collect()
}

/// What can be said about a request without the model.
fn check(request: &GenerateRequest) -> Result<(), EngineError> {
    let invalid = |reason: String| Err(EngineError::InvalidRequest(reason));
    let Sampling { temperature, top_p, min_p, repetition_penalty, .. } = request.sampling;
    if request.max_tokens == 0 {
        return invalid("`max_tokens` is 0, it must be at least 1".into());
    }
    if request.stop.iter().any(String::is_empty) {
        return invalid("a stop string is empty".into());
    }
    if !(temperature.is_finite() && temperature >= 0.0) {
        return invalid(format!("`temperature` is {temperature}, it must be 0 or more"));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return invalid(format!("`top_p` is {top_p}, it must be above 0 and at most 1"));
    }
    if !(0.0..1.0).contains(&min_p) {
        return invalid(format!("`min_p` is {min_p}, it must be at least 0 and below 1"));
    }
    if !(repetition_penalty.is_finite() && repetition_penalty > 0.0) {
        return invalid(format!("`repetition_penalty` is {repetition_penalty}, it must be above 0"));
    }
    let tools = callable_tools(request);
    for (index, tool) in tools.iter().enumerate() {
        if tools[..index].iter().any(|before| before.name == tool.name) {
            return invalid(format!("two tools have the name `{}`", tool.name));
        }
    }
    match &request.tool_choice {
        ToolChoice::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
            invalid(format!("`tool_choice` names the tool `{name}`, which the request does not have"))
        }
        ToolChoice::Required if tools.is_empty() => {
            invalid("`tool_choice` is `required`, but the request has no tools".into())
        }
        _ if matches!(&request.output, OutputFormat::Regex(regex) if regex.is_empty()) => {
            invalid("the regular expression of the output is empty".into())
        }
        _ => Ok(()),
    }
}

/// Stretches the context as the options ask. Gives what whoever asked should know.
fn extend_context(options: &EngineOptions, config: &mut LlamaConfig) -> Result<Vec<String>, EngineError> {
    match (options.context, options.rope_scaling) {
        (Some(asked), Some(stretch)) if asked > config.context => {
            let warning = config.extend_context(asked, stretch.scaling(config.context, asked))?;
            let cost =
                asked as f64 * config.kv_bytes_per_token(options.kv_format) as f64 / f64::from(1 << 20);
            Ok(vec![warning, format!("the keys and values of {asked} tokens take {cost:.0} MiB")])
        }
        _ => Ok(Vec::new()),
    }
}

fn open_adapters(options: &EngineOptions, config: &LlamaConfig) -> Result<Vec<Adapter>, EngineError> {
    for (index, adapter) in options.adapters.iter().enumerate() {
        if options.adapters[..index].iter().any(|before| before.name == adapter.name) {
            return Err(EngineError::InvalidRequest(format!(
                "two adapters have the name `{}`",
                adapter.name
            )));
        }
    }
    options.adapters.iter().map(|adapter| Adapter::open(&adapter.folder, config)).collect()
}

/// The GPU if this build can use one and it is there, else the CPU; the reason is logged.
fn compute_device() -> (Device, String) {
    if cfg!(feature = "candle-cuda") {
        match Device::new_cuda(0) {
            Ok(device) => return (device, "cuda:0".into()),
            Err(error) => tracing::warn!(%error, "no GPU can be used, computing on the CPU"),
        }
    }
    (Device::Cpu, "cpu".into())
}
