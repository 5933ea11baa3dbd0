//! Keys and values of every layer, where the model computes.

use super::candle::CandleCache;
use super::cpu::CpuCache;

/// Keys and values of every layer, in blocks of [`crate::scheduler::BLOCK_TOKENS`] tokens.
pub enum KvCache {
    /// For our own kernels.
    Cpu(CpuCache),
    /// In candle's tensors.
    Candle(CandleCache),
}

impl KvCache {
    /// Blocks in the cache.
    pub fn num_blocks(&self) -> usize {
        match self {
            Self::Cpu(cache) => cache.num_blocks(),
            Self::Candle(cache) => cache.num_blocks(),
        }
    }
}
