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

use super::lines::{Line, Lines};
use super::parallel::fill_panels;
use crate::error::EngineError;

mod source;

pub use source::Block;
use source::SourceBlocks;

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
    /// 8 bits, zero 128, a scale for 32 columns: Q8_0, Q5_0.
    Eight,
    /// 8 bits, zero 128, a scale for 16 columns: Q6_K.
    EightHalf,
    /// 8 bits, a scale and a minimum for 32 columns: Q5_1, Q5_K.
    EightMin,
}

impl Encoding {
    /// Bytes of quants in one block of one panel.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Four | Self::FourMin => PANEL_ROWS * BLOCK_COLUMNS / 2,
            Self::Eight | Self::EightHalf | Self::EightMin => PANEL_ROWS * BLOCK_COLUMNS,
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
            Self::FourMin | Self::EightMin => 0,
            Self::Eight | Self::EightHalf => 128,
        }
    }

    /// The encoding that keeps every bit of a GGUF type, if there is one.
    pub fn of(dtype: GgmlDType) -> Option<Self> {
        match dtype {
            GgmlDType::Q4_0 => Some(Self::Four),
            GgmlDType::Q4_1 | GgmlDType::Q4K => Some(Self::FourMin),
            GgmlDType::Q8_0 | GgmlDType::Q5_0 => Some(Self::Eight),
            GgmlDType::Q6K => Some(Self::EightHalf),
            GgmlDType::Q5_1 | GgmlDType::Q5K => Some(Self::EightMin),
            _ => None,
        }
    }

    /// Bits of a stored weight.
    const fn bits(self) -> usize {
        match self {
            Self::Four | Self::FourMin => 4,
            Self::Eight | Self::EightHalf | Self::EightMin => 8,
        }
    }

    /// Whether weights have a minimum.
    const fn has_min(self) -> bool {
        matches!(self, Self::FourMin | Self::EightMin)
    }

    /// Where the weight of `column` of a block, for `lane`, is stored: line, byte, and shift.
    ///
    /// 4 bits: a byte holds columns c and c + 4 of a group of 8. 8 bits: a line holds 4 columns.
    const fn place(self, column: usize, lane: usize) -> (usize, usize, usize) {
        let byte = lane * 4 + column % 4;
        match self.bits() {
            4 => (column / 8, byte, if column % 8 < 4 { 0 } else { 4 }),
            _ => (column / 4, byte, 0),
        }
    }
}

/// A weight matrix, `rows` × `columns`, in panels.
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    encoding: Encoding,
    quants: Lines,
    /// (panels, blocks, scales a block, 16)
    scales: Vec<f16>,
    /// (panels, blocks, 16), or empty.
    mins: Vec<f16>,
    /// See [`Self::permutation`].
    permutation: Option<Vec<u32>>,
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
        Self::from_blocks(encoding, rows, columns, |row, block| source.block(row, block))
    }

    /// Packs what `source` gives for each row and block of 32 columns.
    ///
    /// # Errors
    /// [`EngineError::Compute`] when a side is 0 or the columns do not fill whole blocks.
    pub fn from_blocks(
        encoding: Encoding,
        rows: usize,
        columns: usize,
        source: impl Fn(usize, usize) -> Block + Sync,
    ) -> Result<Self, EngineError> {
        if rows == 0 || columns == 0 || !columns.is_multiple_of(BLOCK_COLUMNS) {
            return Err(EngineError::Compute(format!(
                "cannot pack {rows}x{columns}: the columns do not fill whole blocks of {BLOCK_COLUMNS}"
            )));
        }
        let panels = rows.div_ceil(PANEL_ROWS);
        let blocks = columns / BLOCK_COLUMNS;
        let lines = blocks * encoding.block_bytes() / 64;
        let panel_scales = blocks * encoding.scales() * PANEL_ROWS;
        let panel_mins = if encoding.has_min() { blocks * PANEL_ROWS } else { 0 };
        let mut quants = Lines::zeroed(panels * lines);
        let mut scales = vec![f16::ZERO; panels * panel_scales];
        let mut mins = vec![f16::ZERO; panels * panel_mins];

        let mut mins_left = &mut mins[..];
        let parts = quants.chunks_exact_mut(lines).zip(scales.chunks_exact_mut(panel_scales)).map(
            |(quants, scales)| {
                let (mins, left) = std::mem::take(&mut mins_left).split_at_mut(panel_mins);
                mins_left = left;
                PanelMut { encoding, quants, scales, mins }
            },
        );
        fill_panels(parts.enumerate(), rows * columns, |(panel, mut part)| {
            for lane in 0..PANEL_ROWS.min(rows - panel * PANEL_ROWS) {
                for block in 0..blocks {
                    part.place(lane, block, &source(panel * PANEL_ROWS + lane, block));
                }
            }
        });
        Ok(Self { rows, columns, encoding, quants, scales, mins, permutation: None })
    }

    /// The same matrix, whose column j belongs to column `permutation[j]` of the input.
    ///
    /// # Errors
    /// [`EngineError::Compute`] when `permutation` does not name every column once.
    pub fn with_permutation(mut self, permutation: Vec<u32>) -> Result<Self, EngineError> {
        let mut seen = vec![false; self.columns];
        let once =
            |&column: &u32| seen.get_mut(column as usize).is_some_and(|seen| !std::mem::replace(seen, true));
        if permutation.len() != self.columns || !permutation.iter().all(once) {
            return Err(EngineError::Compute(format!(
                "the order of the columns is no permutation of {}",
                self.columns
            )));
        }
        self.permutation = Some(permutation);
        Ok(self)
    }

    /// The order of the columns, if it is not the input's: column j of the stored matrix is column
    /// `permutation[j]` of the input. A product has to gather its activations by it first; weights quantised
    /// with activation order (GPTQ's `desc_act`) are stored so, because their groups are scattered.
    pub fn permutation(&self) -> Option<&[u32]> {
        self.permutation.as_deref()
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
        self.quants.len() * 64
            + (self.scales.len() + self.mins.len()) * 2
            + self.permutation.as_ref().map_or(0, |permutation| permutation.len() * 4)
    }

    /// Bytes of memory that a matrix of this shape takes, whose columns are in the input's order.
    pub fn bytes_of(encoding: Encoding, rows: usize, columns: usize) -> usize {
        let per_block = encoding.scales() + usize::from(encoding.has_min());
        let block = encoding.block_bytes() + per_block * PANEL_ROWS * size_of::<f16>();
        rows.div_ceil(PANEL_ROWS) * (columns / BLOCK_COLUMNS) * block
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

    /// Row `row` as f32, in the input's order of columns: for an embedding table that is also the output head.
    ///
    /// # Panics
    /// When the matrix has no such row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let (lane, panel) = (row % PANEL_ROWS, self.panel(row / PANEL_ROWS));
        let lines = self.encoding.block_bytes() / 64;
        for column in 0..self.columns {
            let to = self.permutation.as_ref().map_or(column, |permutation| permutation[column] as usize);
            let Some(out) = out.get_mut(to) else { continue };
            let (block, inside) = (column / BLOCK_COLUMNS, column % BLOCK_COLUMNS);
            let (line, byte, shift) = self.encoding.place(inside, lane);
            let mask = if self.encoding.bits() == 4 { 15 } else { 255 };
            let stored = (panel.quants[block * lines + line].0[byte] >> shift) & mask;
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

/// One panel's share of the arrays, while it is filled.
struct PanelMut<'a> {
    encoding: Encoding,
    quants: &'a mut [Line],
    scales: &'a mut [f16],
    mins: &'a mut [f16],
}

impl PanelMut<'_> {
    /// Puts one row's 32 weights where the kernels read them.
    fn place(&mut self, lane: usize, block: usize, source: &Block) {
        let lines = self.encoding.block_bytes() / 64;
        let lines = &mut self.quants[block * lines..(block + 1) * lines];
        // As `Encoding::place` says, a lane's four bytes of a line at a time.
        for (index, line) in lines.iter_mut().enumerate() {
            let bytes = &mut line.0[lane * 4..lane * 4 + 4];
            match self.encoding.bits() {
                4 => {
                    let quants = &source.quants[index * 8..index * 8 + 8];
                    for (column, byte) in bytes.iter_mut().enumerate() {
                        *byte = quants[column] | quants[column + 4] << 4;
                    }
                }
                _ => bytes.copy_from_slice(&source.quants[index * 4..index * 4 + 4]),
            }
        }
        let scales = self.encoding.scales();
        for (part, &scale) in source.scales[..scales].iter().enumerate() {
            self.scales[(block * scales + part) * PANEL_ROWS + lane] = scale;
        }
        if let Some(min) = self.mins.get_mut(block * PANEL_ROWS + lane) {
            *min = source.min;
        }
    }
}

#[cfg(test)]
mod tests;
