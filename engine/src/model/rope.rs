//! Rotary position embedding: the frequencies, the tables, and the rotation.
//!
//! The rotation of a position never changes once its key is in the cache. So a rule that depends on the length
//! of the context (dynamic NTK) is applied for the longest context of the session, once, at load.
//!
//! Source: RoFormer, section 3.4.2. Scaling rules: position interpolation (Chen et al., 2023), NTK-aware
//! scaling (bloc97, 2023), YaRN (Peng et al., 2023), Llama 3.1's `apply_scaling`; names and defaults as in
//! transformers' `modeling_rope_utils.py`.

use std::f64::consts::PI;
use std::fmt;

use candle_core::{Device, Tensor};

/// Far above any model: the longest go from 4,096 to a million tokens, a factor of 256.
const MAX_FACTOR: f32 = 16_384.0;

/// How the rotary frequencies are stretched, so that more positions fit than the model was trained with.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Every frequency is divided by `factor`.
    Linear {
        /// The divisor, at least 1.
        factor: f32,
    },
    /// The base grows so that the slowest frequency is divided by `factor` and the fastest stays.
    Ntk {
        /// At least 1.
        factor: f32,
    },
    /// Like [`Self::Ntk`], by as much as the session's context needs; nothing changes up to
    /// `original_context`. The base is fixed for a session, because cached keys keep their rotation.
    DynamicNtk {
        /// At least 1.
        factor: f32,
        /// Tokens that the model was trained with.
        original_context: usize,
    },
    /// Slow frequencies are divided by `factor`, fast ones stay, with a ramp between.
    Yarn(YarnScaling),
    /// Llama 3.1's rule: long wavelengths are divided by `factor`, short ones stay, with a ramp between.
    Llama3 {
        /// At least 1.
        factor: f32,
        /// Wavelengths above `original_context / low_frequency_factor` are divided.
        low_frequency_factor: f32,
        /// Wavelengths below `original_context / high_frequency_factor` stay.
        high_frequency_factor: f32,
        /// Tokens that the model was first trained with.
        original_context: usize,
    },
    /// The file brings a divisor for every frequency (GGUF's `rope_freqs.weight`).
    Divisors,
}

/// The numbers of YaRN.
#[derive(Clone, Debug, PartialEq)]
pub struct YarnScaling {
    /// At least 1.
    pub factor: f32,
    /// Tokens that the model was first trained with.
    pub original_context: usize,
    /// Frequencies with more turns than this in the original context stay.
    pub beta_fast: f32,
    /// Frequencies with fewer turns than this in the original context are divided by `factor`.
    pub beta_slow: f32,
    /// Cosines and sines are multiplied by this, which sharpens attention.
    pub attention_factor: f32,
    /// Whether the ends of the ramp are rounded outwards to whole pairs.
    pub truncate: bool,
}

impl YarnScaling {
    /// The paper's values for stretching `original_context` by `factor`.
    pub fn new(factor: f32, original_context: usize) -> Self {
        Self {
            factor,
            original_context,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: Self::attention(factor, 1.0),
            truncate: true,
        }
    }

    /// The paper's `0.1 mscale ln(factor) + 1`.
    pub fn attention(factor: f32, mscale: f32) -> f32 {
        if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
    }
}

impl RopeScaling {
    /// What is wrong with the numbers, if anything.
    pub(super) fn fault(&self) -> Option<String> {
        let at_least_1 = |factor: f32| (1.0..=MAX_FACTOR).contains(&factor);
        let sound = match self {
            Self::None | Self::Divisors => true,
            Self::Linear { factor } => *factor > 0.0 && *factor <= MAX_FACTOR,
            Self::Ntk { factor } => at_least_1(*factor),
            Self::DynamicNtk { factor, original_context } => at_least_1(*factor) && *original_context > 0,
            Self::Yarn(YarnScaling {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                attention_factor,
                ..
            }) => {
                at_least_1(*factor)
                    && *original_context > 0
                    && [beta_fast, beta_slow, attention_factor].iter().all(|x| x.is_finite() && **x > 0.0)
                    && beta_fast >= beta_slow
            }
            Self::Llama3 {
                factor,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_context,
            } => {
                at_least_1(*factor)
                    && *original_context > 0
                    && low.is_finite()
                    && high.is_finite()
                    && *low > 0.0
                    && high > low
            }
        };
        (!sound).then(|| format!("rotary scaling {self:?} has numbers that make no sense"))
    }
}

impl fmt::Display for RopeScaling {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => write!(formatter, "none"),
            Self::Linear { factor } => write!(formatter, "linear by {factor}"),
            Self::Ntk { factor } => write!(formatter, "NTK by {factor}"),
            Self::DynamicNtk { factor, original_context } => {
                write!(formatter, "dynamic NTK by {factor} from {original_context} tokens on")
            }
            Self::Yarn(YarnScaling { factor, original_context, .. }) => {
                write!(formatter, "YaRN by {factor} from {original_context} tokens on")
            }
            Self::Llama3 { factor, original_context, .. } => {
                write!(formatter, "Llama 3 by {factor} from {original_context} tokens on")
            }
            Self::Divisors => write!(formatter, "divisors in the file"),
        }
    }
}

/// Cosines and sines for positions `0 .. positions`, as plain numbers.
#[derive(Clone, Debug)]
pub struct RopeAngles {
    /// (positions, head_dim / 2).
    pub cos: Vec<f32>,
    /// (positions, head_dim / 2).
    pub sin: Vec<f32>,
    /// Pairs of dimensions: head_dim / 2.
    pub pairs: usize,
}

impl RopeAngles {
    /// Angles for a session of at most `context` tokens. `divisors`: one per frequency, from `rope_freqs.weight`.
    ///
    /// Angles are computed in f64 and stored in f32: position 8191 times frequency 1 needs 13 bits before
    /// the point, which leaves a plain f32 product only 10 after it.
    pub fn new(
        head_dim: usize,
        context: usize,
        theta: f32,
        scaling: &RopeScaling,
        divisors: Option<&[f32]>,
    ) -> Self {
        let frequencies = frequencies(head_dim, context, theta, scaling, divisors);
        let magnitude = match scaling {
            RopeScaling::Yarn(yarn) => f64::from(yarn.attention_factor),
            _ => 1.0,
        };
        let mut cos = Vec::with_capacity(context * frequencies.len());
        let mut sin = Vec::with_capacity(context * frequencies.len());
        for position in 0..context {
            for frequency in &frequencies {
                let (sine, cosine) = (position as f64 * frequency).sin_cos();
                cos.push((cosine * magnitude) as f32);
                sin.push((sine * magnitude) as f32);
            }
        }
        Self { cos, sin, pairs: frequencies.len() }
    }
}

/// Cosines and sines for every position of the context.
pub struct RopeTables {
    cos: Tensor, // (context, head_dim / 2)
    sin: Tensor,
}

impl RopeTables {
    /// Tables of [`RopeAngles::new`] on a device.
    pub fn new(
        head_dim: usize,
        context: usize,
        theta: f32,
        scaling: &RopeScaling,
        divisors: Option<&[f32]>,
        device: &Device,
    ) -> candle_core::Result<Self> {
        let RopeAngles { cos, sin, pairs } = RopeAngles::new(head_dim, context, theta, scaling, divisors);
        let shape = (context, pairs);
        Ok(Self { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }

    /// Tokens of context that the tables cover.
    pub fn context(&self) -> usize {
        self.cos.dims()[0]
    }

    /// Rotates `x`: (heads, tokens, head_dim), contiguous, whose first token stands at `position`.
    ///
    /// The rows of `q` and `k` are permuted so that the two halves of a rotated pair are neighbours (GGUF's
    /// order, see [`super::checkpoint`]), hence the interleaved form.
    pub fn rotate(&self, x: &Tensor, position: usize) -> candle_core::Result<Tensor> {
        let (_heads, tokens, _head_dim) = x.dims3()?;
        let cos = self.cos.narrow(0, position, tokens)?;
        let sin = self.sin.narrow(0, position, tokens)?;
        candle_nn::rotary_emb::rope_i(&x.unsqueeze(0)?, &cos, &sin)?.squeeze(0)
    }
}

/// Radians per position, one for each pair of dimensions, for sessions of at most `context` tokens.
fn frequencies(
    head_dim: usize,
    context: usize,
    theta: f32,
    scaling: &RopeScaling,
    divisors: Option<&[f32]>,
) -> Vec<f64> {
    let theta = f64::from(theta);
    let ntk = |stretch: f64| theta * stretch.powf(head_dim as f64 / (head_dim as f64 - 2.0).max(1.0));
    let base = match *scaling {
        RopeScaling::Ntk { factor } => ntk(factor.into()),
        RopeScaling::DynamicNtk { factor, original_context } => {
            let length = context.max(original_context) as f64 / original_context as f64;
            ntk(f64::from(factor) * length - (f64::from(factor) - 1.0))
        }
        _ => theta,
    };
    let ramp = match scaling {
        RopeScaling::Yarn(yarn) => yarn_ramp(yarn, head_dim, theta),
        _ => Vec::new(),
    };
    (0..head_dim / 2)
        .map(|pair| {
            let plain = base.powf(-2.0 * pair as f64 / head_dim as f64);
            let scaled = match *scaling {
                RopeScaling::Linear { factor } => plain / f64::from(factor),
                RopeScaling::Yarn(YarnScaling { factor, .. }) => {
                    plain / f64::from(factor) * ramp[pair] + plain * (1.0 - ramp[pair])
                }
                RopeScaling::Llama3 {
                    factor,
                    low_frequency_factor,
                    high_frequency_factor,
                    original_context,
                } => {
                    // Turns in the original context, against the two limits.
                    let turns = plain * original_context as f64 / (2.0 * PI);
                    let (low, high) = (f64::from(low_frequency_factor), f64::from(high_frequency_factor));
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - kept) * plain / f64::from(factor) + kept * plain
                }
                _ => plain,
            };
            scaled / divisors.map_or(1.0, |divisors| f64::from(divisors[pair]))
        })
        .collect()
}

/// How much of each frequency is divided: 0 for fast ones, 1 for slow ones.
fn yarn_ramp(yarn: &YarnScaling, head_dim: usize, theta: f64) -> Vec<f64> {
    // The pair, as a fraction, that turns `turns` times in the original context.
    let pair_of = |turns: f32| {
        let wavelength = yarn.original_context as f64 / (f64::from(turns) * 2.0 * PI);
        head_dim as f64 * wavelength.ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (pair_of(yarn.beta_fast), pair_of(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
    if low == high {
        high += 0.001; // a step instead of a ramp
    }
    (0..head_dim / 2).map(|pair| ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0)).collect()
}

#[cfg(test)]
mod tests;
