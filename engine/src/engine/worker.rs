//! The thread that owns model, cache and scheduler.
//!
//! It takes commands between steps and otherwise steps as long as there is work: schedule → forward → sample
//! → send. It waits only when nothing can be computed: for a command, or for a reader that is behind.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::outbox::Outbox;
use super::reply::Reply;
use super::restore::{keep, restore};
use super::task::{Generation, Place, Progress, Score, Task};
use crate::chat::tool_calls::ToolCallParser;
use crate::error::EngineError;
use crate::kv_store::KvStore;
use crate::model::{KvCache, Logits, Model};
use crate::request::{Priority, Sampling, SessionId, TokenEvent};
use crate::sampling::drafter::Drafter;
use crate::sampling::grammar::Grammar;
use crate::sampling::token_mask::TokenMask;
use crate::scheduler::batch::{LogitsWanted, ScheduledBatch};
use crate::scheduler::block_hash::CacheKey;
use crate::scheduler::sequence::{NewSequence, Purpose, SequenceId};
use crate::scheduler::{OutOfBlocks, Scheduler, SchedulerOptions};
use crate::tokenizer::Tokenizer;

/// With more tasks than this, a step has so many rows that further ones for drafts cost what they save.
const DRAFTING_TASKS: usize = 4;

/// What the thread is asked to do.
pub(super) enum Command {
    Generate(Box<Job>),
    /// The mean negative log-likelihood of a text.
    Score {
        tokens: Vec<u32>,
        place: Place,
        answer: oneshot::Sender<Result<f64, EngineError>>,
    },
    EndSession(SessionId),
}

/// A request, checked and ready to compute.
pub(super) struct Job {
    pub(super) prompt: Vec<u32>,
    pub(super) adapter: Option<usize>,
    pub(super) grammar: Option<Grammar>,
    pub(super) parser: ToolCallParser,
    pub(super) sampling: Sampling,
    pub(super) max_tokens: usize,
    pub(super) stop: Vec<String>,
    pub(super) priority: Priority,
    pub(super) session: Option<SessionId>,
    pub(super) place: Place,
    pub(super) events: mpsc::Sender<TokenEvent>,
    pub(super) arrived: Instant,
}

pub(super) struct Worker {
    model: Model,
    tokenizer: Arc<Tokenizer>,
    sayable: Arc<TokenMask>,
    kv_cache: KvCache,
    options: SchedulerOptions,
    scheduler: Scheduler,
    /// Of the model alone, and then with each adapter.
    cache_keys: Vec<CacheKey>,
    store: Option<KvStore>,
    /// The requests under way, by the name of their sequence.
    tasks: HashMap<SequenceId, Task>,
    /// The last events of requests that are done, while their readers are behind.
    unread: Vec<Outbox>,
    speculate: bool,
    /// Lets this thread wait for several channels at once.
    waiting_room: tokio::runtime::Runtime,
}

/// Why the thread goes on after it waited.
enum Woken {
    Command(Command),
    /// Nobody can send commands any more.
    Closed,
    /// A reader that was behind has room again, or is gone.
    Room,
}

impl Worker {
    pub(super) fn new(
        model: Model,
        kv_cache: KvCache,
        tokenizer: Arc<Tokenizer>,
        cache_keys: Vec<CacheKey>,
        store: Option<KvStore>,
        options: SchedulerOptions,
        speculate: bool,
    ) -> Result<Self, EngineError> {
        let waiting_room = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| EngineError::Compute(format!("cannot start the engine thread: {error}")))?;
        Ok(Self {
            model,
            sayable: Arc::new(TokenMask::sayable(&tokenizer)),
            tokenizer,
            kv_cache,
            options,
            scheduler: Scheduler::new(options),
            cache_keys,
            store,
            tasks: HashMap::new(),
            unread: Vec::new(),
            speculate,
            waiting_room,
        })
    }

    /// Takes commands until the engine is dropped, and finishes what was begun.
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut open = true;
        while open || !self.tasks.is_empty() || !self.unread.is_empty() {
            while let Ok(command) = inbox.try_recv() {
                self.take(command);
            }
            let worked = catch_unwind(AssertUnwindSafe(|| self.step()));
            if worked.unwrap_or_else(|_| self.start_over()) {
                continue;
            }
            match self.wait(&mut inbox, open) {
                Woken::Command(command) => self.take(command),
                Woken::Closed => open = false,
                Woken::Room => {}
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Generate(job) => self.begin_generation(*job),
            Command::Score { tokens, place, answer } => {
                let most_tokens = tokens.len();
                let score = Score { tokens: tokens.clone(), place, answer, total: 0.0, scored: 0 };
                let new = NewSequence {
                    tokens,
                    most_tokens,
                    priority: Priority::Batch,
                    session: None,
                    cache_key: self.cache_keys[0],
                    adapter: None,
                    purpose: Purpose::Score,
                };
                self.begin(new, Task::Score(score));
            }
            Command::EndSession(session) => self.scheduler.end_session(&session),
        }
    }

    fn begin_generation(&mut self, job: Job) {
        let cache_key = self.cache_keys[job.adapter.map_or(0, |adapter| adapter + 1)];
        if let Some(store) = &mut self.store {
            restore(store, &mut self.scheduler, &mut self.kv_cache, cache_key, &job.prompt);
        }
        let new = NewSequence {
            most_tokens: job.prompt.len() + job.max_tokens,
            priority: job.priority,
            session: job.session,
            cache_key,
            adapter: job.adapter,
            purpose: Purpose::Generate,
            tokens: job.prompt,
        };
        let drafter = self.speculate.then(|| Drafter::new(&new.tokens));
        let generation = Generation {
            outbox: Outbox::new(job.events),
            reply: Reply::new(
                self.tokenizer.clone(),
                job.grammar,
                self.sayable.clone(),
                job.parser,
                job.sampling,
                job.stop,
                drafter,
            ),
            max_tokens: job.max_tokens,
            prompt_tokens: new.tokens.len(),
            place: job.place,
            arrived: job.arrived,
            started: None,
            first_logits: None,
        };
        self.begin(new, Task::Generation(Box::new(generation)));
    }

    fn begin(&mut self, new: NewSequence, task: Task) {
        match self.scheduler.add(new) {
            Ok(id) => {
                self.tasks.insert(id, task);
            }
            Err(OutOfBlocks { needed, num_blocks }) => {
                self.unread.extend(task.fail(EngineError::OutOfBlocks { needed, num_blocks }));
            }
        }
    }

    /// One engine step. `false` when there was nothing to compute.
    fn step(&mut self) -> bool {
        self.deliver();
        self.guess();
        let batch = self.scheduler.schedule();
        if batch.sequences.is_empty() {
            return false;
        }
        for part in &batch.sequences {
            if let Some(task) = self.tasks.get_mut(&part.id) {
                task.begin(part);
            }
        }
        match self.forward(&batch) {
            Ok(logits) => {
                self.scheduler.commit(&batch);
                self.advance(&batch, &logits);
            }
            Err(error) => self.break_off(&batch, &error),
        }
        true
    }

    /// Sends what waits to be read, drops what nobody listens to any more, and lets nobody run whose reader is
    /// behind.
    fn deliver(&mut self) {
        self.unread.retain_mut(|outbox| {
            outbox.flush();
            outbox.is_behind()
        });
        let scheduler = &mut self.scheduler;
        self.tasks.retain(|&id, task| {
            if task.is_abandoned() {
                scheduler.finish(id);
                return false;
            }
            if let Some(outbox) = task.outbox() {
                outbox.flush();
                scheduler.set_paused(id, outbox.is_behind());
            }
            true
        });
    }

    /// Guesses at what comes next, while few sequences share a step.
    fn guess(&mut self) {
        if !self.speculate || self.tasks.len() > DRAFTING_TASKS {
            return;
        }
        for (&id, task) in &mut self.tasks {
            // A panic of a grammar comes again when its logits are there, and ends that request then.
            let drafts = catch_unwind(AssertUnwindSafe(|| task.drafts())).unwrap_or_default();
            self.scheduler.draft(id, &drafts);
        }
    }

    /// The logits of the batch. A panic is an error like any other.
    fn forward(&mut self, batch: &ScheduledBatch) -> Result<Logits, EngineError> {
        catch_unwind(AssertUnwindSafe(|| self.model.forward(batch, &mut self.kv_cache)))
            .unwrap_or_else(|_| Err(bug("a step")))
    }

    /// Gives each task of the batch its logits. An error or panic in one ends that one alone.
    fn advance(&mut self, batch: &ScheduledBatch, logits: &Logits) {
        let mut row = 0;
        for part in &batch.sequences {
            let first_row = row;
            row += match part.logits {
                LogitsWanted::None => 0,
                LogitsWanted::Last => 1,
                LogitsWanted::All => part.tokens.len(),
            };
            let Some(task) = self.tasks.get_mut(&part.id) else { continue };
            let scheduler = &mut self.scheduler;
            let done = catch_unwind(AssertUnwindSafe(|| {
                let Progress { tokens, done } = task.advance(part, logits, first_row)?;
                scheduler.extend(part.id, &tokens);
                Ok(done)
            }));
            let left = match done.unwrap_or_else(|_| Err(bug("this request"))) {
                Ok(false) => continue,
                Ok(true) => self.tasks.remove(&part.id).and_then(Task::end),
                Err(error) => self.tasks.remove(&part.id).and_then(|task| task.fail(error)),
            };
            self.unread.extend(left);
            if let Some(store) = &mut self.store {
                keep(store, &self.scheduler, &self.kv_cache, part.id);
            }
            self.scheduler.finish(part.id);
        }
    }

    /// Ends the requests of a batch that failed. The others are computed again: nobody knows which blocks were
    /// half written.
    fn break_off(&mut self, batch: &ScheduledBatch, error: &EngineError) {
        tracing::error!(%error, requests = batch.sequences.len(), "an engine step failed");
        for part in &batch.sequences {
            self.scheduler.finish(part.id);
            self.unread.extend(self.tasks.remove(&part.id).and_then(|task| task.fail(error.clone())));
        }
        self.scheduler.forget_blocks();
    }

    /// Ends all requests after a panic outside of the model and of any one request: nobody knows what is still
    /// right. The engine goes on with an empty cache.
    fn start_over(&mut self) -> bool {
        self.scheduler = Scheduler::new(self.options);
        for (_, task) in self.tasks.drain() {
            self.unread.extend(task.fail(bug("all requests")));
        }
        true
    }

    /// Waits for a command, or for a reader that is behind.
    fn wait(&mut self, inbox: &mut mpsc::Receiver<Command>, open: bool) -> Woken {
        let outboxes = self.tasks.values_mut().filter_map(|task| task.outbox().map(|outbox| &*outbox));
        let mut readers: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
        for outbox in outboxes.chain(&self.unread).filter(|outbox| outbox.is_behind()) {
            readers.push(Box::pin(outbox.has_room()));
        }
        self.waiting_room.block_on(poll_fn(|context| {
            if open && let Poll::Ready(command) = inbox.poll_recv(context) {
                return Poll::Ready(command.map_or(Woken::Closed, Woken::Command));
            }
            match readers.iter_mut().any(|reader| reader.as_mut().poll(context).is_ready()) {
                true => Poll::Ready(Woken::Room),
                false => Poll::Pending,
            }
        }))
    }
}

/// What a panic was.
fn bug(what: &str) -> EngineError {
    EngineError::Compute(format!("a bug in the engine broke off {what}; others go on"))
}

#[cfg(test)]
mod tests;
