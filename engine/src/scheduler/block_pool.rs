//! KV blocks: which are free, which are shared, and what each one holds.
//!
//! A full block is known by its [`BlockHash`]. A released block keeps its hash and stays findable until its
//! memory is needed for something else; the one released longest ago goes first.
//!
//! Invariant: `users[b]` tables hold block `b`; `b` is in `free` exactly when that is 0. A hash names at most
//! one block.

use std::collections::HashMap;

use super::block_hash::BlockHash;
use super::free_blocks::FreeBlocks;

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

/// All KV blocks.
pub struct BlockPool {
    users: Vec<u32>,
    hashes: Vec<Option<BlockHash>>,
    by_hash: HashMap<BlockHash, BlockId>,
    free: FreeBlocks,
}

impl BlockPool {
    /// `num_blocks` free blocks.
    pub fn new(num_blocks: usize) -> Self {
        Self {
            users: vec![0; num_blocks],
            hashes: vec![None; num_blocks],
            by_hash: HashMap::new(),
            free: FreeBlocks::new(num_blocks),
        }
    }

    /// All blocks, free or not.
    pub fn num_blocks(&self) -> usize {
        self.users.len()
    }

    /// Blocks in no table.
    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Takes `count` blocks for new content; what they held is forgotten. `None` when fewer are free.
    ///
    /// They lie side by side where possible, behind `after` if that is given, with `room` blocks behind them
    /// to grow into.
    pub fn allocate(&mut self, count: usize, after: Option<BlockId>, room: usize) -> Option<Vec<BlockId>> {
        if self.free.len() < count {
            return None;
        }
        while self.free.num_empty() < count {
            let block = self.free.evict_oldest().expect("a free block that is not empty holds content");
            self.forget_content(block);
        }
        let blocks = self.free.take_empty(count, after, room);
        for block in &blocks {
            self.users[block.index()] = 1;
        }
        Some(blocks)
    }

    /// The block that holds this content.
    pub fn find(&self, hash: &BlockHash) -> Option<BlockId> {
        self.by_hash.get(hash).copied()
    }

    /// Notes that `block` is in one more table.
    pub fn retain(&mut self, block: BlockId) {
        if self.users[block.index()] == 0 {
            self.free.remove(block);
        }
        self.users[block.index()] += 1;
    }

    /// Notes that `block` is in one table less.
    pub fn release(&mut self, block: BlockId) {
        let users = &mut self.users[block.index()];
        *users = users.checked_sub(1).expect("only a block in a table is released");
        if *users == 0 {
            match self.hashes[block.index()] {
                Some(_) => self.free.insert_cached(block),
                None => self.free.insert_empty(block),
            }
        }
    }

    /// Takes a table back. Its end is reused before its beginning: a beginning is worth more than its
    /// continuation, which cannot be found without it.
    pub fn release_table(&mut self, table: &[BlockId]) {
        for &block in table.iter().rev() {
            self.release(block);
        }
    }

    /// Makes a full block findable, unless another block holds the same already.
    pub fn publish(&mut self, hash: BlockHash, block: BlockId) {
        if self.hashes[block.index()].is_none() && !self.by_hash.contains_key(&hash) {
            self.hashes[block.index()] = Some(hash);
            self.by_hash.insert(hash, block);
        }
    }

    /// How many tables `block` is in. In more than one, it must not be written.
    pub fn users(&self, block: BlockId) -> usize {
        self.users[block.index()] as usize
    }

    /// Makes `block` unfindable, because its content is about to change.
    pub fn forget_content(&mut self, block: BlockId) {
        if let Some(hash) = self.hashes[block.index()].take() {
            self.by_hash.remove(&hash);
        }
    }

    /// Checks the invariants against `tables`, every table there is.
    #[cfg(test)]
    pub fn check<'a>(&self, tables: impl IntoIterator<Item = &'a BlockId>) {
        let mut users = vec![0; self.num_blocks()];
        for block in tables {
            users[block.index()] += 1;
        }
        assert_eq!(users, self.users, "every use is counted once");
        for (index, (users, hash)) in users.iter().zip(&self.hashes).enumerate() {
            let (block, free) = (BlockId::new(index), *users == 0);
            assert_eq!(self.free.places(block), (free && hash.is_none(), free && hash.is_some()));
            assert!(hash.is_none_or(|hash| self.by_hash[&hash] == block));
        }
        assert_eq!(self.by_hash.len(), self.hashes.iter().flatten().count());
    }
}
