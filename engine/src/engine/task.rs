//! One request under way: what happens with the logits of its sequence.

use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::outbox::Outbox;
use super::reply::{Advance, End, Reply};
use crate::error::EngineError;
use crate::model::Logits;
use crate::request::{Finished, Timings, TokenEvent, Usage};
use crate::scheduler::batch::{LogitsWanted, ScheduledSequence};

/// A place among the requests that wait; given back when the request is first computed.
pub(super) type Place = Option<OwnedSemaphorePermit>;

/// One request under way.
pub(super) enum Task {
    Generation(Box<Generation>),
    Score(Score),
}

/// How a task goes on after a step.
#[derive(Default)]
pub(super) struct Progress {
    /// What its sequence goes on with.
    pub(super) tokens: Vec<u32>,
    /// Nothing more of it is wanted.
    pub(super) done: bool,
}

/// A reply that grows.
pub(super) struct Generation {
    pub(super) outbox: Outbox,
    pub(super) reply: Reply,
    pub(super) max_tokens: usize,
    pub(super) prompt_tokens: usize,
    pub(super) place: Place,
    pub(super) arrived: Instant,
    pub(super) started: Option<Started>,
    pub(super) first_logits: Option<Instant>,
}

/// The beginning of a generation's computation.
#[derive(Clone, Copy)]
pub(super) struct Started {
    at: Instant,
    cached_tokens: usize,
}

/// The mean negative log-likelihood of a text.
pub(super) struct Score {
    pub(super) tokens: Vec<u32>,
    pub(super) place: Place,
    pub(super) answer: oneshot::Sender<Result<f64, EngineError>>,
    /// The sum over the first `scored` positions of -log p(next token).
    pub(super) total: f64,
    pub(super) scored: usize,
}

impl Task {
    /// Nobody waits for it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Generation(generation) => generation.outbox.is_abandoned(),
            Self::Score(score) => score.answer.is_closed(),
        }
    }

    /// Events that its reader has not taken yet.
    pub(super) fn outbox(&mut self) -> Option<&mut Outbox> {
        match self {
            Self::Generation(generation) => Some(&mut generation.outbox),
            Self::Score(_) => None,
        }
    }

    /// Guesses at its next tokens.
    pub(super) fn drafts(&mut self) -> Vec<u32> {
        match self {
            Self::Generation(generation) => generation.reply.drafts(),
            Self::Score(_) => Vec::new(),
        }
    }

    /// Notes that `part` of its sequence is about to be computed.
    pub(super) fn begin(&mut self, part: &ScheduledSequence) {
        match self {
            Self::Generation(generation) => {
                generation.place = None;
                generation
                    .started
                    .get_or_insert(Started { at: Instant::now(), cached_tokens: part.position });
            }
            Self::Score(score) => score.place = None,
        }
    }

    /// Takes the logits that `part` asked for: the rows of `logits` from `row` on.
    pub(super) fn advance(
        &mut self,
        part: &ScheduledSequence,
        logits: &Logits,
        row: usize,
    ) -> Result<Progress, EngineError> {
        match self {
            Self::Generation(generation) => match part.logits {
                LogitsWanted::None => Ok(Progress::default()),
                LogitsWanted::Last => generation.advance(logits, row, &[]),
                // All but the first token are drafts.
                LogitsWanted::All => generation.advance(logits, row, &part.tokens[1..]),
            },
            Self::Score(score) => Ok(score.advance(part, logits, row)),
        }
    }

    /// Ends it when it is done. What must still be read is returned.
    pub(super) fn end(self) -> Option<Outbox> {
        match self {
            Self::Generation(generation) => Some(generation.outbox),
            Self::Score(Score { tokens, answer, total, .. }) => {
                // The asker may have gone away.
                let _ = answer.send(Ok(total / (tokens.len() - 1) as f64));
                None
            }
        }
    }

    /// Ends it with an error. What must still be read is returned.
    pub(super) fn fail(self, error: EngineError) -> Option<Outbox> {
        match self {
            Self::Generation(mut generation) => {
                generation.outbox.push(TokenEvent::Failed(error));
                Some(generation.outbox)
            }
            Self::Score(score) => {
                // The asker may have gone away.
                let _ = score.answer.send(Err(error));
                None
            }
        }
    }
}

impl Generation {
    fn advance(&mut self, logits: &Logits, row: usize, drafts: &[u32]) -> Result<Progress, EngineError> {
        if self.first_logits.is_none() {
            self.first_logits = Some(Instant::now());
            let cached_tokens = self.started.map_or(0, |started| started.cached_tokens);
            self.outbox.push(TokenEvent::Started { prompt_tokens: self.prompt_tokens, cached_tokens });
        }
        let Advance { tokens, end } =
            self.reply.advance(|right| logits.row(row + right), drafts, self.max_tokens)?;
        for event in self.reply.take_events() {
            self.outbox.push(event);
        }
        let done = end.is_some();
        if let Some(end) = end {
            let finished = self.finished(end);
            self.outbox.push(TokenEvent::Finished(finished));
        }
        Ok(Progress { tokens, done })
    }

    fn finished(&self, End { reason, cut_call }: End) -> Finished {
        let now = Instant::now();
        let (started, cached_tokens) =
            self.started.map_or((self.arrived, 0), |started| (started.at, started.cached_tokens));
        let first_logits = self.first_logits.unwrap_or(now);
        let usage = Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens,
            completion_tokens: self.reply.tokens(),
        };
        let timings = Timings {
            queued: started - self.arrived,
            prefill: first_logits - started,
            decode: now - first_logits,
        };
        Finished { reason, cut_call, usage, timings, speculation: self.reply.draft_counts() }
    }
}

impl Score {
    /// Adds the positions that are new: after a preemption, earlier ones come again.
    fn advance(&mut self, part: &ScheduledSequence, logits: &Logits, row: usize) -> Progress {
        for (offset, position) in (part.position..part.position + part.tokens.len()).enumerate() {
            if let Some(&next) = self.tokens.get(position + 1)
                && position == self.scored
            {
                self.total += negative_log_likelihood(logits.row(row + offset), next);
                self.scored += 1;
            }
        }
        Progress { tokens: Vec::new(), done: self.scored + 1 >= self.tokens.len() }
    }
}

/// -log p(`next`), in nats.
fn negative_log_likelihood(logits: &[f32], next: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    f64::from(largest) + sum.ln() - f64::from(logits[next as usize])
}
