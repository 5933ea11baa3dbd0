//! Damaged and hostile model files: each is an error that says what is wrong, never a panic and never an
//! allocation that the file's own size does not bear out.

use std::fs;
use std::path::{Path, PathBuf};

use crate::tiny::{Shape, TinyModel};
use candle_core::Device;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use chaski_engine::EngineError;
use chaski_engine::model::{Checkpoint, Model};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tempfile::TempDir;

fn small() -> Shape {
    Shape::small(1)
}

/// The bytes of a good file, and a folder to write bad ones to.
fn good() -> (TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    TinyModel::new(&small()).write(&path);
    let bytes = fs::read(&path).unwrap();
    (folder, path, bytes)
}

fn load(path: &Path) -> Result<Model, EngineError> {
    let checkpoint = Checkpoint::open(path)?;
    Model::load(&checkpoint, checkpoint.config()?, 64, Vec::new(), &Device::Cpu, None)
}

/// What loading `model` says.
#[track_caller]
fn check(model: &TinyModel, expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    model.write(&path);
    check_file(&path, expected)
}

/// What loading these bytes says.
#[track_caller]
fn check_bytes(bytes: &[u8], expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    check_file(&path, &[expected])
}

#[track_caller]
fn check_file(path: &Path, expected: &[&str]) {
    let error = load(path).err().expect("the file is bad").to_string();
    for part in expected {
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
}

#[test]
fn a_good_file_loads() {
    let (_folder, path, _bytes) = good();
    load(&path).unwrap();
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let (_folder, path, bytes) = good();
    // The last 31 bytes may be padding, which nothing needs.
    for length in (0..1500).step_by(3).chain((1500..bytes.len() - 31).step_by(997)) {
        fs::write(&path, &bytes[..length]).unwrap();
        let error = load(&path).err().unwrap_or_else(|| panic!("{length} bytes of {} load", bytes.len()));
        assert!(matches!(error, EngineError::Model { .. }), "{length} bytes: {error}");
    }
}

#[test]
fn flipped_bits_in_the_header_never_panic() {
    let (_folder, path, bytes) = good();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for byte in 0..1200 {
        let mut damaged = bytes.clone();
        damaged[byte] ^= 1 << (random.next_u32() % 8);
        fs::write(&path, &damaged).unwrap();
        // A flipped bit in a name or an epsilon may well load; it must only not panic.
        let _ = load(&path);
    }
}

#[test]
fn random_numbers_in_the_header_never_panic() {
    let (_folder, path, bytes) = good();
    let mut random = ChaCha8Rng::seed_from_u64(6);
    for _ in 0..400 {
        let mut damaged = bytes.clone();
        for _ in 0..1 + random.next_u32() % 4 {
            let at = 8 + random.next_u32() as usize % 1200;
            damaged[at..at + 8]
                .copy_from_slice(&(random.next_u64() >> (random.next_u32() % 64)).to_le_bytes());
        }
        fs::write(&path, &damaged).unwrap();
        let _ = load(&path);
    }
}

#[test]
fn something_else_is_no_model() {
    check_bytes(b"", "cut off at byte 0");
    check_bytes(b"<html><body>404</body></html>", "a GGUF file starts with `GGUF`");
    check_bytes(b"version https://git-lfs.github.com/spec/v1\n", "a GGUF file starts with `GGUF`");
    check_bytes(b"GGUF\x09\0\0\0", "GGUF version 9 is not supported");
}

#[test]
fn a_missing_file_and_a_folder_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().join("absent.gguf"), folder.path().to_owned()] {
        assert!(matches!(load(&path), Err(EngineError::Read { .. })));
    }
}

#[test]
fn absurd_counts_are_not_believed() {
    let (_folder, _path, bytes) = good();
    let with = |at: usize, value: u64| {
        let mut damaged = bytes.clone();
        damaged[at..at + 8].copy_from_slice(&value.to_le_bytes());
        damaged
    };
    check_bytes(&with(8, u64::MAX), "claims 18446744073709551615 tensors");
    check_bytes(&with(8, 60_000), "is not a usable model");
    check_bytes(&with(16, 1 << 40), "claims 1099511627776 metadata entries");
    check_bytes(&with(24, 1 << 40), "bytes in key 0 of the metadata");
}

#[test]
fn a_huge_array_of_small_numbers_is_refused() {
    let mut model = TinyModel::new(&small());
    model.set("padding", Value::Array(vec![Value::U8(0); (4 << 20) + 1]));
    check(&model, &["claims 4194305 entries in `padding`"]);
}

#[test]
fn an_alignment_of_zero_is_refused() {
    let mut model = TinyModel::new(&small());
    model.set("general.alignment", Value::U32(0));
    check(&model, &["`general.alignment` is 0"]);
}

#[test]
fn another_architecture_is_named() {
    let mut model = TinyModel::new(&small());
    model.set("general.architecture", Value::String("gemma3".into()));
    check(&model, &["its architecture is `gemma3`"]);
}

#[test]
fn a_mixture_of_experts_is_named() {
    let mut model = TinyModel::new(&small());
    model.set("llama.expert_count", Value::U32(8));
    check(&model, &["mixture of experts"]);
}

#[test]
fn all_bad_numbers_are_reported_together() {
    let mut model = TinyModel::new(&small());
    model.set("llama.block_count", Value::U32(4_000_000_000));
    model.set("llama.context_length", Value::String("long".into()));
    model.set("llama.rope.freq_base", Value::F32(f32::NAN));
    model.metadata.retain(|(key, _)| key != "llama.feed_forward_length");
    check(
        &model,
        &[
            "`llama.block_count` is U32(4000000000), it must be a number from 1 to 1024",
            "`llama.context_length` is String(\"long\")",
            "`llama.rope.freq_base` is NaN",
            "`llama.feed_forward_length` is missing",
        ],
    );
}

#[test]
fn heads_that_do_not_divide_are_refused() {
    let mut model = TinyModel::new(&small());
    model.set("llama.attention.head_count_kv", Value::U32(3));
    check(&model, &["2 query heads cannot share 3 key and value heads"]);
}

#[test]
fn unknown_rope_scaling_is_refused() {
    let mut model = TinyModel::new(&small());
    model.set("llama.rope.scaling.type", Value::String("longrope".into()));
    model.set("llama.rope.scaling.factor", Value::F32(2.0));
    check(&model, &["rotary scaling `longrope`"]);
    model.set("llama.rope.scaling.type", Value::String("yarn".into()));
    check(&model, &["`llama.rope.scaling.original_context_length` is missing"]);
}

#[test]
fn all_bad_tensors_are_reported_together() {
    let mut model = TinyModel::new(&small());
    let dropped =
        |name: &str| name.contains("ffn_up") || name.contains("ffn_down") || name == "output_norm.weight";
    model.tensors.retain(|(name, _)| !dropped(name));
    let wide = TinyModel::new(&Shape { feed_forward: 96, ..small() });
    model.tensors.extend(wide.tensors.into_iter().filter(|(name, _)| name.contains("ffn_down")));
    check(
        &model,
        &[
            "tensor `blk.0.ffn_up.weight` is missing",
            "tensor `output_norm.weight` is missing",
            "tensor `blk.0.ffn_down.weight` has the shape [32, 96], the metadata calls for [32, 64]",
        ],
    );
}

#[test]
fn a_format_that_is_not_supported_is_named() {
    let shape = Shape { hidden: 256, feed_forward: 256, format: GgmlDType::Q2K, ..small() };
    check(&TinyModel::new(&shape), &["tensor `token_embd.weight` is stored as Q2K"]);
}

#[test]
fn biases_are_not_ignored() {
    let mut model = TinyModel::new(&small());
    let norms = TinyModel::new(&small()).tensors.into_iter().filter(|(name, _)| name == "output_norm.weight");
    model.tensors.extend(norms.map(|(_, tensor)| ("blk.0.attn_q.bias".to_owned(), tensor)));
    check(&model, &["it has biases (`blk.0.attn_q.bias`)"]);
}
