//! Matrix products on AVX2: `vpmaddubsw` and `vpmaddwd` multiply four columns of 8 rows.
//!
//! Pairs of products are summed in 16 bits. 4-bit weights leave room (15 · 127 · 2), and so do 5-bit ones stored
//! in bytes; 8-bit ones are used as signed bytes, their sign moved to the activation, which just fits
//! (128 · 127 · 2).

use std::arch::x86_64::*;

use crate::kernels::activations::QuantizedActivations;
use crate::kernels::packed::{BLOCK_COLUMNS, Encoding, PANEL_ROWS, PackedMatrix, Panel};

/// Tokens whose sums fit into the 16 registers beside the weights.
const GROUP: usize = 3;

/// Like [`super::portable::panel`].
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
pub unsafe fn panel(
    weights: &PackedMatrix,
    panel: usize,
    input: &QuantizedActivations,
    first: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    // The loads below rely on these; `PackedMatrix` and `QuantizedActivations` keep the array lengths.
    assert!(input.columns() == weights.columns() && first + out.len() <= input.tokens());
    let (blocks, encoding, panel) = (weights.blocks(), weights.encoding(), weights.panel(panel));
    for (group, out) in out.chunks_mut(GROUP).enumerate() {
        let first = first + group * GROUP;
        // SAFETY: the features are the caller's promise; the ranges were just checked.
        unsafe {
            match out.len() {
                1 => by_encoding::<1>(encoding, blocks, panel, input, first, out),
                2 => by_encoding::<2>(encoding, blocks, panel, input, first, out),
                _ => by_encoding::<GROUP>(encoding, blocks, panel, input, first, out),
            }
        }
    }
}

/// # Safety
/// As [`panel`]; `out` holds `T` tokens and the arrays hold `blocks` blocks.
unsafe fn by_encoding<const T: usize>(
    encoding: Encoding,
    blocks: usize,
    panel: Panel<'_>,
    input: &QuantizedActivations,
    first: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    // SAFETY: as this function's.
    unsafe {
        match encoding {
            Encoding::Four => kernel::<T, 4, 1, false>(8, blocks, panel, input, first, out),
            Encoding::FourMin => kernel::<T, 4, 1, true>(0, blocks, panel, input, first, out),
            Encoding::Eight => kernel::<T, 8, 1, false>(0, blocks, panel, input, first, out),
            Encoding::EightHalf => kernel::<T, 8, 2, false>(0, blocks, panel, input, first, out),
            Encoding::EightMin => kernel::<T, 8, 1, true>(0, blocks, panel, input, first, out),
        }
    }
}

/// # Safety
/// As [`panel`]; `out` holds `T` tokens; the panel's and the input's arrays hold `blocks` blocks of `BITS`-bit
/// weights with `PARTS` scales, and minima if `MIN`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn kernel<const T: usize, const BITS: usize, const PARTS: usize, const MIN: bool>(
    zero: i32,
    blocks: usize,
    panel: Panel<'_>,
    input: &QuantizedActivations,
    first: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    let columns = input.columns();
    let lines = BITS; // lines of 64 bytes in a block: 32 columns * 16 rows * BITS / 8 / 64
    let ones = _mm256_set1_epi16(1);
    let low = _mm256_set1_epi8(15);
    let flip = _mm256_set1_epi8(-128);
    let mut sums = [[_mm256_setzero_ps(); 2]; T];
    for block in 0..blocks {
        for half in 0..2 {
            // SAFETY: `block < blocks` and `half < 2`, so every pointer stays inside its array: the panel's by
            // the invariant of `PackedMatrix`, the input's because `first + T` tokens are held.
            unsafe {
                let line = |index: usize| {
                    let at: *const __m256i = panel.quants.as_ptr().add(block * lines + index).cast();
                    _mm256_load_si256(at.add(half))
                };
                let eight =
                    |from: *const half::f16| _mm256_cvtph_ps(_mm_loadu_si128(from.add(half * 8).cast()));
                let min = match MIN {
                    true => eight(panel.mins.as_ptr().add(block * PANEL_ROWS)),
                    false => _mm256_setzero_ps(),
                };
                for (token, sums) in sums.iter_mut().enumerate() {
                    let at = (first + token) * columns + block * BLOCK_COLUMNS;
                    let activations: *const i32 = input.quants.as_ptr().add(at).cast();
                    let at = (first + token) * blocks + block;
                    let activation_scale = _mm256_set1_ps(*input.scales.get_unchecked(at));
                    let halves = [*input.sums.get_unchecked(at * 2), *input.sums.get_unchecked(at * 2 + 1)];
                    let total = halves[0] + halves[1];
                    for part in 0..PARTS {
                        let offset = -(zero as f32) * if PARTS == 1 { total } else { halves[part] };
                        let mut dot = _mm256_setzero_si256();
                        let groups = 8 / PARTS;
                        for group in part * groups..(part + 1) * groups {
                            let quad = _mm256_set1_epi32(activations.add(group).read_unaligned());
                            let pairs = if BITS == 4 {
                                let packed = line(group / 2);
                                let shifted =
                                    if group % 2 == 0 { packed } else { _mm256_srli_epi16::<4>(packed) };
                                _mm256_maddubs_epi16(_mm256_and_si256(shifted, low), quad)
                            } else if MIN {
                                _mm256_maddubs_epi16(line(group), quad)
                            } else {
                                let signed = _mm256_xor_si256(line(group), flip);
                                _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(quad, signed))
                            };
                            dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, ones));
                        }
                        let scale = eight(panel.scales.as_ptr().add((block * PARTS + part) * PANEL_ROWS));
                        let dot = _mm256_cvtepi32_ps(dot);
                        let value = _mm256_fmadd_ps(dot, activation_scale, _mm256_set1_ps(offset));
                        sums[half] = _mm256_fmadd_ps(value, scale, sums[half]);
                    }
                    if MIN {
                        sums[half] = _mm256_fmadd_ps(min, _mm256_set1_ps(total), sums[half]);
                    }
                }
            }
        }
    }
    for (sums, out) in sums.into_iter().zip(out) {
        // SAFETY: `out` is 16 floats.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), sums[1]);
        }
    }
}
