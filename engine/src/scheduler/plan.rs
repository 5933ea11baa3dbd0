//! One engine step while it is put together.

use super::batch::{LogitsWanted, ScheduledBatch, ScheduledSequence};
use super::block_pool::BlockId;
use super::sequence::{Purpose, Sequence, SequenceId};

/// One engine step while it is put together.
pub struct Plan {
    budget: usize,
    parts: Vec<ScheduledSequence>,
    /// For whom, from, to.
    copies: Vec<(SequenceId, BlockId, BlockId)>,
    /// A sequence had to give up its blocks.
    pub preempted: bool,
}

impl Plan {
    /// A step of at most `budget` tokens.
    pub fn new(budget: usize) -> Self {
        Self { budget, parts: Vec::new(), copies: Vec::new(), preempted: false }
    }

    /// Tokens that can still be added.
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Whether the sequence has a part in it.
    pub fn holds(&self, id: SequenceId) -> bool {
        self.parts.iter().any(|part| part.id == id)
    }

    /// Adds the sequence's tokens up to `end`, and its drafts after the last one.
    pub fn push(&mut self, sequence: &Sequence, end: usize) {
        let logits = match sequence.purpose {
            Purpose::Score => LogitsWanted::All,
            Purpose::Generate if !sequence.drafts.is_empty() => LogitsWanted::All,
            Purpose::Generate if end == sequence.tokens.len() => LogitsWanted::Last,
            Purpose::Generate => LogitsWanted::None,
        };
        let tokens = [&sequence.tokens[sequence.computed..end], &sequence.drafts].concat();
        self.budget -= tokens.len();
        self.parts.push(ScheduledSequence {
            id: sequence.id,
            tokens,
            position: sequence.computed,
            block_table: sequence.block_table.clone(),
            logits,
            adapter: sequence.adapter,
        });
    }

    /// Adds the copy of a block that the sequence is about to write to and others share.
    pub fn copy(&mut self, id: SequenceId, from: BlockId, to: BlockId) {
        self.copies.push((id, from, to));
    }

    /// How many sequences copy `block`.
    pub fn copies_of(&self, block: BlockId) -> usize {
        self.copies.iter().filter(|(_, from, _)| *from == block).count()
    }

    /// Takes out everything about a sequence that loses its blocks. Returns the blocks that it would have
    /// copied from.
    pub fn remove(&mut self, id: SequenceId) -> Vec<BlockId> {
        self.preempted = true;
        self.budget +=
            self.parts.iter().filter(|part| part.id == id).map(|part| part.tokens.len()).sum::<usize>();
        self.parts.retain(|part| part.id != id);
        self.copies.extract_if(.., |(copier, _, _)| *copier == id).map(|(_, from, _)| from).collect()
    }

    /// The step.
    pub fn into_batch(self) -> ScheduledBatch {
        let copies = self.copies.into_iter().map(|(_, from, to)| (from, to)).collect();
        ScheduledBatch { sequences: self.parts, copies }
    }
}
