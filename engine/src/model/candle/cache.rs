//! Keys and values of every layer, in blocks.
//!
//! The cache is one preallocated tensor per layer and side, (num_kv_heads, slots, head_dim), where block `b`
//! holds the slots `b * BLOCK_TOKENS ..`. Any block table works; a table of consecutive blocks is read in
//! place, any other is gathered. On a CPU the pages behind unused blocks are not backed by memory.

use candle_core::{DType, Device, Tensor};

use crate::error::EngineError;
use crate::model::config::LlamaConfig;
use crate::scheduler::BLOCK_TOKENS;
use crate::scheduler::block_pool::BlockId;

/// Keys and values of every layer.
pub struct CandleCache {
    layers: Vec<Layer>,
    num_blocks: usize,
}

struct Layer {
    keys: Tensor,
    values: Tensor,
}

impl CandleCache {
    /// An empty cache of `num_blocks` blocks.
    pub fn new(config: &LlamaConfig, num_blocks: usize, device: &Device) -> Result<Self, EngineError> {
        let shape = (config.num_kv_heads, num_blocks * BLOCK_TOKENS, config.head_dim);
        let layer = || -> candle_core::Result<Layer> {
            Ok(Layer {
                keys: Tensor::zeros(shape, DType::F32, device)?,
                values: Tensor::zeros(shape, DType::F32, device)?,
            })
        };
        let layers = (0..config.num_layers).map(|_| layer()).collect::<candle_core::Result<_>>()?;
        Ok(Self { layers, num_blocks })
    }

    /// Blocks in the cache.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Copies whole blocks, all layers: a sequence takes over a prefix that it will continue differently.
    pub fn copy_blocks(&mut self, copies: &[(BlockId, BlockId)]) -> candle_core::Result<()> {
        for (from, to, count) in consecutive(copies) {
            for side in self.layers.iter().flat_map(|layer| [&layer.keys, &layer.values]) {
                let source = side.narrow(1, from * BLOCK_TOKENS, count * BLOCK_TOKENS)?.force_contiguous()?;
                side.slice_set(&source, 1, to * BLOCK_TOKENS)?;
            }
        }
        Ok(())
    }

    /// Writes `keys` and `values`, (num_kv_heads, tokens, head_dim), of the tokens from `position` on.
    pub fn write(
        &mut self,
        layer: usize,
        table: &[BlockId],
        position: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> candle_core::Result<()> {
        let (_num_kv_heads, tokens, _head_dim) = keys.dims3()?;
        let Layer { keys: all_keys, values: all_values } = &self.layers[layer];
        for (start, slot, count) in runs(table, position, tokens) {
            all_keys.slice_set(&keys.narrow(1, start, count)?.contiguous()?, 1, slot)?;
            all_values.slice_set(&values.narrow(1, start, count)?.contiguous()?, 1, slot)?;
        }
        Ok(())
    }

    /// Keys and values of the first `length` tokens of a sequence, (num_kv_heads, length, head_dim) each.
    pub fn read(
        &self,
        layer: usize,
        table: &[BlockId],
        length: usize,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let Layer { keys, values } = &self.layers[layer];
        let runs: Vec<_> = runs(table, 0, length).collect();
        if let [(_, slot, _)] = runs[..] {
            return Ok((keys.narrow(1, slot, length)?, values.narrow(1, slot, length)?));
        }
        let gather = |side: &Tensor| {
            let parts: Vec<_> =
                runs.iter().map(|&(_, slot, count)| side.narrow(1, slot, count)).collect::<Result<_, _>>()?;
            Tensor::cat(&parts, 1)
        };
        Ok((gather(keys)?, gather(values)?))
    }
}

/// Splits the tokens `position .. position + tokens` of a sequence into runs that lie side by side in the
/// cache: (first token, counted from `position`; slot; tokens).
fn runs(table: &[BlockId], position: usize, tokens: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == tokens {
            return None;
        }
        let first = (position + done) / BLOCK_TOKENS;
        let inside = (position + done) % BLOCK_TOKENS;
        let mut last = first;
        let mut count = (BLOCK_TOKENS - inside).min(tokens - done);
        while done + count < tokens && table[last + 1].index() == table[last].index() + 1 {
            last += 1;
            count = (count + BLOCK_TOKENS).min(tokens - done);
        }
        let run = (done, table[first].index() * BLOCK_TOKENS + inside, count);
        done += count;
        Some(run)
    })
}

/// Joins copies of neighbouring blocks: (from, to, blocks).
fn consecutive(copies: &[(BlockId, BlockId)]) -> Vec<(usize, usize, usize)> {
    let mut joined: Vec<(usize, usize, usize)> = Vec::new();
    for (from, to) in copies {
        match joined.last_mut() {
            Some((start, target, count))
                if *start + *count == from.index() && *target + *count == to.index() =>
            {
                *count += 1
            }
            _ => joined.push((from.index(), to.index(), 1)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(table: &[usize], position: usize, tokens: usize, expected: &[(usize, usize, usize)]) {
        let table: Vec<_> = table.iter().map(|&index| BlockId::new(index)).collect();
        assert_eq!(runs(&table, position, tokens).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn consecutive_blocks_are_one_run() {
        check(&[3, 4, 5], 0, 40, &[(0, 48, 40)])
    }

    #[test]
    fn a_jump_in_the_table_starts_a_new_run() {
        check(&[3, 4, 1], 0, 40, &[(0, 48, 32), (32, 16, 8)])
    }

    #[test]
    fn a_run_may_start_inside_a_block() {
        check(&[7, 2], 10, 10, &[(0, 122, 6), (6, 32, 4)])
    }

    #[test]
    fn copies_of_neighbours_are_joined() {
        let ids = |pairs: &[(usize, usize)]| -> Vec<_> {
            pairs.iter().map(|&(from, to)| (BlockId::new(from), BlockId::new(to))).collect()
        };
        assert_eq!(consecutive(&ids(&[(0, 8), (1, 9), (2, 4)])), [(0, 8, 2), (2, 4, 1)]);
    }
}
