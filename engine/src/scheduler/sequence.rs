//! The token state of one request.

use super::block_pool::BlockId;

/// Names a sequence for the engine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceId(pub u64);

/// Known tokens, of which the first `computed` have keys and values in the blocks of `block_table`.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Its name.
    pub id: SequenceId,
    /// Prompt and answer so far.
    pub tokens: Vec<u32>,
    /// How many of them are computed.
    pub computed: usize,
    /// Where: block `i` holds the tokens `i * BLOCK_TOKENS ..`.
    pub block_table: Vec<BlockId>,
}
