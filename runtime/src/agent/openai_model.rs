//! A remote model behind the OpenAI protocol.
//!
//! The request is built as JSON, so that fields which only some servers know can be left out; the client, its
//! retries and its stream are async-openai's. Tool names with a dot are not allowed there: `workspace.read`
//! travels as `workspace__read`. The key is read from the environment and appears nowhere else.

use std::collections::BTreeMap;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{
    CreateChatCompletionRequest, CreateChatCompletionStreamResponse, FinishReason as Wire,
};
use chaski_engine::{
    FinishReason, GenerateRequest, Message, OutputFormat, Prompt, Role, Timings, ToolCall, ToolChoice, Usage,
};
use futures::StreamExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::model::{ChatModel, ModelError, ModelReply, ReplyDelta};
use crate::config::RemoteModel;

/// Context of a remote model whose configuration does not say.
const DEFAULT_CONTEXT: usize = 8192;
/// Bytes of a token, for the estimate: English text has about four, code fewer.
const BYTES_PER_TOKEN: usize = 3;
/// What stands for the dot in a tool's name.
const DOT: &str = "__";

/// A model behind an OpenAI-compatible endpoint.
pub struct OpenAiModel {
    name: String,
    remote: RemoteModel,
    client: Client<OpenAIConfig>,
}

impl OpenAiModel {
    /// The model `name` of the configuration.
    ///
    /// # Errors
    /// [`ModelError::Remote`] when the variable that should hold the key is not set, unless the endpoint is on
    /// this machine, where servers often ask for none.
    pub fn from_config(name: &str, remote: &RemoteModel) -> Result<Self, ModelError> {
        let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
        let key = match std::env::var(&remote.api_key_env) {
            Ok(key) => key,
            Err(_) if local.iter().any(|start| remote.base_url.starts_with(start)) => String::new(),
            Err(_) => {
                return Err(ModelError::Remote {
                    model: remote.model.clone(),
                    endpoint: remote.base_url.clone(),
                    reason: format!(
                        "the variable `{}`, which should hold the key, is not set",
                        remote.api_key_env
                    ),
                });
            }
        };
        let config = OpenAIConfig::new().with_api_base(&remote.base_url).with_api_key(key);
        Ok(Self { name: name.to_owned(), remote: remote.clone(), client: Client::with_config(config) })
    }

    fn fault(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Remote {
            model: self.remote.model.clone(),
            endpoint: self.remote.base_url.clone(),
            reason: reason.into(),
        }
    }

    fn request(&self, request: &GenerateRequest) -> Result<CreateChatCompletionRequest, ModelError> {
        let Prompt::Chat(messages) = &request.prompt else {
            return Err(self.fault("only conversations can be sent to a remote model"));
        };
        let mut body = json!({
            "model": self.remote.model,
            "messages": messages.iter().map(message).collect::<Vec<_>>(),
            "max_tokens": request.max_tokens,
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "seed": request.sampling.seed & 0x7fff_ffff_ffff_ffff,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        if !request.stop.is_empty() {
            body["stop"] = json!(request.stop);
        }
        if !request.tools.is_empty() && request.tool_choice != ToolChoice::None {
            let tools: Vec<Value> = request
                .tools
                .iter()
                .map(|tool| {
                    json!({"type": "function", "function": {
                        "name": tool.name.replace('.', DOT), "description": tool.description,
                        "parameters": tool.parameters,
                    }})
                })
                .collect();
            body["tools"] = json!(tools);
            body["tool_choice"] = match &request.tool_choice {
                ToolChoice::Required => json!("required"),
                ToolChoice::Named(name) => {
                    json!({"type": "function", "function": {"name": name.replace('.', DOT)}})
                }
                ToolChoice::Auto | ToolChoice::None => json!("auto"),
            };
        }
        match &request.output {
            OutputFormat::Text => {}
            OutputFormat::JsonSchema(schema) => {
                body["response_format"] = json!({"type": "json_schema", "json_schema": {
                    "name": "answer", "schema": schema, "strict": true,
                }});
            }
            OutputFormat::Regex(_) | OutputFormat::Lark(_) => {
                return Err(self.fault("a remote model cannot be bound to a regular expression or grammar"));
            }
        }
        serde_json::from_value(body)
            .map_err(|error| self.fault(format!("the request cannot be sent: {error}")))
    }

    async fn stream(
        &self,
        request: &GenerateRequest,
        observe: &mut (dyn FnMut(ReplyDelta) + Send),
    ) -> Result<ModelReply, ModelError> {
        let body = self.request(request)?;
        let told = |error: OpenAIError| self.fault(error.to_string());
        let mut stream = self.client.chat().create_stream(body).await.map_err(told)?;
        let mut reply = Growing::default();
        while let Some(chunk) = stream.next().await {
            reply.add(chunk.map_err(told)?, observe);
        }
        let finish = reply.finish.ok_or_else(|| self.fault("the stream ended before the reply did"))?;
        let names: Vec<&str> = request.tools.iter().map(|tool| tool.name.as_str()).collect();
        let cut = finish == FinishReason::Length;
        let mut calls: Vec<ToolCall> = reply.calls.into_values().map(|call| call.whole(&names)).collect();
        // The last call of a reply that was cut is not whole.
        let cut_call =
            if cut { calls.pop().map(|call| format!("{} {}", call.name, call.arguments)) } else { None };
        for call in &calls {
            observe(ReplyDelta::ToolCall(call.clone()));
        }
        let finish = if !cut && !calls.is_empty() { FinishReason::ToolCalls } else { finish };
        let content = reply.content;
        Ok(ModelReply {
            content,
            tool_calls: calls,
            cut_call,
            finish,
            usage: reply.usage,
            timings: Timings::default(),
        })
    }
}

impl ChatModel for OpenAiModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn context(&self) -> usize {
        self.remote.context.unwrap_or(DEFAULT_CONTEXT)
    }

    fn count_tokens(&self, request: &GenerateRequest) -> Result<usize, ModelError> {
        let Prompt::Chat(messages) = &request.prompt else { return Ok(0) };
        let bytes = json!([messages, request.tools]).to_string().len();
        Ok(bytes / BYTES_PER_TOKEN)
    }

    fn reply<'a>(
        &'a self,
        request: GenerateRequest,
        observe: &'a mut (dyn FnMut(ReplyDelta) + Send),
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<ModelReply, ModelError>> {
        Box::pin(async move {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(ModelError::Cancelled),
                reply = self.stream(&request, observe) => reply,
            }
        })
    }
}

fn message(message: &Message) -> Value {
    let mut body = match message.role {
        Role::System => json!({"role": "system", "content": message.content}),
        Role::User => json!({"role": "user", "content": message.content}),
        Role::Assistant => json!({"role": "assistant", "content": message.content}),
        Role::Tool => {
            json!({"role": "tool", "content": message.content, "tool_call_id": message.tool_call_id})
        }
    };
    if !message.tool_calls.is_empty() {
        let calls: Vec<Value> = message
            .tool_calls
            .iter()
            .map(|call| {
                json!({"id": call.id, "type": "function", "function": {
                    "name": call.name.replace('.', DOT), "arguments": call.arguments.to_string(),
                }})
            })
            .collect();
        body["tool_calls"] = json!(calls);
    }
    body
}

/// A reply as its pieces come in.
#[derive(Default)]
struct Growing {
    content: String,
    calls: BTreeMap<u32, GrowingCall>,
    finish: Option<FinishReason>,
    usage: Usage,
}

#[derive(Default)]
struct GrowingCall {
    id: String,
    name: String,
    arguments: String,
}

impl Growing {
    fn add(
        &mut self,
        chunk: CreateChatCompletionStreamResponse,
        observe: &mut (dyn FnMut(ReplyDelta) + Send),
    ) {
        if let Some(usage) = chunk.usage {
            let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0);
            self.usage = Usage {
                prompt_tokens: usage.prompt_tokens as usize,
                cached_tokens: cached as usize,
                completion_tokens: usage.completion_tokens as usize,
            };
        }
        for choice in chunk.choices {
            if let Some(text) = choice.delta.content.filter(|text| !text.is_empty()) {
                self.content.push_str(&text);
                observe(ReplyDelta::Text(text));
            }
            for piece in choice.delta.tool_calls.into_iter().flatten() {
                let call = self.calls.entry(piece.index).or_default();
                call.id.push_str(piece.id.as_deref().unwrap_or_default());
                if let Some(function) = piece.function {
                    call.name.push_str(function.name.as_deref().unwrap_or_default());
                    call.arguments.push_str(function.arguments.as_deref().unwrap_or_default());
                }
            }
            self.finish = match choice.finish_reason {
                None => self.finish,
                Some(Wire::Length) => Some(FinishReason::Length),
                Some(Wire::ToolCalls | Wire::FunctionCall) => Some(FinishReason::ToolCalls),
                Some(_) => Some(FinishReason::Stop),
            };
        }
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

#[cfg(test)]
mod tests;
