//! The model's text to content and tool calls, while it streams.

use super::message::{ToolCall, ToolSpec};

/// What a piece of model text turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// Content for the user.
    Text(String),
    /// A whole tool call.
    Call(ToolCall),
}

/// A streaming parser: holds back what may be the beginning of a call, gives out the rest at once.
pub struct ToolCallParser {}

/// What was left when the text ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rest {
    /// Content and calls that were held back.
    pub parsed: Vec<Parsed>,
    /// A call that the end cut in the middle; set only when the text was cut.
    pub cut_call: Option<String>,
}

impl ToolCallParser {
    /// A parser for a reply to a request with `tools`; without tools all text is content.
    /// Call ids are `call_N`, counting on from `first_call`.
    pub fn new(_tools: &[ToolSpec], _first_call: usize) -> Self {
        unimplemented!()
    }

    /// Takes more text of the reply.
    pub fn push(&mut self, _text: &str) -> Vec<Parsed> {
        unimplemented!()
    }

    /// Ends the reply. `cut`: by the token limit rather than by the model.
    pub fn finish(self, _cut: bool) -> Rest {
        unimplemented!()
    }
}
