//! A GGUF file: opened once, checked before anything is allocated from its numbers.
//!
//! A model file comes from the network, so each count, length and offset in it is a claim. The header is
//! walked first without storing anything (`gguf/header.rs`); only then does candle's reader build the metadata,
//! and every tensor's bytes are known to lie inside the file before one is read.

mod header;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use super::checkpoint::Matrix;
use crate::error::EngineError;
use crate::kernels::float::{FloatKind, FloatMatrix};
use crate::kernels::packed::{Encoding, PackedMatrix};

/// An opened GGUF file with its metadata.
pub struct GgufFile {
    path: PathBuf,
    content: Content,
    // Reading moves the file's position; the lock keeps two readers apart.
    reader: Mutex<BufReader<File>>,
    /// The memory that matrices are read into, kept because the system clears fresh memory: for a large model
    /// that takes as long as reading it.
    buffer: Mutex<Vec<u8>>,
}

impl GgufFile {
    /// Opens and checks `path`.
    ///
    /// # Errors
    /// [`EngineError::Read`] when the file cannot be read, [`EngineError::Model`] when it is no GGUF file,
    /// is cut off, or its header contradicts itself.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let unreadable =
            |error: std::io::Error| EngineError::Read { path: path.to_owned(), reason: error.to_string() };
        let unusable = |reason: String| EngineError::Model { path: path.to_owned(), reason };

        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.is_dir() {
            return Err(EngineError::Read { path: path.to_owned(), reason: "it is a folder".into() });
        }
        let mut reader = BufReader::new(file);
        header::check(&mut reader).map_err(&unusable)?;
        reader.rewind().map_err(unreadable)?;
        let content = Content::read(&mut reader).map_err(|error| unusable(first_line(&error)))?;
        Ok(Self { path: path.to_owned(), content, reader: Mutex::new(reader), buffer: Mutex::default() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata, by key.
    pub fn metadata(&self) -> &HashMap<String, Value> {
        &self.content.metadata
    }

    /// Shape (slowest dimension first) and format of tensor `name`, if the file has it.
    pub fn tensor_info(&self, name: &str) -> Option<(&[usize], GgmlDType)> {
        self.content.tensor_infos.get(name).map(|info| (info.shape.dims(), info.ggml_dtype))
    }

    /// The names of all tensors, in no order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.content.tensor_infos.keys().map(String::as_str)
    }

    /// Reads tensor `name` as it is stored.
    pub fn tensor(&self, name: &str, device: &Device) -> Result<QTensor, EngineError> {
        let mut reader = self.reader.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.content
            .tensor(&mut *reader, name, device)
            .map_err(|error| self.unusable(format!("tensor `{name}`: {}", first_line(&error))))
    }

    /// What stands against tensor `name` having `expected` as its shape and being computed with, if anything.
    pub(super) fn tensor_fault(&self, name: &str, expected: &[usize]) -> Option<String> {
        let Some((shape, format)) = self.tensor_info(name) else {
            return Some(format!("tensor `{name}` is missing"));
        };
        let supported = match expected {
            [_] => float_kind(format).is_some(),
            _ => float_kind(format).is_some() || Encoding::of(format).is_some(),
        };
        if shape != expected {
            Some(format!("tensor `{name}` has the shape {shape:?}, the metadata calls for {expected:?}"))
        } else if !supported {
            Some(format!("tensor `{name}` is stored as {format:?}, which is not supported"))
        } else {
            None
        }
    }

    /// Bias tensors belong to relatives of Llama; ignoring them would give wrong answers without a word.
    pub(super) fn bias_fault(&self) -> Option<String> {
        let biases = self.tensor_names().filter(|name| name.starts_with("blk.") && name.ends_with(".bias"));
        biases.min().map(|name| format!("it has biases (`{name}`), which Llama does not have"))
    }

    /// Tensor `name`, of one dimension and not quantised.
    pub(super) fn vector(&self, name: &str) -> Result<Vec<f32>, EngineError> {
        let (shape, format) = self.known(name)?;
        let (1, Some(kind)) = (shape.len(), float_kind(format)) else {
            return Err(self.unusable(format!(
                "tensor `{name}` is {format:?} of shape {shape:?}, not a vector of floats"
            )));
        };
        let mut bytes = Vec::new();
        self.read_into(name, &mut bytes)?;
        Ok(bytes.chunks_exact(kind.size()).map(|value| kind.value(value)).collect())
    }

    /// Tensor `name`, (`rows`, `columns`), repacked.
    pub(super) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, EngineError> {
        let (_shape, format) = self.known(name)?;
        if let Some(fault) = self.tensor_fault(name, &[rows, columns]) {
            return Err(self.unusable(fault));
        }
        let mut bytes = self.buffer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.read_into(name, &mut bytes)?;
        let matrix = match float_kind(format) {
            Some(kind) => FloatMatrix::from_rows(&bytes, kind, rows, columns).map(Matrix::Float),
            None => PackedMatrix::from_gguf(&bytes, format, rows, columns).map(Matrix::Packed),
        };
        matrix.map_err(|error| self.unusable(format!("tensor `{name}`: {error}")))
    }

    /// Bytes of memory that [`Self::matrix`] takes; 0 when there is no such matrix.
    pub(super) fn loaded_bytes(&self, name: &str, rows: usize, columns: usize) -> usize {
        let Some((_shape, format)) = self.tensor_info(name) else { return 0 };
        match (float_kind(format), Encoding::of(format)) {
            (Some(kind), _) => FloatMatrix::bytes_of(kind, rows, columns),
            (None, Some(encoding)) => PackedMatrix::bytes_of(encoding, rows, columns),
            (None, None) => 0,
        }
    }

    fn known(&self, name: &str) -> Result<(&[usize], GgmlDType), EngineError> {
        self.tensor_info(name).ok_or_else(|| self.unusable(format!("tensor `{name}` is missing")))
    }

    /// Reads the bytes of tensor `name` as they are stored in place of what `bytes` held; opening has checked that
    /// they lie inside the file.
    fn read_into(&self, name: &str, bytes: &mut Vec<u8>) -> Result<(), EngineError> {
        let (shape, format) = self.known(name)?;
        let length = shape.iter().product::<usize>() / format.block_size() * format.type_size();
        let start = self.content.tensor_data_offset + self.content.tensor_infos[name].offset;
        let mut reader = self.reader.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        bytes.clear();
        bytes.reserve_exact(length);
        reader
            .seek(SeekFrom::Start(start))
            .and_then(|_| reader.by_ref().take(length as u64).read_to_end(bytes))
            .map_err(|error| EngineError::Read { path: self.path.clone(), reason: error.to_string() })?;
        match bytes.len() == length {
            true => Ok(()),
            false => Err(self.unusable(format!("tensor `{name}` was cut off after the file was opened"))),
        }
    }

    /// [`EngineError::Model`] about this file.
    pub(crate) fn unusable(&self, reason: impl Into<String>) -> EngineError {
        EngineError::Model { path: self.path.clone(), reason: reason.into() }
    }
}

/// The kind of number of a format that is not quantised.
fn float_kind(format: GgmlDType) -> Option<FloatKind> {
    match format {
        GgmlDType::F32 => Some(FloatKind::F32),
        GgmlDType::F16 => Some(FloatKind::F16),
        GgmlDType::BF16 => Some(FloatKind::Bf16),
        _ => None,
    }
}

/// candle appends a backtrace to its messages; only the message is for people.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
