//! Plain Rust: the specification of the others.

use half::f16;

use super::{LANES, Simd};

#[derive(Clone, Copy)]
pub(in crate::kernels) struct Portable;

#[inline(always)]
fn each(a: [f32; LANES], b: [f32; LANES], operation: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|lane| operation(a[lane], b[lane]))
}

/// Folds halves onto each other: the tree that shuffles make.
#[inline(always)]
fn reduce(mut a: [f32; LANES], operation: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            a[lane] = operation(a[lane], a[lane + width]);
        }
        width /= 2;
    }
    a[0]
}

// SAFETY of every `unsafe` block below: the caller's pointers are valid for 16 elements, as the trait asks.
impl Simd for Portable {
    type F = [f32; LANES];
    const REGISTERS: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        // SAFETY: see above.
        unsafe { from.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::F) {
        // SAFETY: see above.
        unsafe { to.cast::<Self::F>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        // SAFETY: see above.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::F {
        // SAFETY: see above.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self::F {
        // SAFETY: see above.
        unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, value: Self::F) {
        let bits = value.map(|value| f16::from_f32(value).to_bits());
        // SAFETY: see above.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn reduce_add(a: Self::F) -> f32 {
        reduce(a, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn reduce_max(a: Self::F) -> f32 {
        reduce(a, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn keep_first(a: Self::F, count: usize, other: Self::F) -> Self::F {
        std::array::from_fn(|lane| if lane < count { a[lane] } else { other[lane] })
    }
    #[inline(always)]
    unsafe fn zero_below(a: Self::F, x: Self::F, bound: f32) -> Self::F {
        each(a, x, |a, x| if x >= bound { a } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn scale_by_power(a: Self::F, n: Self::F) -> Self::F {
        each(a, n, |a, n| a * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, a: Self::F) -> i32 {
        let bytes = a.map(|value| value.round_ties_even() as i8);
        // SAFETY: see above.
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(bytes) };
        bytes.iter().map(|&byte| i32::from(byte)).sum()
    }
}
