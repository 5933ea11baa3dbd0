//! Matrix products on AVX-512 with VNNI: one `vpdpbusd` multiplies four columns of 16 rows.
//!
//! A call computes one panel (16 rows) for up to 12 tokens: the block's weights are unpacked once into
//! registers and used for every token, whose f32 sums stay in registers over the whole row.

use std::arch::x86_64::*;

use crate::kernels::activations::QuantizedActivations;
use crate::kernels::packed::{BLOCK_COLUMNS, Encoding, PANEL_ROWS, PackedMatrix, Panel};

// 12 sums, 8 weights and the temporaries fill the 32 registers.
use super::MAX_TOKENS;

/// Like [`super::portable::panel`], for at most [`MAX_TOKENS`] tokens.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, VNNI and F16C.
pub unsafe fn panel(
    weights: &PackedMatrix,
    panel: usize,
    input: &QuantizedActivations,
    first: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    // The loads below rely on these; `PackedMatrix` and `QuantizedActivations` keep the array lengths.
    assert!(input.columns() == weights.columns() && first + out.len() <= input.tokens());
    let blocks = weights.blocks();
    let encoding = weights.encoding();
    let panel = weights.panel(panel);
    // SAFETY: the features are the caller's promise; the ranges were just checked.
    unsafe {
        match out.len() {
            0 => {}
            1 => by_encoding::<1>(encoding, blocks, panel, input, first, out),
            2 => by_encoding::<2>(encoding, blocks, panel, input, first, out),
            3 => by_encoding::<3>(encoding, blocks, panel, input, first, out),
            4 => by_encoding::<4>(encoding, blocks, panel, input, first, out),
            5 => by_encoding::<5>(encoding, blocks, panel, input, first, out),
            6 => by_encoding::<6>(encoding, blocks, panel, input, first, out),
            7 => by_encoding::<7>(encoding, blocks, panel, input, first, out),
            8 => by_encoding::<8>(encoding, blocks, panel, input, first, out),
            9 => by_encoding::<9>(encoding, blocks, panel, input, first, out),
            10 => by_encoding::<10>(encoding, blocks, panel, input, first, out),
            11 => by_encoding::<11>(encoding, blocks, panel, input, first, out),
            MAX_TOKENS => by_encoding::<MAX_TOKENS>(encoding, blocks, panel, input, first, out),
            more => unreachable!("{more} tokens in one call"),
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
            Encoding::Eight => kernel::<T, 8, 1, false>(128, blocks, panel, input, first, out),
            Encoding::EightHalf => kernel::<T, 8, 2, false>(128, blocks, panel, input, first, out),
            Encoding::EightMin => kernel::<T, 8, 1, true>(0, blocks, panel, input, first, out),
        }
    }
}

/// # Safety
/// As [`panel`]; `out` holds `T` tokens; the panel's and the input's arrays hold `blocks` blocks of `BITS`-bit
/// weights with `PARTS` scales, and minima if `MIN`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,f16c")]
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
    let mut sums = [_mm512_setzero_ps(); T];
    for block in 0..blocks {
        // SAFETY: `block < blocks`, so every pointer below stays inside its array: the panel's by the
        // invariant of `PackedMatrix`, the input's because `first + T` tokens of `columns` columns are held.
        unsafe {
            let line = |index: usize| {
                let at: *const u8 = panel.quants.as_ptr().add(block * lines + index).cast();
                // Some 2 KiB ahead: the hardware prefetcher stops at page borders.
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(2048).cast());
                _mm512_load_si512(at.cast())
            };
            let scale = |part: usize| {
                let at = panel.scales.as_ptr().add((block * PARTS + part) * PANEL_ROWS);
                _mm512_cvtph_ps(_mm256_loadu_si256(at.cast()))
            };
            // Eight registers, each four columns of 16 rows.
            let weights: [__m512i; 8] = if BITS == 4 {
                let low = _mm512_set1_epi8(15);
                let packed = [line(0), line(1), line(2), line(3)];
                std::array::from_fn(|group| {
                    let pair = packed[group / 2];
                    let shifted = if group % 2 == 0 { pair } else { _mm512_srli_epi16::<4>(pair) };
                    _mm512_and_si512(shifted, low)
                })
            } else {
                std::array::from_fn(line)
            };
            let scales: [__m512; 2] = [scale(0), if PARTS == 2 { scale(1) } else { _mm512_setzero_ps() }];
            let min = if MIN {
                _mm512_cvtph_ps(_mm256_loadu_si256(panel.mins.as_ptr().add(block * PANEL_ROWS).cast()))
            } else {
                _mm512_setzero_ps()
            };
            for (token, sum) in sums.iter_mut().enumerate() {
                let at = (first + token) * columns + block * BLOCK_COLUMNS;
                let activations: *const i32 = input.quants.as_ptr().add(at).cast();
                let group = |index: usize| _mm512_set1_epi32(activations.add(index).read_unaligned());
                let at = (first + token) * blocks + block;
                let activation_scale = _mm512_set1_ps(*input.scales.get_unchecked(at));
                let halves = [*input.sums.get_unchecked(at * 2), *input.sums.get_unchecked(at * 2 + 1)];
                if PARTS == 1 {
                    let total = halves[0] + halves[1];
                    // Two chains of four: a single chain of eight would wait for its own latency.
                    let mut even = _mm512_setzero_si512();
                    let mut odd = _mm512_setzero_si512();
                    for index in 0..4 {
                        even = _mm512_dpbusd_epi32(even, weights[2 * index], group(2 * index));
                        odd = _mm512_dpbusd_epi32(odd, weights[2 * index + 1], group(2 * index + 1));
                    }
                    let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(even, odd));
                    let value = match zero == 0 {
                        true => _mm512_mul_ps(dot, activation_scale),
                        false => {
                            _mm512_fmadd_ps(dot, activation_scale, _mm512_set1_ps(-(zero as f32) * total))
                        }
                    };
                    *sum = _mm512_fmadd_ps(value, scales[0], *sum);
                    if MIN {
                        *sum = _mm512_fmadd_ps(min, _mm512_set1_ps(total), *sum);
                    }
                } else {
                    for part in 0..2 {
                        let mut dot = _mm512_setzero_si512();
                        for (index, weights) in weights.iter().enumerate().skip(part * 4).take(4) {
                            dot = _mm512_dpbusd_epi32(dot, *weights, group(index));
                        }
                        let offset = _mm512_set1_ps(-(zero as f32) * halves[part]);
                        let value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), activation_scale, offset);
                        *sum = _mm512_fmadd_ps(value, scales[part], *sum);
                    }
                }
            }
        }
    }
    for (sum, out) in sums.into_iter().zip(out) {
        // SAFETY: `out` is 16 floats.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
}
