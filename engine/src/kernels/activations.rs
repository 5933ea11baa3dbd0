//! Activations rounded to 8 bits, for the integer dot products of [`super::matmul`].
//!
//! Each block of 32 columns of one token has one scale: its largest magnitude becomes 127. The error is at
//! most 1/254 of that magnitude a value. Sums of the quants are kept beside them, because a weight is stored
//! with an offset: `Σ (w - zero) a = Σ w a - zero Σ a`.

use super::packed::BLOCK_COLUMNS;

/// Activations of some tokens, (tokens, columns), as signed bytes with a scale a block.
#[derive(Debug, Default)]
pub struct QuantizedActivations {
    tokens: usize,
    columns: usize,
    /// (tokens, columns)
    pub(super) quants: Vec<i8>,
    /// (tokens, blocks)
    pub(super) scales: Vec<f32>,
    /// (tokens, blocks, 2): sums of the quants of each half block.
    pub(super) sums: Vec<i32>,
}

impl QuantizedActivations {
    /// Tokens held.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns of a token, a multiple of 32.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Takes `input`, (tokens, columns) in f32, in place of what was held. Keeps its memory.
    ///
    /// # Panics
    /// When `columns` is not a multiple of 32 or does not divide `input`: a bug in the forward pass.
    pub fn quantize(&mut self, input: &[f32], columns: usize) {
        assert!(columns > 0 && columns.is_multiple_of(BLOCK_COLUMNS) && input.len().is_multiple_of(columns));
        self.tokens = input.len() / columns;
        self.columns = columns;
        let blocks = input.len() / BLOCK_COLUMNS;
        self.quants.resize(input.len(), 0);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks * 2, 0);
        let quants = self.quants.as_chunks_mut::<BLOCK_COLUMNS>().0;
        let sums = self.sums.as_chunks_mut::<2>().0;
        for (((block, quants), scale), sums) in
            input.as_chunks::<BLOCK_COLUMNS>().0.iter().zip(quants).zip(&mut self.scales).zip(sums)
        {
            (*scale, *sums) = quantize_block(block, quants);
        }
    }
}

/// Rounds one block; returns its scale and the sums of its halves. A block with a NaN or infinity becomes
/// all NaN by its scale, so that it shows in the logits instead of turning into a plausible number.
fn quantize_block(block: &[f32; BLOCK_COLUMNS], quants: &mut [i8; BLOCK_COLUMNS]) -> (f32, [i32; 2]) {
    let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    if !block.iter().all(|value| value.is_finite()) {
        quants.fill(0);
        return (f32::NAN, [0; 2]);
    }
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    for (quant, value) in quants.iter_mut().zip(block) {
        *quant = (value * inverse).round_ties_even() as i8;
    }
    let sum = |half: &[i8]| half.iter().map(|&quant| i32::from(quant)).sum();
    (largest / 127.0, [sum(&quants[..16]), sum(&quants[16..])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_becomes_127() {
        let mut block = [0.0; BLOCK_COLUMNS];
        block[3] = -2.0;
        block[20] = 1.0;
        let mut quants = [0; BLOCK_COLUMNS];
        let (scale, sums) = quantize_block(&block, &mut quants);
        assert_eq!((quants[3], quants[20], sums), (-127, 64, [-127, 64]));
        assert!((scale * 127.0 - 2.0).abs() < 1e-6);
    }

    #[test]
    fn a_zero_block_stays_zero() {
        let mut quants = [1; BLOCK_COLUMNS];
        assert_eq!(quantize_block(&[0.0; BLOCK_COLUMNS], &mut quants), (0.0, [0, 0]));
        assert_eq!(quants, [0; BLOCK_COLUMNS]);
    }

    #[test]
    fn a_nan_shows() {
        let mut block = [1.0; BLOCK_COLUMNS];
        block[7] = f32::NAN;
        let (scale, _) = quantize_block(&block, &mut [0; BLOCK_COLUMNS]);
        assert!(scale.is_nan());
    }
}
