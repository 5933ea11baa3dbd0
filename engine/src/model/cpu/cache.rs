//! Keys and values of every layer in main memory, as f16, in blocks.
//!
//! The pages behind blocks that were never used are not backed by memory.

use crate::kernels::attention::{block_elements, bytes_of, bytes_of_mut};
use crate::kernels::paged::Cached;
use crate::kernels::project::LayerCache;
use crate::model::config::LlamaConfig;
use crate::scheduler::block_pool::BlockId;

/// Keys and values of every layer.
pub struct CpuCache {
    layers: Vec<Layer>,
    num_blocks: usize,
    /// Elements of one block of one side of one layer.
    block: usize,
}

struct Layer {
    keys: Vec<u16>,
    values: Vec<u16>,
}

impl CpuCache {
    /// An empty cache of `num_blocks` blocks.
    pub fn new(config: &LlamaConfig, num_blocks: usize) -> Self {
        let block = config.num_kv_heads * block_elements(config.head_dim);
        // Zeros from the allocator: pages come when they are written.
        let side = || vec![0; num_blocks * block];
        let layers = (0..config.num_layers).map(|_| Layer { keys: side(), values: side() }).collect();
        Self { layers, num_blocks, block }
    }

    /// Blocks in the cache.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Copies whole blocks, all layers: a sequence takes over a prefix that it will continue differently.
    pub fn copy_blocks(&mut self, copies: &[(BlockId, BlockId)]) {
        for (from, to) in copies {
            let (from, to) = (from.index() * self.block, to.index() * self.block);
            for side in self.layers.iter_mut().flat_map(|layer| [&mut layer.keys, &mut layer.values]) {
                side.copy_within(from..from + self.block, to);
            }
        }
    }

    /// The content of `block`, all layers, as bytes of this machine's order.
    pub fn read_block(&self, block: BlockId) -> Vec<u8> {
        let range = block.index() * self.block..(block.index() + 1) * self.block;
        let mut content = Vec::with_capacity(self.layers.len() * 2 * self.block * 2);
        for side in self.layers.iter().flat_map(|layer| [&layer.keys, &layer.values]) {
            content.extend_from_slice(bytes_of(&side[range.clone()]));
        }
        content
    }

    /// Fills `block` with what [`Self::read_block`] gave. `false`, and nothing changed, when the length is
    /// another model's.
    pub fn write_block(&mut self, block: BlockId, content: &[u8]) -> bool {
        if content.len() != self.layers.len() * 2 * self.block * 2 {
            return false;
        }
        let range = block.index() * self.block..(block.index() + 1) * self.block;
        let sides = self.layers.iter_mut().flat_map(|layer| [&mut layer.keys, &mut layer.values]);
        for (side, content) in sides.zip(content.chunks_exact(self.block * 2)) {
            bytes_of_mut(&mut side[range.clone()]).copy_from_slice(content);
        }
        true
    }

    pub(super) fn layer(&self, layer: usize) -> Cached<'_> {
        let Layer { keys, values } = &self.layers[layer];
        Cached { keys, values }
    }

    pub(super) fn layer_mut(&mut self, layer: usize) -> LayerCache<'_> {
        let Layer { keys, values } = &mut self.layers[layer];
        LayerCache { keys, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> CpuCache {
        let layer = || Layer { keys: vec![0; 3 * 32], values: vec![0; 3 * 32] };
        CpuCache { layers: vec![layer(), layer()], num_blocks: 3, block: 32 }
    }

    #[test]
    fn a_block_comes_back_as_it_went() {
        let mut cache = cache();
        for (index, half) in cache.layers[1].values[32..64].iter_mut().enumerate() {
            *half = index as u16 * 999;
        }
        let content = cache.read_block(BlockId::new(1));
        assert!(cache.write_block(BlockId::new(2), &content));
        assert_eq!(cache.layers[1].values[64..], cache.layers[1].values[32..64]);
        assert_eq!(cache.read_block(BlockId::new(2)), content);
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
        cache.layers[0].keys[..32].fill(5);
        cache.copy_blocks(&[(BlockId::new(0), BlockId::new(1)), (BlockId::new(1), BlockId::new(2))]);
        assert_eq!(cache.layers[0].keys, [5; 96]);
    }
}
