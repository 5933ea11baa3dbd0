//! Keeps special strings in messages apart from the template's own.
//!
//! Inside a message each special string gets [`MARK`] after its first character, so it is no special string any
//! more; a [`MARK`] that was there already is doubled. After rendering, what still matches is the template's,
//! and the marks are taken out of the text between.

use serde_json::Value;

use super::PromptPiece;
use crate::chat::message::{Message, ToolCall, ToolSpec};

/// A noncharacter: never part of real text, and neither trimmed nor escaped by a template.
const MARK: char = '\u{FDD0}';

/// Knows the special strings of one vocabulary.
pub(super) struct Guard {
    /// Longest first, so that one inside another does not win.
    specials: Vec<String>,
}

impl Guard {
    pub(super) fn new(specials: &[String]) -> Self {
        let mut specials: Vec<String> = specials.iter().filter(|name| !name.is_empty()).cloned().collect();
        specials.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        Self { specials }
    }

    /// `text` in which no special string is left.
    pub(super) fn mark(&self, text: &str) -> String {
        let mut marked = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            marked.push(letter);
            if letter == MARK || self.special_at(rest).is_some() {
                marked.push(MARK);
            }
            rest = &rest[letter.len_utf8()..];
        }
        marked
    }

    fn unmark(text: &str) -> String {
        let mut plain = String::with_capacity(text.len());
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            plain.push(letter);
            letters.next_if_eq(&MARK);
        }
        plain
    }

    fn special_at(&self, text: &str) -> Option<&str> {
        self.specials.iter().map(String::as_str).find(|special| text.starts_with(special))
    }

    pub(super) fn message(&self, message: &Message) -> Message {
        Message {
            role: message.role,
            content: self.mark(&message.content),
            tool_calls: message.tool_calls.iter().map(|call| self.call(call)).collect(),
            tool_call_id: message.tool_call_id.as_deref().map(|id| self.mark(id)),
            name: message.name.as_deref().map(|name| self.mark(name)),
        }
    }

    fn call(&self, call: &ToolCall) -> ToolCall {
        ToolCall {
            id: self.mark(&call.id),
            name: self.mark(&call.name),
            arguments: self.value(&call.arguments),
        }
    }

    pub(super) fn tool(&self, tool: &ToolSpec) -> ToolSpec {
        ToolSpec {
            name: self.mark(&tool.name),
            description: self.mark(&tool.description),
            parameters: self.value(&tool.parameters),
        }
    }

    fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.mark(text)),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(key, value)| (self.mark(key), self.value(value))).collect())
            }
            other => other.clone(),
        }
    }

    /// Splits a rendered prompt into the template's special tokens and the text between them.
    pub(super) fn split(&self, rendered: &str) -> Vec<PromptPiece> {
        let mut pieces = Vec::new();
        let (mut start, mut at) = (0, 0);
        while at < rendered.len() {
            let rest = &rendered[at..];
            match self.special_at(rest) {
                Some(special) => {
                    if start < at {
                        pieces.push(PromptPiece::Text(Self::unmark(&rendered[start..at])));
                    }
                    pieces.push(PromptPiece::Special(special.to_owned()));
                    at += special.len();
                    start = at;
                }
                None => at += rest.chars().next().map_or(1, char::len_utf8),
            }
        }
        if start < rendered.len() {
            pieces.push(PromptPiece::Text(Self::unmark(&rendered[start..])));
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::new(&["<|a|>".into(), "<|a|><|b|>".into(), "<|b|>".into()])
    }

    #[test]
    fn marked_text_holds_no_special_string_and_comes_back_whole() {
        for text in ["<|a|>", "x<|a|><|b|>y", "plain", "\u{FDD0}<|a|>\u{FDD0}\u{FDD0}", "<<|a|>", ""] {
            let guard = guard();
            let pieces = guard.split(&guard.mark(text));
            let expected: Vec<PromptPiece> =
                (!text.is_empty()).then(|| PromptPiece::Text(text.to_owned())).into_iter().collect();
            assert_eq!(pieces, expected);
        }
    }

    #[test]
    fn what_the_template_writes_becomes_tokens() {
        let guard = guard();
        let rendered = format!("<|b|>{}<|a|>", guard.mark("say <|b|>"));
        assert_eq!(
            guard.split(&rendered),
            [
                PromptPiece::Special("<|b|>".into()),
                PromptPiece::Text("say <|b|>".into()),
                PromptPiece::Special("<|a|>".into()),
            ]
        );
    }
}
