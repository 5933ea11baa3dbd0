//! The same model from files of another kind gives the same logits.

use crate::folder::{Scheme, Tensor, TinyFolder};
use crate::parity::{batch, difference, rows};
use crate::tiny::{Shape, TinyModel};
use candle_core::Device;
use candle_core::quantized::GgmlDType;
use chaski_engine::config::KvFormat;
use chaski_engine::model::{Checkpoint, Model};
use chaski_engine::scheduler::batch::LogitsWanted;
use serde_json::{Value, json};

const TOKENS: usize = 40;

fn tokens() -> Vec<u32> {
    (0..TOKENS as u32).map(|index| index * 37 % 96).collect()
}

/// Our logits after each of the tokens.
fn logits(path: &std::path::Path) -> Vec<f32> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let mut model =
        Model::load(&checkpoint, checkpoint.config().unwrap(), 4096, Vec::new(), &Device::Cpu, None).unwrap();
    let mut cache = model.new_kv_cache(4, KvFormat::F16).unwrap();
    rows(&mut model, &batch(&tokens(), 0, &[0, 1, 2], LogitsWanted::All), &mut cache).concat()
}

fn folder_logits(model: &TinyFolder) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    model.write(folder.path());
    logits(folder.path())
}

#[test]
fn a_folder_gives_the_same_bits_as_a_gguf_file() {
    let shape = Shape { format: GgmlDType::F32, ..Shape::default() };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    TinyModel::new(&shape).write(&path);
    assert!(logits(&path) == folder_logits(&TinyFolder::new(&shape)));
}

/// The last logits against the stock model, with this rotary scaling.
#[track_caller]
fn check_scaling(rope_scaling: Value) {
    let mut model = TinyFolder::new(&Shape::default());
    model.config["rope_scaling"] = rope_scaling;
    let ours = folder_logits(&model);
    let apart = difference(&ours[(TOKENS - 1) * 96..], &model.stock_logits(&tokens()));
    assert!(apart < 2e-3, "{} apart", apart);
}

#[test]
fn a_folder_agrees_with_the_stock_model() {
    check_scaling(Value::Null)
}

#[test]
fn llama_3_scaling_agrees_with_the_stock_model() {
    check_scaling(json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }))
}

/// A GPTQ model against the same weights as floats. Activations of integer products have 8 bits.
#[track_caller]
fn check_gptq(scheme: Scheme) {
    let quantised = TinyFolder::gptq(&Shape::default(), &scheme);
    let mut plain = TinyFolder::new(&Shape::default());
    for tensor in &mut plain.tensors {
        if let Some(name) = tensor.name.strip_suffix(".weight").filter(|name| name.ends_with("_proj")) {
            let weights = scheme.dequantise(&quantised, name);
            *tensor = Tensor::f32(&tensor.name, &tensor.shape, &weights);
        }
    }
    let apart = difference(&folder_logits(&quantised), &folder_logits(&plain));
    assert!(apart < 0.04, "{scheme:?}: {apart} apart");
}

#[test]
fn gptq_agrees_with_the_weights_that_it_stands_for() {
    for group in [32, 64, 128, -1] {
        for scattered in [false, true] {
            check_gptq(Scheme { group, scattered, ..Scheme::default() });
        }
    }
    check_gptq(Scheme {
        symmetric: false,
        scattered: true,
        version: 2,
        label: "gptq_v2",
        ..Scheme::default()
    });
}
