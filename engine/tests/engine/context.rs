//! Rotary scaling from a file's metadata, and contexts above the trained one.

use crate::tiny::{Shape, TinyModel};
use candle_core::quantized::gguf_file::Value;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use chaski_engine::EngineError;
use chaski_engine::model::rope::{RopeAngles, RopeScaling, YarnScaling};
use chaski_engine::model::{Checkpoint, LlamaConfig};

fn model() -> TinyModel {
    TinyModel::new(&Shape { hidden: 32, feed_forward: 64, layers: 1, context: 8192, ..Shape::default() })
}

fn config(model: &TinyModel) -> Result<(LlamaConfig, Option<Vec<f32>>), EngineError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    model.write(&path);
    let checkpoint = Checkpoint::open(&path)?;
    let config = checkpoint.config()?;
    checkpoint.check_tensors(&config)?;
    Ok((config, checkpoint.rope_divisors()?))
}

fn with(entries: &[(&str, Value)]) -> TinyModel {
    let mut model = model();
    for (key, value) in entries {
        model.set(&format!("llama.rope.scaling.{key}"), value.clone());
    }
    model
}

/// The scaling that a file with these entries asks for.
#[track_caller]
fn check(entries: &[(&str, Value)], expected: RopeScaling) {
    assert_eq!(config(&with(entries)).unwrap().0.rope_scaling, expected);
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}

#[test]
fn a_gguf_file_may_ask_for_linear_scaling_or_yarn() {
    check(&[], RopeScaling::None);
    check(&[("type", text("none")), ("factor", Value::F32(3.0))], RopeScaling::None);
    check(&[("type", text("linear")), ("factor", Value::F32(1.0))], RopeScaling::None);
    check(&[("type", text("linear")), ("factor", Value::F32(4.0))], RopeScaling::Linear { factor: 4.0 });
    let yarn =
        [("type", text("yarn")), ("factor", Value::F32(4.0)), ("original_context_length", Value::U32(2048))];
    check(&yarn, RopeScaling::Yarn(YarnScaling::new(4.0, 2048)));
    let more = [("attn_factor", Value::F32(0.5)), ("yarn_beta_fast", Value::F32(16.0))];
    let paper = YarnScaling::new(4.0, 2048);
    let expected = YarnScaling { attention_factor: 0.5 * paper.attention_factor, beta_fast: 16.0, ..paper };
    check(&[&yarn[..], &more[..]].concat(), RopeScaling::Yarn(expected));
}

#[test]
fn a_gguf_file_may_bring_its_divisors() {
    let mut model = model();
    let divisors = Tensor::new(&[1f32, 2.0, 4.0, 8.0], &Device::Cpu).unwrap();
    model.tensors.push(("rope_freqs.weight".into(), QTensor::quantize(&divisors, GgmlDType::F32).unwrap()));
    let (config, divisors) = config(&model).unwrap();
    assert_eq!((config.rope_scaling, divisors), (RopeScaling::Divisors, Some(vec![1.0, 2.0, 4.0, 8.0])));
}

#[test]
fn divisors_must_be_positive() {
    let mut model = model();
    let divisors = Tensor::new(&[1f32, 0.0, 4.0, 8.0], &Device::Cpu).unwrap();
    model.tensors.push(("rope_freqs.weight".into(), QTensor::quantize(&divisors, GgmlDType::F32).unwrap()));
    let error = config(&model).unwrap_err().to_string();
    assert!(error.contains("`rope_freqs` has a divisor that is not positive"), "{error}");
}

#[test]
fn a_longer_context_must_be_asked_for_with_a_scaling() {
    let (original, _) = config(&model()).unwrap();
    let dynamic = RopeScaling::DynamicNtk { factor: 2.0, original_context: 8192 };
    let mut config = original.clone();
    let warning = config.extend_context(16_384, dynamic.clone()).unwrap();
    assert!(warning.contains("16384 tokens is above the 8192"), "{warning}");
    assert_eq!((config.context, &config.rope_scaling), (16_384, &dynamic));
    let plain = RopeAngles::new(8, 16_384, config.rope_theta, &RopeScaling::None, None);
    let scaled = RopeAngles::new(8, 16_384, config.rope_theta, &config.rope_scaling, None);
    assert_ne!(plain.cos, scaled.cos);
    let short = RopeAngles::new(8, 8192, config.rope_theta, &config.rope_scaling, None);
    assert_eq!(plain.cos[..8192 * 4], short.cos[..], "a session that stays short loses nothing");
}

#[test]
fn a_checkpoint_hands_on_a_longer_context() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    model().write(&path);
    let mut checkpoint = Checkpoint::open(&path).unwrap();
    let yarn = RopeScaling::Yarn(YarnScaling::new(2.0, 8192));
    let warning = checkpoint.extend_context(16_384, yarn.clone()).unwrap();
    assert!(warning.contains("YaRN by 2 from 8192 tokens on"), "{warning}");
    let config = checkpoint.config().unwrap();
    assert_eq!((config.context, config.rope_scaling), (16_384, yarn));
    checkpoint.extend_context(32_768, RopeScaling::Linear { factor: 4.0 }).unwrap_err();
    assert_eq!(checkpoint.config().unwrap().context, 16_384);
}

#[test]
fn a_scaling_that_cannot_work_is_refused() {
    let (original, _) = config(&model()).unwrap();
    let refused = |tokens, scaling: RopeScaling, expected: &str| {
        let mut config = original.clone();
        let error = config.extend_context(tokens, scaling).unwrap_err().to_string();
        assert!(error.contains(expected), "`{error}` does not say `{expected}`");
        assert_eq!(config, original, "nothing changes");
    };
    let linear = |factor| RopeScaling::Linear { factor };
    refused(8192, linear(2.0), "needs no stretching");
    refused(usize::MAX, linear(2.0), "is too long");
    refused(16_384, RopeScaling::None, "needs a rotary scaling");
    refused(16_384, linear(1.5), "stretches 8192 tokens to 12288, not to 16384");
    refused(16_384, linear(f32::NAN), "numbers that make no sense");
    let mut stretched = original.clone();
    stretched.extend_context(16_384, linear(2.0)).unwrap();
    let again = stretched.extend_context(32_768, linear(2.0)).unwrap_err().to_string();
    assert!(again.contains("are stretched already"), "{again}");
}
