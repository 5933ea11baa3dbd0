//! LoRA adapters in PEFT's layout.

use std::fs;

use crate::folder::{Tensor, TinyFolder, interleaved, safetensors};
use crate::tiny::Shape;
use chaski_engine::EngineError;
use chaski_engine::model::Matrix;
use chaski_engine::model::adapter::{Adapter, Target};
use chaski_engine::model::{Checkpoint, LlamaConfig};
use serde_json::{Value, json};

const RANK: usize = 4;

fn shape() -> Shape {
    Shape::small(2)
}

fn config() -> LlamaConfig {
    let folder = tempfile::tempdir().unwrap();
    TinyFolder::new(&shape()).write(folder.path());
    Checkpoint::open(folder.path()).unwrap().config().unwrap()
}

/// An adapter's parts, to be changed before they are written.
struct TinyAdapter {
    config: Value,
    tensors: Vec<Tensor>,
}

impl TinyAdapter {
    fn new() -> Self {
        let config = json!({
            "peft_type": "LORA", "r": RANK, "lora_alpha": 8, "bias": "none", "use_rslora": false,
            "target_modules": ["q_proj", "v_proj", "down_proj"], "modules_to_save": null, "rank_pattern": {},
        });
        let mut tensors = Vec::new();
        for layer in 0..2 {
            for (module, outputs, inputs) in
                [("self_attn.q_proj", 32, 32), ("self_attn.v_proj", 16, 32), ("mlp.down_proj", 32, 64)]
            {
                let base = format!("base_model.model.model.layers.{layer}.{module}");
                let values = |rows: usize, columns: usize| -> Vec<f32> {
                    (0..rows * columns).map(|index| (layer * 100 + index) as f32).collect()
                };
                tensors.push(Tensor::f32(
                    &format!("{base}.lora_A.weight"),
                    &[RANK, inputs],
                    &values(RANK, inputs),
                ));
                let b = values(outputs, RANK);
                tensors.push(Tensor::bf16(&format!("{base}.lora_B.weight"), &[outputs, RANK], &b));
            }
        }
        Self { config, tensors }
    }

    fn open(&self) -> Result<Adapter, EngineError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("adapter_config.json"), self.config.to_string()).unwrap();
        fs::write(folder.path().join("adapter_model.safetensors"), safetensors(&self.tensors)).unwrap();
        Adapter::open(folder.path(), &config())
    }
}

/// What opening `adapter` says.
#[track_caller]
fn check(adapter: &TinyAdapter, expected: &[&str]) {
    let error = adapter.open().err().expect("the adapter is bad").to_string();
    for part in expected {
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
}

fn rows(matrix: &Matrix) -> Vec<f32> {
    let mut all = vec![0.0; matrix.rows() * matrix.columns()];
    for (row, out) in all.chunks_mut(matrix.columns()).enumerate() {
        matrix.row(row, out);
    }
    all
}

#[test]
fn pairs_stand_beside_their_matrices() {
    let adapter = TinyAdapter::new().open().unwrap();
    assert_eq!(adapter.len(), 6);
    assert!(adapter.pair(0, Target::Key).is_none());
    let pair = adapter.pair(1, Target::Down).unwrap();
    assert_eq!((pair.down.rows(), pair.down.columns(), pair.up.rows(), pair.up.columns()), (4, 64, 32, 4));
    assert_eq!(pair.scale, 2.0);
    assert_eq!(rows(&pair.down), (0..4 * 64).map(|index| (100 + index) as f32).collect::<Vec<_>>());
}

#[test]
fn rows_of_rotated_matrices_are_interleaved_like_the_models_own() {
    let adapter = TinyAdapter::new().open().unwrap();
    let values: Vec<f32> = (0..32 * RANK).map(|index| index as f32).collect();
    assert_eq!(rows(&adapter.pair(0, Target::Query).unwrap().up), interleaved(&values, 16, RANK));
    assert_eq!(rows(&adapter.pair(0, Target::Value).unwrap().up), values[..16 * RANK]);
}

#[test]
fn rank_stabilised_adapters_divide_by_the_root() {
    let mut adapter = TinyAdapter::new();
    adapter.config["use_rslora"] = json!(true);
    assert_eq!(adapter.open().unwrap().pair(0, Target::Value).unwrap().scale, 4.0);
}

#[test]
fn layers_may_be_left_out() {
    let mut adapter = TinyAdapter::new();
    adapter.config["layers_to_transform"] = json!([1]);
    adapter.tensors.retain(|tensor| tensor.name.contains("layers.1"));
    let opened = adapter.open().unwrap();
    assert_eq!(opened.len(), 3);
    assert!(opened.pair(0, Target::Query).is_none());
    adapter.config["layers_to_transform"] = Value::Null;
    check(&adapter, &["layers.0.self_attn.q_proj.lora_A.weight` is missing"]);
}

#[test]
fn all_linear_names_every_matrix() {
    let mut adapter = TinyAdapter::new();
    adapter.config["target_modules"] = json!("all-linear");
    check(&adapter, &["layers.0.self_attn.k_proj.lora_A.weight` is missing", "and 4 more"]);
}

#[test]
fn settings_that_are_not_supported_are_refused_with_the_reason() {
    let refused = |key: &str, value: Value, expected: &str| {
        let mut adapter = TinyAdapter::new();
        adapter.config[key] = value;
        check(&adapter, &[expected]);
    };
    refused("peft_type", json!("IA3"), "`peft_type` is Some(\"IA3\")");
    refused("bias", json!("all"), "`bias` is `all`: trained biases");
    refused("use_dora", json!(true), "DoRA rescales the model's own weights");
    refused("modules_to_save", json!(["lm_head"]), "`modules_to_save` is set");
    refused("rank_pattern", json!({ "q_proj": 8 }), "`rank_pattern` is set");
    refused("init_lora_weights", json!("pissa_niter_4"), "changes the model's own weights");
    refused("layers_to_transform", json!("1"), "`layers_to_transform` must be a list");
    refused("r", json!(0), "`r` must be a number from 1");
    refused("r", json!(-4), "`r` must be a number from 1");
    refused("lora_alpha", json!("8"), "`lora_alpha` must be a number");
    refused("target_modules", json!(["embed_tokens"]), "`target_modules` has `embed_tokens`");
    refused("target_modules", json!(".*proj"), "`target_modules` must be a list");
    refused("target_modules", Value::Null, "`target_modules` must be a list");
}

#[test]
fn all_bad_settings_are_reported_together() {
    let mut adapter = TinyAdapter::new();
    adapter.config["use_dora"] = json!(true);
    adapter.config["r"] = Value::Null;
    adapter.config["target_modules"] = json!(["lm_head"]);
    check(&adapter, &["`use_dora`", "`r` must", "`lm_head`"]);
}

#[test]
fn all_bad_tensors_are_reported_together() {
    let mut adapter = TinyAdapter::new();
    let base = "base_model.model.model.layers";
    adapter.tensors.retain(|tensor| tensor.name != format!("{base}.0.mlp.down_proj.lora_A.weight"));
    let named = |adapter: &mut TinyAdapter, name: String, change: &dyn Fn(&mut Tensor)| {
        change(adapter.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap());
    };
    named(&mut adapter, format!("{base}.1.self_attn.q_proj.lora_A.weight"), &|tensor| tensor.shape.reverse());
    named(&mut adapter, format!("{base}.1.self_attn.v_proj.lora_A.weight"), &|tensor| tensor.dtype = "I32");
    adapter.tensors.push(Tensor::f32(&format!("{base}.2.self_attn.q_proj.lora_A.weight"), &[1], &[0.0]));
    check(
        &adapter,
        &[
            "layers.0.mlp.down_proj.lora_A.weight` is missing",
            "layers.1.self_attn.q_proj.lora_A.weight` has the shape [32, 4], the model calls for [4, 32]",
            "layers.1.self_attn.v_proj.lora_A.weight` is stored as I32",
            "layers.2.self_attn.q_proj.lora_A.weight`, which its config does not call for",
        ],
    );
}

#[test]
fn an_adapter_for_nothing_is_refused() {
    let mut adapter = TinyAdapter { tensors: Vec::new(), ..TinyAdapter::new() };
    adapter.config["layers_to_transform"] = json!([7]);
    check(&adapter, &["no matrix of the model's layers"]);
}
