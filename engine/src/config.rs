//! How an engine is started.

use std::num::NonZeroUsize;
use std::path::PathBuf;

pub use crate::kernels::kv_block::KvFormat;
use crate::model::rope::{RopeScaling, YarnScaling};

/// How the rotary frequencies are stretched, by as much as the context asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStretch {
    /// Every frequency alike.
    Linear,
    /// The base is raised: low frequencies more than high ones.
    Ntk,
    /// As `Ntk`, by what a session of the whole context needs.
    Dynamic,
    /// Low frequencies only, with a correction of the scores.
    Yarn,
}

impl RopeStretch {
    /// All of them, by the names that settings use.
    pub const NAMES: [(&str, Self); 4] =
        [("linear", Self::Linear), ("ntk", Self::Ntk), ("dynamic", Self::Dynamic), ("yarn", Self::Yarn)];

    /// The scaling that takes a context of `trained` tokens to `context`.
    pub(crate) fn scaling(self, trained: usize, context: usize) -> RopeScaling {
        let factor = context as f32 / trained as f32;
        match self {
            Self::Linear => RopeScaling::Linear { factor },
            Self::Ntk => RopeScaling::Ntk { factor },
            Self::Dynamic => RopeScaling::DynamicNtk { factor: 1.0, original_context: trained },
            Self::Yarn => RopeScaling::Yarn(YarnScaling::new(factor, trained)),
        }
    }
}

/// A LoRA adapter and what requests call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterFolder {
    /// Its name.
    pub name: String,
    /// The folder, as PEFT writes it.
    pub folder: PathBuf,
}

/// Where KV blocks are kept across restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvStoreOptions {
    /// The folder; its entries tell what was asked, so it is closed to other users.
    pub folder: PathBuf,
    /// Most bytes of all entries.
    pub most_bytes: u64,
}

/// How an engine is started.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The weights of a Llama-family model: a GGUF file, or a folder of safetensors with its `config.json`.
    pub model: PathBuf,
    /// A `tokenizer.json` to use instead of the vocabulary inside the GGUF file.
    pub tokenizer: Option<PathBuf>,
    /// A chat template (Jinja) to use instead of the checkpoint's own.
    pub chat_template: Option<String>,
    /// Tokens of context; `None` is the model's own, or what memory there is for. More than the model's own
    /// needs `rope_scaling`.
    pub context: Option<usize>,
    /// How the rotary frequencies are stretched for a context above the model's own; without it such a context
    /// is refused.
    pub rope_scaling: Option<RopeStretch>,
    /// The adapters that requests may name.
    pub adapters: Vec<AdapterFolder>,
    /// Most tokens that one engine step computes; a longer prompt is prefilled in chunks.
    pub step_tokens: usize,
    /// Most requests that are computed at once, each with some tokens of a step.
    pub max_sequences: usize,
    /// Tokens of all requests together that the KV cache holds, at least one context. `None` is one context and
    /// room for the beginnings of earlier requests, more where memory is plentiful.
    pub kv_tokens: Option<usize>,
    /// What keys and values are kept as.
    pub kv_format: KvFormat,
    /// Threads that compute on a CPU; `None` is one for each core.
    pub threads: Option<NonZeroUsize>,
    /// Where KV blocks are kept across restarts; `None` keeps none.
    pub kv_store: Option<KvStoreOptions>,
    /// Whether to guess at tokens that a request has said before, where that is measured to save time. The
    /// tokens of a reply are the same with it and without.
    pub speculate: bool,
    /// Most requests that wait to be computed; one more is refused with [`crate::EngineError::Overloaded`].
    pub queue: usize,
}

impl EngineOptions {
    /// The defaults for the model in `model`.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            tokenizer: None,
            chat_template: None,
            context: None,
            rope_scaling: None,
            adapters: Vec::new(),
            step_tokens: 512,
            max_sequences: 64,
            kv_tokens: None,
            kv_format: KvFormat::F16,
            threads: None,
            kv_store: None,
            speculate: true,
            queue: 64,
        }
    }
}
