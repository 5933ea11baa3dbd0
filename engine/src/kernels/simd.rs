//! Sixteen f32 at a time, on whatever the processor has.
//!
//! A kernel is written once, generic over [`Simd`] and always inlined; [`multiversion`] compiles it once for
//! each instruction set, inside a function that has those instructions, and calls the one that fits. The
//! portable form is plain Rust over arrays of 16, which is also what other architectures' compilers turn into
//! their own vectors.
//!
//! All forms do the same operations in the same order; where one has a fused multiply-add and another has
//! not, results differ in the last bit.

pub(super) mod portable;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;

/// Lanes of a vector, and tokens of a KV block: a block's keys fill one vector per dimension.
pub const LANES: usize = 16;

/// Vectors of 16 f32.
///
/// # Safety
/// Every function needs a processor that has the implementation's instructions. Pointers are valid for 16
/// elements and need no alignment.
pub(super) trait Simd: Copy {
    /// 16 lanes.
    type F: Copy;
    /// How many of them the registers hold.
    const REGISTERS: usize;

    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, value: Self::F);
    /// Loads 16 IEEE half-precision numbers.
    unsafe fn load_f16(from: *const u16) -> Self::F;
    /// Loads 16 upper halves of f32.
    unsafe fn load_bf16(from: *const u16) -> Self::F;
    /// Loads 16 signed bytes.
    unsafe fn load_i8(from: *const i8) -> Self::F;
    /// A hint that what lies at `at`, which may be any address, is wanted soon.
    unsafe fn prefetch(at: *const u8);
    /// Rounds to nearest, ties to even.
    unsafe fn store_f16(to: *mut u16, value: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the processor can.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// The sum of all lanes, in the same tree in every implementation.
    unsafe fn reduce_add(a: Self::F) -> f32;
    unsafe fn reduce_max(a: Self::F) -> f32;
    /// The first `count` lanes of `a`, the others of `other`.
    unsafe fn keep_first(a: Self::F, count: usize, other: Self::F) -> Self::F;
    /// `a` where `x >= bound`, else 0.
    unsafe fn zero_below(a: Self::F, x: Self::F, bound: f32) -> Self::F;
    /// `a * 2^n` for whole `n` in -126..=127.
    unsafe fn scale_by_power(a: Self::F, n: Self::F) -> Self::F;
    /// Rounds to nearest, ties to even, and stores as signed bytes; returns their sum. `|a| <= 127`.
    unsafe fn store_i8(to: *mut i8, a: Self::F) -> i32;
}

/// e^x with a relative error of some 2e-7; exactly 0 below -87.
///
/// Cody and Waite's reduction to |r| <= ln 2 / 2, then a polynomial of degree 6 (Taylor, error 1e-7 there).
///
/// # Safety
/// As [`Simd`].
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    const LOWEST: f32 = -87.0;
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves a whole number
    // SAFETY: as this function's.
    unsafe {
        let clamped = S::max(S::min(x, S::splat(88.0)), S::splat(LOWEST));
        let n = S::sub(
            S::add(S::mul(clamped, S::splat(std::f32::consts::LOG2_E)), S::splat(ROUND)),
            S::splat(ROUND),
        );
        let r = S::fma(n, S::splat(-0.693_359_4), clamped);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut sum = S::splat(1.0 / 720.0);
        for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            sum = S::fma(sum, r, S::splat(coefficient));
        }
        S::zero_below(S::scale_by_power(sum, n), x, LOWEST)
    }
}

/// Compiles `body::<S>` for every instruction set and calls the one of `set`.
///
/// `pub fn name(arguments) = body;` becomes `pub fn name(set, arguments)`. The body is an
/// `#[inline(always)] unsafe fn` whose only requirement is that of [`Simd`].
macro_rules! multiversion {
    ($($(#[$meta:meta])* $visible:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) = $body:ident;)+) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)] // kernels take plain arrays
        $visible fn $name(set: $crate::kernels::cpu::InstructionSet, $($argument: $type),*) {
            use $crate::kernels::cpu::InstructionSet;
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($argument: $type),*) {
                // SAFETY: this function has the instructions.
                unsafe { $body::<$crate::kernels::simd::avx512::Avx512>($($argument),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($argument: $type),*) {
                // SAFETY: this function has the instructions.
                unsafe { $body::<$crate::kernels::simd::avx2::Avx2>($($argument),*) }
            }
            match set {
                // SAFETY: plain Rust needs no instructions.
                InstructionSet::Portable => unsafe {
                    $body::<$crate::kernels::simd::portable::Portable>($($argument),*)
                },
                // SAFETY: the set comes from `detect`, which asked the processor.
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512Vnni => unsafe { avx512($($argument),*) },
                #[cfg(not(target_arch = "x86_64"))]
                _ => unreachable!("only x86-64 has AVX"),
            }
        }
    )+};
}
pub(super) use multiversion;

#[cfg(test)]
mod tests;
