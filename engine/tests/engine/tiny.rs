//! A Llama of a few thousand weights, written as a GGUF file by the test itself: random, seeded, of any shape.

use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Tokens of the vocabulary that [`TinyModel::set_vocabulary`] adds.
pub const VOCABULARY: usize = 259;

/// The shape of a tiny model.
#[derive(Clone)]
pub struct Shape {
    pub hidden: usize,
    pub feed_forward: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub vocabulary: usize,
    pub context: usize,
    pub tied: bool,
    /// Of the matrices; norms are f32.
    pub format: GgmlDType,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            hidden: 256,
            feed_forward: 512,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            vocabulary: 96,
            context: 6000,
            tied: false,
            format: GgmlDType::F32,
        }
    }
}

impl Shape {
    /// For tests that care about files, not about numbers.
    pub fn small(layers: usize) -> Self {
        Self {
            hidden: 32,
            feed_forward: 64,
            layers,
            heads: 2,
            kv_heads: 1,
            vocabulary: 40,
            ..Self::default()
        }
    }
}

/// A model file's parts, to be changed before they are written.
pub struct TinyModel {
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<(String, QTensor)>,
}

impl TinyModel {
    pub fn new(shape: &Shape) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(17);
        let Shape { hidden, feed_forward, layers, heads, kv_heads, vocabulary, context, tied, format } =
            *shape;
        let head_dim = hidden / heads;
        let count = |key: &str, value: usize| (format!("llama.{key}"), Value::U32(value as u32));
        let metadata = vec![
            ("general.architecture".into(), Value::String("llama".into())),
            count("embedding_length", hidden),
            count("feed_forward_length", feed_forward),
            count("block_count", layers),
            count("attention.head_count", heads),
            count("attention.head_count_kv", kv_heads),
            count("rope.dimension_count", head_dim),
            count("context_length", context),
            ("llama.rope.freq_base".into(), Value::F32(10_000.0)),
            ("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5)),
        ];
        let mut tensors = Vec::new();
        let mut add = |name: &str, rows: usize, columns: usize| {
            // Rows of about unit length keep the residual stream and the logits of order one.
            let scale = 1.7 / (columns as f32).sqrt();
            let weights: Vec<f32> = (0..rows * columns).map(|_| uniform(&mut random) * scale).collect();
            let tensor = Tensor::from_vec(weights, (rows, columns), &Device::Cpu).unwrap();
            tensors.push((name.to_owned(), QTensor::quantize(&tensor, format).unwrap()));
        };
        add("token_embd.weight", vocabulary, hidden);
        if !tied {
            add("output.weight", vocabulary, hidden);
        }
        for layer in 0..layers {
            add(&format!("blk.{layer}.attn_q.weight"), heads * head_dim, hidden);
            add(&format!("blk.{layer}.attn_k.weight"), kv_heads * head_dim, hidden);
            add(&format!("blk.{layer}.attn_v.weight"), kv_heads * head_dim, hidden);
            add(&format!("blk.{layer}.attn_output.weight"), hidden, heads * head_dim);
            add(&format!("blk.{layer}.ffn_gate.weight"), feed_forward, hidden);
            add(&format!("blk.{layer}.ffn_up.weight"), feed_forward, hidden);
            add(&format!("blk.{layer}.ffn_down.weight"), hidden, feed_forward);
        }
        let norms = (0..layers)
            .flat_map(|layer| {
                [format!("blk.{layer}.attn_norm.weight"), format!("blk.{layer}.ffn_norm.weight")]
            })
            .chain(["output_norm.weight".into()]);
        for name in norms {
            let weights: Vec<f32> = (0..hidden).map(|_| 1.0 + 0.2 * uniform(&mut random)).collect();
            let tensor = Tensor::from_vec(weights, hidden, &Device::Cpu).unwrap();
            tensors.push((name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
        }
        Self { metadata, tensors }
    }

    /// Replaces or adds a metadata entry.
    pub fn set(&mut self, key: &str, value: Value) {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.into(), value));
    }

    /// Adds a vocabulary of [`VOCABULARY`] tokens: every byte, one pair, and the marks of ChatML.
    pub fn set_vocabulary(&mut self) {
        let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let mut others = 0x100u32..;
        let bytes = (0..=255u8).map(|byte| match printable(byte) {
            true => char::from(byte).to_string(),
            false => others.next().and_then(char::from_u32).unwrap().to_string(),
        });
        let tokens: Vec<String> =
            bytes.chain(["ab", "<|im_start|>", "<|im_end|>"].map(str::to_owned)).collect();
        assert_eq!(tokens.len(), VOCABULARY);
        let kinds = (0..tokens.len()).map(|id| Value::I32(if id > 256 { 3 } else { 1 })).collect();
        self.set("tokenizer.ggml.model", Value::String("gpt2".into()));
        self.set("tokenizer.ggml.tokens", Value::Array(tokens.into_iter().map(Value::String).collect()));
        self.set("tokenizer.ggml.token_type", Value::Array(kinds));
        self.set("tokenizer.ggml.merges", Value::Array(vec![Value::String("a b".into())]));
        self.set("tokenizer.ggml.eos_token_id", Value::U32(258));
    }

    pub fn write(&self, path: &Path) {
        let metadata: Vec<_> = self.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors: Vec<_> = self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }
}

/// A number in [-1, 1).
fn uniform(random: &mut ChaCha8Rng) -> f32 {
    (random.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
}
