//! What a forward pass gives: one row of logits for each position that was asked for.

/// Logits, (positions, vocabulary), f32.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    vocabulary: usize,
    values: Vec<f32>,
}

impl Logits {
    /// Rows of `vocabulary` logits each.
    ///
    /// # Panics
    /// When `values` is no whole number of rows: a bug in the forward pass.
    pub fn new(vocabulary: usize, values: Vec<f32>) -> Self {
        assert!(vocabulary > 0 && values.len().is_multiple_of(vocabulary), "whole rows of logits");
        Self { vocabulary, values }
    }

    /// Positions.
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocabulary
    }

    /// The logits of position `row`, (vocabulary,).
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.vocabulary..][..self.vocabulary]
    }
}
