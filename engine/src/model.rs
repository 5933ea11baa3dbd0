//! The model: weights from a file, and one forward pass over a [`ScheduledBatch`].
//!
//! Everything about the architecture comes from the file's metadata ([`LlamaConfig`]); everything about
//! *what* to compute comes from the batch. The model keeps no state between two calls: keys and values live
//! in the [`KvCache`] that the caller passes in, at the places that the batch's block tables name.

pub mod config;
pub mod checkpoint;
pub mod gguf;
pub mod safetensors;
pub mod hf_config;
pub mod gptq;
pub mod adapter;
pub mod weights;
pub mod rope;
pub mod kv_cache;
pub mod logits;
mod attention;
mod llama;

use std::path::{Path, PathBuf};

use candle_core::Device;

pub use checkpoint::{Checkpoint, Matrix};
pub use config::LlamaConfig;
pub use gguf::GgufFile;
pub use kv_cache::KvCache;
pub use logits::Logits;

use crate::error::EngineError;
use crate::scheduler::batch::ScheduledBatch;
use llama::Llama;

/// A Llama-family model on one device.
pub struct Model {
    path: PathBuf,
    config: LlamaConfig,
    device: Device,
    llama: Llama,
}

impl Model {
    /// Reads the weights of `file` onto `device`. `context` is the most tokens that one sequence may have;
    /// the rotary tables are as long as that.
    ///
    /// # Errors
    /// [`EngineError::Model`] names every missing or misshapen tensor at once.
    pub fn load(file: &GgufFile, context: usize, device: &Device) -> Result<Self, EngineError> {
        let config = LlamaConfig::from_gguf(file)?;
        let weights = weights::LlamaWeights::read(file, &config, device)?;
        let llama = Llama::new(weights, &config, context, device)?;
        Ok(Self { path: file.path().to_owned(), config, device: device.clone(), llama })
    }

    /// The file that the weights came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The numbers of the architecture.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// An empty cache for this model: `num_blocks` blocks of [`crate::scheduler::BLOCK_TOKENS`] tokens.
    pub fn new_kv_cache(&self, num_blocks: usize) -> Result<KvCache, EngineError> {
        KvCache::new(&self.config, num_blocks, &self.device)
    }

    /// Computes the batch's tokens, writes their keys and values into `kv_cache`, and returns the logits
    /// that the batch asks for, in the batch's order.
    ///
    /// # Errors
    /// [`EngineError::Compute`] when a tensor operation fails or the batch does not fit the cache.
    pub fn forward(&mut self, batch: &ScheduledBatch, kv_cache: &mut KvCache) -> Result<Logits, EngineError> {
        let logits = self.llama.forward(batch, kv_cache)?.flatten_all()?.to_vec1()?;
        Ok(Logits::new(self.config.vocabulary, logits))
    }
}
