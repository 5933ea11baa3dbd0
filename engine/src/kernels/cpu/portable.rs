//! Matrix products in plain Rust: the specification that the other kernels are tested against.

use crate::kernels::activations::QuantizedActivations;
use crate::kernels::packed::{BLOCK_COLUMNS, Encoding, PANEL_ROWS, PackedMatrix};

/// Adds nothing, assumes nothing: `out[t - first][lane]` is the dot product of token `t` and row
/// `16 * panel + lane`, for the tokens `first .. first + out.len()`.
pub fn panel(
    weights: &PackedMatrix,
    panel: usize,
    input: &QuantizedActivations,
    first: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    let encoding = weights.encoding();
    let blocks = weights.blocks();
    let lines = encoding.block_bytes() / 64;
    let parts = encoding.scales();
    let panel = weights.panel(panel);
    for (token, out) in (first..).zip(out) {
        *out = [0.0; PANEL_ROWS];
        let quants = &input.quants[token * input.columns()..][..input.columns()];
        for block in 0..blocks {
            let activations = &quants[block * BLOCK_COLUMNS..][..BLOCK_COLUMNS];
            let scale = input.scales[token * blocks + block];
            let sums = &input.sums[(token * blocks + block) * 2..][..2];
            let lines = &panel.quants[block * lines..][..lines];
            for (lane, out) in out.iter_mut().enumerate() {
                let mut dot = [0i32; 2];
                for (column, &activation) in activations.iter().enumerate() {
                    let stored = match encoding {
                        Encoding::Four | Encoding::FourMin => {
                            let byte = lines[column / 8].0[lane * 4 + column % 4];
                            if column % 8 < 4 { byte & 15 } else { byte >> 4 }
                        }
                        Encoding::Eight | Encoding::EightHalf | Encoding::EightMin => {
                            lines[column / 4].0[lane * 4 + column % 4]
                        }
                    };
                    dot[column / 16] += i32::from(stored) * i32::from(activation);
                }
                let zero = -encoding.zero() as f32;
                let weight = |part: usize| panel.scales[(block * parts + part) * PANEL_ROWS + lane].to_f32();
                *out += match parts {
                    1 => ((dot[0] + dot[1]) as f32 * scale + zero * (sums[0] + sums[1])) * weight(0),
                    _ => {
                        (dot[0] as f32 * scale + zero * sums[0]) * weight(0)
                            + (dot[1] as f32 * scale + zero * sums[1]) * weight(1)
                    }
                };
                if let Some(min) = panel.mins.get(block * PANEL_ROWS + lane) {
                    *out += min.to_f32() * (sums[0] + sums[1]);
                }
            }
        }
    }
}
