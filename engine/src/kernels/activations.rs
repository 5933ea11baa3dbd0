//! Activations rounded to 8 bits, for the integer dot products of [`super::matmul`].
//!
//! Each block of 32 columns of one token has one scale: its largest magnitude becomes 127. The error is at
//! most 1/254 of that magnitude a value. Sums are kept beside them, because a weight is stored with an
//! offset: `Σ (w - zero) a = Σ w a - zero Σ a`.

use super::cpu::InstructionSet;
use super::packed::BLOCK_COLUMNS;
use super::simd::{LANES, Simd, multiversion};
use super::threads::{SharedSlice, ThreadPool};

/// From this many tokens on, rounding is shared among the threads; fewer are done sooner than a thread wakes.
const SHARED_TOKENS: usize = 8;

/// Activations of some tokens, (tokens, columns), as signed bytes with a scale a block.
#[derive(Debug, Default)]
pub struct QuantizedActivations {
    tokens: usize,
    columns: usize,
    /// (tokens, columns)
    pub(super) quants: Vec<i8>,
    /// (tokens, blocks)
    pub(super) scales: Vec<f32>,
    /// (tokens, blocks, 2): for each half block, the sum of its quants times the scale.
    pub(super) sums: Vec<f32>,
}

impl QuantizedActivations {
    /// Tokens held.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns of a token, a multiple of 32.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Takes `input`, (tokens, columns) in f32, in place of what was held. Keeps its memory.
    ///
    /// # Panics
    /// When `columns` is not a multiple of 32 or does not divide `input`: a bug in the forward pass.
    pub fn quantize(&mut self, set: InstructionSet, pool: &mut ThreadPool, input: &[f32], columns: usize) {
        assert!(columns > 0 && columns.is_multiple_of(BLOCK_COLUMNS) && input.len().is_multiple_of(columns));
        self.tokens = input.len() / columns;
        self.columns = columns;
        let blocks = input.len() / BLOCK_COLUMNS;
        self.quants.resize(input.len(), 0);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks * 2, 0.0);
        if self.tokens < SHARED_TOKENS {
            return round(set, input, &mut self.quants, &mut self.scales, &mut self.sums);
        }
        let blocks = columns / BLOCK_COLUMNS;
        let quants = SharedSlice::new(&mut self.quants);
        let scales = SharedSlice::new(&mut self.scales);
        let sums = SharedSlice::new(&mut self.sums);
        pool.run(self.tokens, &|token| {
            // SAFETY: each task has its own token.
            let (quants, scales, sums) = unsafe {
                (
                    quants.part(token * columns..(token + 1) * columns),
                    scales.part(token * blocks..(token + 1) * blocks),
                    sums.part(token * blocks * 2..(token + 1) * blocks * 2),
                )
            };
            round(set, &input[token * columns..(token + 1) * columns], quants, scales, sums);
        });
    }
}

multiversion! {
    /// Rounds whole blocks of `input`: a scale and two sums for each. A block with a NaN or infinity becomes
    /// all NaN by its scale, so that it shows in the logits instead of turning into a plausible number.
    fn round(input: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [f32]) = round_body;
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn round_body<S: Simd>(input: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [f32]) {
    let blocks = input.len() / BLOCK_COLUMNS;
    assert!(quants.len() == input.len() && scales.len() == blocks && sums.len() == blocks * 2);
    for block in 0..blocks {
        // SAFETY: two vectors of 16 inside block `block` of each array.
        unsafe {
            let from = input.as_ptr().add(block * BLOCK_COLUMNS);
            let to = quants.as_mut_ptr().add(block * BLOCK_COLUMNS);
            let halves = [S::load(from), S::load(from.add(LANES))];
            let largest = S::reduce_max(S::max(S::abs(halves[0]), S::abs(halves[1])));
            // A NaN may hide from the maximum, but not from a sum of zeros: 0 * x is NaN where x is not finite.
            let zeros = S::add(S::mul(halves[0], S::splat(0.0)), S::mul(halves[1], S::splat(0.0)));
            let finite = S::reduce_add(zeros) == 0.0;
            let inverse = if finite && largest > 0.0 { 127.0 / largest } else { 0.0 };
            let scale = if finite { largest / 127.0 } else { f32::NAN };
            for (half, x) in halves.into_iter().enumerate() {
                let scaled = if finite { S::mul(x, S::splat(inverse)) } else { S::splat(0.0) };
                sums[block * 2 + half] = S::store_i8(to.add(half * LANES), scaled) as f32 * scale;
            }
            scales[block] = scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One block rounded by every set: they agree.
    fn rounded(block: &[f32; BLOCK_COLUMNS]) -> ([i8; BLOCK_COLUMNS], f32, [f32; 2]) {
        let by = |set| {
            let (mut quants, mut scale, mut sums) = ([1; BLOCK_COLUMNS], [1.0], [1.0; 2]);
            round(set, block, &mut quants, &mut scale, &mut sums);
            (quants, scale[0], sums)
        };
        let expected = by(InstructionSet::Portable);
        for set in InstructionSet::all() {
            let found = by(set);
            let bits = |(quants, scale, sums): ([i8; BLOCK_COLUMNS], f32, [f32; 2])| {
                (quants, scale.to_bits(), sums.map(f32::to_bits))
            };
            assert_eq!(bits(found), bits(expected));
        }
        expected
    }

    #[test]
    fn the_largest_value_becomes_127() {
        let mut block = [0.0; BLOCK_COLUMNS];
        block[3] = -2.0;
        block[20] = 1.0;
        let (quants, scale, sums) = rounded(&block);
        assert_eq!((quants[3], quants[20], sums), (-127, 64, [-127.0 * scale, 64.0 * scale]));
        assert!((scale * 127.0 - 2.0).abs() < 1e-6);
    }

    #[test]
    fn a_zero_block_stays_zero() {
        assert_eq!(rounded(&[0.0; BLOCK_COLUMNS]), ([0; BLOCK_COLUMNS], 0.0, [0.0; 2]));
    }

    #[test]
    fn what_is_not_finite_shows() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 7, 16, 31] {
                let mut block = [1.0; BLOCK_COLUMNS];
                block[place] = odd;
                assert!(rounded(&block).1.is_nan());
            }
        }
    }
}
