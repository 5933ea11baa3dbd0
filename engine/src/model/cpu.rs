//! The forward pass on a CPU, in the paper's order, over our own kernels.
//!
//! Rows of all sequences go through the matrices together. What a layer does is five parallel regions; the
//! memory that it works in is kept from step to step. A token's result has the same bits whatever else is in
//! the batch ([`crate::kernels::matmul`], [`crate::kernels::attention`]).
//!
//! Source: "LLaMA: Open and Efficient Foundation Language Models", section 2.2 (pre-normalisation, SwiGLU,
//! rotary embedding); "The Llama 3 Herd of Models", section 3.2 (grouped-query attention).

mod beside;
mod cache;
mod input;
mod weights;

use std::num::NonZeroUsize;

pub use cache::CpuCache;

use super::adapter::{Adapter, Target};
use super::checkpoint::Checkpoint;
use super::config::LlamaConfig;
use super::logits::Logits;
use super::rope::RopeAngles;
use crate::error::EngineError;
use crate::kernels::cpu::InstructionSet;
use crate::kernels::linear::{gated, linear, linear_add};
use crate::kernels::packed::{BLOCK_COLUMNS, PANEL_ROWS};
use crate::kernels::paged::{MAX_HEAD_DIM, Span, Workspace, attend_step};
use crate::kernels::project::{Heads, Place, Projection, Rotation, project};
use crate::kernels::rows::rms_norm_rows;
use crate::kernels::threads::ThreadPool;
use crate::scheduler::BLOCK_TOKENS;
use crate::scheduler::batch::{LogitsWanted, ScheduledBatch};
use beside::Beside;
use input::Rounded;
use weights::{CpuWeights, Layer};

/// A Llama-family model in the CPU's memory.
pub struct CpuLlama {
    weights: CpuWeights,
    adapters: Vec<Adapter>,
    angles: RopeAngles,
    heads: Heads,
    eps: f32,
    context: usize,
    set: InstructionSet,
    pool: ThreadPool,
    memory: Memory,
}

/// What a step works in. Lengths follow the step; memory is kept.
#[derive(Default)]
struct Memory {
    /// The residual stream, (tokens, hidden).
    x: Vec<f32>,
    /// (tokens, hidden).
    normed: Vec<f32>,
    /// (tokens, heads.queries * heads.dim).
    queries: Vec<f32>,
    /// As the queries.
    attended: Vec<f32>,
    /// (tokens, feed_forward).
    gated: Vec<f32>,
    rounded: Rounded,
    beside: Beside,
    attention: Workspace,
    places: Vec<Place>,
    /// The block tables of all sequences, one after the other.
    blocks: Vec<usize>,
}

impl CpuLlama {
    /// Whether our kernels take the model's widths.
    pub fn takes(config: &LlamaConfig) -> bool {
        let LlamaConfig { hidden, feed_forward, num_heads, head_dim, .. } = *config;
        let whole_blocks = |columns: usize| columns.is_multiple_of(BLOCK_COLUMNS);
        whole_blocks(hidden)
            && whole_blocks(feed_forward)
            && whole_blocks(num_heads * head_dim)
            && head_dim.is_multiple_of(PANEL_ROWS)
            && head_dim <= MAX_HEAD_DIM
    }

    /// Reads the weights of `checkpoint`. `context` is the most tokens that one sequence may have; `adapters`
    /// are what sequences may name; `threads` compute, all cores if `None`.
    ///
    /// # Errors
    /// [`EngineError::Model`] names every missing or misshapen tensor; [`EngineError::InvalidRequest`] when
    /// `CHASKI_CPU` names kernels that this processor cannot run.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &LlamaConfig,
        context: usize,
        adapters: Vec<Adapter>,
        threads: Option<NonZeroUsize>,
    ) -> Result<Self, EngineError> {
        let set = InstructionSet::detect().map_err(EngineError::InvalidRequest)?;
        let weights = CpuWeights::read(checkpoint, config)?;
        let divisors = checkpoint.rope_divisors()?;
        let angles = RopeAngles::new(
            config.head_dim,
            context,
            config.rope_theta,
            &config.rope_scaling,
            divisors.as_deref(),
        );
        let threads = threads.or(std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            weights,
            adapters,
            angles,
            heads: Heads { queries: config.num_heads, keys: config.num_kv_heads, dim: config.head_dim },
            eps: config.norm_eps as f32,
            context,
            set,
            pool: ThreadPool::new(threads),
            memory: Memory::default(),
        })
    }

    /// See [`super::Model::forward`].
    pub fn forward(&mut self, batch: &ScheduledBatch, cache: &mut CpuCache) -> Result<Logits, EngineError> {
        self.check(batch, cache)?;
        cache.copy_blocks(&batch.copies);
        let mut memory = std::mem::take(&mut self.memory);
        let logits = self.compute(batch, cache, &mut memory);
        self.memory = memory;
        Ok(logits)
    }

    fn compute(&mut self, batch: &ScheduledBatch, cache: &mut CpuCache, memory: &mut Memory) -> Logits {
        let tokens = batch.sequences.iter().map(|sequence| sequence.tokens.len()).sum::<usize>();
        let hidden = self.weights.norm.len();
        memory.x.resize(tokens * hidden, 0.0);
        let ids = batch.sequences.iter().flat_map(|sequence| &sequence.tokens);
        for (id, row) in ids.zip(memory.x.chunks_exact_mut(hidden)) {
            self.weights.embedding.row(*id as usize, row);
        }
        memory.places.clear();
        memory.blocks.clear();
        for sequence in &batch.sequences {
            memory.blocks.extend(sequence.block_table.iter().map(|block| block.index()));
            memory.places.extend((sequence.position..).take(sequence.tokens.len()).map(|position| Place {
                position,
                block: sequence.block_table[position / BLOCK_TOKENS].index(),
            }));
        }
        let blocks = std::mem::take(&mut memory.blocks);
        let mut spans = Vec::with_capacity(batch.sequences.len());
        let (mut first_row, mut rest) = (0, &blocks[..]);
        for sequence in &batch.sequences {
            let (tokens, position) = (sequence.tokens.len(), sequence.position);
            let (blocks, others) = rest.split_at(sequence.block_table.len());
            spans.push(Span { first_row, tokens, position, blocks });
            first_row += tokens;
            rest = others;
        }
        for layer in 0..self.weights.layers.len() {
            self.attention(layer, batch, &spans, cache, memory);
            self.feed_forward(layer, batch, memory);
        }
        memory.blocks = blocks;
        self.logits(batch, memory)
    }

    /// `x += attention(norm(x))`
    fn attention(
        &mut self,
        layer: usize,
        batch: &ScheduledBatch,
        spans: &[Span<'_>],
        cache: &mut CpuCache,
        memory: &mut Memory,
    ) {
        let Self { weights, adapters, angles, heads, set, pool, .. } = self;
        let (set, heads, eps) = (*set, *heads, self.eps);
        let Layer { attention_norm, query, key, value, attention_output, .. } = &weights.layers[layer];
        let Memory { x, normed, queries, attended, rounded, beside, attention, places, .. } = memory;
        let tokens = places.len();
        normed.resize(x.len(), 0.0);
        rms_norm_rows(set, pool, x, attention_norm, eps, normed);

        queries.resize(tokens * heads.queries * heads.dim, 0.0);
        let targets = [Target::Query, Target::Key, Target::Value];
        let projection = Projection {
            weights: [query, key, value],
            inputs: rounded.inputs(set, pool, normed, [query, key, value]),
            addends: beside.addends(set, pool, adapters, batch, layer, targets, normed),
            rotation: Rotation { cos: &angles.cos, sin: &angles.sin },
        };
        let (bytes, place) = cache.layer_mut(layer);
        project(set, pool, heads, &projection, places, queries, bytes, place);

        attended.resize(queries.len(), 0.0);
        attend_step(set, pool, heads, spans, cache.layer(layer), queries, attention, attended);

        let [input] = rounded.inputs(set, pool, attended, [attention_output]);
        let targets = [Target::AttentionOutput];
        let [addend] = beside.addends(set, pool, adapters, batch, layer, targets, attended);
        linear_add(set, pool, tokens, attention_output, input, addend, x);
    }

    /// `x += down(silu(gate(norm(x))) * up(norm(x)))`
    fn feed_forward(&mut self, layer: usize, batch: &ScheduledBatch, memory: &mut Memory) {
        let Self { weights, adapters, set, pool, .. } = self;
        let (set, eps) = (*set, self.eps);
        let Layer { feed_forward_norm, gate, up, down, .. } = &weights.layers[layer];
        let Memory { x, normed, gated: hidden, rounded, beside, places, .. } = memory;
        let tokens = places.len();
        rms_norm_rows(set, pool, x, feed_forward_norm, eps, normed);
        hidden.resize(tokens * gate.rows(), 0.0);
        let inputs = rounded.inputs(set, pool, normed, [gate, up]);
        let addends = beside.addends(set, pool, adapters, batch, layer, [Target::Gate, Target::Up], normed);
        gated(set, pool, tokens, [gate, up], inputs, addends, hidden);
        let [input] = rounded.inputs(set, pool, hidden, [down]);
        let [addend] = beside.addends(set, pool, adapters, batch, layer, [Target::Down], hidden);
        linear_add(set, pool, tokens, down, input, addend, x);
    }

    /// The logits that the batch asks for.
    fn logits(&mut self, batch: &ScheduledBatch, memory: &mut Memory) -> Logits {
        let Self { weights, set, pool, .. } = self;
        let (set, hidden) = (*set, weights.norm.len());
        let Memory { x, normed, rounded, .. } = memory;
        // The wanted rows move to the front: a row's place is never behind its new one.
        let mut wanted = 0;
        for row in wanted_rows(batch) {
            x.copy_within(row * hidden..(row + 1) * hidden, wanted * hidden);
            wanted += 1;
        }
        let head = weights.head();
        if wanted == 0 {
            return Logits::new(head.rows(), Vec::new());
        }
        x.truncate(wanted * hidden);
        normed.resize(x.len(), 0.0);
        rms_norm_rows(set, pool, x, &weights.norm, self.eps, normed);
        let [input] = rounded.inputs(set, pool, normed, [head]);
        let mut logits = vec![0.0; wanted * head.rows()];
        linear(set, pool, wanted, head, input, None, &mut logits);
        Logits::new(head.rows(), logits)
    }

    /// A batch that does not fit would read another sequence's keys or write outside the cache.
    fn check(&self, batch: &ScheduledBatch, cache: &CpuCache) -> Result<(), EngineError> {
        let vocabulary = self.weights.embedding.rows();
        batch.check(cache.num_blocks(), self.context, vocabulary).map_err(EngineError::Compute)
    }
}

/// The rows of the batch whose logits are wanted, in order.
fn wanted_rows(batch: &ScheduledBatch) -> impl Iterator<Item = usize> {
    let mut start = 0;
    batch.sequences.iter().flat_map(move |sequence| {
        let end = start + sequence.tokens.len();
        let rows = match sequence.logits {
            LogitsWanted::None => end..end,
            LogitsWanted::Last => end - 1..end,
            LogitsWanted::All => start..end,
        };
        start = end;
        rows
    })
}
