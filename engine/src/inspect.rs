//! What a model's files hold, without loading them.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use serde::Serialize;

use crate::config::KvFormat;
use crate::error::EngineError;
use crate::model::safetensors::SafetensorsFolder;
use crate::model::{Checkpoint, GgufFile, LlamaConfig};

/// What a model's files hold.
#[derive(Clone, Debug, Serialize)]
pub struct ModelSummary {
    /// `llama`, for every model that the engine runs.
    pub architecture: &'static str,
    /// `GGUF`, `safetensors` or `safetensors, GPTQ`.
    pub format: &'static str,
    /// Its own name.
    pub name: Option<String>,
    /// The licence that it states.
    pub licence: Option<String>,
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward block.
    pub feed_forward: usize,
    /// Query heads, and key and value heads.
    pub heads: (usize, usize),
    /// Width of one head.
    pub head_dim: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Whether the output head is the embedding table.
    pub tied_head: bool,
    /// Tokens of context that it was trained for, or that its files stretch it to.
    pub context: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// How the rotary frequencies are stretched, in words.
    pub rope_scaling: String,
    /// Weights, however they are stored.
    pub parameters: u64,
    /// How many tensors are stored in which format.
    pub tensors: BTreeMap<String, usize>,
    /// Bytes of all weights in the files.
    pub weight_bytes: u64,
    /// Bytes of memory that the weights take once they are read.
    pub loaded_bytes: u64,
    /// Bytes of keys and values a token of context, in f16.
    pub kv_bytes_per_token: usize,
    /// Whether it brings a chat template.
    pub chat_template: bool,
    /// The tokens that end a turn, or why there are none.
    pub stop_ids: Result<Vec<u32>, String>,
    /// What stands against running it: tensors that are missing, misshapen or of a format that is not supported.
    pub faults: Option<String>,
}

impl ModelSummary {
    /// Bytes of memory that the weights and the keys and values of `context` tokens take.
    pub fn memory_bytes(&self, context: usize) -> u64 {
        self.loaded_bytes + self.kv_bytes_per_token as u64 * context.min(self.context) as u64
    }
}

/// Reads the headers of the GGUF file or the folder of safetensors at `path`.
///
/// # Errors
/// [`EngineError::Read`] or [`EngineError::Model`].
pub fn inspect(path: &Path) -> Result<ModelSummary, EngineError> {
    let checkpoint = Checkpoint::open(path)?;
    let config = checkpoint.config()?;
    let stored = match (checkpoint.gguf(), checkpoint.folder()) {
        (Some(file), _) => Stored::of_gguf(file),
        (_, Some(folder)) => Stored::of_folder(folder),
        (None, None) => Stored::default(),
    };
    let stop_ids = checkpoint.tokenizer().map(|tokenizer| tokenizer.stop_ids().to_vec());
    Ok(ModelSummary {
        architecture: "llama",
        format: stored.format,
        name: config.name.clone(),
        licence: stored.licence,
        layers: config.num_layers,
        hidden: config.hidden,
        feed_forward: config.feed_forward,
        heads: (config.num_heads, config.num_kv_heads),
        head_dim: config.head_dim,
        vocabulary: config.vocabulary,
        tied_head: config.tied_head,
        context: config.context,
        rope_theta: config.rope_theta,
        rope_scaling: config.rope_scaling.to_string(),
        parameters: parameters(&config),
        tensors: stored.tensors,
        weight_bytes: stored.bytes,
        loaded_bytes: checkpoint.loaded_bytes(&config),
        kv_bytes_per_token: config.kv_bytes_per_token(KvFormat::F16),
        chat_template: checkpoint.chat_template().is_some(),
        stop_ids: stop_ids.map_err(|error| error.to_string()),
        faults: checkpoint.check_tensors(&config).err().map(|error| error.to_string()),
    })
}

/// What only one kind of file says.
#[derive(Default)]
struct Stored {
    format: &'static str,
    licence: Option<String>,
    tensors: BTreeMap<String, usize>,
    bytes: u64,
}

impl Stored {
    fn of_gguf(file: &GgufFile) -> Self {
        let licence = match file.metadata().get("general.license") {
            Some(Value::String(text)) => Some(text.clone()),
            _ => None,
        };
        let mut stored = Self { format: "GGUF", licence, ..Self::default() };
        for (shape, format) in file.tensor_names().filter_map(|name| file.tensor_info(name)) {
            let weights: usize = shape.iter().product();
            stored.add(&format!("{format:?}"), (weights / format.block_size() * format.type_size()) as u64);
        }
        stored
    }

    fn of_folder(folder: &SafetensorsFolder) -> Self {
        let quantised = folder.tensors().any(|(name, _)| name.ends_with(".qweight"));
        let format = if quantised { "safetensors, GPTQ" } else { "safetensors" };
        let mut stored = Self { format, licence: folder.config().licence.clone(), ..Self::default() };
        for (_, info) in folder.tensors() {
            stored.add(info.element.name, info.bytes());
        }
        stored
    }

    fn add(&mut self, format: &str, bytes: u64) {
        *self.tensors.entry(format.to_owned()).or_insert(0) += 1;
        self.bytes += bytes;
    }
}

/// Weights of a model of this config.
fn parameters(config: &LlamaConfig) -> u64 {
    let [hidden, feed_forward, vocabulary, layers] =
        [config.hidden, config.feed_forward, config.vocabulary, config.num_layers].map(|side| side as u64);
    let heads = (config.num_heads * 2 + config.num_kv_heads * 2) as u64 * config.head_dim as u64;
    let layer = hidden * (heads + 3 * feed_forward + 2);
    let tables = if config.tied_head { 1 } else { 2 };
    layers * layer + hidden * (tables * vocabulary + 1)
}
