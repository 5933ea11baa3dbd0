//! A GGUF file: opened once, checked before anything is allocated from its numbers.
//!
//! A model file comes from the network, so each count, length and offset in it is a claim. The header is
//! walked first without storing anything ([`header`]); only then does candle's reader build the metadata,
//! and every tensor's bytes are known to lie inside the file before one is read.

mod header;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use crate::error::EngineError;

/// An opened GGUF file with its metadata.
pub struct GgufFile {
    path: PathBuf,
    content: Content,
    // Reading moves the file's position; the lock keeps two readers apart.
    reader: Mutex<BufReader<File>>,
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
        Ok(Self { path: path.to_owned(), content, reader: Mutex::new(reader) })
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

    /// [`EngineError::Model`] about this file.
    pub(crate) fn unusable(&self, reason: impl Into<String>) -> EngineError {
        EngineError::Model { path: self.path.clone(), reason: reason.into() }
    }
}

/// candle appends a backtrace to its messages; only the message is for people.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
