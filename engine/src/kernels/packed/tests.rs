use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use super::*;

/// Packs a matrix and reads it back row by row: what candle makes of the same GGUF blocks, up to the
/// rounding of a product of two scales to f16.
#[track_caller]
fn check(dtype: GgmlDType, rows: usize, columns: usize) {
    let numbers: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    let tensor = Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).expect("a tensor");
    let quantized = QTensor::quantize(&tensor, dtype).expect("the columns fill whole blocks");
    let expected =
        quantized.dequantize(&Device::Cpu).expect("a tensor").to_vec2::<f32>().expect("two dimensions");
    let packed =
        PackedMatrix::from_gguf(&quantized.data().expect("bytes"), dtype, rows, columns).expect("packs");
    let mut row = vec![0.0; columns];
    for (index, expected) in expected.iter().enumerate() {
        packed.row(index, &mut row);
        for (packed, expected) in row.iter().zip(expected) {
            assert!((packed - expected).abs() < 2e-3, "row {index}: {packed} is not {expected}");
        }
    }
}

#[test]
fn q4_0_reads_back() {
    check(GgmlDType::Q4_0, 33, 64);
}

#[test]
fn q4_1_reads_back() {
    check(GgmlDType::Q4_1, 16, 96);
}

#[test]
fn q8_0_reads_back() {
    check(GgmlDType::Q8_0, 16, 96);
}

#[test]
fn q4_k_reads_back() {
    check(GgmlDType::Q4K, 17, 512);
}

#[test]
fn q6_k_reads_back() {
    check(GgmlDType::Q6K, 17, 512);
}

#[test]
fn q5_0_reads_back() {
    check(GgmlDType::Q5_0, 17, 96);
}

#[test]
fn q5_1_reads_back() {
    check(GgmlDType::Q5_1, 17, 96);
}

#[test]
fn q5_k_reads_back() {
    check(GgmlDType::Q5K, 17, 512);
}

#[test]
fn a_large_matrix_is_packed_by_several_threads() {
    check(GgmlDType::Q4_1, 1030, 1056);
}

/// A block whose weights are their column numbers.
fn counted(_row: usize, block: usize) -> Block {
    let quants = std::array::from_fn(|column| (block * BLOCK_COLUMNS + column) as u8);
    Block { quants, scales: [f16::ONE; 2], min: f16::ZERO }
}

#[test]
fn columns_may_stand_in_another_order() {
    let order: Vec<u32> = (0..64).map(|column| column * 5 % 64).collect();
    let matrix = PackedMatrix::from_blocks(Encoding::EightMin, 3, 64, counted).expect("packs");
    assert_eq!(matrix.permutation(), None);
    let matrix = matrix.with_permutation(order.clone()).expect("5 and 64 have no common factor");
    let mut row = [0.0; 64];
    matrix.row(2, &mut row);
    assert!((0..64).all(|stored| row[order[stored] as usize] == stored as f32), "{row:?}");
}

#[test]
fn an_order_that_is_no_permutation_is_refused() {
    for order in [vec![0; 64], (0..63).collect(), (1..65).collect(), (0..65).collect()] {
        let matrix = PackedMatrix::from_blocks(Encoding::EightMin, 1, 64, counted).expect("packs");
        let error = matrix.with_permutation(order).err().expect("an error").to_string();
        assert!(error.contains("no permutation of 64"), "{error}");
    }
}

#[test]
fn bytes_of_another_length_are_refused() {
    let error = PackedMatrix::from_gguf(&[0; 17], GgmlDType::Q4_0, 1, 32).err().expect("an error");
    assert_eq!(error.to_string(), "forward pass: cannot repack 1x32 Q4_0: 17 bytes instead of 1 rows of 18");
}

#[test]
fn columns_that_do_not_fill_blocks_are_refused() {
    let error = PackedMatrix::from_gguf(&[0; 18], GgmlDType::Q4_0, 1, 30).err().expect("an error");
    assert_eq!(
        error.to_string(),
        "forward pass: cannot repack 1x30 Q4_0: the columns do not fill whole blocks of 32"
    );
}
