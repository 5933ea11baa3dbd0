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
    /// Tokens of context, at most the model's own; `None` is the model's own.
    pub context: Option<usize>,
    /// Most tokens that one engine step computes; a longer prompt is prefilled in chunks.
    pub step_tokens: usize,
    /// Most requests that wait for the engine; one more is refused with [`crate::EngineError::Overloaded`].
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
            queue: 64,
        }
    }
}
