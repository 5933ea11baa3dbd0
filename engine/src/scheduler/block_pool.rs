//! KV blocks: which are free, which are shared, and what each one holds.
//!
//! A full block is known by a hash chained over all tokens up to its end, so equal hashes mean equal
//! prefixes. A released block keeps its hash and stays findable until it is needed for something else; the
//! one released longest ago goes first.
//!
//! Invariant: `users[b]` block tables hold block `b`; `b` is in `free` exactly when that is 0.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::BLOCK_TOKENS;

/// The index of a KV block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(u32);

impl BlockId {
    /// The block at `index`.
    pub fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("a pool has fewer than 2^32 blocks"))
    }

    /// Its place in the cache.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a full block holds: the chained hash, and its own tokens so that a collision cannot mislead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Content {
    chain: u64,
    tokens: Vec<u32>,
}

/// All KV blocks.
pub struct BlockPool {
    users: Vec<u32>,
    contents: Vec<Option<Content>>,
    by_content: HashMap<Content, BlockId>,
    /// Blocks in no table, the one to reuse first in front.
    free: VecDeque<BlockId>,
}

impl BlockPool {
    /// `num_blocks` free blocks.
    pub fn new(num_blocks: usize) -> Self {
        Self {
            users: vec![0; num_blocks],
            contents: vec![None; num_blocks],
            by_content: HashMap::new(),
            free: (0..num_blocks).map(BlockId::new).collect(),
        }
    }

    /// Blocks in no table.
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Takes a block for new content; what it held is forgotten. `None` when all are in use.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = self.free.pop_front()?;
        if let Some(content) = self.contents[block.index()].take() {
            self.by_content.remove(&content);
        }
        self.users[block.index()] = 1;
        Some(block)
    }

    /// The blocks that hold the longest known beginning of `tokens`, now also in the caller's table.
    pub fn share_prefix(&mut self, tokens: &[u32]) -> Vec<BlockId> {
        let mut table = Vec::new();
        for content in contents(tokens) {
            let Some(&block) = self.by_content.get(&content) else { break };
            if self.users[block.index()] == 0 {
                self.free.retain(|free| *free != block);
            }
            self.users[block.index()] += 1;
            table.push(block);
        }
        table
    }

    /// Makes the full blocks of a sequence findable: `tokens` are computed and lie in `table`.
    pub fn publish(&mut self, tokens: &[u32], table: &[BlockId]) {
        for (content, &block) in contents(tokens).zip(table) {
            let known = &mut self.contents[block.index()];
            if known.is_none() && !self.by_content.contains_key(&content) {
                *known = Some(content.clone());
                self.by_content.insert(content, block);
            }
        }
    }

    /// Takes a sequence's table back. Later blocks are reused before earlier ones, because a beginning is
    /// worth more than its continuation.
    pub fn release(&mut self, table: &[BlockId]) {
        for &block in table.iter().rev() {
            let users = &mut self.users[block.index()];
            *users -= 1;
            if *users > 0 {
                continue;
            }
            match self.contents[block.index()] {
                Some(_) => self.free.push_back(block),
                None => self.free.push_front(block),
            }
        }
    }
}

/// What the full blocks of `tokens` hold, in order.
fn contents(tokens: &[u32]) -> impl Iterator<Item = Content> {
    tokens.chunks_exact(BLOCK_TOKENS).scan(0u64, |chain, block| {
        let mut hasher = DefaultHasher::new();
        (*chain, block).hash(&mut hasher);
        *chain = hasher.finish();
        Some(Content { chain: *chain, tokens: block.to_vec() })
    })
}
