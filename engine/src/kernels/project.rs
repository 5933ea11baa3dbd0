//! Queries, keys and values of some tokens: one product, rotated, the keys and values put into the cache.

use super::cpu::InstructionSet;
use super::kv_block::{BLOCK, store_key, store_value};
use super::matmul::{Input, Product, matmul};
use super::matrix::Matrix;
use super::packed::PANEL_ROWS;
use super::paged::LayerPlace;
use super::threads::{SharedSlice, ThreadPool};

/// The heads of a model.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads; each serves `queries / keys` query heads.
    pub keys: usize,
    /// Elements of a head, a multiple of 16.
    pub dim: usize,
}

/// Where a token stands.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its position in its sequence, from 0.
    pub position: usize,
    /// The KV block that holds it.
    pub block: usize,
}

/// Cosines and sines, (positions, head_dim / 2) each; neighbours in a head rotate as a pair.
#[derive(Clone, Copy)]
pub struct Rotation<'a> {
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
}

impl Rotation<'_> {
    /// Rotates 16 elements of a head, those from `dim` on.
    fn rotate(&self, heads: Heads, position: usize, dim: usize, values: &mut [f32; PANEL_ROWS]) {
        let at = position * (heads.dim / 2) + dim / 2;
        let (cos, sin) = (&self.cos[at..at + PANEL_ROWS / 2], &self.sin[at..at + PANEL_ROWS / 2]);
        for ((pair, cos), sin) in values.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
            *pair = [pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos];
        }
    }
}

/// The weights of one layer's queries, keys and values.
pub struct Projection<'a> {
    /// (queries * dim, hidden), (keys * dim, hidden), (keys * dim, hidden).
    pub weights: [&'a Matrix; 3],
    /// What each of them reads.
    pub inputs: [Input<'a>; 3],
    /// What is added to each of them first, if anything.
    pub addends: [Option<&'a [f32]>; 3],
    /// The angles of each position.
    pub rotation: Rotation<'a>,
}

/// Computes `queries`, (tokens, queries * dim), rotated and divided by sqrt(dim), and writes each token's key,
/// rotated, and value into its place in `layer` of `cache`.
///
/// # Panics
/// When a place lies outside the cache or the rotation's positions: a bug in the scheduler.
#[allow(clippy::too_many_arguments)] // a kernel over plain arrays
pub fn project(
    set: InstructionSet,
    pool: &mut ThreadPool,
    heads: Heads,
    projection: &Projection<'_>,
    places: &[Place],
    queries: &mut [f32],
    cache: &mut [u8],
    layer: LayerPlace,
) {
    let width = heads.queries * heads.dim;
    assert!(queries.len() == places.len() * width && heads.dim.is_multiple_of(PANEL_ROWS));
    let scale = (heads.dim as f32).sqrt().recip();
    let queries = SharedSlice::new(queries);
    let cache = SharedSlice::new(cache);
    let product = |index: usize| Product {
        weights: [projection.weights[index]],
        inputs: [projection.inputs[index]],
        addends: [projection.addends[index]],
    };
    let products = [product(0), product(1), product(2)];
    matmul(set, pool, places.len(), &products, &|which, token, row, [sums]| {
        let Place { position, block } = places[token];
        let (head, dim, slot) = (row / heads.dim, row % heads.dim, position % BLOCK);
        let mut sums = *sums;
        if which < 2 {
            projection.rotation.rotate(heads, position, dim, &mut sums);
        }
        if which == 0 {
            let at = token * width + row;
            let scaled = sums.map(|sum| sum * scale);
            // SAFETY: each token and panel is stored once.
            unsafe { queries.part(at..at + PANEL_ROWS) }.copy_from_slice(&scaled);
            return;
        }
        let start = layer.keys(block, head);
        // SAFETY: a token has its slot in its block alone, and each of its panels is stored once.
        unsafe {
            match which {
                1 => store_key(layer.format, set, &cache, start, dim, slot, &sums),
                _ => {
                    let start = start + layer.to_values();
                    store_value(layer.format, set, &cache, start, heads.dim, dim, slot, &sums);
                }
            }
        }
    });
}
