//! Why the engine could not do what was asked.

use std::path::PathBuf;

/// Why the engine could not do what was asked. Messages say what was asked, what was found and where.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// A file could not be read.
    #[error("cannot read `{path}`: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's word for it.
        reason: String,
    },
    /// The model file is damaged, cut off, or not of a supported kind.
    #[error("`{path}` is not a usable model: {reason}")]
    Model {
        /// The file.
        path: PathBuf,
        /// Every fault found, tensors named.
        reason: String,
    },
    /// The tokenizer is missing, damaged or does not fit the model.
    #[error("tokenizer of `{path}`: {reason}")]
    Tokenizer {
        /// Where it was read from.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The chat template does not parse, or refuses these messages.
    #[error("chat template: {0}")]
    Template(String),
    /// The schema, regular expression or grammar cannot be guaranteed.
    #[error("cannot build a grammar for {what}: {reason}")]
    Grammar {
        /// The tool or output it was for.
        what: String,
        /// What is not supported, and where.
        reason: String,
    },
    /// A field of the request is out of its range.
    #[error("invalid request: {0}")]
    InvalidRequest(String),
    /// The prompt alone fills the context.
    #[error(
        "the prompt has {prompt_tokens} tokens, the context holds {context} and the answer needs at least 1"
    )]
    ContextTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// The request could not be computed even alone.
    #[error("the request may need {needed} KV blocks, the engine has {num_blocks}")]
    OutOfBlocks {
        /// Blocks that its prompt and answer take.
        needed: usize,
        /// Blocks of the KV cache.
        num_blocks: usize,
    },
    /// Too many requests wait already.
    #[error("{waiting} requests wait for the engine already")]
    Overloaded {
        /// How many wait.
        waiting: usize,
    },
    /// A tensor operation failed: a bug, or memory ran out.
    #[error("forward pass: {0}")]
    Compute(String),
    /// The engine thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}

impl EngineError {
    /// What to do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } => Some("`chaski model list` shows where models are kept".into()),
            Self::Model { .. } | Self::Tokenizer { .. } => {
                Some("`chaski model pull` fetches it again and checks its digest".into())
            }
            Self::ContextTooLong { context, .. } => {
                Some(format!("shorten the prompt, or start the engine with a context above {context}"))
            }
            Self::OutOfBlocks { .. } => {
                Some("ask for fewer tokens, or start the engine with a larger KV cache".into())
            }
            Self::Overloaded { .. } => Some("try again when a request has finished".into()),
            _ => None,
        }
    }
}

impl From<candle_core::Error> for EngineError {
    /// candle appends a backtrace to its messages; only the first line is for people.
    fn from(error: candle_core::Error) -> Self {
        Self::Compute(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}
