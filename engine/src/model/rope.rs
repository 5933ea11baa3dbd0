//! Rotary position embedding: the tables, and the rotation.
//!
//! Source: RoFormer, section 3.4.2; position interpolation divides every frequency by its factor; Llama 3.1
//! files carry the divisors of their own scaling rule ready-made in `rope_freqs.weight`.

use candle_core::{Device, Tensor};

/// How the rotary frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Every frequency is divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
}

/// Cosines and sines for every position of the context.
pub struct RopeTables {
    cos: Tensor, // (context, head_dim / 2)
    sin: Tensor,
}

impl RopeTables {
    /// Tables for positions `0..context`. `divisors`: one per frequency, from `rope_freqs.weight`.
    ///
    /// Angles are computed in f64 and stored in f32: position 8191 times frequency 1 needs 13 bits before
    /// the point, which leaves a plain f32 product only 10 after it.
    pub fn new(
        head_dim: usize,
        context: usize,
        theta: f32,
        scaling: &RopeScaling,
        divisors: Option<&[f32]>,
        device: &Device,
    ) -> candle_core::Result<Self> {
        let frequencies = frequencies(head_dim, theta, scaling, divisors);
        let mut cos = Vec::with_capacity(context * frequencies.len());
        let mut sin = Vec::with_capacity(context * frequencies.len());
        for position in 0..context {
            for frequency in &frequencies {
                let (sine, cosine) = (position as f64 * frequency).sin_cos();
                cos.push(cosine as f32);
                sin.push(sine as f32);
            }
        }
        let shape = (context, frequencies.len());
        Ok(Self { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }

    /// Tokens of context that the tables cover.
    pub fn context(&self) -> usize {
        self.cos.dims()[0]
    }

    /// Rotates `x`: (heads, tokens, head_dim), contiguous, whose first token stands at `position`.
    ///
    /// GGUF files hold the rows of `q` and `k` permuted so that the two halves of a rotated pair are
    /// neighbours, hence the interleaved form.
    pub fn rotate(&self, x: &Tensor, position: usize) -> candle_core::Result<Tensor> {
        let (_heads, tokens, _head_dim) = x.dims3()?;
        let cos = self.cos.narrow(0, position, tokens)?;
        let sin = self.sin.narrow(0, position, tokens)?;
        candle_nn::rotary_emb::rope_i(&x.unsqueeze(0)?, &cos, &sin)?.squeeze(0)
    }
}

/// Radians per position, one for each pair of dimensions.
fn frequencies(head_dim: usize, theta: f32, scaling: &RopeScaling, divisors: Option<&[f32]>) -> Vec<f64> {
    let factor = match scaling {
        RopeScaling::None => 1.0,
        RopeScaling::Linear { factor } => f64::from(*factor),
    };
    (0..head_dim / 2)
        .map(|pair| {
            let base = f64::from(theta).powf(-2.0 * pair as f64 / head_dim as f64);
            let divisor = divisors.map_or(1.0, |divisors| f64::from(divisors[pair]));
            base / factor / divisor
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(scaling: RopeScaling, divisors: Option<&[f32]>, expected: &[f64]) {
        let found = frequencies(8, 10_000.0, &scaling, divisors);
        let same = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-9);
        assert!(same && found.len() == expected.len(), "{found:?} is not {expected:?}");
    }

    #[test]
    fn frequencies_fall_by_equal_factors() {
        check(RopeScaling::None, None, &[1.0, 0.1, 0.01, 0.001])
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        check(RopeScaling::Linear { factor: 2.0 }, None, &[0.5, 0.05, 0.005, 0.0005])
    }

    #[test]
    fn divisors_apply_one_by_one() {
        check(RopeScaling::None, Some(&[1.0, 1.0, 2.0, 8.0]), &[1.0, 0.1, 0.005, 0.000125])
    }

    #[test]
    fn neighbours_rotate_as_pairs_by_their_position() {
        let tables = RopeTables::new(4, 6000, 100.0, &RopeScaling::None, None, &Device::Cpu).unwrap();
        let x = Tensor::new(&[[[1f32, 0.0, 0.0, 1.0]]], &Device::Cpu).unwrap();
        let rotated = tables.rotate(&x, 5000).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (first, second) = (5000f64, 500f64);
        let expected = [first.cos(), first.sin(), -second.sin(), second.cos()];
        for (found, expected) in rotated.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{rotated:?}");
        }
    }
}
