//! Attention of a whole step: every new token of every sequence over its sequence's cached tokens.
//!
//! Query heads that share a key head are taken together, so a key is loaded once for all of them. The work is
//! cut into *tiles*: up to six queries (tokens times heads of a group) of one key head. Few tiles with a long
//! past, as in decoding, are cut further, into chunks of the past, so that all threads have work.

use super::attention::{CHUNK, CHUNK_BLOCKS, Chunk, QUERIES, Weights, attend, finish, join};
use super::cpu::InstructionSet;
use super::kv_block::{BLOCK, KvFormat};
use super::project::Heads;
use super::threads::{SharedSlice, ThreadPool};

/// Elements of the widest head.
pub const MAX_HEAD_DIM: usize = 256;

/// Tiles for each thread below which they are cut into chunks.
const TILES_PER_THREAD: usize = 4;

/// One sequence's part of a step.
#[derive(Clone, Copy)]
pub struct Span<'a> {
    /// The row of its first token among the step's tokens.
    pub first_row: usize,
    /// Its new tokens.
    pub tokens: usize,
    /// The position of the first of them.
    pub position: usize,
    /// Its KV blocks.
    pub blocks: &'a [usize],
}

/// Some queries of one key head of one sequence.
#[derive(Clone, Copy)]
struct Tile {
    span: usize,
    head: usize,
    /// The first of them, counted over the span's tokens times the heads of a group.
    first: usize,
    count: usize,
}

/// Memory that a step's attention works in, kept from step to step.
#[derive(Default)]
pub struct Workspace {
    tiles: Vec<Tile>,
    weights: Vec<Weights>,
    sums: Vec<f32>,
}

/// Where one layer's keys and values lie in the cache: each block has, for each layer, the keys of all heads and
/// then their values.
#[derive(Clone, Copy)]
pub struct LayerPlace {
    /// What the cache's numbers are.
    pub format: KvFormat,
    /// Key heads.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Bytes from one block to the next.
    pub stride: usize,
    /// Where in a block the layer begins.
    pub start: usize,
}

impl LayerPlace {
    /// Bytes of one side of one head.
    pub fn side(self) -> usize {
        self.format.block_bytes(self.head_dim)
    }

    /// Where the keys of `head` in block `block` begin.
    pub fn keys(self, block: usize, head: usize) -> usize {
        block * self.stride + self.start + head * self.side()
    }

    /// Bytes from a head's keys to its values.
    pub fn to_values(self) -> usize {
        self.heads * self.side()
    }
}

/// One layer's cached keys and values.
#[derive(Clone, Copy)]
pub struct Cached<'a> {
    /// The whole cache.
    pub cache: &'a [u8],
    /// Where in it.
    pub layer: LayerPlace,
}

struct Step<'a> {
    set: InstructionSet,
    heads: Heads,
    spans: &'a [Span<'a>],
    cached: Cached<'a>,
    queries: &'a [f32],
}

/// `output`, (tokens, queries * dim): attention of `queries`, laid out alike, scaled already.
///
/// # Panics
/// When the shapes do not agree: a bug in the forward pass.
#[allow(clippy::too_many_arguments)] // a kernel over plain arrays
pub fn attend_step(
    set: InstructionSet,
    pool: &mut ThreadPool,
    heads: Heads,
    spans: &[Span<'_>],
    cached: Cached<'_>,
    queries: &[f32],
    workspace: &mut Workspace,
    output: &mut [f32],
) {
    assert!(heads.dim <= MAX_HEAD_DIM && queries.len() == output.len());
    let step = Step { set, heads, spans, cached, queries };
    let Workspace { tiles, weights, sums } = workspace;
    step.tiles(tiles);
    let output = SharedSlice::new(output);
    let most_chunks = tiles.iter().map(|tile| step.chunks(tile)).max().unwrap_or(0);
    if tiles.len() >= pool.threads() * TILES_PER_THREAD || most_chunks < 2 {
        let tiles = &*tiles;
        // The last tiles of a prompt see the most: they go first, so that no thread ends alone with one.
        pool.run(tiles.len(), &|task| step.whole(&tiles[tiles.len() - 1 - task], &output));
        return;
    }
    let slots = tiles.len() * most_chunks;
    weights.resize(slots * QUERIES, Weights::NONE);
    sums.resize(slots * QUERIES * heads.dim, 0.0);
    {
        let (tiles, weights, sums) = (&*tiles, SharedSlice::new(weights), SharedSlice::new(sums));
        pool.run(slots, &|slot| {
            let (tile, chunk) = (&tiles[slot / most_chunks], slot % most_chunks);
            if chunk < step.chunks(tile) {
                let (first, width) = (slot * QUERIES, tile.count);
                // SAFETY: each slot has its own part of both.
                let (weights, sums) = unsafe {
                    (
                        weights.part(first..first + width),
                        sums.part(first * heads.dim..(first + width) * heads.dim),
                    )
                };
                step.chunk(tile, chunk, weights, sums);
            }
        });
    }
    for (index, tile) in tiles.iter().enumerate() {
        let mut joined = Joined::default();
        for chunk in 0..step.chunks(tile) {
            let first = (index * most_chunks + chunk) * QUERIES;
            let width = tile.count;
            joined.add(
                &step,
                &weights[first..first + width],
                &sums[first * heads.dim..][..width * heads.dim],
            );
        }
        step.finish(tile, &joined, &output);
    }
}

/// The partials of one tile, joined so far.
struct Joined {
    weights: [Weights; QUERIES],
    sums: [f32; QUERIES * MAX_HEAD_DIM],
}

impl Default for Joined {
    fn default() -> Self {
        Self { weights: [Weights::NONE; QUERIES], sums: [0.0; QUERIES * MAX_HEAD_DIM] }
    }
}

impl Joined {
    fn add(&mut self, step: &Step<'_>, weights: &[Weights], sums: &[f32]) {
        let dim = step.heads.dim;
        for (row, weights) in weights.iter().enumerate() {
            let range = row * dim..(row + 1) * dim;
            join(step.set, &mut self.weights[row], &mut self.sums[range.clone()], *weights, &sums[range]);
        }
    }
}

impl Step<'_> {
    fn group(&self) -> usize {
        self.heads.queries / self.heads.keys
    }

    fn tiles(&self, tiles: &mut Vec<Tile>) {
        tiles.clear();
        for (index, span) in self.spans.iter().enumerate() {
            let rows = span.tokens * self.group();
            for first in (0..rows).step_by(QUERIES) {
                let count = QUERIES.min(rows - first);
                tiles.extend((0..self.heads.keys).map(|head| Tile { span: index, head, first, count }));
            }
        }
    }

    /// Tokens that query `row` of `tile` sees.
    fn visible(&self, tile: &Tile, row: usize) -> usize {
        self.spans[tile.span].position + (tile.first + row) / self.group() + 1
    }

    fn chunks(&self, tile: &Tile) -> usize {
        self.visible(tile, tile.count - 1).div_ceil(CHUNK)
    }

    /// Where query `row` of `tile` lies in the step's queries and output.
    fn place(&self, tile: &Tile, row: usize) -> usize {
        let (token, member) = ((tile.first + row) / self.group(), (tile.first + row) % self.group());
        let token = self.spans[tile.span].first_row + token;
        (token * self.heads.queries + tile.head * self.group() + member) * self.heads.dim
    }

    fn chunk(&self, tile: &Tile, chunk: usize, weights: &mut [Weights], sums: &mut [f32]) {
        let dim = self.heads.dim;
        let mut queries = [0.0; QUERIES * MAX_HEAD_DIM];
        let mut limits = [0; QUERIES];
        for row in 0..tile.count {
            let at = self.place(tile, row);
            queries[row * dim..(row + 1) * dim].copy_from_slice(&self.queries[at..at + dim]);
            limits[row] = self.visible(tile, row).saturating_sub(chunk * CHUNK).min(CHUNK);
        }
        let table = self.spans[tile.span].blocks;
        let wanted = self.visible(tile, tile.count - 1).div_ceil(BLOCK);
        let table = &table[chunk * CHUNK_BLOCKS..wanted.min((chunk + 1) * CHUNK_BLOCKS)];
        let mut blocks = [0; CHUNK_BLOCKS];
        for (start, block) in blocks.iter_mut().zip(table) {
            *start = self.cached.layer.keys(*block, tile.head);
        }
        let part = Chunk {
            cache: self.cached.cache,
            format: self.cached.layer.format,
            blocks: &blocks[..table.len()],
            to_values: self.cached.layer.to_values(),
            head_dim: dim,
        };
        attend(self.set, part, &queries[..tile.count * dim], &limits[..tile.count], weights, sums);
    }

    /// All chunks of a tile, one after the other.
    fn whole(&self, tile: &Tile, output: &SharedSlice<'_, f32>) {
        let mut joined = Joined::default();
        let mut weights = [Weights::NONE; QUERIES];
        let mut sums = [0.0; QUERIES * MAX_HEAD_DIM];
        let sums = &mut sums[..tile.count * self.heads.dim];
        for chunk in 0..self.chunks(tile) {
            self.chunk(tile, chunk, &mut weights[..tile.count], sums);
            joined.add(self, &weights[..tile.count], sums);
        }
        self.finish(tile, &joined, output);
    }

    fn finish(&self, tile: &Tile, joined: &Joined, output: &SharedSlice<'_, f32>) {
        let dim = self.heads.dim;
        for row in 0..tile.count {
            let at = self.place(tile, row);
            // SAFETY: each query belongs to one tile, and a tile is finished once.
            let output = unsafe { output.part(at..at + dim) };
            finish(self.set, joined.weights[row], &joined.sums[row * dim..(row + 1) * dim], output);
        }
    }
}
