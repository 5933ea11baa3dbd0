//! Messages to prompt pieces, by the checkpoint's chat template or a built-in one.
//!
//! Invariant: only the template's own text becomes special tokens; nothing inside a message, a tool
//! description or a tool result can.

use super::message::{Message, ToolSpec};
use crate::error::EngineError;

/// A part of a rendered prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptPiece {
    /// A special token, by its name in the vocabulary: `<|eot_id|>`.
    Special(String),
    /// Ordinary text, encoded so that nothing in it becomes a special token.
    Text(String),
}

/// How a model is asked to write tool calls; the grammar and the worked example follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolCallStyle {
    /// `{"name": .., "parameters": {..}}` as the whole message: Llama 3, 3.1, 3.2.
    LlamaJson,
    /// `<tool_call>\n{"name": .., "arguments": {..}}\n</tool_call>`, one or more: ChatML models, Hermes, Groq.
    ToolCallTags,
}

/// A chat template and what goes with it.
pub struct ChatTemplate {}

impl ChatTemplate {
    /// Chooses: `overriding` if given, else the checkpoint's own if it fits, else the built-in one of the
    /// family that the vocabulary's special tokens show. `specials` are the vocabulary's special tokens.
    pub fn choose(
        _overriding: Option<&str>,
        _checkpoint: Option<&str>,
        _specials: &[String],
    ) -> Result<Self, EngineError> {
        unimplemented!()
    }

    /// `checkpoint`, `llama-3`, `llama-3.1`, `llama-3.2`, `chatml` or `custom`.
    pub fn name(&self) -> &str {
        unimplemented!()
    }

    /// How tool calls are written.
    pub fn tool_call_style(&self) -> ToolCallStyle {
        unimplemented!()
    }

    /// The prompt for the next assistant turn.
    pub fn render(&self, _messages: &[Message], _tools: &[ToolSpec]) -> Result<Vec<PromptPiece>, EngineError> {
        unimplemented!()
    }
}
