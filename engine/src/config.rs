//! How an engine is started.

use std::path::PathBuf;

/// How an engine is started.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The weights: a GGUF file of a Llama-family model.
    pub model: PathBuf,
    /// A `tokenizer.json` to use instead of the vocabulary inside the GGUF file.
    pub tokenizer: Option<PathBuf>,
    /// A chat template (Jinja) to use instead of the checkpoint's own.
    pub chat_template: Option<String>,
    /// Tokens of context, at most the model's own; `None` is the model's own, or what memory there is for.
    pub context: Option<usize>,
    /// Most tokens that one engine step computes; a longer prompt is prefilled in chunks.
    pub step_tokens: usize,
    /// Most requests that are computed at once, each with some tokens of a step.
    pub max_sequences: usize,
    /// Tokens of all requests together that the KV cache holds, at least one context. `None` is one context and
    /// room for the beginnings of earlier requests, more where memory is plentiful.
    pub kv_tokens: Option<usize>,
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
            step_tokens: 512,
            max_sequences: 64,
            kv_tokens: None,
            speculate: true,
            queue: 64,
        }
    }
}
