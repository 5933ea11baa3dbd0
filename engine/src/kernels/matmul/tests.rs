use std::num::NonZeroUsize;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::kernels::packed::PackedMatrix;
use crate::kernels::threads::SharedSlice;

/// `count` numbers in [-1, 1), the same for the same seed.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| random.next_u32() as f32 / 2f32.powi(31) - 1.0).collect()
}

/// `input`, (tokens, columns), times `weights`.
fn product(set: InstructionSet, weights: &Matrix, input: &[f32], tokens: usize) -> Vec<f32> {
    let rows = weights.rows();
    let mut pool = ThreadPool::new(NonZeroUsize::new(2).expect("not zero"));
    let mut rounded = QuantizedActivations::default();
    rounded.quantize(set, &mut pool, input, weights.columns());
    let mut output = vec![f32::NAN; tokens * rows];
    let shared = SharedSlice::new(&mut output);
    let inputs = [Input { values: input, rounded: &rounded }];
    matmul(
        set,
        &mut pool,
        tokens,
        &[Product { weights: [weights], inputs, addends: [None] }],
        &|_, token, row, [sums]| {
            let count = PANEL_ROWS.min(rows - row);
            let at = token * rows + row;
            // SAFETY: each (token, panel) is stored once.
            unsafe { shared.part(at..at + count) }.copy_from_slice(&sums[..count]);
        },
    );
    output
}

/// The product of random activations with random weights of `dtype`, on `set`, and what f32 makes of the
/// same rounded weights. Returns the largest difference, as a share of the largest output.
fn difference(set: InstructionSet, dtype: GgmlDType, rows: usize, columns: usize, tokens: usize) -> f32 {
    let weights =
        Tensor::from_vec(numbers(1, rows * columns), (rows, columns), &Device::Cpu).expect("a tensor");
    let quantized = QTensor::quantize(&weights, dtype).expect("the columns fill whole blocks");
    let rounded = quantized.dequantize(&Device::Cpu).expect("a tensor").flatten_all().expect("flat");
    let rounded = rounded.to_vec1::<f32>().expect("f32");
    let packed =
        PackedMatrix::from_gguf(&quantized.data().expect("bytes"), dtype, rows, columns).expect("packs");

    let input = numbers(2, tokens * columns);
    let output = product(set, &Matrix::Packed(packed), &input, tokens);

    let mut worst = 0f32;
    let mut largest = 0f32;
    for (token, output) in output.chunks(rows).enumerate() {
        for (row, &output) in output.iter().enumerate() {
            let weights = &rounded[row * columns..][..columns];
            let expected: f32 = weights.iter().zip(&input[token * columns..]).map(|(w, a)| w * a).sum();
            // A NaN must not hide in a maximum.
            worst = if output.is_nan() { f32::INFINITY } else { worst.max((output - expected).abs()) };
            largest = largest.max(expected.abs());
        }
    }
    worst / largest
}

/// Holds every kernel of this machine against f32. Activations have 8 bits: 1 % of the largest output.
#[track_caller]
fn check(dtype: GgmlDType, rows: usize, columns: usize, tokens: usize) {
    for set in InstructionSet::all() {
        let difference = difference(set, dtype, rows, columns, tokens);
        assert!(difference < 0.01, "{set:?}: {difference}");
    }
}

#[test]
fn q4_0_agrees_with_f32() {
    check(GgmlDType::Q4_0, 48, 256, 5);
}

#[test]
fn q4_1_agrees_with_f32() {
    check(GgmlDType::Q4_1, 48, 576, 13);
}

#[test]
fn q8_0_agrees_with_f32() {
    check(GgmlDType::Q8_0, 48, 96, 12);
}

#[test]
fn q4_k_agrees_with_f32() {
    check(GgmlDType::Q4K, 32, 512, 7);
}

#[test]
fn q6_k_agrees_with_f32() {
    check(GgmlDType::Q6K, 32, 512, 9);
}

#[test]
fn q5_0_agrees_with_f32() {
    check(GgmlDType::Q5_0, 32, 96, 9);
}

#[test]
fn q5_1_agrees_with_f32() {
    check(GgmlDType::Q5_1, 32, 96, 9);
}

#[test]
fn q5_k_agrees_with_f32() {
    check(GgmlDType::Q5K, 32, 512, 9);
}

#[test]
fn rows_that_do_not_fill_a_panel_agree_too() {
    check(GgmlDType::Q4_0, 21, 64, 3);
}

#[test]
fn more_tokens_than_a_block_agree_too() {
    check(GgmlDType::Q4_1, 16, 32, 203);
}

#[test]
fn each_number_of_tokens_has_its_kernel() {
    for tokens in 1..=cpu::MAX_TOKENS {
        check(GgmlDType::Q4_0, 16, 64, tokens);
    }
}

#[test]
fn shares_are_even() {
    assert_eq!((next_count(96), next_count(13), next_count(12), next_count(1)), (12, 7, 12, 1));
}

#[test]
fn a_token_gives_the_same_bits_alone_and_in_company() {
    let (rows, columns, tokens) = (48, 96, 31);
    for dtype in [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q8_0] {
        let weights =
            Tensor::from_vec(numbers(1, rows * columns), (rows, columns), &Device::Cpu).expect("a tensor");
        let bytes =
            QTensor::quantize(&weights, dtype).expect("whole blocks").data().expect("bytes").into_owned();
        let matrix = Matrix::Packed(PackedMatrix::from_gguf(&bytes, dtype, rows, columns).expect("packs"));
        let input = numbers(3, tokens * columns);
        for set in InstructionSet::all() {
            let together = product(set, &matrix, &input, tokens);
            for token in 0..tokens {
                let alone = product(set, &matrix, &input[token * columns..][..columns], 1);
                assert_eq!(alone, together[token * rows..][..rows], "{set:?} {dtype:?} token {token}");
            }
        }
    }
}
