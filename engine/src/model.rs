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
pub mod rope;
pub mod kv_cache;
pub mod logits;
pub mod cpu;
pub mod candle;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use candle_core::Device;

pub use adapter::Adapter;
pub use checkpoint::{Checkpoint, Matrix};
pub use config::LlamaConfig;
pub use gguf::GgufFile;
pub use kv_cache::KvCache;
pub use logits::Logits;

use crate::error::EngineError;
use crate::kernels::kv_block::KvFormat;
use crate::scheduler::batch::ScheduledBatch;
use candle::{CandleCache, CandleLlama};
use cpu::{CpuCache, CpuLlama};

/// A Llama-family model on one device.
pub struct Model {
    path: PathBuf,
    config: LlamaConfig,
    backend: Backend,
}

enum Backend {
    Cpu(Box<CpuLlama>),
    Candle(CandleLlama, Device),
}

impl Model {
    /// Reads the weights of `checkpoint` onto `device`; `config` is the checkpoint's own, or that with its
    /// context extended. `context` is the most tokens that one sequence may
    /// have; the rotary tables are as long as that. Sequences may name one of `adapters`. `threads` compute on a CPU, all cores if `None`.
    ///
    /// On a CPU our own kernels compute, or candle's, with a line in the log, where a width does not fit ours.
    ///
    /// # Errors
    /// [`EngineError::Model`] names every missing or misshapen tensor at once.
    pub fn load(
        checkpoint: &Checkpoint,
        config: LlamaConfig,
        context: usize,
        adapters: Vec<Adapter>,
        device: &Device,
        threads: Option<NonZeroUsize>,
    ) -> Result<Self, EngineError> {
        let backend = if device.is_cpu() && CpuLlama::takes(&config) {
            Backend::Cpu(Box::new(CpuLlama::load(checkpoint, &config, context, adapters, threads)?))
        } else {
            if !adapters.is_empty() {
                return Err(EngineError::InvalidRequest("adapters run on our own CPU kernels only".into()));
            }
            if device.is_cpu() {
                tracing::warn!(
                    "the model's widths do not fit our kernels; candle's compute, which are slower"
                );
            }
            Backend::Candle(CandleLlama::load(checkpoint, &config, context, device)?, device.clone())
        };
        Ok(Self { path: checkpoint.path().to_owned(), config, backend })
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
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] when candle computes and `format` is not f16; [`EngineError::Compute`]
    /// when the device has no memory for it.
    pub fn new_kv_cache(&self, num_blocks: usize, format: KvFormat) -> Result<KvCache, EngineError> {
        Ok(match &self.backend {
            Backend::Cpu(_) => KvCache::Cpu(CpuCache::new(&self.config, num_blocks, format)),
            Backend::Candle(..) if format != KvFormat::F16 => {
                return Err(EngineError::InvalidRequest(
                    "keys and values in 8 bits need our own CPU kernels, and candle computes this model"
                        .into(),
                ));
            }
            Backend::Candle(_, device) => {
                KvCache::Candle(CandleCache::new(&self.config, num_blocks, device)?)
            }
        })
    }

    /// Computes the batch's tokens, writes their keys and values into `kv_cache`, and returns the logits
    /// that the batch asks for, in the batch's order.
    ///
    /// # Errors
    /// [`EngineError::Compute`] when a tensor operation fails or the batch does not fit the cache.
    pub fn forward(&mut self, batch: &ScheduledBatch, kv_cache: &mut KvCache) -> Result<Logits, EngineError> {
        match (&mut self.backend, kv_cache) {
            (Backend::Cpu(llama), KvCache::Cpu(cache)) => llama.forward(batch, cache),
            (Backend::Candle(llama, _), KvCache::Candle(cache)) => llama.forward(batch, cache),
            _ => Err(EngineError::Compute("the KV cache belongs to another kind of model".into())),
        }
    }
}
