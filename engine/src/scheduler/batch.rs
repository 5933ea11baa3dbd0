//! What one engine step computes, as plain data.

use super::block_pool::BlockId;
use super::sequence::SequenceId;

/// What one engine step computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledBatch {
    /// The sequences, in the order of the logits.
    pub sequences: Vec<ScheduledSequence>,
    /// Blocks to copy before anything is computed: (from, to).
    pub copies: Vec<(BlockId, BlockId)>,
}

/// One sequence's part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledSequence {
    /// Whose.
    pub id: SequenceId,
    /// The tokens to compute.
    pub tokens: Vec<u32>,
    /// The position of the first of them, from 0.
    pub position: usize,
    /// Where the sequence's keys and values are, the new ones included.
    pub block_table: Vec<BlockId>,
    /// Which logits are wanted.
    pub logits: LogitsWanted,
}

/// Which positions' logits a sequence needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsWanted {
    /// None: there is more to prefill.
    None,
    /// The last one's, to sample from.
    Last,
    /// All: to score a text.
    All,
}
