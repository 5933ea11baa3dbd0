//! A remote reply, put together from the pieces of its stream.

use std::time::Instant;

use async_openai::types::chat::{
    ChatCompletionMessageToolCallChunk as CallPiece, CreateChatCompletionStreamResponse as Chunk,
    FinishReason as Wire,
};
use chaski_engine::{FinishReason, Timings, ToolCall, Usage};
use serde_json::Value;

use super::{BYTES_PER_TOKEN, DOT};
use crate::agent::model::{ModelReply, ReplyDelta};

/// Bytes of one reply, text and calls together: above any model's output, below what hurts this process.
const MAX_REPLY_BYTES: usize = 4 * 1024 * 1024;

/// A reply as its pieces come in.
pub(super) struct Growing {
    started: Instant,
    /// When the first piece of text or of a call came.
    first: Option<Instant>,
    content: String,
    calls: Vec<GrowingCall>,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    bytes: usize,
}

#[derive(Default)]
struct GrowingCall {
    index: u32,
    id: String,
    name: String,
    arguments: String,
}

impl Growing {
    /// A reply to a request that was sent at `started`.
    pub(super) fn new(started: Instant) -> Self {
        let (content, calls) = (String::new(), Vec::new());
        Self { started, first: None, content, calls, finish: None, usage: None, bytes: 0 }
    }

    /// Takes the next piece. The error is what the endpoint did wrong.
    pub(super) fn add(
        &mut self,
        chunk: Chunk,
        observe: &mut (dyn FnMut(ReplyDelta) + Send),
    ) -> Result<(), String> {
        if let Some(usage) = chunk.usage {
            let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0);
            self.usage = Some(Usage {
                prompt_tokens: usage.prompt_tokens as usize,
                cached_tokens: cached as usize,
                completion_tokens: usage.completion_tokens as usize,
            });
        }
        // One answer was asked for; a second choice would be another one.
        for choice in chunk.choices.into_iter().filter(|choice| choice.index == 0) {
            // A refusal is what the model has to say.
            let texts = [choice.delta.content, choice.delta.refusal];
            for text in texts.into_iter().flatten().filter(|text| !text.is_empty()) {
                self.grow(text.len())?;
                self.content.push_str(&text);
                observe(ReplyDelta::Text(text));
            }
            for piece in choice.delta.tool_calls.into_iter().flatten() {
                self.add_call(piece)?;
            }
            self.finish = match choice.finish_reason {
                None => self.finish,
                Some(Wire::Stop) => Some(FinishReason::Stop),
                Some(Wire::Length) => Some(FinishReason::Length),
                Some(Wire::ToolCalls | Wire::FunctionCall) => Some(FinishReason::ToolCalls),
                Some(Wire::ContentFilter) => return Err("its content filter ended the reply".into()),
            };
        }
        Ok(())
    }

    fn add_call(&mut self, piece: CallPiece) -> Result<(), String> {
        let id = piece.id.unwrap_or_default();
        let function = piece.function.unwrap_or_default();
        let arguments = function.arguments.unwrap_or_default();
        self.grow(arguments.len())?;
        let known = self.calls.iter_mut().rev().find(|call| call.index == piece.index);
        // Some servers give every call the index 0 and tell them apart by id; some repeat id and name in each piece.
        let call = match known {
            Some(call) if id.is_empty() || call.id.is_empty() || call.id == id => call,
            _ => {
                self.calls.push(GrowingCall { index: piece.index, ..GrowingCall::default() });
                self.calls.last_mut().expect("it was just pushed")
            }
        };
        if call.id.is_empty() {
            call.id = id;
        }
        if call.name.is_empty() {
            call.name = function.name.unwrap_or_default();
        }
        call.arguments.push_str(&arguments);
        Ok(())
    }

    fn grow(&mut self, bytes: usize) -> Result<(), String> {
        self.first.get_or_insert_with(Instant::now);
        self.bytes += bytes;
        if self.bytes > MAX_REPLY_BYTES {
            return Err(format!("its reply has more than {MAX_REPLY_BYTES} bytes"));
        }
        Ok(())
    }

    /// The whole reply, with the tools' own `names`. `prompt_tokens`: our estimate, where it does not count.
    pub(super) fn whole(self, names: &[&str], prompt_tokens: usize) -> Result<ModelReply, String> {
        let finish = self.finish.ok_or("the stream ended before the reply did")?;
        let cut = finish == FinishReason::Length;
        let mut tool_calls: Vec<ToolCall> = self.calls.into_iter().map(|call| call.whole(names)).collect();
        // An object that is closed is whole even so; anything else was cut in the middle.
        let cut_call = tool_calls.pop_if(|call| cut && !call.arguments.is_object());
        let cut_call = cut_call.map(|call| match call.arguments {
            Value::String(text) => format!("{} {text}", call.name),
            other => format!("{} {other}", call.name),
        });
        let finish = if !cut && !tool_calls.is_empty() { FinishReason::ToolCalls } else { finish };
        let first = self.first.unwrap_or(self.started);
        let timings = Timings {
            prefill: first.saturating_duration_since(self.started),
            decode: first.elapsed(),
            ..Timings::default()
        };
        let estimate =
            Usage { prompt_tokens, cached_tokens: 0, completion_tokens: self.bytes / BYTES_PER_TOKEN + 1 };
        let usage = self.usage.unwrap_or(estimate);
        Ok(ModelReply { content: self.content, tool_calls, cut_call, finish, usage, timings })
    }
}

impl GrowingCall {
    /// The call with its tool's own name. Arguments that are no JSON stay text, so that dispatch can say so.
    fn whole(self, names: &[&str]) -> ToolCall {
        let known = names.iter().find(|name| name.replace('.', DOT) == self.name);
        let name = known.map_or_else(|| self.name.replace(DOT, "."), |name| (*name).to_owned());
        let text = if self.arguments.trim().is_empty() { "{}".to_owned() } else { self.arguments };
        let arguments = serde_json::from_str(&text).unwrap_or(Value::String(text));
        ToolCall { id: self.id, name, arguments }
    }
}
