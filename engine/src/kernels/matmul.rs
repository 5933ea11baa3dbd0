//! `output = input · weightsᵀ` with packed weights, on all threads.

use super::activations::QuantizedActivations;
use super::cpu::{self, InstructionSet};
use super::packed::{PANEL_ROWS, PackedMatrix};
use super::threads::ThreadPool;

/// Tokens whose activations are read again and again while a thread goes through its panels: 96 tokens of
/// 4096 columns are 384 KiB, which stay in a 1 MiB second-level cache beside one panel of weights.
const TOKEN_BLOCK: usize = 96;

/// Panels of one task when there are few tokens: 8 panels of 4096 columns are some 290 KiB of weights, long
/// enough to hide the cost of taking a task, short enough to share the work evenly.
const TASK_PANELS: usize = 8;

/// `output`, (tokens, rows): the dot product of each token of `input` with each row of `weights`.
///
/// # Panics
/// When the shapes do not agree: a bug in the forward pass.
pub fn matmul(
    set: InstructionSet,
    pool: &mut ThreadPool,
    weights: &PackedMatrix,
    input: &QuantizedActivations,
    output: &mut [f32],
) {
    let (tokens, rows) = (input.tokens(), weights.rows());
    assert_eq!(input.columns(), weights.columns(), "columns of input and weights");
    assert_eq!(output.len(), tokens * rows, "tokens times rows of the output");
    let token_blocks = tokens.div_ceil(TOKEN_BLOCK);
    let panel_groups = weights.panels().div_ceil(TASK_PANELS);
    let output = OutputRows { start: output.as_mut_ptr(), rows };
    pool.run(token_blocks * panel_groups, &|task| {
        let (token_block, group) = (task / panel_groups, task % panel_groups);
        let tokens = token_block * TOKEN_BLOCK..tokens.min((token_block + 1) * TOKEN_BLOCK);
        for panel in group * TASK_PANELS..weights.panels().min((group + 1) * TASK_PANELS) {
            let mut first = tokens.start;
            while first < tokens.end {
                let count = next_count(tokens.end - first);
                let mut sums = [[0.0; PANEL_ROWS]; cpu::MAX_TOKENS];
                cpu::panel(set, weights, panel, input, first, &mut sums[..count]);
                for (token, sums) in (first..).zip(&sums[..count]) {
                    // SAFETY: each (token, panel) belongs to one task alone, and `output` outlives `run`.
                    unsafe { output.store(token, panel * PANEL_ROWS, sums) };
                }
                first += count;
            }
        }
    });
}

/// Tokens of the next kernel call when `left` remain: even shares rather than a full call and a lonely rest.
fn next_count(left: usize) -> usize {
    left.div_ceil(left.div_ceil(cpu::MAX_TOKENS))
}

/// The output as seen by tasks that write to different parts of it.
struct OutputRows {
    start: *mut f32,
    rows: usize,
}

// SAFETY: `store` is told by its caller that no two threads write the same place.
unsafe impl Sync for OutputRows {}

impl OutputRows {
    /// Writes the sums of rows `row ..` of `token`, leaving out those past the last row.
    ///
    /// # Safety
    /// `token` is a token of the output, `row` is less than its rows, the output is alive, and nobody else
    /// reads or writes these places now.
    unsafe fn store(&self, token: usize, row: usize, sums: &[f32; PANEL_ROWS]) {
        let count = PANEL_ROWS.min(self.rows - row);
        // SAFETY: the caller's promise; `row + count <= rows`.
        unsafe {
            std::ptr::copy_nonoverlapping(sums.as_ptr(), self.start.add(token * self.rows + row), count)
        };
    }
}

#[cfg(test)]
mod tests;
