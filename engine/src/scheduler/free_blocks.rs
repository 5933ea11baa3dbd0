//! The KV blocks in no table: empty ones, and those whose content may be wanted again.
//!
//! Empty blocks are handed out side by side where possible, because a table of consecutive blocks is read
//! faster.

use std::collections::{BTreeMap, BTreeSet};

use super::block_pool::BlockId;

/// The KV blocks in no table.
pub struct FreeBlocks {
    empty: BTreeSet<BlockId>,
    /// By the time of their release.
    cached: BTreeMap<u64, BlockId>,
    /// When each block was released last.
    released: Vec<u64>,
    now: u64,
}

impl FreeBlocks {
    /// `num_blocks` empty blocks.
    pub fn new(num_blocks: usize) -> Self {
        Self {
            empty: (0..num_blocks).map(BlockId::new).collect(),
            cached: BTreeMap::new(),
            released: vec![0; num_blocks],
            now: 0,
        }
    }

    /// Blocks in no table.
    pub fn len(&self) -> usize {
        self.empty.len() + self.cached.len()
    }

    /// Those without content.
    pub fn num_empty(&self) -> usize {
        self.empty.len()
    }

    /// Adds a block without content.
    pub fn insert_empty(&mut self, block: BlockId) {
        self.empty.insert(block);
    }

    /// Adds a block whose content may be wanted again.
    pub fn insert_cached(&mut self, block: BlockId) {
        self.now += 1;
        self.released[block.index()] = self.now;
        self.cached.insert(self.now, block);
    }

    /// Takes out a block that is wanted again.
    pub fn remove(&mut self, block: BlockId) {
        if self.cached.get(&self.released[block.index()]) == Some(&block) {
            self.cached.remove(&self.released[block.index()]);
        } else {
            self.empty.remove(&block);
        }
    }

    /// Gives up the content released longest ago; its block is empty now.
    pub fn evict_oldest(&mut self) -> Option<BlockId> {
        let (_, block) = self.cached.pop_first()?;
        self.empty.insert(block);
        Some(block)
    }

    /// Takes `count` empty blocks, of which there must be so many: see [`super::block_pool::BlockPool::allocate`].
    pub fn take_empty(&mut self, count: usize, after: Option<BlockId>, room: usize) -> Vec<BlockId> {
        let mut taken = Vec::with_capacity(count);
        let mut next = after.map(|block| block.index() + 1);
        while taken.len() < count {
            let block = next
                .map(BlockId::new)
                .filter(|block| self.empty.contains(block))
                .unwrap_or_else(|| self.place(count - taken.len(), room));
            self.empty.remove(&block);
            taken.push(block);
            next = Some(block.index() + 1);
        }
        taken
    }

    /// Where `count` blocks with `room` behind them start best: in the middle of the longest run of empty
    /// blocks if both halves are long enough, so that the table before it can grow too; else at its start.
    fn place(&self, count: usize, room: usize) -> BlockId {
        let (mut start, mut longest) = (0, 0);
        let (mut run_start, mut run) = (0, 0);
        for block in &self.empty {
            if run == 0 || block.index() != run_start + run {
                (run_start, run) = (block.index(), 0);
            }
            run += 1;
            if run > longest {
                (start, longest) = (run_start, run);
            }
        }
        let from_zero = start == 0; // No table can grow into it.
        let middle = if !from_zero && longest >= 2 * (count + room) { longest / 2 } else { 0 };
        BlockId::new(start + middle)
    }

    /// Whether `block` is here as an empty one, and as one with content.
    #[cfg(test)]
    pub fn places(&self, block: BlockId) -> (bool, bool) {
        let cached = self.cached.values().filter(|cached| **cached == block).count();
        (self.empty.contains(&block), cached == 1)
    }
}
