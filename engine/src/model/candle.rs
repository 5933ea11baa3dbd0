//! The forward pass in candle's tensors: on a GPU with the feature `candle-cuda`, and on a CPU for shapes that
//! our own kernels do not take.
//!
//! Rows of all sequences go through the matrices together; only attention is done per sequence.
//!
//! Source: "LLaMA: Open and Efficient Foundation Language Models", section 2.2 (pre-normalisation, SwiGLU,
//! rotary embedding); "The Llama 3 Herd of Models", section 3.2 (grouped-query attention).

use candle_core::{Device, Module, Result, Tensor};

mod attention;
mod cache;
mod weights;

pub use cache::CandleCache;

use super::checkpoint::Checkpoint;
use super::config::LlamaConfig;
use super::logits::Logits;
use super::rope::RopeTables;
use crate::error::EngineError;
use crate::scheduler::batch::{LogitsWanted, ScheduledBatch};
use attention::attend;
use weights::{LayerWeights, LlamaWeights};

/// A Llama-family model in candle's tensors.
pub struct CandleLlama {
    weights: LlamaWeights,
    rope: RopeTables,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    device: Device,
}

impl CandleLlama {
    /// Reads the weights of `checkpoint` onto `device`; `context` is the most tokens of one sequence.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &LlamaConfig,
        context: usize,
        device: &Device,
    ) -> std::result::Result<Self, EngineError> {
        let weights = LlamaWeights::read(checkpoint, config, device)?;
        let LlamaConfig { num_heads, num_kv_heads, head_dim, .. } = *config;
        let divisors = weights.rope_divisors.as_deref();
        let rope =
            RopeTables::new(head_dim, context, config.rope_theta, &config.rope_scaling, divisors, device)?;
        Ok(Self { weights, rope, num_heads, num_kv_heads, head_dim, device: device.clone() })
    }

    /// See [`super::Model::forward`].
    pub fn forward(
        &self,
        batch: &ScheduledBatch,
        kv_cache: &mut CandleCache,
    ) -> std::result::Result<Logits, EngineError> {
        self.check(batch, kv_cache)?;
        let logits = self.compute(batch, kv_cache)?.flatten_all()?.to_vec1()?;
        Ok(Logits::new(self.weights.head.outputs(), logits))
    }

    fn compute(&self, batch: &ScheduledBatch, kv_cache: &mut CandleCache) -> Result<Tensor> {
        kv_cache.copy_blocks(&batch.copies)?;
        let ids: Vec<u32> = batch.sequences.iter().flat_map(|sequence| &sequence.tokens).copied().collect();
        let ids = Tensor::new(ids, &self.device)?;

        let mut x = self.weights.embedding.forward(&ids)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            let normed = layer.attention_norm.forward(&x)?;
            x = (x + self.attention(index, layer, &normed, batch, kv_cache)?)?;
            let normed = layer.feed_forward_norm.forward(&x)?;
            x = (x + feed_forward(layer, &normed)?)?;
        }
        let wanted = wanted_rows(batch);
        if wanted.len() < x.dim(0)? {
            x = x.index_select(&Tensor::new(wanted, &self.device)?, 0)?;
        }
        if x.dim(0)? == 0 {
            return Tensor::zeros((0, self.weights.head.outputs()), x.dtype(), &self.device);
        }
        self.weights.head.forward(&self.weights.norm.forward(&x)?)
    }

    fn attention(
        &self,
        index: usize,
        layer: &LayerWeights,
        x: &Tensor,
        batch: &ScheduledBatch,
        kv_cache: &mut CandleCache,
    ) -> Result<Tensor> {
        let queries = layer.query.forward(x)?;
        let keys = layer.key.forward(x)?;
        let values = layer.value.forward(x)?;

        let mut outputs = Vec::with_capacity(batch.sequences.len());
        let mut row = 0;
        for sequence in &batch.sequences {
            let (tokens, position) = (sequence.tokens.len(), sequence.position);
            let heads = |all: &Tensor, num_heads: usize| -> Result<Tensor> {
                all.narrow(0, row, tokens)?
                    .reshape((tokens, num_heads, self.head_dim))?
                    .transpose(0, 1)?
                    .contiguous()
            };
            let queries = self.rope.rotate(&heads(&queries, self.num_heads)?, position)?;
            let keys = self.rope.rotate(&heads(&keys, self.num_kv_heads)?, position)?;
            let values = heads(&values, self.num_kv_heads)?;
            kv_cache.write(index, &sequence.block_table, position, &keys, &values)?;

            let (keys, values) = kv_cache.read(index, &sequence.block_table, position + tokens)?;
            let attended = attend(&queries, &keys, &values, position)?;
            outputs.push(attended.transpose(0, 1)?.reshape((tokens, self.num_heads * self.head_dim))?);
            row += tokens;
        }
        let attended = match &outputs[..] {
            [only] => only.clone(),
            several => Tensor::cat(several, 0)?,
        };
        layer.attention_output.forward(&attended)
    }

    /// A batch that does not fit would read another sequence's keys or fail deep inside a kernel.
    fn check(&self, batch: &ScheduledBatch, kv_cache: &CandleCache) -> std::result::Result<(), EngineError> {
        let vocabulary = self.weights.embedding.rows();
        batch.check(kv_cache.num_blocks(), self.rope.context(), vocabulary).map_err(EngineError::Compute)
    }
}

fn feed_forward(layer: &LayerWeights, x: &Tensor) -> Result<Tensor> {
    let gate = candle_nn::ops::silu(&layer.gate.forward(x)?)?;
    layer.down.forward(&(gate * layer.up.forward(x)?)?)
}

/// The rows of the batch whose logits are wanted.
fn wanted_rows(batch: &ScheduledBatch) -> Vec<u32> {
    let mut rows = Vec::new();
    let mut start = 0u32;
    for sequence in &batch.sequences {
        let end = start + sequence.tokens.len() as u32;
        match sequence.logits {
            LogitsWanted::None => {}
            LogitsWanted::Last => rows.push(end - 1),
            LogitsWanted::All => rows.extend(start..end),
        }
        start = end;
    }
    rows
}
