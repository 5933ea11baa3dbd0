//! A weight matrix in the form that its kernels read.

use super::float::FloatMatrix;
use super::packed::PackedMatrix;

/// A weight matrix, (outputs, inputs).
pub enum Matrix {
    /// Integers with scales; activations are rounded to 8 bits.
    Packed(PackedMatrix),
    /// f32, f16 or bf16.
    Float(FloatMatrix),
}

impl Matrix {
    /// Outputs.
    pub fn rows(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.rows(),
            Self::Float(matrix) => matrix.rows(),
        }
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.columns(),
            Self::Float(matrix) => matrix.columns(),
        }
    }

    /// Bytes of memory that the weights take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.bytes(),
            Self::Float(matrix) => matrix.bytes(),
        }
    }

    /// The order in which a product has to gather its input, if it is not the input's own; see
    /// [`PackedMatrix::permutation`].
    pub fn permutation(&self) -> Option<&[u32]> {
        match self {
            Self::Packed(matrix) => matrix.permutation(),
            Self::Float(_) => None,
        }
    }

    /// Row `row` as f32, (columns,): for an embedding table.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Packed(matrix) => matrix.row(row, out),
            Self::Float(matrix) => matrix.row(row, out),
        }
    }
}
