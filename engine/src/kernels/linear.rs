//! Matrix products with what follows them in a transformer layer, done while the sums are in registers.
//!
//! `addend`, if given, is added to the product first: what an adapter makes of the same input.

use super::cpu::InstructionSet;
use super::matmul::{Input, Product, matmul};
use super::matrix::Matrix;
use super::packed::PANEL_ROWS;
use super::rows::{add_to, silu_times};
use super::threads::{SharedSlice, ThreadPool};

/// `output`, (tokens, rows): `input` times each row of `weights`.
pub fn linear(
    set: InstructionSet,
    pool: &mut ThreadPool,
    tokens: usize,
    weights: &Matrix,
    input: Input<'_>,
    addend: Option<&[f32]>,
    output: &mut [f32],
) {
    let rows = weights.rows();
    assert_eq!(output.len(), tokens * rows, "tokens times rows of the output");
    let output = SharedSlice::new(output);
    let product = Product { weights: [weights], inputs: [input], addends: [addend] };
    matmul(set, pool, tokens, &[product], &|_, token, row, [sums]| {
        let count = PANEL_ROWS.min(rows - row);
        let at = token * rows + row;
        // SAFETY: each token and panel is stored once.
        unsafe { output.part(at..at + count) }.copy_from_slice(&sums[..count]);
    });
}

/// `x`, (tokens, rows), plus the product; rows are a multiple of 16.
pub fn linear_add(
    set: InstructionSet,
    pool: &mut ThreadPool,
    tokens: usize,
    weights: &Matrix,
    input: Input<'_>,
    addend: Option<&[f32]>,
    x: &mut [f32],
) {
    let rows = weights.rows();
    assert!(x.len() == tokens * rows && rows.is_multiple_of(PANEL_ROWS));
    let x = SharedSlice::new(x);
    let product = Product { weights: [weights], inputs: [input], addends: [addend] };
    matmul(set, pool, tokens, &[product], &|_, token, row, [sums]| {
        let at = token * rows + row;
        // SAFETY: each token and panel is stored once.
        add_to(set, unsafe { x.part(at..at + PANEL_ROWS) }, sums);
    });
}

/// `output`, (tokens, rows): silu of the product with `gate`, times the product with `up`; rows are a multiple
/// of 16.
pub fn gated(
    set: InstructionSet,
    pool: &mut ThreadPool,
    tokens: usize,
    [gate, up]: [&Matrix; 2],
    inputs: [Input<'_>; 2],
    addends: [Option<&[f32]>; 2],
    output: &mut [f32],
) {
    let rows = gate.rows();
    assert!(output.len() == tokens * rows && rows.is_multiple_of(PANEL_ROWS));
    let output = SharedSlice::new(output);
    let product = Product { weights: [gate, up], inputs, addends };
    matmul(set, pool, tokens, &[product], &|_, token, row, [gate, up]| {
        let at = token * rows + row;
        // SAFETY: each token and panel is stored once.
        let part = unsafe { output.part(at..at + PANEL_ROWS) };
        part.copy_from_slice(gate);
        silu_times(set, part, up);
    });
}
