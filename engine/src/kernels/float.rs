//! Weights that stay floating-point numbers, and their dot products with f32 activations.
//!
//! A *panel* is 16 output rows. Inside a panel the 16 rows' values of one column lie together, so that one
//! load feeds 16 outputs and each activation is broadcast to them. Nothing is rounded on the way: a value is
//! kept in the file's own format and widened to f32 in a register.
//!
//! Invariant: `values` has exactly the length that `rows`, `columns` and `kind` imply; kernels rely on it.

mod dot;

use super::cpu::InstructionSet;
use super::lines::{Line, Lines};
use super::packed::PANEL_ROWS;
use super::parallel::fill_panels;
use crate::error::EngineError;

/// The format of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatKind {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
}

impl FloatKind {
    /// Bytes of one value.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The value whose little-endian bytes are the first of `bytes`.
    ///
    /// # Panics
    /// When there are fewer than [`Self::size`] bytes.
    pub fn value(self, bytes: &[u8]) -> f32 {
        match self {
            Self::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Self::F16 => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Self::Bf16 => half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        }
    }
}

/// A weight matrix, `rows` × `columns`, of floating-point numbers in panels.
pub struct FloatMatrix {
    rows: usize,
    columns: usize,
    kind: FloatKind,
    /// (panels, columns, 16), each panel from the start of a line; the last panel is filled up with zeros.
    values: Lines,
}

impl FloatMatrix {
    /// Takes `bytes`: `rows` rows of `columns` little-endian values of `kind`.
    ///
    /// # Errors
    /// [`EngineError::Compute`] when a side is 0 or `bytes` has another length than the shape says.
    pub fn from_rows(
        bytes: &[u8],
        kind: FloatKind,
        rows: usize,
        columns: usize,
    ) -> Result<Self, EngineError> {
        Self::from_reordered_rows(bytes, kind, rows, columns, |row| row)
    }

    /// Like [`Self::from_rows`]; row `row` of the matrix is row `source(row)` of `bytes`.
    ///
    /// # Errors
    /// As [`Self::from_rows`].
    ///
    /// # Panics
    /// When `source` gives a row that `bytes` does not have.
    pub fn from_reordered_rows(
        bytes: &[u8],
        kind: FloatKind,
        rows: usize,
        columns: usize,
        source: impl Fn(usize) -> usize + Sync,
    ) -> Result<Self, EngineError> {
        let row_bytes = columns.checked_mul(kind.size());
        let expected = row_bytes.and_then(|bytes| bytes.checked_mul(rows));
        if rows == 0 || columns == 0 || expected != Some(bytes.len()) {
            return Err(EngineError::Compute(format!(
                "cannot hold {rows}x{columns} {kind:?}: {} bytes do not fit that shape",
                bytes.len()
            )));
        }
        let panels = rows.div_ceil(PANEL_ROWS);
        let lines = panel_lines(kind, columns);
        let mut values = Lines::zeroed(panels * lines);
        fill_panels(values.chunks_exact_mut(lines).enumerate(), rows * columns, |(panel, lines)| {
            let row_bytes = columns * kind.size();
            let row = |lane: usize| match panel * PANEL_ROWS + lane {
                row if row < rows => &bytes[source(row) * row_bytes..][..row_bytes],
                _ => &[],
            };
            let rows: [&[u8]; PANEL_ROWS] = std::array::from_fn(row);
            match kind {
                FloatKind::F32 => fill_panel::<4>(lines, rows),
                FloatKind::F16 | FloatKind::Bf16 => fill_panel::<2>(lines, rows),
            }
        });
        Ok(Self { rows, columns, kind, values })
    }

    /// Output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The format of the values.
    pub fn kind(&self) -> FloatKind {
        self.kind
    }

    /// Panels of 16 rows; the last may be partly padding, which is 0.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    /// Bytes of memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.values.len() * size_of::<Line>()
    }

    /// Bytes of memory that a matrix of this shape takes.
    pub fn bytes_of(kind: FloatKind, rows: usize, columns: usize) -> usize {
        rows.div_ceil(PANEL_ROWS) * panel_lines(kind, columns) * size_of::<Line>()
    }

    /// Row `row` as f32, its first `out.len()` columns: for an embedding table.
    ///
    /// # Panics
    /// When the matrix has no such row, or fewer columns than `out` has room for.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() <= self.columns, "row {row} of {}", self.rows);
        let lines = self.panel(row / PANEL_ROWS);
        for (column, out) in out.iter_mut().enumerate() {
            let (line, byte) = place(self.kind, column, row % PANEL_ROWS);
            *out = self.kind.value(&lines[line].0[byte..]);
        }
    }

    /// The values of one panel, (columns, 16).
    fn panel(&self, panel: usize) -> &[Line] {
        let lines = panel_lines(self.kind, self.columns);
        &self.values[panel * lines..(panel + 1) * lines]
    }
}

/// Puts the values of 16 rows, `SIZE` bytes each, where [`place`] says; rows past the last are empty.
fn fill_panel<const SIZE: usize>(lines: &mut [Line], rows: [&[u8]; PANEL_ROWS]) {
    let rows = rows.map(|row| row.as_chunks::<SIZE>().0);
    let mut column = 0;
    for line in lines {
        let (columns, _) = line.0.as_chunks_mut::<SIZE>().0.as_chunks_mut::<PANEL_ROWS>();
        for values in columns {
            for (value, row) in values.iter_mut().zip(rows) {
                if let Some(found) = row.get(column) {
                    *value = *found;
                }
            }
            column += 1;
        }
    }
}

/// Lines of 64 bytes that one panel takes.
fn panel_lines(kind: FloatKind, columns: usize) -> usize {
    (columns * PANEL_ROWS * kind.size()).div_ceil(size_of::<Line>())
}

/// The line of a panel, and the byte in it, where the value of `column` for `lane` begins.
fn place(kind: FloatKind, column: usize, lane: usize) -> (usize, usize) {
    let byte = (column * PANEL_ROWS + lane) * kind.size();
    (byte / size_of::<Line>(), byte % size_of::<Line>())
}

/// Most tokens that [`panel`] takes at once.
pub const MAX_TOKENS: usize = 12;

/// The dot products of one panel of 16 rows with the tokens `first .. first + out.len()` of `input`:
/// `out[t - first][lane]` belongs to token `t` and row `16 * index + lane`.
///
/// `input`: (tokens, columns). The order in which a token's products are summed does not depend on how many
/// tokens are in the call, so a batch gives the same bits as its tokens one by one.
///
/// `set` comes from [`InstructionSet::detect`], which has asked the processor.
///
/// # Panics
/// When `input` does not hold these tokens, the matrix has no such panel, or `out` has more than
/// [`MAX_TOKENS`]: a bug in the forward pass.
pub(crate) fn panel(
    set: InstructionSet,
    weights: &FloatMatrix,
    index: usize,
    input: &[f32],
    first: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    let columns = weights.columns;
    assert!(out.len() <= MAX_TOKENS && (first + out.len()) * columns <= input.len(), "tokens of the input");
    let input = &input[first * columns..][..out.len() * columns];
    dot::dot(set, weights, index, input, out);
}

#[cfg(test)]
mod tests;
