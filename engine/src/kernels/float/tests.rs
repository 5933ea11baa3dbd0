use half::{bf16, f16};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;

const KINDS: [FloatKind; 3] = [FloatKind::F32, FloatKind::F16, FloatKind::Bf16];

/// `count` numbers in [-1, 1), the same for the same seed.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| random.next_u32() as f32 / 2f32.powi(31) - 1.0).collect()
}

fn bytes_of(kind: FloatKind, numbers: &[f32]) -> Vec<u8> {
    let bytes = |number: &f32| match kind {
        FloatKind::F32 => number.to_le_bytes().to_vec(),
        FloatKind::F16 => f16::from_f32(*number).to_le_bytes().to_vec(),
        FloatKind::Bf16 => bf16::from_f32(*number).to_le_bytes().to_vec(),
    };
    numbers.iter().flat_map(bytes).collect()
}

fn matrix(kind: FloatKind, rows: usize, columns: usize) -> (FloatMatrix, Vec<f32>) {
    let bytes = bytes_of(kind, &numbers(1, rows * columns));
    let matrix = FloatMatrix::from_rows(&bytes, kind, rows, columns).expect("the bytes fit the shape");
    (matrix, bytes.chunks_exact(kind.size()).map(|value| kind.value(value)).collect())
}

/// Every kernel of this machine and kind of number against sums in f64, and one token against many.
#[track_caller]
fn check(rows: usize, columns: usize, tokens: usize) {
    let input = numbers(2, (tokens + 1) * columns);
    for kind in KINDS {
        let (matrix, values) = matrix(kind, rows, columns);
        for set in InstructionSet::all() {
            for index in 0..matrix.panels() {
                let mut out = vec![[f32::NAN; PANEL_ROWS]; tokens];
                panel(set, &matrix, index, &input, 1, &mut out);
                for (token, out) in (1..).zip(&out) {
                    let mut alone = [[f32::NAN; PANEL_ROWS]];
                    panel(set, &matrix, index, &input, token, &mut alone);
                    assert_eq!(alone[0], *out, "{kind:?} on {set:?}: token {token} of {tokens}");
                    for (lane, &found) in out.iter().enumerate() {
                        let row = index * PANEL_ROWS + lane;
                        let weights = values.get(row * columns..(row + 1) * columns).unwrap_or(&[]);
                        let products = weights.iter().zip(&input[token * columns..]);
                        let expected: f64 = products.map(|(w, a)| f64::from(*w) * f64::from(*a)).sum();
                        let apart = (f64::from(found) - expected).abs();
                        assert!(apart < 1e-5 * columns as f64, "{kind:?} on {set:?}, row {row}: {apart}");
                    }
                }
            }
        }
    }
}

#[test]
fn each_number_of_tokens_has_its_kernel() {
    for tokens in 0..=MAX_TOKENS {
        check(16, 64, tokens);
    }
}

#[test]
fn any_number_of_columns_will_do() {
    for columns in [1, 2, 3, 31, 33, 576] {
        check(16, columns, 3);
    }
}

#[test]
fn rows_that_do_not_fill_a_panel_are_zero_beyond() {
    check(21, 40, 2);
    check(1, 7, 1);
}

#[test]
fn rows_read_back_as_they_were() {
    for kind in KINDS {
        let (matrix, values) = matrix(kind, 19, 37);
        for (row, expected) in values.chunks(37).enumerate() {
            let mut out = [f32::NAN; 37];
            matrix.row(row, &mut out);
            assert_eq!(out, expected, "{kind:?}, row {row}");
        }
    }
}

#[test]
fn rows_may_come_in_another_order() {
    let bytes = bytes_of(FloatKind::F32, &numbers(3, 18 * 5));
    let reversed =
        FloatMatrix::from_reordered_rows(&bytes, FloatKind::F32, 18, 5, |row| 17 - row).expect("fits");
    let plain = FloatMatrix::from_rows(&bytes, FloatKind::F32, 18, 5).expect("fits");
    let row = |matrix: &FloatMatrix, row| {
        let mut out = [0.0; 5];
        matrix.row(row, &mut out);
        out
    };
    assert!((0..18).all(|index| row(&reversed, index) == row(&plain, 17 - index)));
}

#[test]
fn large_matrices_are_filled_by_several_threads() {
    let (matrix, values) = matrix(FloatKind::Bf16, 1030, 1031);
    let mut out = vec![0.0; 1031];
    for row in [0, 15, 16, 517, 1029] {
        matrix.row(row, &mut out);
        assert_eq!(out, values[row * 1031..][..1031]);
    }
}

#[test]
fn special_numbers_are_kept() {
    for kind in KINDS {
        let values = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0, -0.0, 6e-8, 1.0, -65504.0];
        let bytes = bytes_of(kind, &values);
        let matrix = FloatMatrix::from_rows(&bytes, kind, 1, values.len()).expect("fits");
        let mut out = [0.0; 8];
        matrix.row(0, &mut out);
        assert_eq!(bytes_of(kind, &out), bytes);
    }
}

#[test]
fn bytes_of_another_length_are_refused() {
    let error = |bytes: usize, rows, columns| {
        let matrix = FloatMatrix::from_rows(&vec![0; bytes], FloatKind::F16, rows, columns);
        matrix.err().expect("an error").to_string()
    };
    assert_eq!(error(7, 2, 2), "forward pass: cannot hold 2x2 F16: 7 bytes do not fit that shape");
    assert_eq!(error(0, 0, 2), "forward pass: cannot hold 0x2 F16: 0 bytes do not fit that shape");
    error(8, usize::MAX, 2);
}
