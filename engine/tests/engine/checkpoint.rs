//! Reading weights through [`Checkpoint`], whatever the format of the files.

use crate::tiny::{Shape, TinyModel};
use candle_core::Device;
use candle_core::quantized::{GgmlDType, QTensor};
use chaski_engine::model::{Checkpoint, LlamaConfig, Matrix};

fn open(model: &TinyModel) -> (Checkpoint, LlamaConfig) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    model.write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let config = checkpoint.config().unwrap();
    (checkpoint, config)
}

fn dequantised(tensor: &QTensor) -> Vec<f32> {
    tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn rows(matrix: &Matrix) -> Vec<f32> {
    let mut all = vec![0.0; matrix.rows() * matrix.columns()];
    for (row, out) in all.chunks_mut(matrix.columns()).enumerate() {
        matrix.row(row, out);
    }
    all
}

/// Every matrix and vector of a model of this format against what candle reads from it, up to `within`.
#[track_caller]
fn check(format: GgmlDType, within: f32) {
    let model = TinyModel::new(&Shape { format, ..Shape::default() });
    let (checkpoint, config) = open(&model);
    checkpoint.check_tensors(&config).unwrap();
    for (name, tensor) in &model.tensors {
        let name = name.strip_suffix(".weight").unwrap();
        assert!(checkpoint.has(name));
        let found = match *tensor.shape().dims() {
            [_] => checkpoint.vector(name).unwrap(),
            [outputs, inputs] => rows(&checkpoint.matrix(name, outputs, inputs).unwrap()),
            _ => unreachable!("tensors have one or two dimensions"),
        };
        let expected = dequantised(tensor);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= within, "{format:?} `{name}`: {found} is not {expected}");
        }
    }
}

#[test]
fn formats_with_scales_of_their_own_are_read_exactly() {
    use GgmlDType::{BF16, F16, F32, Q4_0, Q5_0, Q8_0};
    for format in [F32, F16, BF16, Q4_0, Q5_0, Q8_0] {
        check(format, 0.0);
    }
    // Scale times quant plus minimum: candle and we may round the sum differently.
    for format in [GgmlDType::Q4_1, GgmlDType::Q5_1] {
        check(format, 1e-7);
    }
}

/// Their scales are products of two numbers, which become an f16.
#[test]
fn k_quants_are_read_up_to_the_rounding_of_their_scales() {
    for format in [GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K] {
        check(format, 2e-4);
    }
}

#[test]
fn only_matrices_and_vectors_that_fit_come_out() {
    let (checkpoint, _config) = open(&TinyModel::new(&Shape::default()));
    let matrix = |name, rows, columns| checkpoint.matrix(name, rows, columns).err().unwrap().to_string();
    assert!(matrix("blk.0.attn_q", 256, 128).contains(
        "tensor `blk.0.attn_q.weight` has the shape [256, 256], the metadata calls for [256, 128]"
    ));
    assert!(matrix("blk.7.attn_q", 256, 256).contains("tensor `blk.7.attn_q.weight` is missing"));
    let vector = |name| checkpoint.vector(name).unwrap_err().to_string();
    assert!(vector("blk.0.attn_q").contains("is F32 of shape [256, 256], not a vector of floats"));
    assert!(vector("absent").contains("tensor `absent.weight` is missing"));
    assert!(!checkpoint.has("absent"));
    assert_eq!(checkpoint.rope_divisors().unwrap(), None);
}
