use super::*;
use crate::kernels::cpu::InstructionSet;
use crate::kernels::kv_block::{store_key, store_value};
use crate::kernels::threads::SharedSlice;

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
    .take(count)
    .collect()
}

/// One head with `tokens` cached tokens, in blocks that lie in reverse order.
struct Cache {
    format: KvFormat,
    head_dim: usize,
    bytes: Vec<u8>,
    blocks: Vec<usize>,
    rows: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Cache {
    fn new(format: KvFormat, set: InstructionSet, head_dim: usize, tokens: usize) -> Self {
        let count = tokens.div_ceil(BLOCK);
        let side = format.block_bytes(head_dim);
        // What no token was written to holds something finite that must not matter.
        let mut bytes = vec![0x40; count * 2 * side];
        let blocks: Vec<usize> = (0..count).rev().map(|block| block * 2 * side).collect();
        let mut rows = Vec::new();
        let cache = SharedSlice::new(&mut bytes);
        for token in 0..tokens {
            let key = numbers(head_dim, 2 * token as u32 + 1);
            let value = numbers(head_dim, 2 * token as u32 + 2);
            let (start, slot) = (blocks[token / BLOCK], token % BLOCK);
            for dim in (0..head_dim).step_by(LANES) {
                let part = |row: &[f32]| row[dim..dim + LANES].try_into().expect("16");
                // SAFETY: there is one task.
                unsafe {
                    store_key(format, set, &cache, start, dim, slot, &part(&key));
                    store_value(format, set, &cache, start + side, head_dim, dim, slot, &part(&value));
                }
            }
            rows.push((key, value));
        }
        Self { format, head_dim, bytes, blocks, rows }
    }

    /// The attention of `queries`, (count, head_dim), of which query `i` sees `limits[i]` tokens.
    fn found(&self, set: InstructionSet, queries: &[f32], limits: &[usize]) -> Vec<f32> {
        let (count, head_dim) = (limits.len(), self.head_dim);
        let mut all = vec![Weights::NONE; count];
        let mut all_sums = vec![0.0; count * head_dim];
        for (index, blocks) in self.blocks.chunks(CHUNK_BLOCKS).enumerate() {
            let chunk = Chunk {
                cache: &self.bytes,
                format: self.format,
                blocks,
                to_values: self.format.block_bytes(head_dim),
                head_dim,
            };
            let limits: Vec<usize> =
                limits.iter().map(|l| l.saturating_sub(index * CHUNK).min(CHUNK)).collect();
            let mut weights = vec![Weights::NONE; count];
            let mut sums = vec![f32::NAN; count * head_dim];
            attend(set, chunk, queries, &limits, &mut weights, &mut sums);
            for row in 0..count {
                let range = row * head_dim..(row + 1) * head_dim;
                join(set, &mut all[row], &mut all_sums[range.clone()], weights[row], &sums[range]);
            }
        }
        let mut output = vec![f32::NAN; count * head_dim];
        for row in 0..count {
            let range = row * head_dim..(row + 1) * head_dim;
            finish(set, all[row], &all_sums[range.clone()], &mut output[range]);
        }
        output
    }

    /// The formula, in f64.
    fn expected(&self, query: &[f32], limit: usize) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let scores: Vec<f64> = self.rows[..limit].iter().map(|(key, _)| dot(query, key)).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let weighed = |dim: usize| {
            self.rows
                .iter()
                .zip(&weights)
                .map(|((_, value), weight)| f64::from(value[dim]) * weight)
                .sum::<f64>()
        };
        (0..self.head_dim).map(|dim| weighed(dim) / total).collect()
    }
}

#[track_caller]
fn check(head_dim: usize, tokens: usize, limits: &[usize]) {
    for (format, error) in [(KvFormat::F16, 2e-3), (KvFormat::Q8, 2e-2)] {
        for set in InstructionSet::all() {
            let cache = Cache::new(format, set, head_dim, tokens);
            let queries: Vec<f32> = numbers(limits.len() * head_dim, 77).iter().map(|x| x * 0.8).collect();
            let found = cache.found(set, &queries, limits);
            for (row, &limit) in limits.iter().enumerate() {
                let range = row * head_dim..(row + 1) * head_dim;
                let expected = cache.expected(&queries[range.clone()], limit);
                for (found, expected) in found[range].iter().zip(expected) {
                    let off = (f64::from(*found) - expected).abs();
                    assert!(off < error, "{format:?} {set:?}: {found}, not {expected}");
                }
            }
        }
    }
}

#[test]
fn one_query_over_a_few_tokens() {
    check(64, 5, &[5]);
}

#[test]
fn every_number_of_queries_and_limit() {
    for count in 1..=QUERIES {
        let limits: Vec<usize> = (0..count).map(|row| 1 + row * 37 % 90).collect();
        check(64, 90, &limits);
    }
}

#[test]
fn heads_of_several_widths() {
    for head_dim in [16, 48, 64, 80, 128, 256] {
        check(head_dim, 40, &[40, 17, 33, 1]);
    }
}

#[test]
fn chunks_are_joined() {
    check(64, 700, &[700, 255, 256, 257, 512, 513]);
}

#[test]
fn a_query_has_the_same_bits_in_any_company() {
    for format in [KvFormat::F16, KvFormat::Q8] {
        for set in InstructionSet::all() {
            let cache = Cache::new(format, set, 64, 600);
            let limits = [600, 1, 256, 300, 511, 17];
            let queries = numbers(limits.len() * 64, 5);
            let together = cache.found(set, &queries, &limits);
            for (row, limit) in limits.into_iter().enumerate() {
                let range = row * 64..(row + 1) * 64;
                assert_eq!(cache.found(set, &queries[range.clone()], &[limit]), together[range]);
            }
        }
    }
}
