//! Dot products with floating-point weights on AVX-512: one fused multiply-add is one column of 16 rows.
//!
//! A call computes one panel (16 rows) for up to 12 tokens. Each column's weights are widened once and used
//! for every token, whose sums (one for even columns, one for odd) stay in registers over the whole row.

use std::arch::x86_64::*;

use super::{FloatKind, FloatMatrix, MAX_TOKENS, PANEL_ROWS};

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// Like [`super::portable::panel`], for at most [`MAX_TOKENS`] tokens.
///
/// # Safety
/// The processor has AVX-512 F and F16C.
pub unsafe fn panel(weights: &FloatMatrix, panel: usize, input: &[f32], out: &mut [[f32; PANEL_ROWS]]) {
    // The loads below rely on this; `FloatMatrix` keeps the length of its panels.
    assert_eq!(input.len(), out.len() * weights.columns);
    let columns = weights.columns;
    let kind = weights.kind;
    let values: *const u8 = weights.panel(panel).as_ptr().cast();
    // SAFETY: the features are the caller's promise; the panel holds `columns` columns of `kind`, 64-byte
    // aligned, and `input` and `out` hold as many tokens as is passed on.
    unsafe {
        match out.len() {
            0 => {}
            1 => by_kind::<1>(kind, values, columns, input, out),
            2 => by_kind::<2>(kind, values, columns, input, out),
            3 => by_kind::<3>(kind, values, columns, input, out),
            4 => by_kind::<4>(kind, values, columns, input, out),
            5 => by_kind::<5>(kind, values, columns, input, out),
            6 => by_kind::<6>(kind, values, columns, input, out),
            7 => by_kind::<7>(kind, values, columns, input, out),
            8 => by_kind::<8>(kind, values, columns, input, out),
            9 => by_kind::<9>(kind, values, columns, input, out),
            10 => by_kind::<10>(kind, values, columns, input, out),
            11 => by_kind::<11>(kind, values, columns, input, out),
            MAX_TOKENS => by_kind::<MAX_TOKENS>(kind, values, columns, input, out),
            more => unreachable!("{more} tokens in one call"),
        }
    }
}

/// # Safety
/// As [`kernel`]; `values` are of `kind`.
unsafe fn by_kind<const T: usize>(
    kind: FloatKind,
    values: *const u8,
    columns: usize,
    input: &[f32],
    out: &mut [[f32; PANEL_ROWS]],
) {
    // SAFETY: as this function's.
    unsafe {
        match kind {
            FloatKind::F32 => kernel::<T, F32>(values, columns, input, out),
            FloatKind::F16 => kernel::<T, F16>(values, columns, input, out),
            FloatKind::Bf16 => kernel::<T, BF16>(values, columns, input, out),
        }
    }
}

/// # Safety
/// The processor has AVX-512 F and F16C; `values` points to (columns, 16) values of `KIND`, 64-byte aligned;
/// `input` is (T, columns) and `out` has `T` tokens.
#[target_feature(enable = "avx512f,f16c")]
unsafe fn kernel<const T: usize, const KIND: u8>(
    values: *const u8,
    columns: usize,
    input: &[f32],
    out: &mut [[f32; PANEL_ROWS]],
) {
    let size = if KIND == F32 { 4 } else { 2 };
    // The 16 weights of `column`, widened.
    let load = |column: usize| {
        // SAFETY: `column < columns` in every call below, so these bytes lie inside the panel; 16 values are
        // 32 or 64 bytes, so every column is aligned for its load. A prefetch may name any address.
        unsafe {
            let at = values.add(column * PANEL_ROWS * size);
            // Some 2 KiB ahead: the hardware prefetcher stops at page borders.
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(2048).cast());
            match KIND {
                F32 => _mm512_load_ps(at.cast()),
                F16 => _mm512_cvtph_ps(_mm256_load_si256(at.cast())),
                _ => {
                    let halves = _mm512_cvtepu16_epi32(_mm256_load_si256(at.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
                }
            }
        }
    };
    let activation = |token: usize, column: usize| {
        // SAFETY: `token < T` and `column < columns`; `input` holds `T * columns` values.
        _mm512_set1_ps(unsafe { *input.get_unchecked(token * columns + column) })
    };
    let mut even = [_mm512_setzero_ps(); T];
    let mut odd = [_mm512_setzero_ps(); T];
    for pair in 0..columns / 2 {
        let weights = [load(2 * pair), load(2 * pair + 1)];
        for (token, (even, odd)) in even.iter_mut().zip(&mut odd).enumerate() {
            *even = _mm512_fmadd_ps(weights[0], activation(token, 2 * pair), *even);
            *odd = _mm512_fmadd_ps(weights[1], activation(token, 2 * pair + 1), *odd);
        }
    }
    if columns % 2 == 1 {
        let weights = load(columns - 1);
        for (token, even) in even.iter_mut().enumerate() {
            *even = _mm512_fmadd_ps(weights, activation(token, columns - 1), *even);
        }
    }
    for ((even, odd), out) in even.into_iter().zip(odd).zip(out) {
        // SAFETY: `out` is 16 floats.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(even, odd)) };
    }
}
