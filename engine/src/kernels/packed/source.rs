//! GGUF blocks, one row's 32 weights at a time, as unsigned quants with f16 scales.
//!
//! Source of the layouts: ggml's `block_q4_0`, `block_q4_1`, `block_q5_0`, `block_q5_1`, `block_q8_0`, `block_q4_K`,
//! `block_q5_K`, `block_q6_K`.

use candle_core::quantized::GgmlDType;
use half::f16;

use super::BLOCK_COLUMNS;

/// 32 weights of one row, before they are packed: `scale * (quant - zero)` or `scale * quant + min`, as the
/// matrix's [`super::Encoding`] says.
#[derive(Clone, Debug)]
pub struct Block {
    /// Unsigned; below 16 where the encoding has 4 bits.
    pub quants: [u8; BLOCK_COLUMNS],
    /// The second is used by encodings with a scale for 16 columns.
    pub scales: [f16; 2],
    /// Used by encodings with a minimum.
    pub min: f16,
}

/// A matrix of GGUF blocks.
pub(super) struct SourceBlocks<'a> {
    bytes: &'a [u8],
    dtype: GgmlDType,
    row_bytes: usize,
}

impl<'a> SourceBlocks<'a> {
    pub(super) fn new(
        bytes: &'a [u8],
        dtype: GgmlDType,
        rows: usize,
        columns: usize,
    ) -> Result<Self, String> {
        let unit = dtype.block_size();
        if columns == 0 || !columns.is_multiple_of(unit) || !columns.is_multiple_of(BLOCK_COLUMNS) {
            return Err(format!("the columns do not fill whole blocks of {unit}"));
        }
        let row_bytes = columns / unit * dtype.type_size();
        if rows.checked_mul(row_bytes) != Some(bytes.len()) {
            return Err(format!("{} bytes instead of {rows} rows of {row_bytes}", bytes.len()));
        }
        Ok(Self { bytes, dtype, row_bytes })
    }

    /// The weights of columns `32 * block ..` of `row`.
    pub(super) fn block(&self, row: usize, block: usize) -> Block {
        let row = &self.bytes[row * self.row_bytes..(row + 1) * self.row_bytes];
        let size = self.dtype.type_size();
        match self.dtype {
            GgmlDType::Q4_0 => q4_0(&row[block * size..(block + 1) * size]),
            GgmlDType::Q4_1 => q4_1(&row[block * size..(block + 1) * size]),
            GgmlDType::Q5_0 => q5_0(&row[block * size..(block + 1) * size]),
            GgmlDType::Q5_1 => q5_1(&row[block * size..(block + 1) * size]),
            GgmlDType::Q8_0 => q8_0(&row[block * size..(block + 1) * size]),
            GgmlDType::Q4K => q4_k(&row[block / 8 * size..(block / 8 + 1) * size], block % 8),
            GgmlDType::Q5K => q5_k(&row[block / 8 * size..(block / 8 + 1) * size], block % 8),
            GgmlDType::Q6K => q6_k(&row[block / 8 * size..(block / 8 + 1) * size], block % 8),
            other => unreachable!("Encoding::of has no encoding for {other:?}"),
        }
    }
}

fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Byte i holds weights i (low) and i + 16 (high).
fn nibbles(bytes: &[u8]) -> [u8; BLOCK_COLUMNS] {
    std::array::from_fn(|column| if column < 16 { bytes[column] & 15 } else { bytes[column - 16] >> 4 })
}

fn q4_0(bytes: &[u8]) -> Block {
    Block { quants: nibbles(&bytes[2..18]), scales: [half_at(bytes, 0); 2], min: f16::ZERO }
}

fn q4_1(bytes: &[u8]) -> Block {
    Block { quants: nibbles(&bytes[4..20]), scales: [half_at(bytes, 0); 2], min: half_at(bytes, 2) }
}

/// The fifth bits of 32 weights lie in four bytes of their own, bit i for weight i.
fn fifth_bits(high: &[u8], low: [u8; BLOCK_COLUMNS]) -> [u8; BLOCK_COLUMNS] {
    std::array::from_fn(|column| low[column] | ((high[column / 8] >> (column % 8)) & 1) << 4)
}

fn q5_0(bytes: &[u8]) -> Block {
    // 5 bits around 16 become 8 bits around 128.
    let quants = fifth_bits(&bytes[2..6], nibbles(&bytes[6..22])).map(|quant| quant + 112);
    Block { quants, scales: [half_at(bytes, 0); 2], min: f16::ZERO }
}

fn q5_1(bytes: &[u8]) -> Block {
    let quants = fifth_bits(&bytes[4..8], nibbles(&bytes[8..24]));
    Block { quants, scales: [half_at(bytes, 0); 2], min: half_at(bytes, 2) }
}

fn q8_0(bytes: &[u8]) -> Block {
    let quants = std::array::from_fn(|column| bytes[2 + column].wrapping_add(128));
    Block { quants, scales: [half_at(bytes, 0); 2], min: f16::ZERO }
}

/// d, dmin, 12 bytes of eight 6-bit scales and minima: the scale and the minimum of sub-block `part`.
fn k_scales(bytes: &[u8], part: usize) -> (f16, f16) {
    let (d, dmin) = (half_at(bytes, 0).to_f32(), half_at(bytes, 2).to_f32());
    let packed = &bytes[4..16];
    let (scale, min) = if part < 4 {
        (packed[part] & 63, packed[part + 4] & 63)
    } else {
        (
            (packed[part + 4] & 15) | (packed[part - 4] >> 6 << 4),
            (packed[part + 4] >> 4) | (packed[part] >> 6 << 4),
        )
    };
    (f16::from_f32(d * f32::from(scale)), f16::from_f32(-dmin * f32::from(min)))
}

/// Scales, then 128 bytes: 32 bytes hold sub-blocks 2i (low) and 2i + 1 (high).
fn q4_k(bytes: &[u8], part: usize) -> Block {
    let (scale, min) = k_scales(bytes, part);
    let quants = &bytes[16 + part / 2 * 32..][..32];
    let quants = std::array::from_fn(|column| (quants[column] >> (part % 2 * 4)) & 15);
    Block { quants, scales: [scale; 2], min }
}

/// Scales, then 32 bytes of fifth bits (bit i of each for sub-block i), then 128 bytes as in Q4_K.
fn q5_k(bytes: &[u8], part: usize) -> Block {
    let (scale, min) = k_scales(bytes, part);
    let high = &bytes[16..48];
    let low = &bytes[48 + part / 2 * 32..][..32];
    let quants = std::array::from_fn(|column| {
        ((low[column] >> (part % 2 * 4)) & 15) | ((high[column] >> part) & 1) << 4
    });
    Block { quants, scales: [scale; 2], min }
}

/// 128 bytes of low 4 bits, 64 of high 2 bits, 16 signed scales (one for 16 weights), d.
fn q6_k(bytes: &[u8], part: usize) -> Block {
    let (half, quarter) = (part / 4, part % 4);
    let low = &bytes[half * 64..][..64];
    let high = &bytes[128 + half * 32..][..32];
    let scales = &bytes[192..208];
    let d = half_at(bytes, 208).to_f32();
    let quants = std::array::from_fn(|column| {
        let low = (low[column + quarter % 2 * 32] >> (quarter / 2 * 4)) & 15;
        let high = (high[column] >> (quarter * 2)) & 3;
        // 6 bits around 32 become 8 bits around 128.
        (low | (high << 4)) + 96
    });
    let scale = |index: usize| f16::from_f32(d * f32::from(scales[half * 8 + quarter * 2 + index] as i8));
    Block { quants, scales: [scale(0), scale(1)], min: f16::ZERO }
}
