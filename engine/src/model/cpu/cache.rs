//! Keys and values of every layer in main memory, in blocks.
//!
//! A block's keys and values of all layers lie together, so that few large pages hold them, and blocks that were
//! never used take no memory.

use crate::kernels::kv_block::KvFormat;
use crate::kernels::lines::{Line, Lines};
use crate::kernels::paged::{Cached, LayerPlace};
use crate::model::config::LlamaConfig;
use crate::scheduler::block_pool::BlockId;

/// Bytes of a page; blocks of several begin at one.
const PAGE: usize = 4096;

/// Keys and values of every layer.
pub struct CpuCache {
    memory: Lines,
    num_blocks: usize,
    num_layers: usize,
    first: LayerPlace,
}

impl CpuCache {
    /// An empty cache of `num_blocks` blocks.
    pub fn new(config: &LlamaConfig, num_blocks: usize, format: KvFormat) -> Self {
        let LlamaConfig { num_layers, num_kv_heads: heads, head_dim, .. } = *config;
        let mut first = LayerPlace { format, heads, head_dim, stride: 0, start: 0 };
        first.stride = stride(num_layers * 2 * first.to_values());
        let memory = Lines::zeroed(num_blocks * first.stride / size_of::<Line>());
        Self { memory, num_blocks, num_layers, first }
    }

    /// Blocks in the cache.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Copies whole blocks, all layers: a sequence takes over a prefix that it will continue differently.
    pub fn copy_blocks(&mut self, copies: &[(BlockId, BlockId)]) {
        for (from, to) in copies {
            let (from, to) = (self.range(*from), self.range(*to));
            self.memory.bytes_mut().copy_within(from, to.start);
        }
    }

    /// The content of `block`, all layers, in this machine's order of bytes.
    pub fn read_block(&self, block: BlockId) -> Vec<u8> {
        self.memory.bytes()[self.range(block)].to_vec()
    }

    /// Fills `block` with what [`Self::read_block`] gave. `false`, and nothing changed, when the length is
    /// another model's.
    pub fn write_block(&mut self, block: BlockId, content: &[u8]) -> bool {
        let range = self.range(block);
        if content.len() != range.len() {
            return false;
        }
        self.memory.bytes_mut()[range].copy_from_slice(content);
        true
    }

    pub(super) fn layer(&self, layer: usize) -> Cached<'_> {
        Cached { cache: self.memory.bytes(), layer: self.place(layer) }
    }

    pub(super) fn layer_mut(&mut self, layer: usize) -> (&mut [u8], LayerPlace) {
        let place = self.place(layer);
        (self.memory.bytes_mut(), place)
    }

    fn place(&self, layer: usize) -> LayerPlace {
        LayerPlace { start: layer * 2 * self.first.to_values(), ..self.first }
    }

    /// The bytes of `block`, without what is between blocks.
    fn range(&self, block: BlockId) -> std::ops::Range<usize> {
        let start = block.index() * self.first.stride;
        start..start + self.num_layers * 2 * self.first.to_values()
    }
}

/// From one block of `bytes` to the next: whole lines, and an odd number of pages if it has many. With a power of
/// two, one head of all blocks would fall into a few sets of the processor's caches and push itself out.
fn stride(bytes: usize) -> usize {
    match bytes.div_ceil(PAGE) {
        0..16 => bytes.next_multiple_of(size_of::<Line>()),
        pages => (pages | 1) * PAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> CpuCache {
        let first = LayerPlace { format: KvFormat::F16, heads: 1, head_dim: 16, stride: 2112, start: 0 };
        CpuCache { memory: Lines::zeroed(3 * 2112 / 64), num_blocks: 3, num_layers: 2, first }
    }

    #[test]
    fn a_block_comes_back_as_it_went() {
        let mut cache = cache();
        let (bytes, place) = cache.layer_mut(1);
        let start = place.keys(1, 0) + place.to_values();
        for (index, byte) in bytes[start..start + place.side()].iter_mut().enumerate() {
            *byte = index as u8;
        }
        let content = cache.read_block(BlockId::new(1));
        assert!(content.ends_with(&[253, 254, 255]) && cache.write_block(BlockId::new(2), &content));
        assert_eq!(cache.read_block(BlockId::new(2)), content);
        assert!(cache.read_block(BlockId::new(0)).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_block_of_another_model_changes_nothing() {
        let mut cache = cache();
        assert!(!cache.write_block(BlockId::new(0), &[7; 100]));
        assert!(cache.read_block(BlockId::new(0)).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn copies_keep_their_order() {
        let mut cache = cache();
        assert!(cache.write_block(BlockId::new(0), &[5; 2048]));
        cache.copy_blocks(&[(BlockId::new(0), BlockId::new(1)), (BlockId::new(1), BlockId::new(2))]);
        assert_eq!(cache.read_block(BlockId::new(2)), [5; 2048]);
    }

    #[test]
    fn large_blocks_are_an_odd_number_of_pages_apart() {
        assert_eq!([stride(100), stride(16 * 4096), stride(2 << 20)], [128, 17 * 4096, 513 * 4096]);
    }
}
