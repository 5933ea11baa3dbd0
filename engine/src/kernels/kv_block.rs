//! How the keys and values of 16 tokens of one head are stored: one side of a KV block.
//!
//! Keys lie transposed, (head_dim, 16): one load gives one dimension of 16 tokens. Values lie as they came, (16,
//! head_dim). In 8 bits, each token's 16 neighbouring dimensions share a scale: what one panel of a matrix
//! product gives is rounded by itself, whichever thread computes it and whatever else is in the step.

use half::f16;

use super::cpu::InstructionSet;
use super::simd::{LANES, Simd, multiversion};
use super::threads::SharedSlice;

/// Tokens of a KV block.
pub const BLOCK: usize = LANES;

/// Bytes of the f16 scales of 16 tokens.
const KEY_SCALES: usize = BLOCK * 2;
/// Bytes of 16 dimensions of 16 tokens and their scales.
const KEY_GROUP: usize = KEY_SCALES + LANES * BLOCK;
/// Bytes of 16 dimensions of one token and their scale.
const VALUE_GROUP: usize = 2 + LANES;

/// The numbers that keys and values are kept as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// IEEE half precision: 2 bytes an element.
    #[default]
    F16,
    /// 8 bits, and an f16 scale for 16 elements: 1.125 bytes an element.
    Q8,
}

impl KvFormat {
    /// All of them, by the names that settings use.
    pub const NAMES: [(&str, Self); 2] = [("f16", Self::F16), ("q8", Self::Q8)];

    /// Bytes that the keys, or the values, of one token and head take.
    pub const fn token_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F16 => head_dim * 2,
            Self::Q8 => head_dim / LANES * VALUE_GROUP,
        }
    }

    /// Bytes of one side of a block.
    pub(super) const fn block_bytes(self, head_dim: usize) -> usize {
        BLOCK * self.token_bytes(head_dim)
    }

    /// Names the layout of a KV block's bytes: blocks of another layout are never read.
    pub fn layout(self) -> &'static str {
        match self {
            Self::F16 => "f16 keys (dim, 16), values (16, dim)",
            Self::Q8 => "q8 keys (dim / 16, scales 16, 16, 16), values (16, dim / 16, scale 1, 16)",
        }
    }
}

multiversion! {
    /// 16 numbers as f16, and finite. A value that is not finite shows in the residual stream; here it would
    /// poison a block that others may use later, because 0 times it is not 0.
    fn halves(values: &[f32; LANES], kept: &mut [u16; LANES]) = halves_body;

    /// 16 numbers as 8 bits each, and what they are to be multiplied by; finite as well.
    fn eighths(values: &[f32; LANES], kept: &mut [i8; LANES], scale: &mut f16) = eighths_body;
}

/// Keeps the 16 `values` of a token's key, from dimension `dim` on, in the block that begins at `start`.
///
/// # Safety
/// No other task has to do with these dimensions of this slot meanwhile.
pub(super) unsafe fn store_key(
    format: KvFormat,
    set: InstructionSet,
    cache: &SharedSlice<'_, u8>,
    start: usize,
    dim: usize,
    slot: usize,
    values: &[f32; LANES],
) {
    // The neighbours of a key's bytes are other tokens', which other tasks may write: one byte at a time.
    let set_half = |at: usize, half: u16| {
        for (offset, byte) in half.to_ne_bytes().into_iter().enumerate() {
            // SAFETY: as this function's.
            unsafe { cache.set(at + offset, byte) };
        }
    };
    match format {
        KvFormat::F16 => {
            let mut kept = [0; LANES];
            halves(set, values, &mut kept);
            for (lane, half) in kept.into_iter().enumerate() {
                set_half(start + F16::key_at(dim + lane) + slot * 2, half);
            }
        }
        KvFormat::Q8 => {
            let (mut kept, mut scale) = ([0; LANES], f16::ZERO);
            eighths(set, values, &mut kept, &mut scale);
            set_half(start + Q8::scales_at(dim) + slot * 2, scale.to_bits());
            for (lane, quant) in kept.into_iter().enumerate() {
                // SAFETY: as this function's.
                unsafe { cache.set(start + Q8::key_at(dim + lane) + slot, quant.cast_unsigned()) };
            }
        }
    }
}

/// As [`store_key`], of a value.
///
/// # Safety
/// As [`store_key`].
#[allow(clippy::too_many_arguments)] // a kernel over plain arrays
pub(super) unsafe fn store_value(
    format: KvFormat,
    set: InstructionSet,
    cache: &SharedSlice<'_, u8>,
    start: usize,
    head_dim: usize,
    dim: usize,
    slot: usize,
    values: &[f32; LANES],
) {
    match format {
        KvFormat::F16 => {
            let mut kept = [0; LANES];
            halves(set, values, &mut kept);
            let at = start + F16::value_at(head_dim, dim, slot);
            // SAFETY: as this function's.
            let to = unsafe { cache.part(at..at + LANES * 2) };
            for (to, half) in to.as_chunks_mut().0.iter_mut().zip(kept) {
                *to = half.to_ne_bytes();
            }
        }
        KvFormat::Q8 => {
            let (mut kept, mut scale) = ([0; LANES], f16::ZERO);
            eighths(set, values, &mut kept, &mut scale);
            let at = start + Q8::value_at(head_dim, dim, slot);
            // SAFETY: as this function's.
            let to = unsafe { cache.part(at..at + VALUE_GROUP) };
            to[..2].copy_from_slice(&scale.to_bits().to_ne_bytes());
            for (to, quant) in to[2..].iter_mut().zip(kept) {
                *to = quant.cast_unsigned();
            }
        }
    }
}

/// Reading a block in the innermost loops.
///
/// # Safety
/// Every function needs what [`Simd`] needs, a pointer to a whole side of a block, and dimensions and slots inside
/// it. Dimensions are the first of 16, but for [`Layout::key`].
pub(super) trait Layout {
    /// Whether 16 dimensions of keys have scales.
    const SCALED: bool;
    /// Bytes of 16 dimensions of the keys of a block.
    const KEY_GROUP: usize;

    /// Where dimensions of a token's value lie in its block.
    fn value_at(head_dim: usize, dim: usize, slot: usize) -> usize;
    /// One dimension of 16 tokens, before their scales.
    unsafe fn key<S: Simd>(block: *const u8, dim: usize) -> S::F;
    /// The scales of 16 tokens.
    unsafe fn key_scales<S: Simd>(block: *const u8, dim: usize) -> S::F;
    /// 16 dimensions of one token.
    unsafe fn value<S: Simd>(block: *const u8, head_dim: usize, dim: usize, slot: usize) -> S::F;
}

/// [`KvFormat::F16`].
pub(super) struct F16;

impl F16 {
    const fn key_at(dim: usize) -> usize {
        dim * BLOCK * 2
    }
}

impl Layout for F16 {
    const SCALED: bool = false;
    const KEY_GROUP: usize = LANES * BLOCK * 2;

    #[inline(always)]
    fn value_at(head_dim: usize, dim: usize, slot: usize) -> usize {
        (slot * head_dim + dim) * 2
    }

    #[inline(always)]
    unsafe fn key<S: Simd>(block: *const u8, dim: usize) -> S::F {
        // SAFETY: as this function's.
        unsafe { S::load_f16(block.add(Self::key_at(dim)).cast()) }
    }

    #[inline(always)]
    unsafe fn key_scales<S: Simd>(_block: *const u8, _dim: usize) -> S::F {
        // SAFETY: as this function's.
        unsafe { S::splat(1.0) }
    }

    #[inline(always)]
    unsafe fn value<S: Simd>(block: *const u8, head_dim: usize, dim: usize, slot: usize) -> S::F {
        // SAFETY: as this function's.
        unsafe { S::load_f16(block.add(Self::value_at(head_dim, dim, slot)).cast()) }
    }
}

/// [`KvFormat::Q8`].
pub(super) struct Q8;

impl Q8 {
    const fn scales_at(dim: usize) -> usize {
        dim / LANES * KEY_GROUP
    }

    const fn key_at(dim: usize) -> usize {
        Self::scales_at(dim) + KEY_SCALES + dim % LANES * BLOCK
    }
}

impl Layout for Q8 {
    const SCALED: bool = true;
    const KEY_GROUP: usize = KEY_GROUP;

    #[inline(always)]
    fn value_at(head_dim: usize, dim: usize, slot: usize) -> usize {
        (slot * (head_dim / LANES) + dim / LANES) * VALUE_GROUP
    }

    #[inline(always)]
    unsafe fn key<S: Simd>(block: *const u8, dim: usize) -> S::F {
        // SAFETY: as this function's.
        unsafe { S::load_i8(block.add(Self::key_at(dim)).cast()) }
    }

    #[inline(always)]
    unsafe fn key_scales<S: Simd>(block: *const u8, dim: usize) -> S::F {
        // SAFETY: as this function's.
        unsafe { S::load_f16(block.add(Self::scales_at(dim)).cast()) }
    }

    #[inline(always)]
    unsafe fn value<S: Simd>(block: *const u8, head_dim: usize, dim: usize, slot: usize) -> S::F {
        // SAFETY: as this function's; a scale is two bytes.
        unsafe {
            let group = block.add(Self::value_at(head_dim, dim, slot));
            let scale = f16::from_bits(group.cast::<u16>().read_unaligned()).to_f32();
            S::mul(S::load_i8(group.add(2).cast()), S::splat(scale))
        }
    }
}

/// The largest number that an f16 holds.
const MOST: f32 = 65_504.0;

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn halves_body<S: Simd>(values: &[f32; LANES], kept: &mut [u16; LANES]) {
    // SAFETY: 16 elements each.
    unsafe { S::store_f16(kept.as_mut_ptr(), finite::<S>(values)) }
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn eighths_body<S: Simd>(values: &[f32; LANES], kept: &mut [i8; LANES], scale: &mut f16) {
    const LEVELS: f32 = 127.0;
    // SAFETY: 16 elements each.
    unsafe {
        let values = finite::<S>(values);
        *scale = f16::from_f32(S::reduce_max(S::abs(values)) / LEVELS);
        let scale = scale.to_f32();
        let factor = if scale == 0.0 { 0.0 } else { scale.recip() };
        // The scale may have been rounded down.
        let scaled = S::mul(values, S::splat(factor));
        let inside = S::max(S::min(scaled, S::splat(LEVELS)), S::splat(-LEVELS));
        S::store_i8(kept.as_mut_ptr(), inside);
    }
}

/// # Safety
/// As [`Simd`].
#[inline(always)]
unsafe fn finite<S: Simd>(values: &[f32; LANES]) -> S::F {
    // SAFETY: 16 elements.
    unsafe { S::max(S::min(S::load(values.as_ptr()), S::splat(MOST)), S::splat(-MOST)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `values` as they come back from dimension 16 of slot 5 of a head of 48: as a key, and as a value.
    fn kept(format: KvFormat, set: InstructionSet, values: &[f32; LANES]) -> [[f32; LANES]; 2] {
        let mut block = vec![0; format.block_bytes(48)];
        let mut found = [[0.0; LANES]; 2];
        let (dim, slot) = (16, 5);
        // SAFETY: one task.
        unsafe { store_key(format, set, &SharedSlice::new(&mut block), 0, dim, slot, values) };
        let half =
            |block: &[u8], at: usize| f16::from_bits(u16::from_ne_bytes([block[at], block[at + 1]])).to_f32();
        for lane in 0..LANES {
            found[0][lane] = match format {
                KvFormat::F16 => half(&block, F16::key_at(dim + lane) + slot * 2),
                KvFormat::Q8 => {
                    let quant = block[Q8::key_at(dim + lane) + slot].cast_signed();
                    f32::from(quant) * half(&block, Q8::scales_at(dim) + slot * 2)
                }
            };
        }
        // SAFETY: one task.
        unsafe { store_value(format, set, &SharedSlice::new(&mut block), 0, 48, dim, slot, values) };
        let at = match format {
            KvFormat::F16 => F16::value_at(48, dim, slot),
            KvFormat::Q8 => Q8::value_at(48, dim, slot),
        };
        for lane in 0..LANES {
            found[1][lane] = match format {
                KvFormat::F16 => half(&block, at + lane * 2),
                KvFormat::Q8 => f32::from(block[at + 2 + lane].cast_signed()) * half(&block, at),
            };
        }
        found
    }

    #[test]
    fn what_is_kept_is_near_what_came() {
        let values: [f32; LANES] = std::array::from_fn(|lane| (lane as f32 - 6.0) * 0.37);
        for set in InstructionSet::all() {
            for (format, error) in [(KvFormat::F16, 2e-3), (KvFormat::Q8, 0.014)] {
                for found in kept(format, set, &values) {
                    for (found, value) in found.iter().zip(&values) {
                        assert!((found - value).abs() <= error, "{format:?} {set:?}: {found} of {value}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_or_tiny_is_kept_as_something_finite() {
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30];
        for set in InstructionSet::all() {
            for format in [KvFormat::F16, KvFormat::Q8] {
                for values in
                    [std::array::from_fn(|lane| odd[lane % odd.len()]), [1e-12; LANES], [0.0; LANES]]
                {
                    let found = kept(format, set, &values);
                    assert!(found.as_flattened().iter().all(|kept| kept.is_finite()), "{format:?} {set:?}");
                }
            }
        }
    }

    #[test]
    fn a_block_has_room_for_its_last_element() {
        for head_dim in [16, 128, 256] {
            assert_eq!(F16::key_at(head_dim - 1) + BLOCK * 2, KvFormat::F16.block_bytes(head_dim));
            assert_eq!(F16::value_at(head_dim, head_dim - 1, 15) + 2, KvFormat::F16.block_bytes(head_dim));
            assert_eq!(Q8::key_at(head_dim - 1) + BLOCK, KvFormat::Q8.block_bytes(head_dim));
            let last = Q8::value_at(head_dim, head_dim - 1, 15) + VALUE_GROUP;
            assert_eq!(last, KvFormat::Q8.block_bytes(head_dim));
        }
    }
}
