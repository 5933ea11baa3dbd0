//! Where weights come from: one way to read them, whatever the format of the files.
//!
//! Tensors are asked for by GGUF's names without the `.weight` behind them (`token_embd`, `blk.0.attn_q`), and
//! come in GGUF's order of rows: the rows of `attn_q` and `attn_k` are interleaved, so that the two halves of
//! a rotated pair are neighbours. Formats that keep their rows otherwise are put into this order here, and the
//! forward pass knows nothing of it.
//!
//! Invariant: a matrix that comes out has the rows and columns that were asked for.

use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::config::LlamaConfig;
use super::gguf::GgufFile;
use super::rope::RopeScaling;
use super::safetensors::SafetensorsFolder;
use crate::error::EngineError;
pub use crate::kernels::matrix::Matrix;
use crate::tokenizer::Tokenizer;

/// The files of one model, opened and checked.
pub struct Checkpoint {
    source: Source,
    /// The numbers of the architecture where they are not the files' own: see [`Self::extend_context`].
    extended: Option<LlamaConfig>,
}

enum Source {
    Gguf(GgufFile),
    Folder(SafetensorsFolder),
}

impl Checkpoint {
    /// Opens a GGUF file, or a folder of safetensors in Hugging Face's layout (also by the name of a
    /// `.safetensors` or `.json` file in it).
    ///
    /// # Errors
    /// [`EngineError::Read`] when it cannot be read, [`EngineError::Model`] when it is damaged or of another
    /// kind.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let inside =
            path.extension().is_some_and(|extension| extension == "safetensors" || extension == "json");
        let source = match path.parent() {
            _ if path.is_dir() => Source::Folder(SafetensorsFolder::open(path)?),
            Some(folder) if inside && path.is_file() => Source::Folder(SafetensorsFolder::open(folder)?),
            _ => Source::Gguf(GgufFile::open(path)?),
        };
        Ok(Self { source, extended: None })
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::Gguf(file) => file.path(),
            Source::Folder(folder) => folder.path(),
        }
    }

    /// The GGUF file, if it is one.
    pub fn gguf(&self) -> Option<&GgufFile> {
        match &self.source {
            Source::Gguf(file) => Some(file),
            Source::Folder(_) => None,
        }
    }

    /// The folder of safetensors, if it is one.
    pub fn folder(&self) -> Option<&SafetensorsFolder> {
        match &self.source {
            Source::Gguf(_) => None,
            Source::Folder(folder) => Some(folder),
        }
    }

    /// The numbers of the architecture.
    ///
    /// # Errors
    /// [`EngineError::Model`] with every number that is missing or impossible.
    pub fn config(&self) -> Result<LlamaConfig, EngineError> {
        if let Some(extended) = &self.extended {
            return Ok(extended.clone());
        }
        match &self.source {
            Source::Gguf(file) => LlamaConfig::from_gguf(file),
            Source::Folder(folder) => Ok(folder.config().llama.clone()),
        }
    }

    /// From now on [`Self::config`] has a context of `tokens` tokens, which is more than the model was trained
    /// for, and stretches the rotary frequencies by `scaling`. Returns a warning for whoever asked for it.
    ///
    /// # Errors
    /// As [`Self::config`] and [`LlamaConfig::extend_context`].
    pub fn extend_context(&mut self, tokens: usize, scaling: RopeScaling) -> Result<String, EngineError> {
        let mut config = self.config()?;
        let warning = config.extend_context(tokens, scaling)?;
        self.extended = Some(config);
        Ok(warning)
    }

    /// The vocabulary that comes with the weights: inside a GGUF file, or `tokenizer.json`. Its stop ids are the
    /// union of what all the files name and what the family is known to use.
    ///
    /// # Errors
    /// [`EngineError::Read`] or [`EngineError::Tokenizer`].
    pub fn tokenizer(&self) -> Result<Tokenizer, EngineError> {
        match &self.source {
            Source::Gguf(file) => Tokenizer::from_gguf(file.metadata(), file.path()),
            Source::Folder(folder) => {
                let tokenizer = Tokenizer::from_file(&folder.path().join("tokenizer.json"))?;
                let config = folder.config();
                let named = config.end_name.as_deref().and_then(|name| tokenizer.special_id(name));
                let ends: Vec<u32> = config.end_ids.iter().copied().chain(named).collect();
                Ok(tokenizer.with_stop_ids(&ends))
            }
        }
    }

    /// The chat template that comes with the weights.
    pub fn chat_template(&self) -> Option<&str> {
        match &self.source {
            Source::Gguf(file) => match file.metadata().get("tokenizer.chat_template") {
                Some(Value::String(template)) => Some(template),
                _ => None,
            },
            Source::Folder(folder) => folder.config().chat_template.as_deref(),
        }
    }

    /// Whether there is a tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Gguf(file) => file.tensor_info(&stored(name)).is_some(),
            Source::Folder(folder) => folder.has(name),
        }
    }

    /// Checks that every tensor that `config` calls for is there, has its shape, and is stored in a format that
    /// the engine computes with, and that there is none that would change the arithmetic. Reads no weights.
    ///
    /// # Errors
    /// [`EngineError::Model`] names every fault at once.
    pub fn check_tensors(&self, config: &LlamaConfig) -> Result<(), EngineError> {
        let expected = expected_tensors(config, self.has(ROPE_DIVISORS));
        let faults: Vec<String> = match &self.source {
            Source::Gguf(file) => {
                let fault =
                    |expected: &ExpectedTensor| file.tensor_fault(&stored(&expected.name), &expected.shape);
                expected.iter().filter_map(fault).chain(file.bias_fault()).collect()
            }
            Source::Folder(folder) => {
                let faults = expected.iter().flat_map(|expected| folder.tensor_faults(expected));
                faults.chain(folder.unexpected(&expected)?).collect()
            }
        };
        if faults.is_empty() { Ok(()) } else { Err(self.unusable(listed(&faults))) }
    }

    /// A tensor of one dimension (a norm) as f32.
    ///
    /// # Errors
    /// [`EngineError::Model`] when there is none, it has more dimensions, is quantised, or holds a number that
    /// is not finite; [`EngineError::Read`] when reading fails.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>, EngineError> {
        let vector = match &self.source {
            Source::Gguf(file) => file.vector(&stored(name))?,
            Source::Folder(folder) => folder.vector(name)?,
        };
        match vector.iter().all(|value| value.is_finite()) {
            true => Ok(vector),
            false => Err(self.unusable(format!("tensor `{name}` holds a number that is not finite"))),
        }
    }

    /// The matrix `name`, (`rows`, `columns`), repacked for the kernels on all cores.
    ///
    /// Integer formats keep their own quants and scales (up to the rounding of a product of two numbers to f16 in
    /// the K-quants and in asymmetric GPTQ), floating-point formats their own values.
    ///
    /// # Errors
    /// [`EngineError::Model`] when there is none, it has another shape, or a format that the engine does not
    /// compute with; [`EngineError::Read`] when reading fails.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, EngineError> {
        match &self.source {
            Source::Gguf(file) => file.matrix(&stored(name), rows, columns),
            Source::Folder(folder) => folder.matrix(name, rows, columns),
        }
    }

    /// Bytes of memory that all vectors and matrices of a model of this config take once they are read. The
    /// embedding table counts once where it is the output head too.
    pub fn loaded_bytes(&self, config: &LlamaConfig) -> u64 {
        let bytes = |expected: &ExpectedTensor| match (&expected.shape[..], &self.source) {
            ([rows, columns], Source::Gguf(file)) => {
                file.loaded_bytes(&stored(&expected.name), *rows, *columns) as u64
            }
            ([rows, columns], Source::Folder(folder)) => {
                folder.loaded_bytes(&expected.name, *rows, *columns) as u64
            }
            (shape, _) => (shape.iter().product::<usize>() * size_of::<f32>()) as u64,
        };
        expected_tensors(config, self.has(ROPE_DIVISORS)).iter().map(bytes).sum()
    }

    /// The divisors of the rotary frequencies, (head_dim / 2,), if the checkpoint brings them.
    ///
    /// # Errors
    /// [`EngineError::Model`] when one is not a positive number.
    pub fn rope_divisors(&self) -> Result<Option<Vec<f32>>, EngineError> {
        if !self.has(ROPE_DIVISORS) {
            return Ok(None);
        }
        let divisors = self.vector(ROPE_DIVISORS)?;
        match divisors.iter().all(|divisor| *divisor > 0.0) {
            true => Ok(Some(divisors)),
            false => {
                Err(self.unusable(format!("tensor `{ROPE_DIVISORS}` has a divisor that is not positive")))
            }
        }
    }

    /// [`EngineError::Model`] about these files.
    fn unusable(&self, reason: String) -> EngineError {
        EngineError::Model { path: self.path().to_owned(), reason }
    }
}

impl From<GgufFile> for Checkpoint {
    fn from(file: GgufFile) -> Self {
        Self { source: Source::Gguf(file), extended: None }
    }
}

/// Divisors of the rotary frequencies: Llama 3.1's scaling rule, ready-made.
const ROPE_DIVISORS: &str = "rope_freqs";

/// The name of a tensor inside a GGUF file.
fn stored(name: &str) -> String {
    format!("{name}.weight")
}

/// A tensor that a model of some config has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExpectedTensor {
    /// Without `.weight`.
    pub(super) name: String,
    /// Slowest dimension first.
    pub(super) shape: Vec<usize>,
}

/// Every tensor of a model of this config.
pub(super) fn expected_tensors(config: &LlamaConfig, rope_divisors: bool) -> Vec<ExpectedTensor> {
    let LlamaConfig { hidden, feed_forward, vocabulary, num_heads, num_kv_heads, head_dim, .. } = *config;
    let (queries, keys) = (num_heads * head_dim, num_kv_heads * head_dim);
    let expected = |name: String, shape: &[usize]| ExpectedTensor { name, shape: shape.to_vec() };
    let mut all =
        vec![expected("token_embd".into(), &[vocabulary, hidden]), expected("output_norm".into(), &[hidden])];
    if !config.tied_head {
        all.push(expected("output".into(), &[vocabulary, hidden]));
    }
    if rope_divisors {
        all.push(expected(ROPE_DIVISORS.into(), &[head_dim / 2]));
    }
    for layer in 0..config.num_layers {
        let shapes: [(&str, &[usize]); 9] = [
            ("attn_norm", &[hidden]),
            ("attn_q", &[queries, hidden]),
            ("attn_k", &[keys, hidden]),
            ("attn_v", &[keys, hidden]),
            ("attn_output", &[hidden, queries]),
            ("ffn_norm", &[hidden]),
            ("ffn_gate", &[feed_forward, hidden]),
            ("ffn_up", &[feed_forward, hidden]),
            ("ffn_down", &[hidden, feed_forward]),
        ];
        all.extend(shapes.map(|(name, shape)| expected(format!("blk.{layer}.{name}"), shape)));
    }
    all
}

/// Faults in one sentence; the first dozen only, because a file of another architecture has hundreds.
pub(super) fn listed(faults: &[String]) -> String {
    const SHOWN: usize = 12;
    let more = match faults.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("{}{more}", faults[..faults.len().min(SHOWN)].join("; "))
}
