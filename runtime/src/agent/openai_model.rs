//! A remote model behind the OpenAI protocol.
//!
//! The request is built as JSON, so that fields which only some servers know can be left out; the client, its
//! retries (three, on 429 and 5xx, as `Retry-After` asks) and its stream are async-openai's. Tool names with a
//! dot are not allowed there: `workspace.read` travels as `workspace__read`.
//!
//! Invariant: the key is read from the environment, goes to the configured endpoint, and appears nowhere else;
//! what the protocol cannot say is refused, never left out.

mod growing;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::CreateChatCompletionRequest;
use chaski_engine::{GenerateRequest, Message, OutputFormat, Prompt, Role, Sampling, ToolChoice};
use futures::StreamExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::growing::Growing;
use super::model::{ChatModel, ModelError, ModelReply, ReplyDelta};
use crate::config::RemoteModel;
use crate::tools::result::cut_middle;

/// Context of a remote model whose configuration does not say.
const DEFAULT_CONTEXT: usize = 8192;
/// Bytes of a token, for the estimate: English text has about four, code fewer.
const BYTES_PER_TOKEN: usize = 3;
/// What stands for the dot in a tool's name.
const DOT: &str = "__";
/// Longest name of a tool in the protocol.
const MAX_NAME_BYTES: usize = 64;
/// Time to reach the endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a byte from it: a busy server may think for long before its first token.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Bytes of an endpoint's own words in an error: a proxy may answer with a whole page.
const MAX_TOLD_BYTES: usize = 400;

/// A model behind an OpenAI-compatible endpoint.
pub struct OpenAiModel {
    name: String,
    remote: RemoteModel,
    client: Client<OpenAIConfig>,
    /// To keep it out of what the endpoint says about it.
    key: String,
}

impl OpenAiModel {
    /// The model `name` of the configuration.
    ///
    /// # Errors
    /// [`ModelError::Remote`] when the variable that should hold the key is not set, unless the endpoint is on
    /// this machine, where servers often ask for none; and when it holds what cannot be a key.
    pub fn from_config(name: &str, remote: &RemoteModel) -> Result<Self, ModelError> {
        let fault = |reason: String| ModelError::Remote {
            model: remote.model.clone(),
            endpoint: without_credentials(&remote.base_url),
            reason,
        };
        let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
        let variable = &remote.api_key_env;
        let key = match std::env::var(variable) {
            Ok(key) => key.trim().to_owned(),
            Err(_) if local.iter().any(|start| remote.base_url.starts_with(start)) => String::new(),
            Err(_) => {
                return Err(fault(format!(
                    "the variable `{variable}`, which should hold the key, is not set"
                )));
            }
        };
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(fault(format!("the variable `{variable}` holds characters that no key has")));
        }
        // A redirect would carry the key and the conversation elsewhere.
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(IDLE_TIMEOUT)
            .build()
            .map_err(|error| fault(format!("no HTTPS client: {error}")))?;
        // Organisation and project of the environment belong to another endpoint.
        let config = OpenAIConfig::new()
            .with_api_base(remote.base_url.trim_end_matches('/'))
            .with_api_key(key.clone())
            .with_org_id("")
            .with_project_id("");
        Ok(Self { name: name.to_owned(), remote: remote.clone(), client: Client::build(http, config), key })
    }

    fn fault(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Remote {
            model: self.remote.model.clone(),
            endpoint: without_credentials(&self.remote.base_url),
            reason: reason.into(),
        }
    }

    /// What the endpoint said, cut to size and without the key.
    fn told(&self, error: &OpenAIError) -> ModelError {
        let said = match error {
            OpenAIError::ApiError(answer) => format!("{}: {}", answer.status_code, answer.api_error.message),
            OpenAIError::JSONDeserialize(_, content) => {
                format!("an answer that is not of the protocol: {content}")
            }
            other => with_causes(other),
        };
        let said = if self.key.is_empty() { said } else { said.replace(&self.key, "[key]") };
        self.fault(cut_middle(&said, MAX_TOLD_BYTES).0)
    }

    fn request(&self, request: &GenerateRequest) -> Result<CreateChatCompletionRequest, ModelError> {
        let Prompt::Chat(messages) = &request.prompt else {
            return Err(self.fault("only conversations can be sent to a remote model"));
        };
        self.check_sampling(&request.sampling)?;
        if let Some(adapter) = &request.adapter {
            return Err(self.fault(format!(
                "the OpenAI protocol cannot ask for the adapter `{adapter}`: name the adapted model instead"
            )));
        }
        // OpenAI itself refuses the field that most other servers know.
        let max_tokens = match host(&self.remote.base_url) {
            host if host == "openai.com" || host.ends_with(".openai.com") => "max_completion_tokens",
            _ => "max_tokens",
        };
        let mut body = json!({
            "model": self.remote.model,
            "messages": messages.iter().map(message).collect::<Vec<_>>(),
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "seed": request.sampling.seed & 0x7fff_ffff_ffff_ffff,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        body[max_tokens] = json!(request.max_tokens);
        if !request.stop.is_empty() {
            body["stop"] = json!(request.stop);
        }
        let known = || request.tools.iter().chain(&request.late_tools);
        if known().next().is_some() && request.tool_choice != ToolChoice::None {
            self.check_names(request)?;
            let tools: Vec<Value> = known()
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

    /// What the protocol has no field for must not be lost silently.
    fn check_sampling(&self, sampling: &Sampling) -> Result<(), ModelError> {
        let unset = Sampling::default();
        let fields = [
            ("top_k", sampling.top_k != unset.top_k),
            ("min_p", sampling.min_p != unset.min_p),
            ("repetition_penalty", sampling.repetition_penalty != unset.repetition_penalty),
        ];
        match fields.iter().find(|(_, set)| *set) {
            Some((field, _)) => {
                Err(self.fault(format!("the OpenAI protocol has no sampling field `{field}`")))
            }
            None => Ok(()),
        }
    }

    /// Every tool must have a name there that is allowed and leads back to it alone.
    fn check_names(&self, request: &GenerateRequest) -> Result<(), ModelError> {
        let mut taken = BTreeSet::new();
        for tool in request.tools.iter().chain(&request.late_tools) {
            let name = tool.name.replace('.', DOT);
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            if name.len() > MAX_NAME_BYTES || !name.bytes().all(allowed) {
                return Err(
                    self.fault(format!("the OpenAI protocol does not allow the tool name `{}`", tool.name))
                );
            }
            if !taken.insert(name) {
                return Err(self.fault(format!("two tools would have the name of `{}` there", tool.name)));
            }
        }
        Ok(())
    }

    async fn stream(
        &self,
        request: &GenerateRequest,
        observe: &mut (dyn FnMut(ReplyDelta) + Send),
    ) -> Result<ModelReply, ModelError> {
        let body = self.request(request)?;
        let started = Instant::now();
        let mut stream = self.client.chat().create_stream(body).await.map_err(|error| self.told(&error))?;
        let mut reply = Growing::new(started);
        while let Some(chunk) = stream.next().await {
            reply
                .add(chunk.map_err(|error| self.told(&error))?, observe)
                .map_err(|fault| self.fault(fault))?;
        }
        let known = request.tools.iter().chain(&request.late_tools);
        let names: Vec<&str> = known.map(|tool| tool.name.as_str()).collect();
        let reply = reply.whole(&names, self.count_tokens(request)?).map_err(|fault| self.fault(fault))?;
        for call in &reply.tool_calls {
            observe(ReplyDelta::ToolCall(call.clone()));
        }
        Ok(reply)
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

/// The host of a URL, without port and credentials.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.split(':').next().unwrap_or_default()
}

/// `url` as it may be shown.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// An error and what caused it: `error sending request` alone tells nobody that a port is closed.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| {
        let cause = cause.to_string();
        if told.contains(&cause) { told } else { format!("{told}: {cause}") }
    })
}

#[cfg(test)]
mod tests;
