//! Folders of safetensors: the same weights as from a GGUF file, and clear words about damaged ones.

use std::fs;

use crate::folder::{Tensor, TinyFolder, floats, safetensors, with_header};
use crate::tiny::{Shape, TinyModel};
use candle_core::quantized::{GgmlDType, gguf_file};
use chaski_engine::EngineError;
use chaski_engine::model::{Checkpoint, LlamaConfig, Matrix};
use serde_json::{Value, json};
use tempfile::TempDir;

fn small() -> Shape {
    Shape::small(2)
}

fn written(model: &TinyFolder) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    model.write(folder.path());
    folder
}

/// Opens a folder and checks all of it.
fn load(folder: &TempDir) -> Result<(Checkpoint, LlamaConfig), EngineError> {
    let checkpoint = Checkpoint::open(folder.path())?;
    let config = checkpoint.config()?;
    checkpoint.check_tensors(&config)?;
    Ok((checkpoint, config))
}

/// What loading `model` says.
#[track_caller]
fn check(model: &TinyFolder, expected: &[&str]) {
    check_folder(&written(model), expected)
}

#[track_caller]
fn check_folder(folder: &TempDir, expected: &[&str]) {
    let error = load(folder).err().expect("the folder is bad").to_string();
    for part in expected {
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
}

/// What opening a folder with these bytes for weights says.
#[track_caller]
fn check_bytes(bytes: &[u8], expected: &str) {
    let folder = written(&TinyFolder::new(&small()));
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    check_folder(&folder, &[expected])
}

/// What a small model's config becomes when these entries are changed.
fn config(changes: Value) -> Result<LlamaConfig, EngineError> {
    let mut model = TinyFolder::new(&small());
    model.config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    load(&written(&model)).map(|(_, config)| config)
}

pub fn rows(matrix: &Matrix) -> Vec<f32> {
    let mut all = vec![0.0; matrix.rows() * matrix.columns()];
    for (row, out) in all.chunks_mut(matrix.columns()).enumerate() {
        matrix.row(row, out);
    }
    all
}

/// The config and every tensor of both checkpoints are the same.
fn assert_same(one: &Checkpoint, other: &Checkpoint, model: &TinyModel) {
    assert_eq!(one.config().unwrap(), other.config().unwrap());
    for (name, tensor) in &model.tensors {
        let name = name.strip_suffix(".weight").unwrap();
        match *tensor.shape().dims() {
            [_] => assert_eq!(one.vector(name).unwrap(), other.vector(name).unwrap(), "{name}"),
            [outputs, inputs] => {
                let both = [one, other].map(|from| rows(&from.matrix(name, outputs, inputs).unwrap()));
                assert!(both[0] == both[1], "{name}");
            }
            _ => unreachable!("tensors have one or two dimensions"),
        }
    }
}

#[test]
fn a_folder_holds_the_same_model_as_a_gguf_file() {
    for shape in
        [small(), Shape { tied: true, ..small() }, Shape { hidden: 48, heads: 3, kv_heads: 3, ..small() }]
    {
        let model = TinyModel::new(&shape);
        let (whole, sharded) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = whole.path().join("model.gguf");
        model.write(&file);
        TinyFolder::new(&shape).write(whole.path());
        TinyFolder::new(&shape).write_shards(sharded.path());
        let gguf = Checkpoint::open(&file).unwrap();
        assert_same(&gguf, &load(&whole).unwrap().0, &model);
        assert_same(&gguf, &load(&sharded).unwrap().0, &model);
        let by_file = Checkpoint::open(&whole.path().join("model.safetensors")).unwrap();
        assert_same(&gguf, &by_file, &model);
    }
}

/// Both of candle's Llamas agree: the one that reads GGUF's order of rows and the one that reads these files'. So
/// the two orders that the test above holds against each other are the real ones.
#[test]
fn the_orders_of_rows_are_those_of_the_stock_models() {
    use candle_core::Device;
    use candle_transformers::models::quantized_llama;

    let ids: Vec<u32> = (0..20).map(|index| index * 7 % 40).collect();
    let shape = Shape { format: GgmlDType::F32, ..small() };
    let model = TinyFolder::new(&shape);
    let theirs = model.stock_logits(&ids);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    TinyModel::new(&shape).write(&path);
    let mut reader = fs::File::open(&path).unwrap();
    let content = gguf_file::Content::read(&mut reader).unwrap();
    let mut oracle = quantized_llama::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).unwrap();
    let ids = candle_core::Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let expected = oracle.forward(&ids, 0).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (found, expected) in theirs.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-3, "{found} is not {expected}");
    }
}

#[test]
fn half_precision_is_kept() {
    let mut model = TinyFolder::new(&small());
    for tensor in &mut model.tensors {
        let half = if tensor.name.contains("mlp") { Tensor::bf16 } else { Tensor::f16 };
        *tensor = half(&tensor.name, &tensor.shape, &floats(tensor));
    }
    let (checkpoint, _) = load(&written(&model)).unwrap();
    let Matrix::Float(matrix) = checkpoint.matrix("blk.1.ffn_down", 32, 64).unwrap() else {
        panic!("floats stay floats");
    };
    assert_eq!(matrix.bytes(), 32 * 64 * 2);
}

#[test]
fn a_single_file_may_have_another_name() {
    let folder = written(&TinyFolder::new(&small()));
    let rename = |from: &str, to: &str| {
        fs::rename(folder.path().join(from), folder.path().join(to)).unwrap();
    };
    rename("model.safetensors", "gptq_model-4bit-128g.safetensors");
    load(&folder).unwrap();
    fs::write(folder.path().join("other.safetensors"), safetensors(&[])).unwrap();
    check_folder(&folder, &["neither `model.safetensors` nor `model.safetensors.index.json`, but 2 other"]);
}

#[test]
fn every_number_comes_from_the_config() {
    let found = config(json!({
        "rope_theta": 500000.0, "rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "head_dim": 16,
        "_name_or_path": "tiny",
    }))
    .unwrap();
    assert_eq!((found.rope_theta, found.norm_eps, found.context), (500_000.0, 1e-6, 8192));
    assert_eq!((found.head_dim, found.name.as_deref()), (16, Some("tiny")));
    assert!(!found.tied_head);
}

#[test]
fn settings_that_change_the_arithmetic_are_refused() {
    let refused = |changes: Value, expected: &str| {
        let error = config(changes).expect_err(expected).to_string();
        assert!(error.contains(expected), "`{error}` does not say `{expected}`");
    };
    refused(json!({ "model_type": "gemma3" }), "`model_type` is `\"gemma3\"`");
    refused(json!({ "architectures": ["LlamaForSequenceClassification"] }), "`architectures` is");
    refused(json!({ "hidden_act": "gelu" }), "`hidden_act` is `\"gelu\"`");
    refused(json!({ "attention_bias": true }), "`attention_bias` is true");
    refused(json!({ "mlp_bias": true }), "`mlp_bias` is true");
    refused(json!({ "partial_rotary_factor": 0.5 }), "`partial_rotary_factor`");
    refused(json!({ "eos_token_id": "</s>" }), "`eos_token_id` of `config.json`");
    refused(json!({ "eos_token_id": 40 }), "end token 40 is outside the vocabulary of 40");
    refused(json!({ "quantization_config": { "quant_method": "awq", "bits": 4 } }), "quantised by `awq`");
}

#[test]
fn all_bad_numbers_are_reported_together() {
    let mut model = TinyFolder::new(&small());
    model.config["num_hidden_layers"] = json!(4_000_000_000u64);
    model.config["num_key_value_heads"] = json!(3);
    model.config["max_position_embeddings"] = json!("long");
    model.config["rope_theta"] = json!(-1.0);
    model.config.as_object_mut().unwrap().remove("rms_norm_eps");
    check(
        &model,
        &[
            "`num_hidden_layers` is `4000000000`, it must be a number from 1 to 1024",
            "2 query heads cannot share 3",
            "`max_position_embeddings` is `\"long\"`",
            "`rope_theta` is -1",
            "`rms_norm_eps` is missing",
        ],
    );
}

#[test]
fn all_bad_tensors_are_reported_together() {
    let mut model = TinyFolder::new(&small());
    model.tensors.retain(|tensor| !tensor.name.contains("layers.1.mlp.up_proj"));
    model.tensor_mut("model.norm.weight").shape = vec![2, 16];
    let gate = "model.layers.0.mlp.gate_proj.weight";
    *model.tensor_mut(gate) = Tensor { dtype: "I32", ..model.tensor(gate).clone() };
    check(
        &model,
        &[
            "tensor `model.layers.1.mlp.up_proj.weight` is missing",
            "tensor `model.norm.weight` has the shape [2, 16], the config calls for [32]",
            "tensor `model.layers.0.mlp.gate_proj.weight` is stored as I32",
        ],
    );
}

#[test]
fn tensors_that_llama_does_not_have_are_refused() {
    let mut model = TinyFolder::new(&small());
    model.tensors.push(Tensor::f32("model.layers.0.self_attn.q_proj.bias", &[32], &[0.0; 32]));
    model.tensors.push(Tensor::f32("model.layers.0.self_attn.rotary_emb.inv_freq", &[8], &[1.0; 8]));
    load(&written(&model)).expect("zero biases and tables of frequencies do no harm");
    model.tensors.push(Tensor::f32("model.layers.1.self_attn.v_proj.bias", &[16], &[0.5; 16]));
    model.tensors.push(Tensor::f32("model.layers.1.self_attn.q_norm.weight", &[16], &[1.0; 16]));
    check(
        &model,
        &["it has biases (`model.layers.1.self_attn.v_proj.bias`)", "`model.layers.1.self_attn.q_norm"],
    );
}

#[test]
fn a_norm_that_is_not_finite_is_refused() {
    let mut model = TinyFolder::new(&small());
    model.tensor_mut("model.norm.weight").bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let (checkpoint, _) = load(&written(&model)).unwrap();
    let error = checkpoint.vector("output_norm").unwrap_err().to_string();
    assert!(error.contains("tensor `output_norm` holds a number that is not finite"));
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    let entry = |dtype: &str, shape: Value, offsets: Value| {
        json!({ "a": { "dtype": dtype, "shape": shape, "data_offsets": offsets } }).to_string()
    };
    let bytes = |header: &str| with_header(header, &[0; 16]);
    check_bytes(b"", "it is cut off: it has 0 bytes");
    check_bytes(b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer");
    check_bytes(&[255; 64], "claims a header of 18446744073709551615 bytes");
    check_bytes(&[100, 0, 0, 0, 0, 0, 0, 0, 1], "100 bytes are claimed, 1 are left");
    check_bytes(&bytes("[]"), "expected tensors by name");
    check_bytes(&bytes("{\"a\":1}"), "its header is not what safetensors writes");
    check_bytes(&bytes(&entry("Q4", json!([4]), json!([0, 16]))), "tensor `a` is stored as Q4");
    check_bytes(&bytes(&entry("F32", json!([5]), json!([0, 16]))), "cannot have 16 bytes");
    check_bytes(&bytes(&entry("F32", json!([u64::MAX, 2]), json!([0, 16]))), "cannot have 16 bytes");
    check_bytes(&bytes(&entry("F32", json!([4]), json!([16, 0]))), "before its start");
    check_bytes(&bytes(&entry("F32", json!([8]), json!([0, 32]))), "the file has 16 of data");
    check_bytes(&bytes(&entry("F32", json!([2]), json!([8, 16]))), "comes after a gap");
    check_bytes(&bytes(&entry("F32", json!([2]), json!([0, 8]))), "8 bytes after the last tensor");
    check_bytes(&bytes(&entry("F32", json!([-2]), json!([0, 8]))), "invalid value");
    let twice = "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},\
                 \"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}";
    check_bytes(&bytes(twice), "tensor `a` comes twice");
    let overlap = "{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},\
                   \"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}";
    check_bytes(&bytes(overlap), "tensor `b` overlaps the tensor before it");
}

#[test]
fn an_index_may_only_name_files_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    TinyFolder::new(&small()).write_shards(folder.path());
    let index = folder.path().join("model.safetensors.index.json");
    let good: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    let check_index = |change: &dyn Fn(&mut Value), expected: &[&str]| {
        let mut changed = good.clone();
        change(&mut changed);
        fs::write(&index, changed.to_string()).unwrap();
        check_folder(&folder, expected);
    };
    for name in ["../model-00000.safetensors", "/etc/passwd", ""] {
        let change = |index: &mut Value| index["weight_map"]["model.norm.weight"] = json!(name);
        check_index(&change, &["the file of tensor `model.norm.weight`", "a name in the same folder"]);
    }
    check_index(&|index| index["weight_map"] = json!([]), &["it has no `weight_map`"]);
    check_index(&|index| index["weight_map"] = json!({}), &["it names 0 files"]);
    check_index(
        &|index| {
            index["weight_map"]["x"] = json!("lost.safetensors");
            index["weight_map"]["y"] = json!("gone.safetensors");
        },
        &["the file `gone.safetensors` is missing; the file `lost.safetensors` is missing"],
    );
    check_index(
        &|index| index["weight_map"]["absent"] = json!("model-00000.safetensors"),
        &["tensor `absent` is not in `model-00000.safetensors`"],
    );
}

#[test]
fn end_tokens_are_the_union_of_what_all_files_name() {
    let mut model = TinyFolder::new(&small());
    model.config["eos_token_id"] = json!([1, 2]);
    let folder = written(&model);
    let write = |name: &str, value: Value| fs::write(folder.path().join(name), value.to_string()).unwrap();
    write("generation_config.json", json!({ "eos_token_id": 3 }));
    write(
        "tokenizer_config.json",
        json!({
            "eos_token": { "content": "<end>" },
            "added_tokens_decoder": { "7": { "content": "<end>" }, "8": { "content": "<other>" } },
        }),
    );
    let (checkpoint, _) = load(&folder).unwrap();
    let config = checkpoint.folder().unwrap().config();
    assert_eq!((&config.end_ids[..], config.end_name.as_deref()), (&[1, 2, 3, 7][..], Some("<end>")));
}

/// Byte-level BPE of the 95 printable ASCII characters, without merges, and two special tokens.
fn tokenizer_json() -> Value {
    let letters = (b'!'..=b'~').map(char::from).chain(['\u{120}']); // U+0120 spells a space
    let vocabulary: serde_json::Map<String, Value> =
        letters.enumerate().map(|(id, letter)| (letter.to_string(), json!(id))).collect();
    let special = |id: usize, content: &str| {
        json!({
            "id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false,
        })
    };
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    json!({
        "version": "1.0",
        "added_tokens": [special(95, "<|end_of_text|>"), special(96, "<end>")],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    })
}

#[test]
fn the_tokenizer_stops_at_what_any_file_or_the_family_names() {
    let mut model = TinyFolder::new(&Shape { vocabulary: 97, ..small() });
    model.config["eos_token_id"] = json!(3);
    let folder = written(&model);
    let (checkpoint, _) = load(&folder).unwrap();
    assert!(checkpoint.tokenizer().err().unwrap().to_string().contains("tokenizer.json"));
    let write = |name: &str, value: Value| fs::write(folder.path().join(name), value.to_string()).unwrap();
    write("tokenizer.json", tokenizer_json());
    write("tokenizer_config.json", json!({ "eos_token": "<end>" }));
    let tokenizer = load(&folder).unwrap().0.tokenizer().unwrap();
    assert_eq!(tokenizer.stop_ids(), [3, 95, 96]);
    assert_eq!(tokenizer.encode("a b").unwrap(), [64, 94, 65]);
}

#[test]
fn a_chat_template_comes_from_one_of_three_places() {
    let folder = written(&TinyFolder::new(&small()));
    let template = || load(&folder).unwrap().0.chat_template().map(str::to_owned);
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    assert_eq!(template(), None);
    write("tokenizer_config.json", json!({ "chat_template": "plain" }).to_string());
    assert_eq!(template().as_deref(), Some("plain"));
    let named = json!([{ "name": "rag", "template": "other" }, { "name": "default", "template": "named" }]);
    write("tokenizer_config.json", json!({ "chat_template": named }).to_string());
    assert_eq!(template().as_deref(), Some("named"));
    write("chat_template.jinja", "file".into());
    assert_eq!(template().as_deref(), Some("file"));
}

#[test]
fn files_beside_the_weights_are_checked_too() {
    let folder = written(&TinyFolder::new(&small()));
    fs::write(folder.path().join("generation_config.json"), "{").unwrap();
    check_folder(&folder, &["generation_config.json` is not a usable model: it is not JSON"]);
    fs::write(folder.path().join("generation_config.json"), "[]").unwrap();
    check_folder(&folder, &["it is not a JSON object"]);
    fs::write(folder.path().join("generation_config.json"), "[".repeat(1 << 20)).unwrap();
    check_folder(&folder, &["it is not JSON"]);
    fs::remove_file(folder.path().join("config.json")).unwrap();
    check_folder(&folder, &["config.json`: it is missing"]);
}
