//! What a model file holds, without loading it.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use serde::Serialize;

use crate::error::EngineError;
use crate::model::{GgufFile, LlamaConfig};
use crate::tokenizer::Tokenizer;

/// What a model file holds.
#[derive(Clone, Debug, Serialize)]
pub struct ModelSummary {
    /// Its own name.
    pub name: Option<String>,
    /// The licence that it states.
    pub licence: Option<String>,
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads, and key and value heads.
    pub heads: (usize, usize),
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Tokens of context that it was trained for.
    pub context: usize,
    /// How many tensors are stored in which format.
    pub tensors: BTreeMap<String, usize>,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Bytes of keys and values a token of context.
    pub kv_bytes_per_token: usize,
    /// Whether it brings a chat template.
    pub chat_template: bool,
    /// The tokens that end a turn, or why there are none.
    pub stop_ids: Result<Vec<u32>, String>,
}

/// Reads the header of the GGUF file at `path`.
///
/// # Errors
/// [`EngineError::Read`] or [`EngineError::Model`].
pub fn inspect(path: &Path) -> Result<ModelSummary, EngineError> {
    let file = GgufFile::open(path)?;
    let config = LlamaConfig::from_gguf(&file)?;
    let text = |key: &str| match file.metadata().get(key) {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    };
    let mut tensors = BTreeMap::new();
    let mut weight_bytes = 0;
    for (shape, format) in file.tensor_names().filter_map(|name| file.tensor_info(name)) {
        *tensors.entry(format!("{format:?}")).or_insert(0) += 1;
        let weights: usize = shape.iter().product();
        weight_bytes += (weights / format.block_size() * format.type_size()) as u64;
    }
    let tokenizer = Tokenizer::from_gguf(file.metadata(), path);
    Ok(ModelSummary {
        name: config.name.clone(),
        licence: text("general.license"),
        layers: config.num_layers,
        hidden: config.hidden,
        heads: (config.num_heads, config.num_kv_heads),
        vocabulary: config.vocabulary,
        context: config.context,
        tensors,
        weight_bytes,
        kv_bytes_per_token: config.kv_bytes_per_token(),
        chat_template: text("tokenizer.chat_template").is_some(),
        stop_ids: tokenizer.map(|tokenizer| tokenizer.stop_ids().to_vec()).map_err(|error| error.to_string()),
    })
}
