//! The engine thread: requests in, engine steps, token events out.

use std::path::PathBuf;

use tokio::sync::mpsc;

use crate::config::EngineOptions;
use crate::error::EngineError;
use crate::request::{GenerateRequest, TokenEvent};

/// What is known about the loaded model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The file it was loaded from.
    pub path: PathBuf,
    /// `general.name` of the GGUF file, or the file's name.
    pub name: String,
    /// Tokens of context in use.
    pub context: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Which chat template is in use: `checkpoint`, `llama-3`, `chatml`, …
    pub template: String,
    /// Where it computes: `cpu`, or the GPU's name.
    pub device: String,
}

/// A loaded model and the thread that runs it. Cheap to share by `Arc`; ends its thread when dropped.
pub struct Engine {}

/// The events of one generation. Dropping it cancels the generation within one engine step.
pub struct Generation {
    /// The events; the last is `Finished` or `Failed`.
    pub events: mpsc::Receiver<TokenEvent>,
}

impl Engine {
    /// Loads the model and starts the engine thread. Blocks while it reads the weights.
    pub fn load(_options: EngineOptions) -> Result<Self, EngineError> {
        unimplemented!()
    }

    /// What is known about the loaded model.
    pub fn info(&self) -> &ModelInfo {
        unimplemented!()
    }

    /// Starts a generation. Refuses a request that cannot work before it costs anything.
    pub async fn generate(&self, _request: GenerateRequest) -> Result<Generation, EngineError> {
        unimplemented!()
    }

    /// Tokens of the request's prompt, tool specifications included.
    pub fn count_tokens(&self, _request: &GenerateRequest) -> Result<usize, EngineError> {
        unimplemented!()
    }
}
