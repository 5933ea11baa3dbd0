//! Attention of a few queries over one chunk of cached keys and values.
//!
//! A block holds 16 tokens of one head. Its keys lie transposed, (head_dim, 16): one load gives one dimension
//! of 16 tokens, and the 16 scores of a query grow side by side in one register. Its values lie as they came,
//! (16, head_dim). Both are f16.
//!
//! A chunk gives a *partial*: the largest score, the sum of weights relative to it, and the weighted sum of
//! values. Partials are joined in the order of the chunks ([`join`]), whether one thread computed them all or
//! several did; what lies behind a query's limit adds exact zeros. So a token's result has the same bits in
//! every batch, chunking of its prompt and number of threads.
//!
//! Source: "FlashAttention" (Dao et al.), section 3.1, for the joining of partials.

use super::simd::{LANES, Simd, exp, multiversion};

/// Tokens of a KV block.
pub const BLOCK: usize = LANES;
/// Blocks of a chunk: 256 tokens.
pub const CHUNK_BLOCKS: usize = 16;
/// Tokens of a chunk.
pub const CHUNK: usize = BLOCK * CHUNK_BLOCKS;
/// Queries of one call: six, whose sums over four vectors of values fit into 32 registers.
pub const QUERIES: usize = 6;

/// Keys and values of one head in one block: elements of a side.
pub const fn block_elements(head_dim: usize) -> usize {
    BLOCK * head_dim
}

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

/// Where a chunk's blocks of one head begin, in elements of the layer's array.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// The layer's keys.
    pub keys: &'a [u16],
    /// The layer's values.
    pub values: &'a [u16],
    /// For each block of the chunk, at most [`CHUNK_BLOCKS`].
    pub blocks: &'a [usize],
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

    /// 16 numbers as the cache keeps them: f16, and finite. A value that is not finite shows in the residual
    /// stream; here it would poison a block that others may use later, because 0 times it is not 0.
    pub fn halves(values: &[f32; LANES], halves: &mut [u16; LANES]) = halves_body;
}

/// Cached numbers as bytes, in this machine's order.
pub fn bytes_of(halves: &[u16]) -> &[u8] {
    // SAFETY: every u16 is two bytes, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(halves.as_ptr().cast(), size_of_val(halves)) }
}

/// As [`bytes_of`], to be overwritten.
pub fn bytes_of_mut(halves: &mut [u16]) -> &mut [u8] {
    // SAFETY: as above, and any bytes make numbers.
    unsafe { std::slice::from_raw_parts_mut(halves.as_mut_ptr().cast(), size_of_val(halves)) }
}

/// Where dimension `dim` of the key of the token in `slot` lies in its block.
pub const fn key_at(dim: usize, slot: usize) -> usize {
    dim * BLOCK + slot
}

/// Where dimension `dim` of the value of the token in `slot` lies in its block.
pub const fn value_at(head_dim: usize, dim: usize, slot: usize) -> usize {
    slot * head_dim + dim
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
    let end = chunk.blocks.iter().map(|start| start + block_elements(head_dim)).max().unwrap_or(0);
    assert!(end <= chunk.keys.len() && end <= chunk.values.len());
    // SAFETY: blocks lie inside both arrays and the slices have the lengths that the rows read, as asserted.
    unsafe {
        match count {
            0 => {}
            1 => rows::<S, 1>(chunk, queries, limits, most, weights, sums),
            2 => rows::<S, 2>(chunk, queries, limits, most, weights, sums),
            3 => rows::<S, 3>(chunk, queries, limits, most, weights, sums),
            4 => rows::<S, 4>(chunk, queries, limits, most, weights, sums),
            5 => rows::<S, 5>(chunk, queries, limits, most, weights, sums),
            QUERIES => rows::<S, QUERIES>(chunk, queries, limits, most, weights, sums),
            more => panic!("{more} queries in one call"),
        }
    }
}

/// # Safety
/// As [`Simd`]; the blocks lie inside the arrays, `most` is the largest limit and inside the blocks, and the
/// slices hold `R` queries.
#[inline(always)]
unsafe fn rows<S: Simd, const R: usize>(
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
        score::<S, R>(chunk, queries, limits, most, &mut scores);
        for row in 0..R {
            weights[row] = weigh::<S>(&mut scores[row], most);
        }
        let mut first = 0;
        while first + 4 * LANES <= chunk.head_dim {
            gather::<S, R, 4>(chunk, first, most, &scores, sums);
            first += 4 * LANES;
        }
        while first < chunk.head_dim {
            gather::<S, R, 1>(chunk, first, most, &scores, sums);
            first += LANES;
        }
    }
}

/// The scores of whole blocks, minus infinity from each query's limit on.
///
/// # Safety
/// As [`rows`].
#[inline(always)]
unsafe fn score<S: Simd, const R: usize>(
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
            let keys = chunk.keys.as_ptr().add(chunk.blocks[block]);
            let next = chunk.keys.as_ptr().add(chunk.blocks[block + usize::from(pair)]);
            let mut found = [[S::splat(0.0); R]; 2];
            for dim in 0..head_dim {
                let key = S::load_f16(keys.add(dim * BLOCK));
                if pair {
                    let other = S::load_f16(next.add(dim * BLOCK));
                    for row in 0..R {
                        let query = S::splat(*queries.get_unchecked(row * head_dim + dim));
                        found[0][row] = S::fma(query, key, found[0][row]);
                        found[1][row] = S::fma(query, other, found[1][row]);
                    }
                } else {
                    for row in 0..R {
                        let query = S::splat(*queries.get_unchecked(row * head_dim + dim));
                        found[0][row] = S::fma(query, key, found[0][row]);
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
unsafe fn gather<S: Simd, const R: usize, const V: usize>(
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
            let block = *chunk.blocks.get_unchecked(token / BLOCK);
            let from = chunk.values.as_ptr().add(block + token % BLOCK * head_dim + first);
            let mut values = [S::splat(0.0); V];
            for (vector, value) in values.iter_mut().enumerate() {
                *value = S::load_f16(from.add(vector * LANES));
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

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn halves_body<S: Simd>(values: &[f32; LANES], halves: &mut [u16; LANES]) {
    const MOST: f32 = 65_504.0;
    // SAFETY: 16 elements each.
    unsafe {
        let finite = S::max(S::min(S::load(values.as_ptr()), S::splat(MOST)), S::splat(-MOST));
        S::store_f16(halves.as_mut_ptr(), finite);
    }
}

#[cfg(test)]
mod tests;
