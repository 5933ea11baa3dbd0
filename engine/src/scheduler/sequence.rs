//! The token state of one request.

use super::block_hash::{BlockHash, CacheKey, HashChain};
use super::block_pool::BlockId;
use super::{BLOCK_TOKENS, blocks_for};
use crate::request::{Priority, SessionId};

/// Names a sequence for the engine's life. Later sequences have higher numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// What a sequence starts with.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// The known tokens, at least one.
    pub tokens: Vec<u32>,
    /// The most tokens it can come to know.
    pub most_tokens: usize,
    /// Who goes first.
    pub priority: Priority,
    /// Whose last turn it may continue, and for whom its blocks are kept.
    pub session: Option<SessionId>,
    /// Sequences of other keys share no blocks with it.
    pub cache_key: CacheKey,
    /// The adapter that runs beside the weights, by its place among the model's.
    pub adapter: Option<usize>,
    /// What is wanted of its positions.
    pub purpose: Purpose,
}

/// What is wanted of a sequence's positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The logits after the last known token, to sample from.
    Generate,
    /// The logits of every position: nothing is taken from the prefix cache.
    Score,
}

/// Known tokens, of which the first `computed` have keys and values in the blocks of `block_table`.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Its name.
    pub id: SequenceId,
    /// Prompt and answer so far.
    pub tokens: Vec<u32>,
    /// How many of them are computed.
    pub computed: usize,
    /// Where: block `i` holds the tokens `i * BLOCK_TOKENS ..`. Empty until the sequence is admitted.
    pub block_table: Vec<BlockId>,
    pub(super) most_tokens: usize,
    pub(super) priority: Priority,
    pub(super) session: Option<SessionId>,
    pub(super) cache_key: CacheKey,
    pub(super) adapter: Option<usize>,
    pub(super) purpose: Purpose,
    /// The hashes of the full blocks of `tokens`, as far as they were asked for.
    pub(super) chain: HashChain,
    /// How many blocks of the table were made findable.
    pub(super) published: usize,
    /// Guesses at the tokens after the known ones, computed with them and kept as far as they come true.
    pub(super) drafts: Vec<u32>,
    pub(super) admitted: bool,
    /// Its reader is behind: it is not scheduled.
    pub(super) paused: bool,
    /// The last step that computed some of it.
    pub(super) served: u64,
}

impl Sequence {
    pub(super) fn new(id: SequenceId, new: NewSequence) -> Self {
        let chain = HashChain::new(new.cache_key);
        Self {
            id,
            tokens: new.tokens,
            computed: 0,
            block_table: Vec::new(),
            most_tokens: new.most_tokens,
            priority: new.priority,
            session: new.session,
            cache_key: new.cache_key,
            adapter: new.adapter,
            purpose: new.purpose,
            chain,
            published: 0,
            drafts: Vec::new(),
            admitted: false,
            paused: false,
            served: 0,
        }
    }

    /// Tokens that are known and not computed.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Takes part in steps.
    pub(super) fn runs(&self) -> bool {
        self.admitted && !self.paused
    }

    /// Who goes first, and who is made to wait last.
    pub(super) fn rank(&self) -> (Priority, SequenceId) {
        (self.priority, self.id)
    }

    /// Blocks that the known tokens and one more take.
    pub(super) fn blocks_wanted(&self) -> usize {
        blocks_for((self.tokens.len() + 1).min(self.most_tokens.max(self.tokens.len())))
    }

    /// Blocks that it may come to want besides those in its table.
    pub(super) fn growth(&self) -> usize {
        blocks_for(self.most_tokens).saturating_sub(self.block_table.len())
    }

    /// The block that the next token is written to, if it is in the table.
    pub(super) fn next_block(&self) -> Option<(usize, BlockId)> {
        let index = self.computed / BLOCK_TOKENS;
        self.block_table.get(index).map(|&block| (index, block))
    }

    /// The hash of the block to compute next, if another sequence's would do: it is full, and not the last,
    /// whose logits are wanted. The chain must be up to date.
    pub(super) fn next_hash(&self) -> Option<BlockHash> {
        let shareable = self.purpose == Purpose::Generate
            && self.computed.is_multiple_of(BLOCK_TOKENS)
            && self.computed + BLOCK_TOKENS < self.tokens.len();
        shareable.then(|| self.chain.hashes()[self.computed / BLOCK_TOKENS])
    }

    /// Forgets where its tokens were computed. What it knows stays.
    pub(super) fn reset(&mut self) -> Vec<BlockId> {
        self.admitted = false;
        self.computed = 0;
        self.published = 0;
        self.drafts.clear();
        std::mem::take(&mut self.block_table)
    }
}
