//! What `chaski model inspect` is told, for every kind of file.

use std::path::Path;

use crate::folder::{Scheme, TinyFolder};
use crate::tiny::{Shape, TinyModel};
use candle_core::quantized::GgmlDType;
use chaski_engine::inspect::{ModelSummary, inspect};
use chaski_engine::model::Checkpoint;

fn shape() -> Shape {
    Shape { hidden: 256, feed_forward: 320, layers: 2, vocabulary: 50, ..Shape::default() }
}

/// The summary of a checkpoint, whose estimate of memory is what reading all of it takes.
#[track_caller]
fn check(path: &Path, format: &str) -> ModelSummary {
    let summary = inspect(path).unwrap();
    let checkpoint = Checkpoint::open(path).unwrap();
    let config = checkpoint.config().unwrap();
    let mut read = 0;
    let (hidden, feed_forward) = (config.hidden, config.feed_forward);
    let (queries, keys) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let mut matrix =
        |name: &str, rows, columns| read += checkpoint.matrix(name, rows, columns).unwrap().bytes();
    matrix("token_embd", config.vocabulary, hidden);
    if !config.tied_head {
        matrix("output", config.vocabulary, hidden);
    }
    for layer in 0..config.num_layers {
        matrix(&format!("blk.{layer}.attn_q"), queries, hidden);
        matrix(&format!("blk.{layer}.attn_k"), keys, hidden);
        matrix(&format!("blk.{layer}.attn_v"), keys, hidden);
        matrix(&format!("blk.{layer}.attn_output"), hidden, queries);
        matrix(&format!("blk.{layer}.ffn_gate"), feed_forward, hidden);
        matrix(&format!("blk.{layer}.ffn_up"), feed_forward, hidden);
        matrix(&format!("blk.{layer}.ffn_down"), hidden, feed_forward);
    }
    let norms = (2 * config.num_layers + 1) * hidden * 4;
    assert_eq!(summary.loaded_bytes, (read + norms) as u64);
    assert_eq!(summary.memory_bytes(100), summary.loaded_bytes + 100 * summary.kv_bytes_per_token as u64);
    assert_eq!(summary.memory_bytes(usize::MAX), summary.memory_bytes(config.context));
    assert_eq!((summary.architecture, summary.format), ("llama", format));
    assert_eq!((summary.layers, summary.hidden, summary.heads, summary.head_dim), (2, 256, (4, 2), 64));
    assert_eq!(summary.faults, None);
    let layer = 256 * (64 * 12 + 3 * 320 + 2);
    let tables = if summary.tied_head { 50 } else { 100 };
    assert_eq!(summary.parameters, 2 * layer + 256 * tables + 256);
    summary
}

#[test]
fn gguf_files_of_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let formats = [
        GgmlDType::F32,
        GgmlDType::F16,
        GgmlDType::BF16,
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
    ];
    for format in formats {
        TinyModel::new(&Shape { format, ..shape() }).write(&path);
        let summary = check(&path, "GGUF");
        assert!(summary.stop_ids.is_err(), "a tiny model has no vocabulary");
        assert!(!summary.chat_template);
    }
}

#[test]
fn folders_of_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    TinyFolder::new(&Shape { tied: true, ..shape() }).write(folder.path());
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    let summary = check(folder.path(), "safetensors");
    assert!(summary.chat_template && summary.tied_head);
    assert_eq!(summary.tensors.get("F32"), Some(&(2 * 9 + 2)));
    assert_eq!(summary.weight_bytes, summary.parameters * 4);
}

#[test]
fn gptq_folders() {
    for (symmetric, scattered) in [(true, false), (true, true), (false, true)] {
        let folder = tempfile::tempdir().unwrap();
        TinyFolder::gptq(&shape(), &Scheme { symmetric, scattered, ..Scheme::default() })
            .write(folder.path());
        check(folder.path(), "safetensors, GPTQ");
    }
}

#[test]
fn what_stands_against_running_a_model_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = TinyFolder::new(&shape());
    model.tensors.retain(|tensor| tensor.name != "model.norm.weight");
    model.write(folder.path());
    let summary = inspect(folder.path()).unwrap();
    assert!(summary.faults.unwrap().contains("tensor `model.norm.weight` is missing"));
}
