//! Weights repacked for integer dot products.
//!
//! A *panel* is 16 output rows. Inside a panel, columns come in blocks of 32, and inside a block the four
//! columns that one 32-bit lane multiplies lie together for each of the 16 rows: one 64-byte load feeds 16
//! rows at once. Scales (and minima) lie in arrays of their own, 16 to a block or half block.
//!
//! A weight is `scale * (stored - zero)` or `scale * stored + min`, with `stored` unsigned, because the
//! integer dot product of x86 multiplies unsigned by signed bytes.
//!
//! Invariant: `quants`, `scales` and `mins` have exactly the lengths that `rows`, `columns` and `encoding`
//! imply; kernels rely on it.

use candle_core::quantized::GgmlDType;
use half::f16;

use super::packed::source::SourceBlocks;
use crate::error::EngineError;

mod source;

/// Output rows of a panel: the 32-bit lanes of a 512-bit register.
pub const PANEL_ROWS: usize = 16;
/// Columns of a block: what one activation scale covers.
pub const BLOCK_COLUMNS: usize = 32;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 4 bits, zero 8, a scale for 32 columns: Q4_0.
    Four,
    /// 4 bits, a scale and a minimum for 32 columns: Q4_1, Q4_K.
    FourMin,
    /// 8 bits, zero 128, a scale for 32 columns: Q8_0.
    Eight,
    /// 8 bits, zero 128, a scale for 16 columns: Q6_K, Q5_0 and Q5_1 by way of f32.
    EightHalf,
}

impl Encoding {
    /// Bytes of quants in one block of one panel.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Four | Self::FourMin => PANEL_ROWS * BLOCK_COLUMNS / 2,
            Self::Eight | Self::EightHalf => PANEL_ROWS * BLOCK_COLUMNS,
        }
    }

    /// Scales of one row in one block.
    pub const fn scales(self) -> usize {
        match self {
            Self::EightHalf => 2,
            _ => 1,
        }
    }

    /// What is subtracted from a stored weight.
    pub const fn zero(self) -> i32 {
        match self {
            Self::Four => 8,
            Self::FourMin => 0,
            Self::Eight | Self::EightHalf => 128,
        }
    }

    /// The encoding that keeps every bit of a GGUF type, if there is one.
    pub fn of(dtype: GgmlDType) -> Option<Self> {
        match dtype {
            GgmlDType::Q4_0 => Some(Self::Four),
            GgmlDType::Q4_1 | GgmlDType::Q4K => Some(Self::FourMin),
            GgmlDType::Q8_0 => Some(Self::Eight),
            GgmlDType::Q6K => Some(Self::EightHalf),
            _ => None,
        }
    }
}

/// A cache line, so that buffers of them are aligned for 64-byte loads.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u8; 64]);

/// A weight matrix, `rows` × `columns`, in panels.
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    encoding: Encoding,
    quants: Vec<Line>,
    /// (panels, blocks, scales a block, 16)
    scales: Vec<f16>,
    /// (panels, blocks, 16), or empty.
    mins: Vec<f16>,
}

impl PackedMatrix {
    /// Repacks the GGUF blocks in `bytes`: `rows` rows of `columns` weights of `dtype`.
    ///
    /// # Errors
    /// [`EngineError::Compute`] when the type has no encoding, the columns do not fill whole blocks, or
    /// `bytes` has another length than the shape says.
    pub fn from_gguf(
        bytes: &[u8],
        dtype: GgmlDType,
        rows: usize,
        columns: usize,
    ) -> Result<Self, EngineError> {
        let fault = |reason: String| {
            EngineError::Compute(format!("cannot repack {rows}x{columns} {dtype:?}: {reason}"))
        };
        let encoding = Encoding::of(dtype).ok_or_else(|| fault("no integer encoding".into()))?;
        let source = SourceBlocks::new(bytes, dtype, rows, columns).map_err(fault)?;
        let panels = rows.div_ceil(PANEL_ROWS);
        let blocks = columns / BLOCK_COLUMNS;
        let mut matrix = Self {
            rows,
            columns,
            encoding,
            quants: vec![Line([0; 64]); panels * blocks * encoding.block_bytes() / 64],
            scales: vec![f16::ZERO; panels * blocks * encoding.scales() * PANEL_ROWS],
            mins: vec![
                f16::ZERO;
                if encoding == Encoding::FourMin { panels * blocks * PANEL_ROWS } else { 0 }
            ],
        };
        for row in 0..rows {
            for block in 0..blocks {
                matrix.place(row, block, &source.block(row, block));
            }
        }
        Ok(matrix)
    }

    /// Puts one row's 32 weights where the kernels read them.
    fn place(&mut self, row: usize, block: usize, source: &source::Block) {
        let blocks = self.blocks();
        let (panel, lane) = (row / PANEL_ROWS, row % PANEL_ROWS);
        let at = panel * blocks + block;
        let bytes = self.encoding.block_bytes();
        for (column, &quant) in source.quants.iter().enumerate() {
            // 4-bit: a byte holds columns c and c + 4 of a group of 8. 8-bit: a group of 4 columns a line.
            let (line, byte, shift) = match self.encoding {
                Encoding::Four | Encoding::FourMin => {
                    (column / 8, lane * 4 + column % 4, if column % 8 < 4 { 0 } else { 4 })
                }
                Encoding::Eight | Encoding::EightHalf => (column / 4, lane * 4 + column % 4, 0),
            };
            self.quants[at * bytes / 64 + line].0[byte] |= quant << shift;
        }
        let scales = self.encoding.scales();
        for (part, &scale) in source.scales[..scales].iter().enumerate() {
            self.scales[(at * scales + part) * PANEL_ROWS + lane] = scale;
        }
        if let Some(min) = self.mins.get_mut(at * PANEL_ROWS + lane) {
            *min = source.min;
        }
    }

    /// Output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns, a multiple of 32.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How the weights are stored.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Blocks of 32 columns in a row.
    pub fn blocks(&self) -> usize {
        self.columns / BLOCK_COLUMNS
    }

    /// Panels of 16 rows; the last may be partly padding, whose scales are 0.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Bytes of memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.quants.len() * 64 + (self.scales.len() + self.mins.len()) * 2
    }

    /// The quants, scales and minima of one panel.
    pub(super) fn panel(&self, panel: usize) -> Panel<'_> {
        let blocks = self.blocks();
        let lines = blocks * self.encoding.block_bytes() / 64;
        let scales = blocks * self.encoding.scales() * PANEL_ROWS;
        let mins = if self.mins.is_empty() { 0 } else { blocks * PANEL_ROWS };
        Panel {
            quants: &self.quants[panel * lines..(panel + 1) * lines],
            scales: &self.scales[panel * scales..(panel + 1) * scales],
            mins: &self.mins[panel * mins..(panel + 1) * mins],
        }
    }

    /// Row `row` as f32: for an embedding table that is also the output head.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (lane, panel) = (row % PANEL_ROWS, self.panel(row / PANEL_ROWS));
        let lines = self.encoding.block_bytes() / 64;
        for (column, out) in out.iter_mut().enumerate().take(self.columns) {
            let (block, inside) = (column / BLOCK_COLUMNS, column % BLOCK_COLUMNS);
            let stored = match self.encoding {
                Encoding::Four | Encoding::FourMin => {
                    let byte = panel.quants[block * lines + inside / 8].0[lane * 4 + inside % 4];
                    if inside % 8 < 4 { byte & 15 } else { byte >> 4 }
                }
                Encoding::Eight | Encoding::EightHalf => {
                    panel.quants[block * lines + inside / 4].0[lane * 4 + inside % 4]
                }
            };
            let part = inside * self.encoding.scales() / BLOCK_COLUMNS;
            let scale = panel.scales[(block * self.encoding.scales() + part) * PANEL_ROWS + lane].to_f32();
            let min = panel.mins.get(block * PANEL_ROWS + lane).map_or(0.0, |min| min.to_f32());
            *out = scale * (i32::from(stored) - self.encoding.zero()) as f32 + min;
        }
    }
}

/// One panel's share of the arrays.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) quants: &'a [Line],
    pub(super) scales: &'a [f16],
    pub(super) mins: &'a [f16],
}

#[cfg(test)]
mod tests;
