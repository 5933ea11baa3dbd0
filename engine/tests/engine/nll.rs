//! What a format's kernels cost: the real SmolLM2 in each format, beside the same weights as f32.
//!
//! The f32 engine itself is held against an independent reference, which computes in numpy.

use std::path::Path;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QTensor};
use chaski_engine::model::GgufFile;
use chaski_engine::{Engine, EngineOptions};

use crate::smollm2::{TEXT, model, reference};
use crate::tiny::TinyModel;

/// The model's tensors as f32.
fn exact(path: &Path) -> TinyModel {
    let file = GgufFile::open(path).unwrap();
    let metadata = file.metadata().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let tensors = file.tensor_names().map(|name| {
        let tensor = file.tensor(name, &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap();
        (name.to_owned(), QTensor::quantize(&tensor, GgmlDType::F32).unwrap())
    });
    TinyModel { metadata, tensors: tensors.collect() }
}

/// The matrices of `exact` in `format`, or in `otherwise` where their columns do not fill its blocks.
fn quantized(exact: &TinyModel, format: GgmlDType, otherwise: GgmlDType) -> TinyModel {
    let quantize = |(name, tensor): &(String, QTensor)| {
        let format = match tensor.shape().dims() {
            [_, columns] if columns.is_multiple_of(format.block_size()) => format,
            [_, _] => otherwise,
            _ => GgmlDType::F32,
        };
        let tensor = tensor.dequantize(&Device::Cpu).unwrap();
        (name.clone(), QTensor::quantize(&tensor, format).unwrap())
    };
    TinyModel { metadata: exact.metadata.clone(), tensors: exact.tensors.iter().map(quantize).collect() }
}

/// The mean negative log-likelihood of the first `tokens` tokens of the text.
async fn nll(model: &TinyModel, tokens: usize) -> f64 {
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    model.write(file.path());
    let options = EngineOptions { context: Some(1024), ..EngineOptions::new(file.path()) };
    Engine::load(options).unwrap().mean_nll(TEXT, tokens).await.unwrap()
}

#[tokio::test]
async fn every_format_is_within_half_a_percent_of_the_same_weights_in_f32() {
    let Some(path) = model() else { return };
    let weights = exact(&path);
    let (ids, numpy) = reference();
    let found = nll(&weights, ids.len()).await;
    println!("f32: {found:.5}, numpy {numpy:.5}");
    assert!((found / numpy - 1.0).abs() < 0.0005, "f32 gives {found}, the reference says {numpy}");

    let formats = [
        (GgmlDType::F16, GgmlDType::F16),
        (GgmlDType::BF16, GgmlDType::BF16),
        (GgmlDType::Q8_0, GgmlDType::Q8_0),
        (GgmlDType::Q5_1, GgmlDType::Q5_1),
        (GgmlDType::Q5_0, GgmlDType::Q5_0),
        (GgmlDType::Q4_1, GgmlDType::Q4_1),
        (GgmlDType::Q4_0, GgmlDType::Q4_0),
        (GgmlDType::Q6K, GgmlDType::Q8_0),
        (GgmlDType::Q5K, GgmlDType::Q8_0),
        (GgmlDType::Q4K, GgmlDType::Q8_0),
    ];
    let mut far = Vec::new();
    for (format, otherwise) in formats {
        let rounded = quantized(&weights, format, otherwise);
        let as_f32 = quantized(&rounded, GgmlDType::F32, GgmlDType::F32);
        let (found, expected) = (nll(&rounded, ids.len()).await, nll(&as_f32, ids.len()).await);
        let off = (found / expected - 1.0) * 100.0;
        println!("{format:?}: {found:.5}, as f32 {expected:.5}, {off:+.3} %");
        if off.abs() >= 0.5 {
            far.push((format, off));
        }
    }
    assert!(far.is_empty(), "{far:?}");
}
