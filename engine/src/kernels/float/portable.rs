//! Dot products with floating-point weights in plain Rust: the specification of the other kernels.

use super::{FloatMatrix, PANEL_ROWS, place};

/// `out[t][lane]` is the dot product of token `t` of `input`, (tokens, columns), and row `16 * panel + lane`.
///
/// Even and odd columns are summed apart and then added, as wider kernels do to hide the latency of an
/// addition; those fuse each product with its addition, which this does not.
pub fn panel(weights: &FloatMatrix, panel: usize, input: &[f32], out: &mut [[f32; PANEL_ROWS]]) {
    let (kind, columns, lines) = (weights.kind, weights.columns, weights.panel(panel));
    let mut sums = vec![[[0.0f32; PANEL_ROWS]; 2]; out.len()];
    for column in 0..columns {
        let weights: [f32; PANEL_ROWS] = std::array::from_fn(|lane| {
            let (line, byte) = place(kind, column, lane);
            kind.value(&lines[line].0[byte..])
        });
        for (sums, input) in sums.iter_mut().zip(input.chunks_exact(columns)) {
            let activation = input[column];
            for (sum, weight) in sums[column % 2].iter_mut().zip(weights) {
                *sum += weight * activation;
            }
        }
    }
    for (out, [even, odd]) in out.iter_mut().zip(sums) {
        *out = std::array::from_fn(|lane| even[lane] + odd[lane]);
    }
}
