//! The loop itself, turn after turn.

use std::sync::Arc;
use std::time::Duration;

use chaski_engine::{Sampling, ToolChoice, Usage};
use serde_json::Value;

use super::model::{ChatModel, ModelError};
use super::transcript::Transcript;
use crate::run::event::Place;
use crate::run::journal::JournalError;
use crate::run::recorder::Recorder;
use crate::tools::ToolSet;

/// An agent: instructions, tools, limits and the shape of its answer. A workflow or `chat` builds it.
#[derive(Clone)]
pub struct Agent {
    /// Its name in the workflow.
    pub name: String,
    /// The system message; empty for none.
    pub instructions: String,
    /// The tools it was granted.
    pub tools: ToolSet,
    /// For its first turn. Later turns are `Auto`, and the last turn of the limit is `None`: it must answer.
    pub tool_choice: ToolChoice,
    /// JSON Schema of its final answer; `None` for text.
    pub output: Option<Value>,
    /// How its tokens are picked.
    pub sampling: Sampling,
    /// Its bounds.
    pub limits: AgentLimits,
}

/// The bounds of one agent's work on one prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AgentLimits {
    /// Most turns, at least 1.
    pub turns: usize,
    /// Most tokens that all its replies have together.
    pub tokens: usize,
    /// Most tokens of one reply.
    pub reply_tokens: usize,
    /// Most time, tools included.
    pub time: Duration,
    /// Most time for one tool call.
    pub tool_time: Duration,
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            turns: 8,
            tokens: 8_192,
            reply_tokens: 1_024,
            time: Duration::from_secs(600),
            tool_time: Duration::from_secs(30),
        }
    }
}

/// What an agent's work came to.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentAnswer {
    /// The final answer's text.
    pub text: String,
    /// The final answer as JSON, when the agent has an output schema.
    pub json: Option<Value>,
    /// Turns taken.
    pub turns: usize,
    /// Tokens of all turns.
    pub usage: Usage,
}

/// Why an agent came to no answer.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A limit ended the work before an answer.
    #[error("agent `{agent}` reached its limit of {limit}")]
    Limit {
        /// Whose.
        agent: String,
        /// Which, with its value.
        limit: String,
    },
    /// The answer is not valid under the output schema (remote models only; the engine guarantees it).
    #[error("agent `{agent}` gave an answer that does not fit its output schema: {reason}")]
    Output {
        /// Whose.
        agent: String,
        /// The fault and its place.
        reason: String,
    },
    /// The event log failed, so nothing may go on.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Works on `transcript`, whose last message is the user's, until the agent answers. The replies and tool
/// results are added to the transcript, also when the work ends early.
pub async fn work(
    _agent: &Agent,
    _model: &Arc<dyn ChatModel>,
    _transcript: &mut Transcript,
    _place: &Place,
    _recorder: &Recorder,
) -> Result<AgentAnswer, AgentError> {
    unimplemented!()
}
