//! Keys and values of every layer in main memory, as f16, in blocks.
//!
//! The pages behind blocks that were never used are not backed by memory.

use crate::kernels::attention::block_elements;
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

    pub(super) fn layer(&self, layer: usize) -> Cached<'_> {
        let Layer { keys, values } = &self.layers[layer];
        Cached { keys, values }
    }

    pub(super) fn layer_mut(&mut self, layer: usize) -> LayerCache<'_> {
        let Layer { keys, values } = &mut self.layers[layer];
        LayerCache { keys, values }
    }
}
