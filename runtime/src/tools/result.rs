//! What a tool call came to, and how its text is cut to size.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a call ended. Everything but `Ok` is an error to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolOutcome {
    /// It ran and answered.
    Ok,
    /// It ran and says no.
    Error,
    /// No tool of that name is granted.
    UnknownTool,
    /// The arguments do not fit its schema.
    InvalidArguments,
    /// It needs a capability that was not granted.
    Denied,
    /// It did not answer in time and was stopped.
    Timeout,
    /// It wanted more memory than its limit.
    MemoryLimit,
    /// It broke down.
    Trapped,
    /// The run was cancelled.
    Cancelled,
    /// Too many calls were waiting.
    Overloaded,
    /// What it depends on is not there.
    Unavailable,
}

impl std::fmt::Display for ToolOutcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::UnknownTool => "unknown tool",
            Self::InvalidArguments => "invalid arguments",
            Self::Denied => "denied",
            Self::Timeout => "timeout",
            Self::MemoryLimit => "memory limit",
            Self::Trapped => "trapped",
            Self::Cancelled => "cancelled",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
        })
    }
}

/// What a tool call came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolResult {
    /// How it ended.
    pub outcome: ToolOutcome,
    /// What the model reads: the answer, or what went wrong and what to do about it.
    pub text: String,
    /// The structured answer, for workflow steps. Absent when the tool answered in text alone.
    pub json: Option<Value>,
    /// `text` is not the whole answer; the text says where it was cut.
    pub truncated: bool,
    /// From dispatch to answer.
    pub duration: Duration,
}

impl ToolResult {
    /// An answer in text.
    pub fn ok(text: impl Into<String>) -> Self {
        Self {
            outcome: ToolOutcome::Ok,
            text: text.into(),
            json: None,
            truncated: false,
            duration: Duration::ZERO,
        }
    }

    /// An answer in JSON; the model reads it serialised.
    pub fn json(value: Value) -> Self {
        Self { json: Some(value.clone()), ..Self::ok(value.to_string()) }
    }

    /// A call that did not come to an answer, with what the model should read.
    pub fn failed(outcome: ToolOutcome, text: impl Into<String>) -> Self {
        Self { outcome, ..Self::ok(text) }
    }

    /// Whether the model asked for something that did not work.
    pub fn is_error(&self) -> bool {
        self.outcome != ToolOutcome::Ok
    }
}

/// Cuts `text` to at most `limit` bytes by taking out its middle, and says how much is missing there.
///
/// The beginning and the end of a program's output tell more than its middle. Returns whether it cut.
pub fn cut_middle(text: &str, limit: usize) -> (String, bool) {
    if text.len() <= limit {
        return (text.to_owned(), false);
    }
    let head = text.floor_char_boundary(limit * 2 / 3);
    let tail = text.ceil_char_boundary(text.len() - limit / 3);
    let missing = tail - head;
    (format!("{}\n[... {missing} bytes left out ...]\n{}", &text[..head], &text[tail..]), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_text_stays_whole() {
        assert_eq!(cut_middle("hello", 5), ("hello".to_owned(), false));
    }

    #[test]
    fn long_text_loses_its_middle_and_says_so() {
        let (text, cut) = cut_middle(&"ab".repeat(50), 30);
        assert!(cut);
        assert_eq!(text, format!("{}\n[... 70 bytes left out ...]\n{}", "ab".repeat(10), "ab".repeat(5)));
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        let (text, cut) = cut_middle(&"é".repeat(50), 31);
        assert!(cut && text.starts_with('é') && text.ends_with('é'));
    }
}
