//! Damaged files of every format, by the thousand: each is an error or a model, never a panic, and never an
//! allocation that the files' own size does not bear out.

use std::fs;
use std::path::Path;

use crate::folder::{Scheme, Tensor, TinyFolder, safetensors, with_header};
use crate::tiny::{Shape, TinyModel};
use candle_core::quantized::GgmlDType;
use chaski_engine::EngineError;
use chaski_engine::inspect::inspect;
use chaski_engine::model::adapter::Adapter;
use chaski_engine::model::rope::RopeAngles;
use chaski_engine::model::{Checkpoint, LlamaConfig};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

/// Address space that the test program may grow by: other tests run beside these, a wild length is far above.
const MAX_GROWTH: u64 = 16 << 30;

fn small() -> Shape {
    Shape::small(1)
}

/// Reads everything that the forward pass would.
fn load(path: &Path) -> Result<(), EngineError> {
    let checkpoint = Checkpoint::open(path)?;
    let config = checkpoint.config()?;
    checkpoint.check_tensors(&config)?;
    let LlamaConfig { hidden, feed_forward, vocabulary, num_heads, num_kv_heads, head_dim, .. } = config;
    let (queries, keys) = (num_heads * head_dim, num_kv_heads * head_dim);
    let divisors = checkpoint.rope_divisors()?;
    RopeAngles::new(head_dim, 64, config.rope_theta, &config.rope_scaling, divisors.as_deref());
    checkpoint.vector("output_norm")?;
    checkpoint.matrix("token_embd", vocabulary, hidden)?;
    if !config.tied_head {
        checkpoint.matrix("output", vocabulary, hidden)?;
    }
    for layer in 0..config.num_layers {
        let matrix = |name: &str, rows, columns| {
            checkpoint.matrix(&format!("blk.{layer}.{name}"), rows, columns).map(drop)
        };
        matrix("attn_q", queries, hidden)?;
        matrix("attn_k", keys, hidden)?;
        matrix("attn_v", keys, hidden)?;
        matrix("attn_output", hidden, queries)?;
        matrix("ffn_gate", feed_forward, hidden)?;
        matrix("ffn_up", feed_forward, hidden)?;
        matrix("ffn_down", hidden, feed_forward)?;
        checkpoint.vector(&format!("blk.{layer}.attn_norm"))?;
    }
    Ok(())
}

/// Loads a checkpoint, and inspects it: neither may panic.
fn load_and_inspect(path: &Path) -> Result<(), EngineError> {
    let _ = inspect(path);
    load(path)
}

/// The most address space that this program has had.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// Damages `file` in `rounds` ways and loads what comes out; some ways must be noticed.
#[track_caller]
fn check(
    file: &Path,
    rounds: u64,
    damage: impl Fn(&mut ChaCha8Rng, &[u8]) -> Vec<u8>,
    load: impl Fn() -> Result<(), EngineError>,
) {
    load().expect("the undamaged files load");
    let before = peak();
    let good = fs::read(file).unwrap();
    let mut refused = 0;
    for seed in 0..rounds {
        let damaged = damage(&mut ChaCha8Rng::seed_from_u64(seed), &good);
        fs::write(file, damaged).unwrap();
        refused += u64::from(load().is_err());
    }
    fs::write(file, good).unwrap();
    assert!(refused > rounds / 10, "{refused} of {rounds} damaged files were refused");
    assert!(peak() - before < MAX_GROWTH, "{} bytes of address space were taken", peak() - before);
}

/// Some bits flipped, or a number or a few letters overwritten, within the first `span` bytes.
fn scratched(span: usize) -> impl Fn(&mut ChaCha8Rng, &[u8]) -> Vec<u8> {
    move |random, good| {
        let mut bytes = good.to_vec();
        let span = span.min(bytes.len() - 8);
        for _ in 0..1 + random.next_u32() % 4 {
            let at = random.next_u32() as usize % span;
            match random.next_u32() % 3 {
                0 => bytes[at] ^= 1 << (random.next_u32() % 8),
                1 => {
                    let number = random.next_u64() >> (random.next_u32() % 64);
                    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
                }
                _ => bytes[at..at + 3].fill(b"0189-[]{}\",:"[random.next_u32() as usize % 12]),
            }
        }
        bytes
    }
}

/// The file cut off somewhere.
fn cut(random: &mut ChaCha8Rng, good: &[u8]) -> Vec<u8> {
    good[..random.next_u32() as usize % good.len()].to_vec()
}

/// A JSON file in which some values are others.
fn other_values(random: &mut ChaCha8Rng, good: &[u8]) -> Vec<u8> {
    let mut json: Value = serde_json::from_slice(good).unwrap();
    for _ in 0..1 + random.next_u32() % 3 {
        change(random, &mut json);
    }
    json.to_string().into_bytes()
}

/// Puts an odd value in place of a leaf, or of something above it.
fn change(random: &mut ChaCha8Rng, value: &mut Value) {
    let index = random.next_u32() as usize;
    match value {
        Value::Object(entries) if !entries.is_empty() && !index.is_multiple_of(8) => {
            let count = entries.len();
            change(random, entries.values_mut().nth(index / 8 % count).unwrap());
        }
        Value::Array(entries) if !entries.is_empty() && !index.is_multiple_of(8) => {
            let count = entries.len();
            change(random, &mut entries[index / 8 % count]);
        }
        leaf => *leaf = odd_value(random),
    }
}

fn odd_value(random: &mut ChaCha8Rng) -> Value {
    match random.next_u32() % 14 {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(0),
        4 => json!(1),
        5 => json!(u64::MAX),
        6 => json!(1u64 << 63),
        7 => json!(1e300),
        8 => json!(0.5),
        9 => json!(""),
        10 => json!("llama"),
        11 => json!([]),
        12 => json!({}),
        _ => json!(random.next_u64() >> (random.next_u32() % 64)),
    }
}

/// A safetensors file whose header is made of random numbers.
fn random_header(random: &mut ChaCha8Rng, _good: &[u8]) -> Vec<u8> {
    let types = ["F32", "F16", "BF16", "I32", "U8", "F64", "Q4"];
    let mut header = serde_json::Map::new();
    for index in 0..random.next_u32() % 6 {
        let mut number = || random.next_u64() >> (random.next_u32() % 64);
        let shape: Vec<u64> = (0..number() % 4).map(|_| number()).collect();
        let offsets = [number(), number()];
        let dtype = types[number() as usize % types.len()];
        let name = if index == 0 { "model.norm.weight".into() } else { format!("t{index}") };
        header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
    }
    with_header(&Value::Object(header).to_string(), &[0; 256])
}

#[test]
fn gguf_files() {
    for format in [GgmlDType::F32, GgmlDType::Q4_1, GgmlDType::Q5_0] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        TinyModel::new(&Shape { format, ..small() }).write(&path);
        check(&path, 400, scratched(1400), || load_and_inspect(&path));
        check(&path, 100, cut, || load(&path));
    }
}

#[test]
fn safetensors_files() {
    let folder = tempfile::tempdir().unwrap();
    TinyFolder::new(&small()).write(folder.path());
    let path = folder.path().join("model.safetensors");
    check(&path, 600, scratched(1600), || load_and_inspect(folder.path()));
    check(&path, 200, cut, || load(folder.path()));
    check(&path, 600, random_header, || load(folder.path()));
}

#[test]
fn settings_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = TinyFolder::gptq(&small(), &Scheme { symmetric: false, ..Scheme::default() });
    model.config["rope_scaling"] = json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1500, "beta_fast": 32,
        "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.5,
    });
    model.write(folder.path());
    let config = folder.path().join("config.json");
    check(&config, 1000, other_values, || load_and_inspect(folder.path()));
    check(&config, 400, scratched(1000), || load(folder.path()));
    check(&config, 100, cut, || load(folder.path()));
    let tokenizer = folder.path().join("tokenizer_config.json");
    let settings = json!({
        "eos_token": { "content": "<end>" }, "added_tokens_decoder": { "7": { "content": "<end>" } },
        "chat_template": [{ "name": "default", "template": "x" }],
    });
    fs::write(&tokenizer, settings.to_string()).unwrap();
    check(&tokenizer, 200, cut, || load_and_inspect(folder.path()));
    for seed in 0..300 {
        let odd = other_values(&mut ChaCha8Rng::seed_from_u64(seed), settings.to_string().as_bytes());
        fs::write(&tokenizer, odd).unwrap();
        let _ = load_and_inspect(folder.path());
    }
}

#[test]
fn indexes_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    TinyFolder::new(&small()).write_shards(folder.path());
    let index = folder.path().join("model.safetensors.index.json");
    check(&index, 300, other_values, || load(folder.path()));
    check(&index, 300, scratched(700), || load(folder.path()));
    check(&index, 100, cut, || load(folder.path()));
}

#[test]
fn gptq_files() {
    let folder = tempfile::tempdir().unwrap();
    let scheme = Scheme { scattered: true, symmetric: false, ..Scheme::default() };
    TinyFolder::gptq(&small(), &scheme).write(folder.path());
    let path = folder.path().join("model.safetensors");
    // All of the file: orders of inputs and scales may be wrong as well as the header.
    check(&path, 600, scratched(usize::MAX), || load(folder.path()));
    check(&path, 600, scratched(3000), || load_and_inspect(folder.path()));
    check(&path, 200, cut, || load(folder.path()));
}

#[test]
fn adapters() {
    let model = tempfile::tempdir().unwrap();
    TinyFolder::new(&small()).write(model.path());
    let config = Checkpoint::open(model.path()).unwrap().config().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let base = "base_model.model.model.layers.0.self_attn.q_proj";
    let tensors = [
        Tensor::f32(&format!("{base}.lora_A.weight"), &[2, 32], &[1.0; 64]),
        Tensor::f16(&format!("{base}.lora_B.weight"), &[32, 2], &[1.0; 64]),
    ];
    let settings = json!({
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none",
        "use_rslora": true, "layers_to_transform": [0], "modules_to_save": [], "rank_pattern": {},
    });
    let path = |name: &str| folder.path().join(name);
    fs::write(path("adapter_config.json"), settings.to_string()).unwrap();
    fs::write(path("adapter_model.safetensors"), safetensors(&tensors)).unwrap();
    let load = || Adapter::open(folder.path(), &config).map(drop);
    check(&path("adapter_model.safetensors"), 500, scratched(300), load);
    check(&path("adapter_model.safetensors"), 100, cut, load);
    check(&path("adapter_model.safetensors"), 300, random_header, load);
    check(&path("adapter_config.json"), 500, other_values, load);
    check(&path("adapter_config.json"), 300, scratched(200), load);
}
