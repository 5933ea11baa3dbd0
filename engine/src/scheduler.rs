//! Decides, once per engine step, which tokens are computed and where their keys and values go.
//!
//! A sequence is not "in prefill" or "in decode": it has known tokens and computed tokens, and each step moves
//! the second count towards the first. Chunked prefill, prefix-cache hits and grammar-forced text are all this
//! one rule. One sequence runs at a time; what it computed stays in the pool, so the next sequence with the
//! same beginning starts there.
//!
//! Invariant: a KV block is on the free list or in at least one block table, never both.

pub mod sequence;
pub mod block_pool;
pub mod batch;

use batch::{LogitsWanted, ScheduledBatch, ScheduledSequence};
use block_pool::BlockPool;
use sequence::{Sequence, SequenceId};

/// Tokens of a KV block. Small enough that a shared prefix is used nearly whole, large enough that a table of
/// 8,192 tokens has 512 entries.
pub const BLOCK_TOKENS: usize = 16;

/// Which tokens are computed next, and where.
pub struct Scheduler {
    pool: BlockPool,
    step_tokens: usize,
    next_id: u64,
    running: Option<Sequence>,
}

impl Scheduler {
    /// A scheduler over `num_blocks` KV blocks that computes at most `step_tokens` tokens a step.
    pub fn new(num_blocks: usize, step_tokens: usize) -> Self {
        Self { pool: BlockPool::new(num_blocks), step_tokens: step_tokens.max(1), next_id: 0, running: None }
    }

    /// Starts a sequence that knows `tokens`. Returns how many of them need not be computed, because an
    /// earlier sequence began the same way. At least the last token is always computed: its logits are wanted.
    ///
    /// # Panics
    /// When a sequence runs already, or `tokens` is empty: the engine thread admits one at a time.
    pub fn start(&mut self, tokens: Vec<u32>) -> usize {
        assert!(self.running.is_none() && !tokens.is_empty());
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let table = self.pool.share_prefix(&tokens[..tokens.len() - 1]);
        let computed = table.len() * BLOCK_TOKENS;
        self.running = Some(Sequence { id, tokens, computed, block_table: table });
        computed
    }

    /// The tokens known so far.
    pub fn known(&self) -> usize {
        self.running.as_ref().map_or(0, |sequence| sequence.tokens.len())
    }

    /// The next step's work, or `None` when every known token is computed. `None` inside means that no KV
    /// block is left for it.
    pub fn schedule(&mut self) -> Option<Result<ScheduledBatch, OutOfBlocks>> {
        let sequence = self.running.as_mut()?;
        let pending = sequence.tokens.len() - sequence.computed;
        if pending == 0 {
            return None;
        }
        let count = pending.min(self.step_tokens);
        let end = sequence.computed + count;
        while sequence.block_table.len() * BLOCK_TOKENS < end {
            match self.pool.allocate() {
                Some(block) => sequence.block_table.push(block),
                None => return Some(Err(OutOfBlocks)),
            }
        }
        Some(Ok(ScheduledBatch {
            sequences: vec![ScheduledSequence {
                id: sequence.id,
                tokens: sequence.tokens[sequence.computed..end].to_vec(),
                position: sequence.computed,
                block_table: sequence.block_table.clone(),
                logits: if count == pending { LogitsWanted::Last } else { LogitsWanted::None },
                adapter: None,
            }],
            copies: Vec::new(),
        }))
    }

    /// Notes that `batch` was computed, and offers its full blocks to later sequences.
    pub fn commit(&mut self, batch: &ScheduledBatch) {
        let Some(sequence) = &mut self.running else { return };
        for scheduled in batch.sequences.iter().filter(|scheduled| scheduled.id == sequence.id) {
            sequence.computed = scheduled.position + scheduled.tokens.len();
            self.pool.publish(&sequence.tokens[..sequence.computed], &sequence.block_table);
        }
    }

    /// Adds tokens to the running sequence: sampled, or forced by its grammar.
    pub fn extend(&mut self, tokens: &[u32]) {
        if let Some(sequence) = &mut self.running {
            sequence.tokens.extend_from_slice(tokens);
        }
    }

    /// Ends the running sequence. Its full blocks stay until their memory is needed.
    pub fn finish(&mut self) {
        if let Some(sequence) = self.running.take() {
            self.pool.release(&sequence.block_table);
        }
    }
}

/// Every KV block is in use by the running sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBlocks;

#[cfg(test)]
mod tests;
