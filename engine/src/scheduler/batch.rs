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

impl ScheduledBatch {
    /// Whether a cache of `num_blocks` blocks, rotary tables of `context` positions and an embedding of
    /// `vocabulary` rows hold what the batch wants.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, num_blocks: usize, context: usize, vocabulary: usize) -> Result<(), String> {
        if self.sequences.is_empty() {
            return Err("the batch is empty".into());
        }
        for sequence in &self.sequences {
            let end = sequence.position + sequence.tokens.len();
            let slots = sequence.block_table.len() * super::BLOCK_TOKENS;
            let known = sequence.block_table.iter().all(|block| block.index() < num_blocks);
            if sequence.tokens.is_empty() || end > slots || end > context || !known {
                return Err(format!(
                    "sequence {:?} wants positions {}..{end} in {} blocks and a context of {context}",
                    sequence.id,
                    sequence.position,
                    sequence.block_table.len(),
                ));
            }
            if let Some(id) = sequence.tokens.iter().find(|id| **id as usize >= vocabulary) {
                return Err(format!("token {id} is outside the vocabulary of {vocabulary}"));
            }
        }
        let inside = |block: &BlockId| block.index() < num_blocks;
        match self.copies.iter().all(|(from, to)| inside(from) && inside(to)) {
            true => Ok(()),
            false => Err(format!("a copy leaves the cache of {num_blocks} blocks")),
        }
    }
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
    /// The adapter that runs beside the weights, by its place among the model's; `None` for the model alone.
    pub adapter: Option<usize>,
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
