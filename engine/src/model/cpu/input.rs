//! The rows that matrices read, rounded as each of them needs.
//!
//! Matrices that read the same rows share one rounding, unless one wants its columns in an order of its own
//! (GPTQ with act-order).

use crate::kernels::activations::QuantizedActivations;
use crate::kernels::cpu::InstructionSet;
use crate::kernels::matmul::Input;
use crate::kernels::matrix::Matrix;
use crate::kernels::threads::ThreadPool;

/// Memory for the roundings of one set of rows.
#[derive(Default)]
pub(super) struct Rounded {
    shared: QuantizedActivations,
    own: [QuantizedActivations; 3],
    gathered: Vec<f32>,
}

impl Rounded {
    /// What each of `matrices` reads of `values`, (tokens, columns).
    pub fn inputs<'a, const N: usize>(
        &'a mut self,
        set: InstructionSet,
        pool: &mut ThreadPool,
        values: &'a [f32],
        matrices: [&Matrix; N],
    ) -> [Input<'a>; N] {
        let columns = matrices[0].columns();
        let shares = |matrix: &Matrix| matches!(matrix, Matrix::Packed(_)) && matrix.permutation().is_none();
        if matrices.iter().any(|matrix| shares(matrix)) {
            self.shared.quantize(set, pool, values, columns);
        }
        for (matrix, own) in matrices.iter().zip(&mut self.own) {
            let Some(permutation) = matrix.permutation() else { continue };
            self.gathered.clear();
            for row in values.chunks_exact(columns) {
                self.gathered.extend(permutation.iter().map(|&column| row[column as usize]));
            }
            own.quantize(set, pool, &self.gathered, columns);
        }
        let (shared, own) = (&self.shared, &self.own);
        std::array::from_fn(|index| Input {
            values,
            rounded: if matrices[index].permutation().is_some() { &own[index] } else { shared },
        })
    }
}
