//! Walks a GGUF header without storing it, and refuses what no real model needs.
//!
//! Invariant: after [`check`] says yes, reading the metadata allocates at most a few times its size in the
//! file, and every tensor's bytes lie inside the file.
//!
//! Source: ggml's `docs/gguf.md`, versions 2 and 3, little-endian.

use std::io::{BufReader, Read, Seek, SeekFrom};

/// Bytes `GGUF` as a little-endian number.
const MAGIC: u32 = 0x4655_4747;
/// Llama 3's merges are 280,147 entries; a file that claims more than this per array is not a model.
const MAX_ARRAY: u64 = 4 << 20;
/// All array entries together: each becomes a 32-byte value in memory, so this is 512 MiB at worst.
const MAX_ARRAY_TOTAL: u64 = 16 << 20;
/// Chat templates are the longest strings: tens of kilobytes.
const MAX_STRING: u64 = 16 << 20;
/// A 126-layer model has 1,138 tensors.
const MAX_TENSORS: u64 = 1 << 16;
/// Real files have about 30 entries.
const MAX_METADATA: u64 = 1 << 16;
/// GGML tensors have at most four dimensions.
const MAX_DIMENSIONS: u32 = 4;

type Checked<T> = Result<T, String>;

/// Checks the header of the file in `reader`, from its start.
pub fn check<R: Read + Seek>(reader: &mut BufReader<R>) -> Checked<()> {
    let length = reader.seek(SeekFrom::End(0)).map_err(|error| error.to_string())?;
    reader.rewind().map_err(|error| error.to_string())?;
    let mut walk = Walk { reader, length, position: 0, array_entries: 0 };

    let magic = walk.u32("the magic number")?;
    if magic != MAGIC {
        return Err(format!("it starts with 0x{magic:08x}, a GGUF file starts with `GGUF`"));
    }
    let version = walk.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(format!("GGUF version {version} is not supported, 2 and 3 are"));
    }
    let tensors = bounded(walk.u64("the tensor count")?, MAX_TENSORS, "tensors")?;
    let entries = bounded(walk.u64("the metadata count")?, MAX_METADATA, "metadata entries")?;

    let mut alignment = 32;
    for index in 0..entries {
        let key = walk.string(&format!("key {index} of the metadata"))?;
        let kind = walk.u32(&format!("the type of `{key}`"))?;
        if key == "general.alignment" {
            alignment = walk.alignment(kind)?;
        } else {
            walk.value(kind, &key, 0)?;
        }
    }
    let mut extents = Vec::new();
    for index in 0..tensors {
        extents.push(walk.tensor(index)?);
    }

    let data = walk.position.next_multiple_of(alignment);
    for Extent { name, offset, bytes } in extents {
        let end = data.checked_add(offset).and_then(|start| start.checked_add(bytes));
        if end.is_none_or(|end| end > length) {
            return Err(format!(
                "tensor `{name}` needs {bytes} bytes at offset {offset} after byte {data}, the file has {length}: \
                 it is cut off or damaged"
            ));
        }
    }
    Ok(())
}

/// Where a tensor lies, relative to the start of the data.
struct Extent {
    name: String,
    offset: u64,
    bytes: u64,
}

struct Walk<'a, R> {
    reader: &'a mut BufReader<R>,
    length: u64,
    position: u64,
    array_entries: u64,
}

impl<R: Read + Seek> Walk<'_, R> {
    /// One metadata value of type `kind`, skipped.
    fn value(&mut self, kind: u32, key: &str, depth: usize) -> Checked<()> {
        match kind {
            8 => self.skip_string(key),
            9 => self.array(key, depth),
            _ => self.skip(scalar_bytes(kind, key)?, key),
        }
    }

    fn array(&mut self, key: &str, depth: usize) -> Checked<()> {
        let kind = self.u32(key)?;
        let count = bounded(self.u64(key)?, MAX_ARRAY, &format!("entries in `{key}`"))?;
        self.array_entries += count;
        bounded(self.array_entries, MAX_ARRAY_TOTAL, "metadata array entries")?;
        match kind {
            8 => (0..count).try_for_each(|_| self.skip_string(key)),
            9 if depth > 0 => Err(format!("`{key}` nests arrays more than two deep")),
            9 => (0..count).try_for_each(|_| self.array(key, depth + 1)),
            _ => self.skip(count * scalar_bytes(kind, key)?, key),
        }
    }

    fn alignment(&mut self, kind: u32) -> Checked<u64> {
        if kind != 4 {
            return Err(format!("`general.alignment` has type {kind}, it must be a u32"));
        }
        let alignment = u64::from(self.u32("general.alignment")?);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(format!("`general.alignment` is {alignment}, it must be a power of two up to 2^20"));
        }
        Ok(alignment)
    }

    fn tensor(&mut self, index: u64) -> Checked<Extent> {
        let name = self.string(&format!("the name of tensor {index}"))?;
        let dimensions = self.u32(&name)?;
        if dimensions == 0 || dimensions > MAX_DIMENSIONS {
            return Err(format!(
                "tensor `{name}` has {dimensions} dimensions, 1 to {MAX_DIMENSIONS} are possible"
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(self.u64(&name)?);
        }
        let format = self.u32(&name)?;
        let offset = self.u64(&name)?;
        let (block_weights, block_bytes) = block(format).ok_or_else(|| {
            format!("tensor `{name}` is stored in GGML format {format}, which is not supported")
        })?;
        let weights = shape.iter().try_fold(1u64, |product, &side| product.checked_mul(side));
        let bytes = weights
            .filter(|weights| *weights > 0 && shape[0].is_multiple_of(block_weights) && *weights < 1 << 40)
            .map(|weights| weights / block_weights * block_bytes)
            .ok_or_else(|| {
                format!("tensor `{name}` has the shape {shape:?}, which blocks of {block_weights} weights cannot fill")
            })?;
        Ok(Extent { name, offset, bytes })
    }

    fn u32(&mut self, what: &str) -> Checked<u32> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Checked<u64> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Checked<[u8; N]> {
        let mut bytes = [0; N];
        self.claim(N as u64, what)?;
        self.reader.read_exact(&mut bytes).map_err(|error| format!("{what}: {error}"))?;
        Ok(bytes)
    }

    /// A name: short, so it may be kept for a message.
    fn string(&mut self, what: &str) -> Checked<String> {
        let length = bounded(self.u64(what)?, 1 << 16, &format!("bytes in {what}"))?;
        self.claim(length, what)?;
        let mut bytes = vec![0; length as usize];
        self.reader.read_exact(&mut bytes).map_err(|error| format!("{what}: {error}"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn skip_string(&mut self, key: &str) -> Checked<()> {
        let length = bounded(self.u64(key)?, MAX_STRING, &format!("bytes in a string of `{key}`"))?;
        self.skip(length, key)
    }

    fn skip(&mut self, count: u64, what: &str) -> Checked<()> {
        self.claim(count, what)?;
        self.reader.seek_relative(count as i64).map_err(|error| format!("{what}: {error}"))
    }

    /// Moves the position over `count` bytes, if the file has them.
    fn claim(&mut self, count: u64, what: &str) -> Checked<()> {
        let left = self.length.saturating_sub(self.position);
        if count > left {
            return Err(format!(
                "it is cut off at byte {} inside its header: {what} needs {count} bytes, {left} are left",
                self.length
            ));
        }
        self.position += count;
        Ok(())
    }
}

fn bounded(value: u64, most: u64, what: &str) -> Checked<u64> {
    if value > most {
        return Err(format!("it claims {value} {what}, at most {most} are believed"));
    }
    Ok(value)
}

/// Bytes of a metadata number or boolean.
fn scalar_bytes(kind: u32, key: &str) -> Checked<u64> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(format!("`{key}` has the unknown metadata type {kind}")),
    }
}

/// Weights and bytes per block of the formats that the engine computes with.
fn block(format: u32) -> Option<(u64, u64)> {
    Some(match format {
        0 => (1, 4),      // F32
        1 | 30 => (1, 2), // F16, BF16
        2 => (32, 18),    // Q4_0
        3 => (32, 20),    // Q4_1
        6 => (32, 22),    // Q5_0
        7 => (32, 24),    // Q5_1
        8 => (32, 34),    // Q8_0
        10 => (256, 84),  // Q2_K
        11 => (256, 110), // Q3_K
        12 => (256, 144), // Q4_K
        13 => (256, 176), // Q5_K
        14 => (256, 210), // Q6_K
        _ => return None,
    })
}
