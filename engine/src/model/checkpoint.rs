//! Where weights come from: one way to read them, whatever the format of the files.
//!
//! Tensors are asked for by GGUF's names without the `.weight` behind them (`token_embd`, `blk.0.attn_q`), and
//! come in GGUF's order of rows: the rows of `attn_q` and `attn_k` are interleaved, so that the two halves of
//! a rotated pair are neighbours. Formats that keep their rows otherwise are put into this order here, and the
//! forward pass knows nothing of it.
//!
//! Invariant: a matrix that comes out has the rows and columns that were asked for.

use std::path::Path;

use super::config::LlamaConfig;
use super::gguf::GgufFile;
use crate::error::EngineError;
pub use crate::kernels::matrix::Matrix;

/// The files of one model, opened and checked.
pub struct Checkpoint {
    source: Source,
}

enum Source {
    Gguf(GgufFile),
}

impl Checkpoint {
    /// Opens the GGUF file at `path`.
    ///
    /// # Errors
    /// [`EngineError::Read`] when it cannot be read, [`EngineError::Model`] when it is damaged or of another
    /// kind.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        Ok(GgufFile::open(path)?.into())
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::Gguf(file) => file.path(),
        }
    }

    /// The GGUF file, if it is one: for what only such files hold (their own vocabulary).
    pub fn gguf(&self) -> Option<&GgufFile> {
        match &self.source {
            Source::Gguf(file) => Some(file),
        }
    }

    /// The numbers of the architecture.
    ///
    /// # Errors
    /// [`EngineError::Model`] with every number that is missing or impossible.
    pub fn config(&self) -> Result<LlamaConfig, EngineError> {
        match &self.source {
            Source::Gguf(file) => LlamaConfig::from_gguf(file),
        }
    }

    /// Whether there is a tensor `name`.
    pub fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::Gguf(file) => file.tensor_info(&stored(name)).is_some(),
        }
    }

    /// Checks that every tensor that `config` calls for is there, has its shape, and is stored in a format that
    /// the engine computes with. Reads no weights.
    ///
    /// # Errors
    /// [`EngineError::Model`] names every fault at once.
    pub fn check_tensors(&self, config: &LlamaConfig) -> Result<(), EngineError> {
        let mut faults: Vec<String> = expected_tensors(config, self.has(ROPE_DIVISORS))
            .iter()
            .filter_map(|expected| match &self.source {
                Source::Gguf(file) => file.tensor_fault(&stored(&expected.name), &expected.shape),
            })
            .collect();
        faults.extend(match &self.source {
            Source::Gguf(file) => file.bias_fault(),
        });
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
        };
        match vector.iter().all(|value| value.is_finite()) {
            true => Ok(vector),
            false => Err(self.unusable(format!("tensor `{name}` holds a number that is not finite"))),
        }
    }

    /// The matrix `name`, (`rows`, `columns`), repacked for the kernels on all cores.
    ///
    /// Integer formats keep their own quants and scales (up to the rounding of a product of two scales to f16 in
    /// the K-quants), floating-point formats their own values.
    ///
    /// # Errors
    /// [`EngineError::Model`] when there is none, it has another shape, or a format that the engine does not
    /// compute with; [`EngineError::Read`] when reading fails.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, EngineError> {
        match &self.source {
            Source::Gguf(file) => file.matrix(&stored(name), rows, columns),
        }
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
        Self { source: Source::Gguf(file) }
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
