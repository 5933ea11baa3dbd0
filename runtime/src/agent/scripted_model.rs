//! A model that plays a script: for tests of everything around a model, and for trying a workflow offline.
//!
//! A script is a YAML (or JSON) list of replies, played in order, whoever asks. Nothing in it is random, so
//! a run with it is the same every time (with `parallel: 1` where a workflow has `foreach`).

use std::path::Path;
use std::sync::Mutex;

use chaski_engine::{FinishReason, GenerateRequest, Message, Prompt, Timings, ToolCall, Usage};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::model::{ChatModel, ModelError, ModelReply, ReplyDelta};

/// Tokens of context: that of a small model.
const CONTEXT: usize = 8_192;

/// Bytes of one pretended token.
const BYTES_PER_TOKEN: usize = 4;

/// One reply of a script.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScriptedReply {
    /// Its text.
    pub content: String,
    /// The calls it asks for.
    pub tool_calls: Vec<ScriptedCall>,
    /// Text of a call that the token limit cuts.
    pub cut_call: Option<String>,
    /// The token limit cuts the text.
    pub cut: bool,
    /// Text that the prompt must hold, or the run fails: the script is out of step.
    pub expect_contains: Option<String>,
    /// Tools that can be called, by name, in order: those that the prompt describes, then those found later.
    pub expect_tools: Option<Vec<String>>,
    /// The reply never comes; the run must be cancelled, or run out of time.
    pub hang: bool,
    /// The model fails with this message.
    pub error: Option<String>,
}

/// One call of a scripted reply.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedCall {
    /// Its id; `call_1`, `call_2`, … when absent.
    #[serde(default)]
    pub id: Option<String>,
    /// The tool's name.
    pub name: String,
    /// The arguments.
    #[serde(default = "no_arguments")]
    pub arguments: Value,
}

fn no_arguments() -> Value {
    Value::Object(serde_json::Map::new())
}

/// A model that plays a script.
pub struct ScriptedModel {
    name: String,
    context: usize,
    replies: Vec<ScriptedReply>,
    /// Replies and calls played so far.
    played: Mutex<Played>,
}

#[derive(Default)]
struct Played {
    replies: usize,
    calls: usize,
}

impl ScriptedModel {
    /// The script in `path`.
    ///
    /// # Errors
    /// [`ModelError::Script`] when the file cannot be read or is no script; it names the file and the line.
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ModelError::Script(format!("cannot read `{}`: {error}", path.display())))?;
        let replies: Vec<ScriptedReply> = serde_saphyr::from_str(&text)
            .map_err(|error| ModelError::Script(format!("`{}` is not a script: {error}", path.display())))?;
        let name = format!("script:{}", path.display());
        Ok(Self { name, ..Self::from_replies(replies) })
    }

    /// A script built by hand.
    pub fn from_replies(replies: Vec<ScriptedReply>) -> Self {
        Self { name: "script".into(), context: CONTEXT, replies, played: Mutex::default() }
    }

    /// The same script with another context.
    pub fn with_context(self, context: usize) -> Self {
        Self { context, ..self }
    }

    /// The next reply and the number of the first call in it, or why there is none.
    fn next(&self, request: &GenerateRequest) -> Result<(ScriptedReply, usize), ModelError> {
        let mut played = self.played.lock().expect("nothing panics while it is held");
        let number = played.replies + 1;
        let reply = self.replies.get(played.replies).cloned().ok_or_else(|| {
            let count = self.replies.len();
            ModelError::Script(format!(
                "`{}` has {count} replies, and a reply {number} is asked for",
                self.name
            ))
        })?;
        let fault = |what: String| ModelError::Script(format!("reply {number} of `{}`: {what}", self.name));
        let prompt = prompt_text(request);
        if let Some(expected) = reply.expect_contains.as_ref().filter(|expected| !prompt.contains(*expected))
        {
            return Err(fault(format!("the prompt does not hold {expected:?}:\n{prompt}")));
        }
        let known = request.tools.iter().chain(&request.late_tools);
        let offered: Vec<&str> = known.map(|tool| tool.name.as_str()).collect();
        if let Some(expected) = reply.expect_tools.as_ref().filter(|expected| **expected != offered) {
            return Err(fault(format!("the prompt offers the tools {offered:?}, not {expected:?}")));
        }
        if let Some(error) = &reply.error {
            played.replies += 1;
            return Err(ModelError::Script(error.clone()));
        }
        let first_call = played.calls + 1;
        played.replies += 1;
        played.calls += reply.tool_calls.len();
        Ok((reply, first_call))
    }
}

impl ChatModel for ScriptedModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn context(&self) -> usize {
        self.context
    }

    fn count_tokens(&self, request: &GenerateRequest) -> Result<usize, ModelError> {
        let tools: usize = request.tools.iter().map(|tool| tool.name.len() + tool.description.len()).sum();
        Ok((prompt_text(request).len() + tools).div_ceil(BYTES_PER_TOKEN))
    }

    fn reply<'a>(
        &'a self,
        request: GenerateRequest,
        observe: &'a mut (dyn FnMut(ReplyDelta) + Send),
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<ModelReply, ModelError>> {
        async move {
            let (scripted, first_call) = self.next(&request)?;
            let prompt_tokens = self.count_tokens(&request)?;
            observe(ReplyDelta::Started { prompt_tokens, cached_tokens: 0 });
            // Word by word, so that whoever watches sees a stream.
            for word in scripted.content.split_inclusive(' ') {
                observe(ReplyDelta::Text(word.to_owned()));
            }
            if scripted.hang {
                cancel.cancelled().await;
                return Err(ModelError::Cancelled);
            }
            let reply = whole_reply(scripted, first_call, prompt_tokens);
            for call in &reply.tool_calls {
                observe(ReplyDelta::ToolCall(call.clone()));
            }
            Ok(reply)
        }
        .boxed()
    }
}

fn whole_reply(scripted: ScriptedReply, first_call: usize, prompt_tokens: usize) -> ModelReply {
    let finish = match () {
        () if scripted.cut || scripted.cut_call.is_some() => FinishReason::Length,
        () if !scripted.tool_calls.is_empty() => FinishReason::ToolCalls,
        () => FinishReason::Stop,
    };
    let calls = scripted.tool_calls.into_iter().enumerate();
    let tool_calls: Vec<ToolCall> = calls
        .map(|(index, call)| ToolCall {
            id: call.id.unwrap_or_else(|| format!("call_{}", first_call + index)),
            name: call.name,
            arguments: call.arguments,
        })
        .collect();
    let call_bytes: usize =
        tool_calls.iter().map(|call| call.name.len() + call.arguments.to_string().len()).sum();
    let bytes = scripted.content.len() + scripted.cut_call.as_ref().map_or(0, String::len) + call_bytes;
    // The stop token counts too, as with a real model.
    let completion_tokens = bytes.div_ceil(BYTES_PER_TOKEN) + 1;
    ModelReply {
        content: scripted.content,
        tool_calls,
        cut_call: scripted.cut_call,
        finish,
        usage: Usage { prompt_tokens, cached_tokens: 0, completion_tokens },
        timings: Timings::default(),
    }
}

/// The text of the whole prompt, a line per message.
fn prompt_text(request: &GenerateRequest) -> String {
    match &request.prompt {
        Prompt::Chat(messages) => messages.iter().map(message_text).collect(),
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(tokens) => format!("{tokens:?}"),
    }
}

fn message_text(message: &Message) -> String {
    let calls: String =
        message.tool_calls.iter().map(|call| format!(" {}{}", call.name, call.arguments)).collect();
    format!("{:?}: {}{calls}\n", message.role, message.content)
}

#[cfg(test)]
mod tests;
