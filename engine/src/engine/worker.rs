//! The thread that owns model, cache and scheduler.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::reply::{Next, Reply};
use crate::chat::tool_calls::ToolCallParser;
use crate::error::EngineError;
use crate::model::{KvCache, Logits, Model};
use crate::request::{Finished, Sampling, Timings, TokenEvent, Usage};
use crate::sampling::grammar::Grammar;
use crate::scheduler::batch::{LogitsWanted, ScheduledBatch};
use crate::scheduler::{BLOCK_TOKENS, OutOfBlocks, Scheduler};
use crate::tokenizer::Tokenizer;

/// Blocks beyond one full context: room for the prefixes of earlier requests.
const SPARE_TOKENS: usize = 4096;

/// What the thread is asked to do.
pub(super) enum Command {
    Generate(Box<Job>),
    /// The mean negative log-likelihood of a text.
    Score {
        tokens: Vec<u32>,
        answer: oneshot::Sender<Result<f64, EngineError>>,
    },
}

/// A request, checked and ready to compute.
pub(super) struct Job {
    pub(super) prompt: Vec<u32>,
    pub(super) grammar: Option<Grammar>,
    pub(super) parser: ToolCallParser,
    pub(super) sampling: Sampling,
    pub(super) max_tokens: usize,
    pub(super) stop: Vec<String>,
    pub(super) events: mpsc::Sender<TokenEvent>,
    pub(super) arrived: Instant,
}

pub(super) struct Worker {
    model: Model,
    tokenizer: Arc<Tokenizer>,
    kv_cache: KvCache,
    scheduler: Scheduler,
    num_blocks: usize,
    step_tokens: usize,
}

impl Worker {
    pub(super) fn new(
        model: Model,
        tokenizer: Arc<Tokenizer>,
        context: usize,
        step_tokens: usize,
    ) -> Result<Self, EngineError> {
        let num_blocks = (context + SPARE_TOKENS.min(context)).div_ceil(BLOCK_TOKENS);
        let kv_cache = model.new_kv_cache(num_blocks)?;
        let scheduler = Scheduler::new(num_blocks, step_tokens);
        Ok(Self { model, tokenizer, kv_cache, scheduler, num_blocks, step_tokens })
    }

    /// Takes commands until the engine is dropped.
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(command) = inbox.blocking_recv() {
            match command {
                Command::Generate(job) => self.generate(*job),
                Command::Score { tokens, answer } => {
                    let score = self.guarded(|worker| worker.score(tokens));
                    // The asker may have gone away.
                    let _ = answer.send(score);
                }
            }
        }
    }

    fn generate(&mut self, job: Job) {
        let events = job.events.clone();
        if events.is_closed() {
            return;
        }
        let last = match self.guarded(|worker| worker.reply(job)) {
            Ok(Some(finished)) => TokenEvent::Finished(finished),
            Ok(None) => return,
            Err(error) => TokenEvent::Failed(error),
        };
        // The receiver may have gone away.
        let _ = events.blocking_send(last);
    }

    /// Runs `work`, whose panic or error ends that request alone. What the cache holds is forgotten after a
    /// panic: nobody knows which blocks were half written.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let outcome = catch_unwind(AssertUnwindSafe(|| work(self)));
        self.scheduler.finish();
        outcome.unwrap_or_else(|_| {
            self.scheduler = Scheduler::new(self.num_blocks, self.step_tokens);
            Err(EngineError::Compute("a bug in the engine broke off this request; others go on".into()))
        })
    }

    /// One generation. `None` when its receiver went away.
    fn reply(&mut self, job: Job) -> Result<Option<Finished>, EngineError> {
        let started = Instant::now();
        let queued = started - job.arrived;
        let prompt_tokens = job.prompt.len();
        let cached_tokens = self.scheduler.start(job.prompt);
        let Some(mut logits) = self.compute(&job.events)? else { return Ok(None) };
        let prefill = started.elapsed();
        let decode = Instant::now();
        if job.events.blocking_send(TokenEvent::Started { prompt_tokens, cached_tokens }).is_err() {
            return Ok(None);
        }

        let tokenizer = self.tokenizer.clone();
        let mut reply = Reply::new(&tokenizer, job.grammar, job.parser, job.sampling, job.stop);
        let (reason, cut_call) = loop {
            let next = reply.next(&logits, job.max_tokens)?;
            for event in reply.take_events() {
                if job.events.blocking_send(event).is_err() {
                    return Ok(None);
                }
            }
            match next {
                Next::Finished { reason, cut_call } => break (reason, cut_call),
                Next::Tokens(tokens) => self.scheduler.extend(&tokens),
            }
            match self.compute(&job.events)? {
                Some(next) => logits = next,
                None => return Ok(None),
            }
        };
        let usage = Usage { prompt_tokens, cached_tokens, completion_tokens: reply.tokens() };
        let timings = Timings { queued, prefill, decode: decode.elapsed() };
        Ok(Some(Finished { reason, cut_call, usage, timings }))
    }

    /// Computes every known token and returns the logits after the last, or `None` when nobody listens any
    /// more: that is asked before each step.
    fn compute(&mut self, events: &mpsc::Sender<TokenEvent>) -> Result<Option<Vec<f32>>, EngineError> {
        let mut logits = None;
        while let Some(batch) = self.scheduler.schedule() {
            if events.is_closed() {
                return Ok(None);
            }
            let batch = batch.map_err(out_of_blocks)?;
            let computed = self.model.forward(&batch, &mut self.kv_cache)?;
            self.scheduler.commit(&batch);
            if computed.rows() > 0 {
                logits = Some(computed.row(0).to_vec());
            }
        }
        Ok(logits)
    }

    fn score(&mut self, tokens: Vec<u32>) -> Result<f64, EngineError> {
        let started = Instant::now();
        let count = tokens.len();
        let done = self.scheduler.start(tokens.clone());
        // A cached beginning has no logits: score without it.
        if done > 0 {
            self.scheduler.finish();
            self.scheduler = Scheduler::new(self.num_blocks, self.step_tokens);
            self.scheduler.start(tokens.clone());
        }
        let mut total = 0.0;
        while let Some(batch) = self.scheduler.schedule() {
            let batch = all_logits(batch.map_err(out_of_blocks)?);
            let logits = self.model.forward(&batch, &mut self.kv_cache)?;
            total += negative_log_likelihood(&logits, &batch, &tokens);
            self.scheduler.commit(&batch);
        }
        tracing::debug!(tokens = count, seconds = Duration::as_secs_f64(&started.elapsed()), "scored a text");
        Ok(total / (count - 1) as f64)
    }
}

fn out_of_blocks(OutOfBlocks: OutOfBlocks) -> EngineError {
    EngineError::Compute("the KV cache has no block left".into())
}

fn all_logits(mut batch: ScheduledBatch) -> ScheduledBatch {
    for sequence in &mut batch.sequences {
        sequence.logits = LogitsWanted::All;
    }
    batch
}

/// The sum over the batch's positions of -log p(next token).
fn negative_log_likelihood(logits: &Logits, batch: &ScheduledBatch, tokens: &[u32]) -> f64 {
    let mut total = 0.0;
    for (row, position) in (batch.sequences[0].position..).take(logits.rows()).enumerate() {
        let Some(&next) = tokens.get(position + 1) else { continue };
        let row = logits.row(row);
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        total += f64::from(largest) + sum.ln() - f64::from(row[next as usize]);
    }
    total
}
