//! Attention of a few queries over one chunk of cached keys and values.
//!
//! A block ([`super::kv_block`]) holds 16 tokens of one head; the 16 scores of a query grow side by side in one
//! register.
//!
//! A chunk gives a *partial*: the largest score, the sum of weights relative to it, and the weighted sum of
//! values. Partials are joined in the order of the chunks ([`join`]), whether one thread computed them all or
//! several did; what lies behind a query's limit adds exact zeros. So a token's result has the same bits in
//! every batch, chunking of its prompt and number of threads.
//!
//! Source: "FlashAttention" (Dao et al.), section 3.1, for the joining of partials.

use super::kv_block::{BLOCK, F16, KvFormat, Layout, Q8};
use super::simd::{LANES, Simd, exp, multiversion};

/// Blocks of a chunk: 256 tokens.
pub const CHUNK_BLOCKS: usize = 16;
/// Tokens of a chunk.
pub const CHUNK: usize = BLOCK * CHUNK_BLOCKS;
/// Queries of one call: six, whose sums over four vectors of values fit into 32 registers.
pub const QUERIES: usize = 6;

/// What one chunk gives for one query.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// The largest score, or minus infinity when the query sees nothing of the chunk.
    pub largest: f32,
    /// The sum of e^(score - largest).
    pub total: f32,
}

impl Weights {
    /// Of a query that has seen nothing yet.
    pub const NONE: Self = Self { largest: f32::NEG_INFINITY, total: 0.0 };
}

/// Where a chunk's keys and values of one head lie.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// The whole cache.
    pub cache: &'a [u8],
    /// What its numbers are.
    pub format: KvFormat,
    /// Where the keys of each block of the chunk begin, at most [`CHUNK_BLOCKS`].
    pub blocks: &'a [usize],
    /// From the keys of a block to its values.
    pub to_values: usize,
    /// Elements of one head.
    pub head_dim: usize,
}

multiversion! {
    /// `queries`: (count, head_dim), scaled already, count at most [`QUERIES`]; query `i` sees the first
    /// `limits[i]` tokens of the chunk. Gives each one's `weights` and, in `sums`, (count, head_dim), the sum
    /// of e^(score - largest) times value.
    pub fn attend(
        chunk: Chunk<'_>,
        queries: &[f32],
        limits: &[usize],
        weights: &mut [Weights],
        sums: &mut [f32],
    ) = attend_body;

    /// Joins the partial (`weights`, `sums`) to what came before it, (`all`, `all_sums`): one query,
    /// (head_dim,).
    pub fn join(all: &mut Weights, all_sums: &mut [f32], weights: Weights, sums: &[f32]) = join_body;

    /// `output = sums / total`.
    pub fn finish(weights: Weights, sums: &[f32], output: &mut [f32]) = finish_body;
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn attend_body<S: Simd>(
    chunk: Chunk<'_>,
    queries: &[f32],
    limits: &[usize],
    weights: &mut [Weights],
    sums: &mut [f32],
) {
    let count = limits.len();
    let head_dim = chunk.head_dim;
    let most = limits.iter().copied().max().unwrap_or(0);
    assert!(head_dim.is_multiple_of(LANES) && most <= chunk.blocks.len() * BLOCK && most <= CHUNK);
    assert!(queries.len() == count * head_dim && sums.len() == count * head_dim && weights.len() == count);
    let side = chunk.format.block_bytes(head_dim);
    let end = chunk.blocks.iter().map(|start| start + chunk.to_values + side).max().unwrap_or(0);
    assert!(end <= chunk.cache.len());
    // SAFETY: both sides of all blocks lie inside the cache, and the slices have the lengths that the rows read,
    // as asserted.
    unsafe {
        match chunk.format {
            KvFormat::F16 => count_of::<S, F16>(chunk, queries, limits, most, weights, sums),
            KvFormat::Q8 => count_of::<S, Q8>(chunk, queries, limits, most, weights, sums),
        }
    }
}

/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn count_of<S: Simd, L: Layout>(
    chunk: Chunk<'_>,
    queries: &[f32],
    limits: &[usize],
    most: usize,
    weights: &mut [Weights],
    sums: &mut [f32],
) {
    // SAFETY: as this function's.
    unsafe {
        match limits.len() {
            0 => {}
            1 => rows::<S, L, 1>(chunk, queries, limits, most, weights, sums),
            2 => rows::<S, L, 2>(chunk, queries, limits, most, weights, sums),
            3 => rows::<S, L, 3>(chunk, queries, limits, most, weights, sums),
            4 => rows::<S, L, 4>(chunk, queries, limits, most, weights, sums),
            5 => rows::<S, L, 5>(chunk, queries, limits, most, weights, sums),
            QUERIES => rows::<S, L, QUERIES>(chunk, queries, limits, most, weights, sums),
            more => panic!("{more} queries in one call"),
        }
    }
}

/// # Safety
/// As [`Simd`]; both sides of the blocks lie inside the cache, `most` is the largest limit and inside the blocks, and the
/// slices hold `R` queries.
#[inline(always)]
unsafe fn rows<S: Simd, L: Layout, const R: usize>(
    chunk: Chunk<'_>,
    queries: &[f32],
    limits: &[usize],
    most: usize,
    weights: &mut [Weights],
    sums: &mut [f32],
) {
    let mut scores = [[0f32; CHUNK]; R];
    // SAFETY: as this function's.
    unsafe {
        score::<S, L, R>(chunk, queries, limits, most, &mut scores);
        for row in 0..R {
            weights[row] = weigh::<S>(&mut scores[row], most);
        }
        let mut first = 0;
        while first + 4 * LANES <= chunk.head_dim {
            gather::<S, L, R, 4>(chunk, first, most, &scores, sums);
            first += 4 * LANES;
        }
        while first < chunk.head_dim {
            gather::<S, L, R, 1>(chunk, first, most, &scores, sums);
            first += LANES;
        }
    }
}

/// The scores of whole blocks, minus infinity from each query's limit on.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn score<S: Simd, L: Layout, const R: usize>(
    chunk: Chunk<'_>,
    queries: &[f32],
    limits: &[usize],
    most: usize,
    scores: &mut [[f32; CHUNK]; R],
) {
    let head_dim = chunk.head_dim;
    let blocks = most.div_ceil(BLOCK);
    let mut block = 0;
    // SAFETY: as this function's.
    unsafe {
        while block < blocks {
            // Two blocks at a time: twice as many sums grow while one waits for its last product.
            let pair = block + 1 < blocks;
            let keys = chunk.cache.as_ptr().add(chunk.blocks[block]);
            let next = chunk.cache.as_ptr().add(chunk.blocks[block + usize::from(pair)]);
            // Blocks lie apart in memory, where the processor does not guess which comes next.
            let ahead = [2, 3].map(|ahead| chunk.blocks.get(block + ahead).unwrap_or(&chunk.blocks[block]));
            let ahead = ahead.map(|start| chunk.cache.as_ptr().add(*start));
            let mut found = [[S::splat(0.0); R]; 2];
            for group in (0..head_dim).step_by(LANES) {
                for line in (0..L::KEY_GROUP).step_by(64) {
                    let at = group / LANES * L::KEY_GROUP + line;
                    S::prefetch(ahead[0].wrapping_add(at));
                    S::prefetch(ahead[1].wrapping_add(at));
                }
                // Without scales the sums simply go on growing.
                let mut sums = if L::SCALED { [[S::splat(0.0); R]; 2] } else { found };
                for dim in group..group + LANES {
                    let key = L::key::<S>(keys, dim);
                    if pair {
                        let other = L::key::<S>(next, dim);
                        for row in 0..R {
                            let query = S::splat(*queries.get_unchecked(row * head_dim + dim));
                            sums[0][row] = S::fma(query, key, sums[0][row]);
                            sums[1][row] = S::fma(query, other, sums[1][row]);
                        }
                    } else {
                        for row in 0..R {
                            let query = S::splat(*queries.get_unchecked(row * head_dim + dim));
                            sums[0][row] = S::fma(query, key, sums[0][row]);
                        }
                    }
                }
                if !L::SCALED {
                    found = sums;
                    continue;
                }
                for (keys, (found, sums)) in [keys, next].into_iter().zip(found.iter_mut().zip(&sums)) {
                    let scales = L::key_scales::<S>(keys, group);
                    for row in 0..R {
                        found[row] = S::fma(sums[row], scales, found[row]);
                    }
                }
            }
            for (offset, found) in found.iter().enumerate().take(1 + usize::from(pair)) {
                for row in 0..R {
                    let visible = limits[row].saturating_sub((block + offset) * BLOCK);
                    let kept = S::keep_first(found[row], visible, S::splat(f32::NEG_INFINITY));
                    S::store(scores[row].as_mut_ptr().add((block + offset) * BLOCK), kept);
                }
            }
            block += 1 + usize::from(pair);
        }
    }
}

/// Turns scores into e^(score - largest).
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn weigh<S: Simd>(scores: &mut [f32; CHUNK], most: usize) -> Weights {
    let blocks = most.div_ceil(BLOCK);
    // SAFETY: as this function's; blocks lie inside the scores.
    unsafe {
        let mut largest = S::splat(f32::NEG_INFINITY);
        for block in 0..blocks {
            largest = S::max(largest, S::load(scores.as_ptr().add(block * BLOCK)));
        }
        let largest = S::reduce_max(largest);
        if largest == f32::NEG_INFINITY {
            scores[..blocks * BLOCK].fill(0.0);
            return Weights::NONE;
        }
        let mut total = S::splat(0.0);
        for block in 0..blocks {
            let at = scores.as_mut_ptr().add(block * BLOCK);
            let weight = exp::<S>(S::sub(S::load(at), S::splat(largest)));
            S::store(at, weight);
            total = S::add(total, weight);
        }
        Weights { largest, total: S::reduce_add(total) }
    }
}

/// The weighted sums of `V` vectors of the values, from dimension `first` on.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn gather<S: Simd, L: Layout, const R: usize, const V: usize>(
    chunk: Chunk<'_>,
    first: usize,
    most: usize,
    scores: &[[f32; CHUNK]; R],
    sums: &mut [f32],
) {
    let head_dim = chunk.head_dim;
    // SAFETY: as this function's.
    unsafe {
        let mut found = [[S::splat(0.0); V]; R];
        for token in 0..most {
            let block = *chunk.blocks.get_unchecked(token / BLOCK) + chunk.to_values;
            let block = chunk.cache.as_ptr().add(block);
            let ahead = *chunk.blocks.get(token / BLOCK + 1).unwrap_or(&0) + chunk.to_values;
            let ahead =
                chunk.cache.as_ptr().wrapping_add(ahead + L::value_at(head_dim, first, token % BLOCK));
            S::prefetch(ahead);
            S::prefetch(ahead.wrapping_add(64));
            let mut values = [S::splat(0.0); V];
            for (vector, value) in values.iter_mut().enumerate() {
                *value = L::value::<S>(block, head_dim, first + vector * LANES, token % BLOCK);
            }
            for row in 0..R {
                let weight = S::splat(*scores[row].get_unchecked(token));
                for vector in 0..V {
                    found[row][vector] = S::fma(weight, values[vector], found[row][vector]);
                }
            }
        }
        for row in 0..R {
            for vector in 0..V {
                let to = sums.as_mut_ptr().add(row * head_dim + first + vector * LANES);
                S::store(to, found[row][vector]);
            }
        }
    }
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn join_body<S: Simd>(all: &mut Weights, all_sums: &mut [f32], weights: Weights, sums: &[f32]) {
    assert!(all_sums.len() == sums.len() && sums.len().is_multiple_of(LANES));
    if weights.largest == f32::NEG_INFINITY {
        return;
    }
    if all.largest == f32::NEG_INFINITY {
        *all = weights;
        all_sums.copy_from_slice(sums);
        return;
    }
    let largest = all.largest.max(weights.largest);
    let (before, after) = ((all.largest - largest).exp(), (weights.largest - largest).exp());
    *all = Weights { largest, total: all.total * before + weights.total * after };
    for at in (0..sums.len()).step_by(LANES) {
        // SAFETY: 16 elements from `at` on are inside both.
        unsafe {
            let old = S::mul(S::load(all_sums.as_ptr().add(at)), S::splat(before));
            let new = S::fma(S::load(sums.as_ptr().add(at)), S::splat(after), old);
            S::store(all_sums.as_mut_ptr().add(at), new);
        }
    }
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn finish_body<S: Simd>(weights: Weights, sums: &[f32], output: &mut [f32]) {
    assert!(output.len() == sums.len() && sums.len().is_multiple_of(LANES));
    for at in (0..sums.len()).step_by(LANES) {
        // SAFETY: 16 elements from `at` on are inside both.
        unsafe {
            let value = S::div(S::load(sums.as_ptr().add(at)), S::splat(weights.total));
            S::store(output.as_mut_ptr().add(at), value);
        }
    }
}

#[cfg(test)]
mod tests;
