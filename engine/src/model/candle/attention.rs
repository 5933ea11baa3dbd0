//! Causal attention of one sequence's new tokens over its cached keys and values.
//!
//! Query heads that share a key head are stacked into the rows of one product, so keys and values are never
//! repeated in memory.
//!
//! Source: "Attention Is All You Need", section 3.2.1; grouped-query attention, section 2.2.

use candle_core::{Device, Result, Tensor};

/// Queries attended at once. Bounds the scores, (heads, rows, length), to 64 MB for 32 heads at 4,096
/// tokens, and skips the keys after the last of these queries altogether.
const QUERY_ROWS: usize = 128;

/// `queries`: (num_heads, tokens, head_dim), the first at `position`; `keys` and `values`: (num_kv_heads,
/// position + tokens, head_dim). Returns (num_heads, tokens, head_dim).
pub fn attend(queries: &Tensor, keys: &Tensor, values: &Tensor, position: usize) -> Result<Tensor> {
    let (_num_heads, tokens, head_dim) = queries.dims3()?;
    let queries = (queries * (head_dim as f64).powf(-0.5))?;
    if tokens <= QUERY_ROWS {
        return attend_rows(&queries, keys, values, position);
    }
    let mut outputs = Vec::new();
    for start in (0..tokens).step_by(QUERY_ROWS) {
        let rows = QUERY_ROWS.min(tokens - start);
        let visible = position + start + rows;
        outputs.push(attend_rows(
            &queries.narrow(1, start, rows)?.contiguous()?,
            &keys.narrow(1, 0, visible)?,
            &values.narrow(1, 0, visible)?,
            position + start,
        )?);
    }
    Tensor::cat(&outputs, 1)
}

fn attend_rows(queries: &Tensor, keys: &Tensor, values: &Tensor, position: usize) -> Result<Tensor> {
    let (num_heads, tokens, head_dim) = queries.dims3()?;
    let (num_kv_heads, length, _head_dim) = keys.dims3()?;
    let group = num_heads / num_kv_heads;

    let queries = queries.reshape((num_kv_heads, group * tokens, head_dim))?;
    let mut scores = queries.matmul(&keys.t()?)?;
    if tokens > 1 {
        let mask = causal_mask(tokens, length, position, queries.device())?;
        scores = scores.reshape((num_heads, tokens, length))?.broadcast_add(&mask)?.reshape((
            num_kv_heads,
            group * tokens,
            length,
        ))?;
    }
    let weights = candle_nn::ops::softmax_last_dim(&scores)?;
    weights.matmul(values)?.reshape((num_heads, tokens, head_dim))
}

/// (tokens, length): 0 where a query may look, negative infinity at later positions.
fn causal_mask(tokens: usize, length: usize, position: usize, device: &Device) -> Result<Tensor> {
    let row = |query: usize| {
        (0..length).map(move |key| if key > position + query { f32::NEG_INFINITY } else { 0.0 })
    };
    Tensor::from_vec((0..tokens).flat_map(row).collect::<Vec<f32>>(), (tokens, length), device)
}
