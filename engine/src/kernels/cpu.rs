//! Which instructions this processor has, and the kernels written for them.

pub mod portable;
#[cfg(target_arch = "x86_64")]
pub mod avx512;

use super::activations::QuantizedActivations;
use super::packed::{PANEL_ROWS, PackedMatrix};

/// A set of instructions that kernels exist for, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// Any processor: what the compiler makes of plain Rust.
    Portable,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
}

impl InstructionSet {
    /// The strongest set of this processor, or a weaker one that `CHASKI_CPU` names (`portable`, `avx512`).
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
            "avx512" => Self::Avx512Vnni,
            other => return Err(format!("CHASKI_CPU is `{other}`; known are `portable` and `avx512`")),
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
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("f16c")
        {
            return Self::Avx512Vnni;
        }
        Self::Portable
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
        // SAFETY: `Avx512Vnni` comes from `detect`, which asked the processor.
        InstructionSet::Avx512Vnni => unsafe { avx512::panel(weights, index, input, first, out) },
        #[cfg(not(target_arch = "x86_64"))]
        InstructionSet::Avx512Vnni => unreachable!("only x86-64 has AVX-512"),
    }
}
