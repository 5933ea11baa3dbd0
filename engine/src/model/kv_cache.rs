//! Keys and values of every layer, where the model computes.

use super::candle::CandleCache;
use super::cpu::CpuCache;
use crate::scheduler::block_pool::BlockId;

/// Keys and values of every layer, in blocks of [`crate::scheduler::BLOCK_TOKENS`] tokens.
pub enum KvCache {
    /// For our own kernels.
    Cpu(CpuCache),
    /// In candle's tensors.
    Candle(CandleCache),
}

impl KvCache {
    /// The content of `block`, for [`crate::kv_store`]; `None` where that is not offered.
    pub fn read_block(&self, block: BlockId) -> Option<Vec<u8>> {
        match self {
            Self::Cpu(cache) => Some(cache.read_block(block)),
            Self::Candle(_) => None,
        }
    }

    /// Fills `block` with what [`Self::read_block`] gave. `false`, and nothing changed, when it does not fit.
    pub fn write_block(&mut self, block: BlockId, content: &[u8]) -> bool {
        match self {
            Self::Cpu(cache) => cache.write_block(block, content),
            Self::Candle(_) => false,
        }
    }

    /// Blocks in the cache.
    pub fn num_blocks(&self) -> usize {
        match self {
            Self::Cpu(cache) => cache.num_blocks(),
            Self::Candle(cache) => cache.num_blocks(),
        }
    }
}
