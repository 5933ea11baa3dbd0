//! Adapters: low-rank products of single sequences' rows, added to those of the model's own matrices.

use crate::kernels::activations::QuantizedActivations;
use crate::kernels::cpu::InstructionSet;
use crate::kernels::linear::linear;
use crate::kernels::matmul::Input;
use crate::kernels::threads::ThreadPool;
use crate::model::adapter::{Adapter, Target};
use crate::scheduler::batch::ScheduledBatch;

/// Memory for what adapters add in one region.
#[derive(Default)]
pub(super) struct Beside {
    addends: [Vec<f32>; 3],
    low: Vec<f32>,
}

impl Beside {
    /// What is added to the products of `targets` of `layer` with `x`, (tokens, inputs): (tokens, outputs) each;
    /// `None` where no sequence of the batch has an adapter for the target.
    #[allow(clippy::too_many_arguments)] // the step's parts, which their owner lends one by one
    pub fn addends<const N: usize>(
        &mut self,
        set: InstructionSet,
        pool: &mut ThreadPool,
        adapters: &[Adapter],
        batch: &ScheduledBatch,
        layer: usize,
        targets: [Target; N],
        x: &[f32],
    ) -> [Option<&[f32]>; N] {
        let Self { addends, low } = self;
        let mut addends = addends.iter_mut();
        targets.map(|target| {
            let addend = addends.next().expect("at most three targets");
            let pair_of = |adapter: Option<usize>| adapters.get(adapter?)?.pair(layer, target);
            let any = batch.sequences.iter().find_map(|sequence| pair_of(sequence.adapter))?;
            let (outputs, inputs) = (any.up.rows(), any.down.columns());
            addend.clear();
            addend.resize(x.len() / inputs * outputs, 0.0);
            let mut end = 0;
            for sequence in &batch.sequences {
                let tokens = sequence.tokens.len();
                let first = end;
                end += tokens;
                let Some(pair) = pair_of(sequence.adapter) else { continue };
                let rounded = QuantizedActivations::default(); // an adapter's matrices are floats
                let values = &x[first * inputs..end * inputs];
                low.clear();
                low.resize(tokens * pair.down.rows(), 0.0);
                linear(set, pool, tokens, &pair.down, Input { values, rounded: &rounded }, None, low);
                low.iter_mut().for_each(|value| *value *= pair.scale);
                let output = &mut addend[first * outputs..end * outputs];
                linear(set, pool, tokens, &pair.up, Input { values: low, rounded: &rounded }, None, output);
            }
            Some(&addend[..])
        })
    }
}
