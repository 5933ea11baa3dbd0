//! What the agent loop needs of a model, wherever it runs.

use chaski_engine::{EngineError, FinishReason, GenerateRequest, Timings, ToolCall, Usage};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

/// A model that holds a conversation: the engine in this process, a remote endpoint, or a script.
pub trait ChatModel: Send + Sync {
    /// Its name in logs and in the journal.
    fn name(&self) -> &str;

    /// Tokens that prompt and answer may have together.
    fn context(&self) -> usize;

    /// Tokens of the request's prompt, tools included; an estimate where the tokenizer is not ours.
    fn count_tokens(&self, request: &GenerateRequest) -> Result<usize, ModelError>;

    /// One reply. `observe` sees it grow; the returned value is the whole of it.
    ///
    /// Ends soon after `cancel` is set, with [`ModelError::Cancelled`].
    fn reply<'a>(
        &'a self,
        request: GenerateRequest,
        observe: &'a mut (dyn FnMut(ReplyDelta) + Send),
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<ModelReply, ModelError>>;
}

/// A piece of a reply, as it comes.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyDelta {
    /// The prompt is computed.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// How many of them were in the cache.
        cached_tokens: usize,
    },
    /// Text of the answer.
    Text(String),
    /// A whole tool call.
    ToolCall(ToolCall),
}

/// A whole reply.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelReply {
    /// Its text, without the calls.
    pub content: String,
    /// The calls it asks for, in order.
    pub tool_calls: Vec<ToolCall>,
    /// Text of a call that was cut by the token limit. It must not be run.
    pub cut_call: Option<String>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Token counts.
    pub usage: Usage,
    /// Where the time went; zero where unknown.
    pub timings: Timings,
}

/// Why there is no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ModelError {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A remote endpoint refused or failed.
    #[error("model `{model}` at `{endpoint}`: {reason}")]
    Remote {
        /// The model's name there.
        model: String,
        /// Its base URL, without credentials.
        endpoint: String,
        /// What it said.
        reason: String,
    },
    /// A script for tests has no reply left, or the request is not the one it expects.
    #[error("scripted model: {0}")]
    Script(String),
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl ModelError {
    /// What to do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Engine(error) => error.hint(),
            Self::Remote { .. } => {
                Some("check the provider's `base_url`, and the variable named by its `api_key_env`".into())
            }
            Self::Script(_) | Self::Cancelled => None,
        }
    }
}
