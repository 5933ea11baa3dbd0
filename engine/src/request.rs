//! What enters the engine and what comes back: plain data, printable, buildable by hand in a test.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chat::message::{Message, ToolCall, ToolSpec};
use crate::error::EngineError;

/// One generation: a prompt, the shape its answer must have, and its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// What the model reads.
    pub prompt: Prompt,
    /// The tools it may call, in the order the model sees them.
    pub tools: Vec<ToolSpec>,
    /// Further tools it may call. Only the conversation speaks of them, so tools that come up in the middle of one
    /// leave its beginning as it was, in the KV cache too.
    pub late_tools: Vec<ToolSpec>,
    /// Whether it may, must or must not call one.
    pub tool_choice: ToolChoice,
    /// The shape of an answer that is not a tool call; guaranteed by decoding.
    pub output: OutputFormat,
    /// The adapter that runs beside the weights, one of [`crate::EngineOptions::adapters`]; `None` for the
    /// model alone.
    pub adapter: Option<String>,
    /// How the next token is picked.
    pub sampling: Sampling,
    /// Most tokens to generate, at least 1. An answer cut here ends with [`FinishReason::Length`].
    pub max_tokens: usize,
    /// Generation ends before the first of these strings; none may be empty.
    pub stop: Vec<String>,
    /// Who goes first when the engine has more to do than it can at once.
    pub priority: Priority,
    /// Whose turn this is. The engine keeps a session's KV blocks until its next turn, if it has the room, and
    /// then computes the new tokens only. [`crate::Engine::end_session`] gives them up earlier.
    pub session: Option<SessionId>,
}

impl GenerateRequest {
    /// A plain answer to `messages`: no tools, greedy, at most `max_tokens`.
    pub fn chat(messages: Vec<Message>, max_tokens: usize) -> Self {
        Self {
            prompt: Prompt::Chat(messages),
            tools: Vec::new(),
            late_tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            output: OutputFormat::Text,
            adapter: None,
            sampling: Sampling::default(),
            max_tokens,
            stop: Vec::new(),
            priority: Priority::default(),
            session: None,
        }
    }
}

/// What the model reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A conversation, laid out by the model's chat template.
    Chat(Vec<Message>),
    /// Text as it is, after the model's begin-of-text token if it has one. No special token is parsed from it.
    Text(String),
    /// Token ids as they are.
    Tokens(Vec<u32>),
}

/// Whether the model may, must or must not call a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// It decides.
    #[default]
    Auto,
    /// It calls at least one of the request's tools.
    Required,
    /// It calls none. It still sees them, so that the prompt stays the same over an agent's turns.
    None,
    /// It calls this one.
    Named(String),
}

/// The shape that decoding guarantees for an answer that is not a tool call.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum OutputFormat {
    /// Any text.
    #[default]
    Text,
    /// JSON that is valid under this schema. Keys come in the schema's order, without optional whitespace.
    JsonSchema(Value),
    /// Text that this regular expression matches from end to end.
    Regex(String),
    /// Text of this Lark grammar (llguidance's dialect), from the rule `start`.
    Lark(String),
}

/// How the next token is picked. `temperature` 0 is greedy and ignores the rest but the penalties.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 picks the most likely token; 1 samples the model's own distribution.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens that together reach this probability, in (0, 1].
    pub top_p: f32,
    /// Drop tokens below this share of the most likely token's probability, in [0, 1).
    pub min_p: f32,
    /// Divides (or multiplies, if negative) the logits of tokens seen in the last 64; 1 changes nothing.
    pub repetition_penalty: f32,
    /// The same seed, model, request and state of the KV cache give the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

/// Who goes first. Within one priority, who came first is admitted first, and all that are admitted progress.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// It can wait, and makes way for interactive requests, though not for ever.
    Batch,
}

/// Names the session of an agent or a conversation, as its owner likes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SessionId(String);

impl SessionId {
    /// The session of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }
}

/// What a generation sends back, in order; the last is `Finished` or `Failed`.
#[derive(Debug)]
pub enum TokenEvent {
    /// The prompt is computed and the first token is about to be sampled.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// How many of them were found in the KV cache and not computed again.
        cached_tokens: usize,
    },
    /// Text of the answer. Never part of a tool call, never a special token, never half a character.
    Text(String),
    /// A whole call, valid under its tool's schema if the request named that tool.
    ToolCall(ToolCall),
    /// The generation ended by itself.
    Finished(Finished),
    /// The generation ended by an error; others go on.
    Failed(EngineError),
}

/// How a generation ended, and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Why no further token was generated.
    pub reason: FinishReason,
    /// Tool-call text that `max_tokens` or a stop string cut in the middle. It must not be run.
    pub cut_call: Option<String>,
    /// Token counts.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
    /// What guessing at tokens saved.
    pub speculation: Speculation,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, a stop string came, or the grammar allowed nothing further.
    Stop,
    /// `max_tokens` was reached, or the context is full.
    Length,
    /// The model ended its turn with at least one tool call.
    ToolCalls,
}

/// Token counts of one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them came from the KV cache.
    pub cached_tokens: usize,
    /// Tokens generated, the stop token included.
    pub completion_tokens: usize,
}

/// How often the next tokens were guessed, and computed in the step of the token before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Speculation {
    /// Tokens that were guessed.
    pub drafted_tokens: usize,
    /// How many of them came true: each saved a step.
    pub accepted_tokens: usize,
}

/// Where the time of one generation went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Timings {
    /// From the request's arrival to the start of its prefill.
    #[schemars(with = "f64")]
    #[serde(with = "seconds")]
    pub queued: Duration,
    /// Computing the prompt.
    #[schemars(with = "f64")]
    #[serde(with = "seconds")]
    pub prefill: Duration,
    /// From the first sampled token to the end.
    #[schemars(with = "f64")]
    #[serde(with = "seconds")]
    pub decode: Duration,
}

/// Durations as seconds in JSON.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}
