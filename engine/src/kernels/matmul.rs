//! `output = input · weightsᵀ`, on all threads, with what is done to the sums while they are in registers.
//!
//! Products that read the same input run as one parallel region: their panels are shared out among the
//! threads in small groups. What becomes of 16 sums (a residual added, a head rotated and cached) is the
//! caller's `store`, which runs on the thread that computed them.
//!
//! Each token's sums are computed in the same order whatever other tokens are in the call, so a sequence
//! computed alone and in a batch gives the same bits.

use super::activations::QuantizedActivations;
use super::cpu::{self, InstructionSet};
use super::float;
use super::matrix::Matrix;
use super::packed::PANEL_ROWS;
use super::threads::ThreadPool;

/// Tokens whose activations are read again and again while a thread goes through its panels: 96 tokens of
/// 4096 columns are 384 KiB, which stay in a 1 MiB second-level cache beside one panel of weights.
const TOKEN_BLOCK: usize = 96;

/// Most panels of one task: 8 panels of 4096 columns are some 290 KiB of weights, long enough to hide the
/// cost of taking a task.
const TASK_PANELS: usize = 8;

/// Tasks for each thread, so that a thread that was held up leaves work to the others.
const TASKS_PER_THREAD: usize = 4;

/// The rows that a product reads, in both forms; a matrix reads the one that it needs.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// (tokens, columns).
    pub values: &'a [f32],
    /// The same, rounded; in the order of the matrix's columns.
    pub rounded: &'a QuantizedActivations,
}

/// `N` matrices of the same shape with what they read; their sums are stored together.
pub struct Product<'a, const N: usize> {
    /// The matrices.
    pub weights: [&'a Matrix; N],
    /// What each of them reads.
    pub inputs: [Input<'a>; N],
    /// What is added to the sums of each before they are stored, (tokens, rows), if anything.
    pub addends: [Option<&'a [f32]>; N],
}

/// Computes all `products` for `tokens` tokens. `store(product, token, row, sums)` gets the 16 sums of the
/// rows from `row` on, for each matrix of the product, once for each token; rows past the last are padding.
///
/// # Panics
/// When the shapes do not agree: a bug in the forward pass.
pub fn matmul<const N: usize>(
    set: InstructionSet,
    pool: &mut ThreadPool,
    tokens: usize,
    products: &[Product<'_, N>],
    store: &(impl Fn(usize, usize, usize, &[[f32; PANEL_ROWS]; N]) + Sync),
) {
    for product in products {
        let (rows, columns) = (product.weights[0].rows(), product.weights[0].columns());
        for addend in product.addends.into_iter().flatten() {
            assert_eq!(addend.len(), tokens * rows);
        }
        for (weights, input) in product.weights.iter().zip(product.inputs) {
            assert!(weights.rows() == rows && weights.columns() == columns, "matrices of one shape");
            match weights {
                Matrix::Packed(_) => {
                    assert_eq!((input.rounded.tokens(), input.rounded.columns()), (tokens, columns))
                }
                Matrix::Float(_) => assert_eq!(input.values.len(), tokens * columns),
            }
        }
    }
    let panels: usize = products.iter().map(|product| product.weights[0].rows().div_ceil(PANEL_ROWS)).sum();
    let group = (panels / (pool.threads() * TASKS_PER_THREAD)).clamp(1, TASK_PANELS);
    let groups = panels.div_ceil(group);
    pool.run(tokens.div_ceil(TOKEN_BLOCK) * groups, &|task| {
        let (token_block, index) = (task / groups, task % groups);
        let tokens = token_block * TOKEN_BLOCK..tokens.min((token_block + 1) * TOKEN_BLOCK);
        let mut first_of_product = 0;
        let wanted = index * group..panels.min((index + 1) * group);
        for (which, product) in products.iter().enumerate() {
            let count = product.weights[0].rows().div_ceil(PANEL_ROWS);
            let start = wanted.start.max(first_of_product) - first_of_product;
            let end = wanted.end.saturating_sub(first_of_product).min(count);
            for panel in start..end {
                one_panel(set, product, panel, tokens.clone(), &|token, sums| {
                    store(which, token, panel * PANEL_ROWS, sums);
                });
            }
            first_of_product += count;
        }
    });
}

fn one_panel<const N: usize>(
    set: InstructionSet,
    product: &Product<'_, N>,
    panel: usize,
    tokens: std::ops::Range<usize>,
    store: &impl Fn(usize, &[[f32; PANEL_ROWS]; N]),
) {
    let mut first = tokens.start;
    while first < tokens.end {
        let count = next_count(tokens.end - first);
        let mut sums = [[[0.0; PANEL_ROWS]; cpu::MAX_TOKENS]; N];
        for ((weights, input), sums) in product.weights.iter().zip(product.inputs).zip(&mut sums) {
            match weights {
                Matrix::Packed(matrix) => {
                    cpu::panel(set, matrix, panel, input.rounded, first, &mut sums[..count])
                }
                Matrix::Float(matrix) => {
                    float::panel(set, matrix, panel, input.values, first, &mut sums[..count])
                }
            }
        }
        for ((addend, sums), weights) in product.addends.iter().zip(&mut sums).zip(product.weights) {
            let Some(addend) = addend else { continue };
            for (token, sums) in (first..).zip(&mut sums[..count]) {
                let row = panel * PANEL_ROWS;
                let addend = &addend[token * weights.rows() + row..(token + 1) * weights.rows()];
                sums.iter_mut().zip(addend).for_each(|(sum, addend)| *sum += addend);
            }
        }
        for token in 0..count {
            store(first + token, &std::array::from_fn(|matrix| sums[matrix][token]));
        }
        first += count;
    }
}

/// Tokens of the next kernel call when `left` remain: even shares rather than a full call and a lonely rest.
fn next_count(left: usize) -> usize {
    left.div_ceil(left.div_ceil(cpu::MAX_TOKENS))
}

#[cfg(test)]
mod tests;
