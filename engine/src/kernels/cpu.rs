//! Which instructions this processor has, and the kernels written for them.

pub mod portable;
#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;

use super::activations::QuantizedActivations;
use super::packed::{PANEL_ROWS, PackedMatrix};

/// A set of instructions that kernels exist for, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// Any processor: what the compiler makes of plain Rust.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI, beside AVX2's.
    Avx512Vnni,
}

impl InstructionSet {
    /// The strongest set of this processor, or a weaker one that `CHASKI_CPU` names (`portable`, `avx2`, `avx512`).
    ///
    /// # Errors
    /// When the variable names a set that does not exist, or that this processor does not have.
    pub fn detect() -> Result<Self, String> {
        let strongest = Self::strongest();
        let asked = match std::env::var("CHASKI_CPU") {
            Err(_) => return Ok(strongest),
            Ok(asked) => asked,
        };
        let set = match asked.as_str() {
            "portable" => Self::Portable,
            "avx2" => Self::Avx2,
            "avx512" => Self::Avx512Vnni,
            other => {
                return Err(format!("CHASKI_CPU is `{other}`; known are `portable`, `avx2` and `avx512`"));
            }
        };
        if set > strongest {
            return Err(format!(
                "CHASKI_CPU is `{asked}`, but this processor offers no more than {strongest:?}"
            ));
        }
        Ok(set)
    }

    fn strongest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 && avx512 {
                return Self::Avx512Vnni;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// The sets that this processor has, weakest first.
    #[cfg(test)]
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Portable, Self::Avx2, Self::Avx512Vnni].into_iter().filter(|set| *set <= Self::strongest())
    }
}

/// Most tokens that [`panel`] takes at once.
pub const MAX_TOKENS: usize = 12;

/// The dot products of one panel of 16 rows with the tokens `first .. first + out.len()` of `input`.
pub(super) fn panel(
    set: InstructionSet,
    weights: &PackedMatrix,
    index: usize,
    input: &QuantizedActivations,
    first: usize,
    out: &mut [[f32; PANEL_ROWS]],
) {
    match set {
        InstructionSet::Portable => portable::panel(weights, index, input, first, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Avx2` comes from `detect`, which asked the processor.
        InstructionSet::Avx2 => unsafe { avx2::panel(weights, index, input, first, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Avx512Vnni` comes from `detect`, which asked the processor.
        InstructionSet::Avx512Vnni => unsafe { avx512::panel(weights, index, input, first, out) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("only x86-64 has AVX"),
    }
}
