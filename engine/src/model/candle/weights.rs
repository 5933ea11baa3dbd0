//! The weights of a Llama-family model as candle computes with them: in the file's own formats.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};
use candle_transformers::quantized_nn::RmsNorm;

use crate::error::EngineError;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::LlamaConfig;
use crate::model::gguf::GgufFile;

/// A matrix of the model: (outputs, inputs).
pub struct Weight {
    product: QMatMul,
    outputs: usize,
}

impl Weight {
    fn new(weight: Arc<QTensor>, device: &Device) -> candle_core::Result<Self> {
        let (outputs, _inputs) = weight.shape().dims2()?;
        let product = match weight.dtype() {
            // candle would expand these to f32 for good, which doubles the memory.
            GgmlDType::F16 | GgmlDType::BF16 if device.is_cpu() => QMatMul::QTensor(weight),
            _ => QMatMul::from_arc(weight)?,
        };
        Ok(Self { product, outputs })
    }

    /// Width of the result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `x`: (rows, inputs), contiguous; returns (rows, outputs).
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.product.forward(x)
    }
}

/// The token embedding; rows are expanded one by one, because a 128k vocabulary takes 2 GB in f32.
pub struct Embedding(Arc<QTensor>);

impl Embedding {
    /// Ids that have a row.
    pub fn rows(&self) -> usize {
        self.0.shape().dims()[0]
    }

    /// `ids`: (tokens,); returns (tokens, hidden), f32.
    pub fn forward(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        self.0.embedding(ids)
    }
}

/// The weights of one transformer layer.
pub struct LayerWeights {
    /// Before attention.
    pub attention_norm: RmsNorm,
    /// (num_heads * head_dim, hidden).
    pub query: Weight,
    /// (num_kv_heads * head_dim, hidden).
    pub key: Weight,
    /// (num_kv_heads * head_dim, hidden).
    pub value: Weight,
    /// (hidden, num_heads * head_dim).
    pub attention_output: Weight,
    /// Before the feed-forward block.
    pub feed_forward_norm: RmsNorm,
    /// (feed_forward, hidden).
    pub gate: Weight,
    /// (feed_forward, hidden).
    pub up: Weight,
    /// (hidden, feed_forward).
    pub down: Weight,
}

/// All weights of a model.
pub struct LlamaWeights {
    /// (vocabulary, hidden).
    pub embedding: Embedding,
    /// From the input to the output.
    pub layers: Vec<LayerWeights>,
    /// Before the output head.
    pub norm: RmsNorm,
    /// (vocabulary, hidden).
    pub head: Weight,
    /// Divisors of the rotary frequencies, if the file has them.
    pub rope_divisors: Option<Vec<f32>>,
}

impl LlamaWeights {
    /// Reads every tensor that `config` calls for.
    pub fn read(checkpoint: &Checkpoint, config: &LlamaConfig, device: &Device) -> Result<Self, EngineError> {
        checkpoint.check_tensors(config)?;
        let file = checkpoint.gguf().ok_or_else(|| EngineError::Model {
            path: checkpoint.path().to_owned(),
            reason: "candle's kernels read GGUF files only".into(),
        })?;
        let read = Reader { file, device };
        let embedding = Arc::new(file.tensor("token_embd.weight", device)?);
        let head = match config.tied_head {
            true => embedding.clone(),
            false => Arc::new(file.tensor("output.weight", device)?),
        };
        Ok(Self {
            embedding: Embedding(embedding),
            layers: (0..config.num_layers)
                .map(|layer| read.layer(layer, config.norm_eps))
                .collect::<Result<_, _>>()?,
            norm: read.norm("output_norm.weight", config.norm_eps)?,
            head: Weight::new(head, device).map_err(|error| file.unusable(error.to_string()))?,
            rope_divisors: checkpoint.rope_divisors()?,
        })
    }
}

struct Reader<'a> {
    file: &'a GgufFile,
    device: &'a Device,
}

impl Reader<'_> {
    fn layer(&self, layer: usize, eps: f64) -> Result<LayerWeights, EngineError> {
        let weight = |name: &str| self.weight(&format!("blk.{layer}.{name}.weight"));
        let norm = |name: &str| self.norm(&format!("blk.{layer}.{name}.weight"), eps);
        Ok(LayerWeights {
            attention_norm: norm("attn_norm")?,
            query: weight("attn_q")?,
            key: weight("attn_k")?,
            value: weight("attn_v")?,
            attention_output: weight("attn_output")?,
            feed_forward_norm: norm("ffn_norm")?,
            gate: weight("ffn_gate")?,
            up: weight("ffn_up")?,
            down: weight("ffn_down")?,
        })
    }

    fn weight(&self, name: &str) -> Result<Weight, EngineError> {
        let tensor = Arc::new(self.file.tensor(name, self.device)?);
        Weight::new(tensor, self.device)
            .map_err(|error| self.file.unusable(format!("tensor `{name}`: {error}")))
    }

    fn norm(&self, name: &str, eps: f64) -> Result<RmsNorm, EngineError> {
        RmsNorm::from_qtensor(self.file.tensor(name, self.device)?, eps)
            .map_err(|error| self.file.unusable(format!("tensor `{name}`: {error}")))
    }
}
