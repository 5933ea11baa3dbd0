//! Adapters in the forward pass: beside the weights they give what merging them into the weights gives.

use std::fs;
use std::path::Path;

use candle_core::Device;
use chaski_engine::config::KvFormat;
use chaski_engine::model::{Adapter, Checkpoint, Model};
use chaski_engine::scheduler::BLOCK_TOKENS;
use chaski_engine::scheduler::batch::{LogitsWanted, ScheduledBatch, ScheduledSequence};
use chaski_engine::scheduler::block_pool::BlockId;
use chaski_engine::scheduler::sequence::SequenceId;
use serde_json::json;

use crate::folder::{Tensor, TinyFolder, safetensors};
use crate::tiny::Shape;

const RANK: usize = 4;
const SCALE: f32 = 2.0;
const MODULES: [(&str, usize, usize); 7] = [
    ("self_attn.q_proj", 64, 64),
    ("self_attn.k_proj", 32, 64),
    ("self_attn.v_proj", 32, 64),
    ("self_attn.o_proj", 64, 64),
    ("mlp.gate_proj", 128, 64),
    ("mlp.up_proj", 128, 64),
    ("mlp.down_proj", 64, 128),
];

fn shape() -> Shape {
    Shape {
        hidden: 64,
        feed_forward: 128,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        vocabulary: 40,
        context: 64,
        ..Shape::default()
    }
}

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
    .take(count)
    .map(|x| x * 0.2)
    .collect()
}

/// A and B of one matrix.
fn pair(seed: u32, layer: usize, module: usize) -> (Vec<f32>, Vec<f32>) {
    let (_, outputs, inputs) = MODULES[module];
    let seed = seed * 1000 + (layer * 10 + module) as u32;
    (numbers(RANK * inputs, seed), numbers(outputs * RANK, seed + 500))
}

fn write_adapter(folder: &Path, seed: u32) {
    let modules: Vec<&str> = MODULES.iter().map(|(name, ..)| name.split('.').next_back().unwrap()).collect();
    let config = json!({"peft_type": "LORA", "r": RANK, "lora_alpha": SCALE * RANK as f32, "bias": "none",
                        "target_modules": modules});
    let mut tensors = Vec::new();
    for layer in 0..2 {
        for (module, (name, outputs, inputs)) in MODULES.iter().enumerate() {
            let (a, b) = pair(seed, layer, module);
            let base = format!("base_model.model.model.layers.{layer}.{name}");
            tensors.push(Tensor::f32(&format!("{base}.lora_A.weight"), &[RANK, *inputs], &a));
            tensors.push(Tensor::f32(&format!("{base}.lora_B.weight"), &[*outputs, RANK], &b));
        }
    }
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    fs::write(folder.join("adapter_model.safetensors"), safetensors(&tensors)).unwrap();
}

/// The model with an adapter's products merged into its weights.
fn merged(seed: u32) -> TinyFolder {
    let mut folder = TinyFolder::new(&shape());
    for layer in 0..2 {
        for (module, (name, _, inputs)) in MODULES.iter().enumerate() {
            let (a, b) = pair(seed, layer, module);
            let tensor = folder.tensor_mut(&format!("model.layers.{layer}.{name}.weight"));
            let mut weights: Vec<f32> =
                tensor.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            for (index, weight) in weights.iter_mut().enumerate() {
                let (output, input) = (index / inputs, index % inputs);
                let product: f32 = (0..RANK).map(|r| b[output * RANK + r] * a[r * inputs + input]).sum();
                *weight += SCALE * product;
            }
            *tensor = Tensor::f32(&tensor.name.clone(), &tensor.shape.clone(), &weights);
        }
    }
    folder
}

fn model(folder: &TinyFolder, adapters: &[u32]) -> Model {
    let place = tempfile::tempdir().unwrap();
    folder.write(place.path());
    let checkpoint = Checkpoint::open(place.path()).unwrap();
    let config = checkpoint.config().unwrap();
    let adapters = adapters
        .iter()
        .map(|seed| {
            let path = place.path().join(format!("adapter-{seed}"));
            write_adapter(&path, *seed);
            Adapter::open(&path, &config).unwrap()
        })
        .collect();
    Model::load(&checkpoint, checkpoint.config().unwrap(), 64, adapters, &Device::Cpu, None).unwrap()
}

/// The logits after each of several sequences, (tokens, adapter), all computed in one step.
fn logits(model: &mut Model, sequences: &[(usize, Option<usize>)]) -> Vec<Vec<f32>> {
    let mut cache = model.new_kv_cache(16, KvFormat::F16).unwrap();
    let sequences: Vec<_> = sequences
        .iter()
        .enumerate()
        .map(|(index, &(tokens, adapter))| ScheduledSequence {
            id: SequenceId(index as u64),
            tokens: (0..tokens).map(|at| (at * 13 + 5) as u32 % 40).collect(),
            position: 0,
            block_table: (0..tokens.div_ceil(BLOCK_TOKENS))
                .map(|block| BlockId::new(index * 4 + block))
                .collect(),
            logits: LogitsWanted::Last,
            adapter,
        })
        .collect();
    let logits = model.forward(&ScheduledBatch { sequences, copies: Vec::new() }, &mut cache).unwrap();
    (0..logits.rows()).map(|row| logits.row(row).to_vec()).collect()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 5e-3, "{worst} apart");
}

#[test]
fn an_adapter_beside_the_weights_is_one_merged_into_them() {
    let expected = logits(&mut model(&merged(1), &[]), &[(20, None)]);
    let found = logits(&mut model(&TinyFolder::new(&shape()), &[1]), &[(20, Some(0))]);
    assert_close(&found[0], &expected[0]);
}

#[test]
fn sequences_of_one_step_may_have_different_adapters() {
    let mut together = model(&TinyFolder::new(&shape()), &[1, 2]);
    let found = logits(&mut together, &[(20, Some(1)), (7, None), (33, Some(0)), (20, Some(0))]);
    let alone = |seed: Option<u32>, tokens| {
        let folder = seed.map_or_else(|| TinyFolder::new(&shape()), merged);
        logits(&mut model(&folder, &[]), &[(tokens, None)]).remove(0)
    };
    assert_close(&found[0], &alone(Some(2), 20));
    assert_close(&found[1], &alone(None, 7));
    assert_close(&found[2], &alone(Some(1), 33));
    assert_close(&found[3], &alone(Some(1), 20));
    let apart = found[0].iter().zip(&found[3]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart > 0.05, "two adapters are told apart");
}
