//! What happens to single rows between matrix products: normalisation and the gate of the feed-forward block.
//!
//! Every function takes the rows of some tokens, one after the other, and treats each by itself: a row's
//! result does not depend on which rows come with it.

use super::cpu::InstructionSet;
use super::simd::{LANES, Simd, exp, multiversion};
use super::threads::{SharedSlice, ThreadPool};

multiversion! {
    /// Root mean square normalisation: `output = input / sqrt(mean(input²) + eps) * weight`, for rows of
    /// `weight.len()` columns, a multiple of 16.
    pub fn rms_norm(input: &[f32], weight: &[f32], eps: f32, output: &mut [f32]) = rms_norm_body;

    /// `gate = gate / (1 + e^-gate) * up`, element by element; lengths are a multiple of 16.
    pub fn silu_times(gate: &mut [f32], up: &[f32]) = silu_times_body;

    /// `sum += addend`, element by element; lengths are a multiple of 16.
    pub fn add_to(sum: &mut [f32], addend: &[f32]) = add_to_body;
}

/// From this many rows on they are shared among the threads; fewer are done sooner than a thread wakes.
const SHARED_ROWS: usize = 8;

/// [`rms_norm`] of many rows, on all threads.
pub fn rms_norm_rows(
    set: InstructionSet,
    pool: &mut ThreadPool,
    input: &[f32],
    weight: &[f32],
    eps: f32,
    output: &mut [f32],
) {
    let columns = weight.len();
    let rows = input.len() / columns;
    if rows < SHARED_ROWS {
        return rms_norm(set, input, weight, eps, output);
    }
    let output = SharedSlice::new(output);
    pool.run(rows, &|row| {
        let range = row * columns..(row + 1) * columns;
        // SAFETY: each task has its own row.
        rms_norm(set, &input[range.clone()], weight, eps, unsafe { output.part(range) });
    });
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn rms_norm_body<S: Simd>(input: &[f32], weight: &[f32], eps: f32, output: &mut [f32]) {
    let columns = weight.len();
    assert!(columns.is_multiple_of(LANES) && input.len().is_multiple_of(columns));
    assert_eq!(input.len(), output.len());
    for (input, output) in input.chunks_exact(columns).zip(output.chunks_exact_mut(columns)) {
        // SAFETY: every access is to 16 elements below `columns`.
        unsafe {
            // Four sums, because a fused multiply-add takes four cycles to come back.
            let mut squares = [S::splat(0.0); 4];
            for column in (0..columns).step_by(LANES) {
                let x = S::load(input.as_ptr().add(column));
                let sum = &mut squares[column / LANES % 4];
                *sum = S::fma(x, x, *sum);
            }
            let sum = S::add(S::add(squares[0], squares[1]), S::add(squares[2], squares[3]));
            let scale = S::splat(1.0 / (S::reduce_add(sum) / columns as f32 + eps).sqrt());
            for column in (0..columns).step_by(LANES) {
                let x = S::load(input.as_ptr().add(column));
                let weight = S::load(weight.as_ptr().add(column));
                S::store(output.as_mut_ptr().add(column), S::mul(S::mul(x, scale), weight));
            }
        }
    }
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn silu_times_body<S: Simd>(gate: &mut [f32], up: &[f32]) {
    assert!(gate.len() == up.len() && gate.len().is_multiple_of(LANES));
    for at in (0..gate.len()).step_by(LANES) {
        // SAFETY: 16 elements from `at` on are inside both.
        unsafe {
            let x = S::load(gate.as_ptr().add(at));
            let denominator = S::add(S::splat(1.0), exp::<S>(S::sub(S::splat(0.0), x)));
            let result = S::mul(S::div(x, denominator), S::load(up.as_ptr().add(at)));
            S::store(gate.as_mut_ptr().add(at), result);
        }
    }
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn add_to_body<S: Simd>(sum: &mut [f32], addend: &[f32]) {
    assert!(sum.len() == addend.len() && sum.len().is_multiple_of(LANES));
    for at in (0..sum.len()).step_by(LANES) {
        // SAFETY: 16 elements from `at` on are inside both.
        unsafe {
            let result = S::add(S::load(sum.as_ptr().add(at)), S::load(addend.as_ptr().add(at)));
            S::store(sum.as_mut_ptr().add(at), result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 22) as f32 - 2.0
        })
        .take(count)
        .collect()
    }

    #[track_caller]
    fn check(found: &[f32], expected: impl Iterator<Item = f64>) {
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (f64::from(*found) - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn normalisation_is_the_formula() {
        let (input, weight) = (numbers(3 * 96, 1), numbers(96, 2));
        for set in InstructionSet::all() {
            let mut output = vec![0.0; input.len()];
            rms_norm(set, &input, &weight, 1e-5, &mut output);
            for (input, output) in input.chunks(96).zip(output.chunks(96)) {
                let mean: f64 = input.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 96.0;
                let scale = 1.0 / (mean + 1e-5).sqrt();
                check(output, input.iter().zip(&weight).map(|(x, w)| f64::from(*x) * scale * f64::from(*w)));
            }
        }
    }

    #[test]
    fn the_gate_is_the_formula() {
        let (gate, up) = (numbers(64, 3), numbers(64, 4));
        for set in InstructionSet::all() {
            let mut found = gate.clone();
            silu_times(set, &mut found, &up);
            let formula =
                |(x, up): (&f32, &f32)| f64::from(*x) / (1.0 + (-f64::from(*x)).exp()) * f64::from(*up);
            check(&found, gate.iter().zip(&up).map(formula));
        }
    }

    #[test]
    fn sums_add_up() {
        let (sum, addend) = (numbers(32, 5), numbers(32, 6));
        for set in InstructionSet::all() {
            let mut found = sum.clone();
            add_to(set, &mut found, &addend);
            check(&found, sum.iter().zip(&addend).map(|(a, b)| f64::from(a + b)));
        }
    }
}
