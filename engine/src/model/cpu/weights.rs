//! The weights of a Llama-family model, repacked for the CPU's kernels.

use crate::error::EngineError;
use crate::kernels::matrix::Matrix;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::LlamaConfig;

/// One transformer layer.
pub(super) struct Layer {
    /// (hidden,), before attention.
    pub attention_norm: Vec<f32>,
    /// (num_heads * head_dim, hidden).
    pub query: Matrix,
    /// (num_kv_heads * head_dim, hidden).
    pub key: Matrix,
    /// (num_kv_heads * head_dim, hidden).
    pub value: Matrix,
    /// (hidden, num_heads * head_dim).
    pub attention_output: Matrix,
    /// (hidden,), before the feed-forward block.
    pub feed_forward_norm: Vec<f32>,
    /// (feed_forward, hidden).
    pub gate: Matrix,
    /// (feed_forward, hidden).
    pub up: Matrix,
    /// (hidden, feed_forward).
    pub down: Matrix,
}

/// All weights.
pub(super) struct CpuWeights {
    /// (vocabulary, hidden).
    pub embedding: Matrix,
    /// From the input to the output.
    pub layers: Vec<Layer>,
    /// (hidden,), before the output head.
    pub norm: Vec<f32>,
    /// (vocabulary, hidden), unless the embedding serves as one.
    own_head: Option<Matrix>,
}

impl CpuWeights {
    /// Reads every tensor that `config` calls for.
    pub fn read(checkpoint: &Checkpoint, config: &LlamaConfig) -> Result<Self, EngineError> {
        checkpoint.check_tensors(config)?;
        let LlamaConfig { hidden, feed_forward, vocabulary, num_heads, num_kv_heads, head_dim, .. } = *config;
        let (queries, keys) = (num_heads * head_dim, num_kv_heads * head_dim);
        let layer = |index: usize| -> Result<Layer, EngineError> {
            let matrix =
                |name: &str, rows, columns| checkpoint.matrix(&format!("blk.{index}.{name}"), rows, columns);
            let vector = |name: &str| checkpoint.vector(&format!("blk.{index}.{name}"));
            Ok(Layer {
                attention_norm: vector("attn_norm")?,
                query: matrix("attn_q", queries, hidden)?,
                key: matrix("attn_k", keys, hidden)?,
                value: matrix("attn_v", keys, hidden)?,
                attention_output: matrix("attn_output", hidden, queries)?,
                feed_forward_norm: vector("ffn_norm")?,
                gate: matrix("ffn_gate", feed_forward, hidden)?,
                up: matrix("ffn_up", feed_forward, hidden)?,
                down: matrix("ffn_down", hidden, feed_forward)?,
            })
        };
        let own_head = match config.tied_head {
            true => None,
            false => Some(checkpoint.matrix("output", vocabulary, hidden)?),
        };
        Ok(Self {
            embedding: checkpoint.matrix("token_embd", vocabulary, hidden)?,
            layers: (0..config.num_layers).map(layer).collect::<Result<_, _>>()?,
            norm: checkpoint.vector("output_norm")?,
            own_head,
        })
    }

    /// (vocabulary, hidden).
    pub fn head(&self) -> &Matrix {
        self.own_head.as_ref().unwrap_or(&self.embedding)
    }
}
