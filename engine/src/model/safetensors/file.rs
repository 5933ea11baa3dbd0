//! One safetensors file: eight bytes of length, a JSON header, and the tensors' bytes.
//!
//! Invariant: every tensor's bytes lie inside the file, have the length that its shape and type imply, and
//! belong to no other tensor; nothing is allocated from a number that has not been held against the file's size.
//!
//! Tensors are read by ranges rather than from a mapped file: weights are repacked anyway, and a mapped file that
//! another program cuts short ends the process.
//!
//! Source: huggingface/safetensors, README, "Format".

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::error::EngineError;
use crate::kernels::float::FloatKind;

/// The header of a 126-layer model with GPTQ's four tensors a matrix has about 500 KB.
const MAX_HEADER: u64 = 16 << 20;
/// As in a GGUF file: a large model has some thousand tensors.
const MAX_TENSORS: usize = 1 << 16;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementType {
    /// As the file writes it.
    pub name: &'static str,
    /// Bytes of one element.
    pub size: usize,
}

const TYPES: [ElementType; 13] = [
    ElementType { name: "F64", size: 8 },
    ElementType { name: "F32", size: 4 },
    ElementType { name: "F16", size: 2 },
    ElementType { name: "BF16", size: 2 },
    ElementType { name: "I64", size: 8 },
    ElementType { name: "I32", size: 4 },
    ElementType { name: "I16", size: 2 },
    ElementType { name: "I8", size: 1 },
    ElementType { name: "U8", size: 1 },
    ElementType { name: "U32", size: 4 },
    ElementType { name: "BOOL", size: 1 },
    ElementType { name: "F8_E4M3", size: 1 },
    ElementType { name: "F8_E5M2", size: 1 },
];

impl ElementType {
    /// The kind of floating-point number that the kernels take, if it is one.
    pub fn float(self) -> Option<FloatKind> {
        match self.name {
            "F32" => Some(FloatKind::F32),
            "F16" => Some(FloatKind::F16),
            "BF16" => Some(FloatKind::Bf16),
            _ => None,
        }
    }
}

/// What the header says of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The type of its elements.
    pub element: ElementType,
    /// Slowest dimension first.
    pub shape: Vec<usize>,
    /// First byte, counted from the end of the header.
    start: u64,
    /// Bytes.
    length: u64,
}

impl TensorInfo {
    /// Bytes that it takes in the file.
    pub fn bytes(&self) -> u64 {
        self.length
    }
}

/// An opened safetensors file.
pub struct SafetensorsFile {
    path: PathBuf,
    // Reading moves the file's position; the lock keeps two readers apart.
    file: Mutex<File>,
    data: u64,
    tensors: BTreeMap<String, TensorInfo>,
}

impl SafetensorsFile {
    /// Opens and checks `path`.
    ///
    /// # Errors
    /// [`EngineError::Read`] when the file cannot be read, [`EngineError::Model`] when it is no safetensors file,
    /// is cut off, or its header contradicts itself.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let unreadable = |reason: String| EngineError::Read { path: path.to_owned(), reason };
        let unusable = |reason: String| EngineError::Model { path: path.to_owned(), reason };

        let mut file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
        let metadata = file.metadata().map_err(|error| unreadable(error.to_string()))?;
        if metadata.is_dir() {
            return Err(unreadable("it is a folder".into()));
        }
        let header = read_header(&mut file, metadata.len()).map_err(unusable)?;
        let data = 8 + header.len() as u64;
        let entries: Entries = serde_json::from_slice(&header)
            .map_err(|error| unusable(format!("its header is not what safetensors writes: {error}")))?;
        let tensors = check(entries.0, metadata.len() - data).map_err(unusable)?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), data, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The little-endian bytes of tensor `name`.
    ///
    /// # Errors
    /// [`EngineError::Model`] when there is no such tensor or the file has been cut since it was opened,
    /// [`EngineError::Read`] when reading fails.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, EngineError> {
        let info =
            self.tensors.get(name).ok_or_else(|| self.unusable(format!("tensor `{name}` is missing")))?;
        let mut file = self.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut bytes = Vec::with_capacity(info.length as usize);
        file.seek(SeekFrom::Start(self.data + info.start))
            .and_then(|_| Read::by_ref(&mut *file).take(info.length).read_to_end(&mut bytes))
            .map_err(|error| EngineError::Read { path: self.path.clone(), reason: error.to_string() })?;
        match bytes.len() as u64 == info.length {
            true => Ok(bytes),
            false => Err(self.unusable(format!("tensor `{name}` was cut off after the file was opened"))),
        }
    }

    /// [`EngineError::Model`] about this file.
    pub fn unusable(&self, reason: impl Into<String>) -> EngineError {
        EngineError::Model { path: self.path.clone(), reason: reason.into() }
    }
}

fn read_header(file: &mut File, length: u64) -> Result<Vec<u8>, String> {
    let mut claim = [0; 8];
    if length < 8 {
        return Err(format!("it is cut off: it has {length} bytes"));
    }
    file.read_exact(&mut claim).map_err(|error| error.to_string())?;
    if &claim == b"version " {
        return Err("it is a Git LFS pointer, not the weights".into());
    }
    let claimed = u64::from_le_bytes(claim);
    if claimed > MAX_HEADER {
        return Err(format!("it claims a header of {claimed} bytes, at most {MAX_HEADER} are believed"));
    }
    if claimed > length - 8 {
        return Err(format!(
            "it is cut off inside its header: {claimed} bytes are claimed, {} are left",
            length - 8
        ));
    }
    let mut header = vec![0; claimed as usize];
    file.read_exact(&mut header).map_err(|error| error.to_string())?;
    Ok(header)
}

/// Turns what the header says into [`TensorInfo`]s that fit `data` bytes.
fn check(entries: BTreeMap<String, Entry>, data: u64) -> Result<BTreeMap<String, TensorInfo>, String> {
    let mut tensors = BTreeMap::new();
    for (name, entry) in entries {
        let info = entry.check(data).map_err(|fault| format!("tensor `{name}` {fault}"))?;
        tensors.insert(name, info);
    }
    let mut order: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
    order.sort_by_key(|(_, info)| (info.start, info.length));
    let mut end = 0;
    for (name, info) in order {
        if info.start != end {
            let what = if info.start < end { "overlaps the tensor before it" } else { "comes after a gap" };
            return Err(format!("tensor `{name}` {what}: it begins at byte {} instead of {end}", info.start));
        }
        end += info.length;
    }
    match data - end {
        0 => Ok(tensors),
        more => Err(format!("{more} bytes after the last tensor belong to none")),
    }
}

/// A tensor as the header writes it.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Entry {
    fn check(&self, data: u64) -> Result<TensorInfo, String> {
        let Some(element) = TYPES.iter().find(|element| element.name == self.dtype) else {
            return Err(format!("is stored as {}, which is not supported", self.dtype));
        };
        let [start, end] = self.data_offsets;
        if start > end {
            return Err(format!("ends at byte {end}, before its start at {start}"));
        }
        if end > data {
            return Err(format!("ends at byte {end}, the file has {data} of data: it is cut off or damaged"));
        }
        let bytes = self.shape.iter().try_fold(element.size as u64, |bytes, &side| bytes.checked_mul(side));
        if bytes != Some(end - start) {
            return Err(format!(
                "of shape {:?} and type {} cannot have {} bytes",
                self.shape,
                self.dtype,
                end - start
            ));
        }
        // No side of a tensor with elements is above the file's size; one without elements is of no use.
        let shape = self.shape.iter().map(|&side| usize::try_from(side).unwrap_or(usize::MAX)).collect();
        Ok(TensorInfo { element: *element, shape, start, length: end - start })
    }
}

/// The header: tensors by name, without `__metadata__`. A name that comes twice is an error.
struct Entries(BTreeMap<String, Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if entries.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            match entries.entry(name) {
                btree_map::Entry::Vacant(place) => place.insert(map.next_value()?),
                btree_map::Entry::Occupied(place) => {
                    return Err(A::Error::custom(format!("tensor `{}` comes twice", place.key())));
                }
            };
        }
        Ok(Entries(entries))
    }
}
