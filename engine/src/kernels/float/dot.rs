//! Dot products with floating-point weights: one fused multiply-add is one column of 16 rows.
//!
//! Each column's weights are widened once and used for every token of a group, whose sums (one for even
//! columns, one for odd, to hide the latency of an addition) stay in registers over the whole row.

use super::{FloatKind, FloatMatrix, PANEL_ROWS};
use crate::kernels::simd::{Simd, multiversion};

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

multiversion! {
    /// `out[t][lane]` is the dot product of token `t` of `input`, (tokens, columns), and row `16 * index + lane`.
    pub(super) fn dot(weights: &FloatMatrix, index: usize, input: &[f32], out: &mut [[f32; PANEL_ROWS]]) = body;
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn body<S: Simd>(weights: &FloatMatrix, index: usize, input: &[f32], out: &mut [[f32; PANEL_ROWS]]) {
    let columns = weights.columns;
    // The loads below rely on this; `FloatMatrix` keeps the length of its panels.
    assert_eq!(input.len(), out.len() * columns);
    let values: *const u8 = weights.panel(index).as_ptr().cast();
    let group = S::REGISTERS / 2 - S::REGISTERS / 8; // two sums a token, and room for the weights
    for (out, input) in out.chunks_mut(group).zip(input.chunks(group * columns)) {
        // SAFETY: the panel holds `columns` columns of its kind, and `input` as many tokens as `out`.
        unsafe {
            match weights.kind {
                FloatKind::F32 => by_count::<S, F32>(values, columns, input, out),
                FloatKind::F16 => by_count::<S, F16>(values, columns, input, out),
                FloatKind::Bf16 => by_count::<S, BF16>(values, columns, input, out),
            }
        }
    }
}

/// # Safety
/// As [`tokens`].
#[inline(always)]
unsafe fn by_count<S: Simd, const KIND: u8>(
    values: *const u8,
    columns: usize,
    input: &[f32],
    out: &mut [[f32; PANEL_ROWS]],
) {
    // SAFETY: as this function's.
    unsafe {
        match out.len() {
            0 => {}
            1 => tokens::<S, KIND, 1>(values, columns, input, out),
            2 => tokens::<S, KIND, 2>(values, columns, input, out),
            3 => tokens::<S, KIND, 3>(values, columns, input, out),
            4 => tokens::<S, KIND, 4>(values, columns, input, out),
            5 => tokens::<S, KIND, 5>(values, columns, input, out),
            6 => tokens::<S, KIND, 6>(values, columns, input, out),
            7 => tokens::<S, KIND, 7>(values, columns, input, out),
            8 => tokens::<S, KIND, 8>(values, columns, input, out),
            9 => tokens::<S, KIND, 9>(values, columns, input, out),
            10 => tokens::<S, KIND, 10>(values, columns, input, out),
            11 => tokens::<S, KIND, 11>(values, columns, input, out),
            12 => tokens::<S, KIND, 12>(values, columns, input, out),
            more => unreachable!("{more} tokens in a group"),
        }
    }
}

/// # Safety
/// As [`Simd`]; `values` points to (columns, 16) values of `KIND`, `input` is (T, columns) and `out` has `T`
/// tokens.
#[inline(always)]
unsafe fn tokens<S: Simd, const KIND: u8, const T: usize>(
    values: *const u8,
    columns: usize,
    input: &[f32],
    out: &mut [[f32; PANEL_ROWS]],
) {
    // SAFETY: as this function's; every column is below `columns`.
    unsafe {
        let mut even = [S::splat(0.0); T];
        let mut odd = [S::splat(0.0); T];
        let mut column = 0;
        while column + 1 < columns {
            let weights = [widened::<S, KIND>(values, column), widened::<S, KIND>(values, column + 1)];
            for token in 0..T {
                let activations = input.as_ptr().add(token * columns + column);
                even[token] = S::fma(weights[0], S::splat(*activations), even[token]);
                odd[token] = S::fma(weights[1], S::splat(*activations.add(1)), odd[token]);
            }
            column += 2;
        }
        if column < columns {
            let weights = widened::<S, KIND>(values, column);
            for token in 0..T {
                even[token] =
                    S::fma(weights, S::splat(*input.get_unchecked(token * columns + column)), even[token]);
            }
        }
        for token in 0..T {
            S::store(out[token].as_mut_ptr(), S::add(even[token], odd[token]));
        }
    }
}

/// The 16 weights of `column`.
///
/// # Safety
/// As [`Simd`]; `values` points to at least `column + 1` columns.
#[inline(always)]
unsafe fn widened<S: Simd, const KIND: u8>(values: *const u8, column: usize) -> S::F {
    let size = if KIND == F32 { 4 } else { 2 };
    // SAFETY: as this function's; a prefetch may name any address.
    unsafe {
        let at = values.add(column * PANEL_ROWS * size);
        // Some 2 KiB ahead: the hardware prefetcher stops at page borders.
        S::prefetch(at.wrapping_add(2048));
        match KIND {
            F32 => S::load(at.cast()),
            F16 => S::load_f16(at.cast()),
            _ => S::load_bf16(at.cast()),
        }
    }
}
