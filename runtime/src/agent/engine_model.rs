//! The model in this process.

use std::sync::Arc;

use chaski_engine::{Engine, EngineError, GenerateRequest, TokenEvent};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::model::{ChatModel, ModelError, ModelReply, ReplyDelta};

/// The engine as a [`ChatModel`].
pub struct EngineModel {
    /// Its name in the catalog or the configuration.
    pub name: String,
    /// The engine.
    pub engine: Arc<Engine>,
}

impl ChatModel for EngineModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn context(&self) -> usize {
        self.engine.info().context
    }

    fn count_tokens(&self, request: &GenerateRequest) -> Result<usize, ModelError> {
        Ok(self.engine.count_tokens(request)?)
    }

    fn reply<'a>(
        &'a self,
        request: GenerateRequest,
        observe: &'a mut (dyn FnMut(ReplyDelta) + Send),
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<ModelReply, ModelError>> {
        async move {
            let generation = async {
                let mut generation = self.engine.generate(request).await?;
                let mut reply = Collected::default();
                while let Some(event) = generation.events.recv().await {
                    if let Some(reply) = reply.take(event, observe)? {
                        return Ok(reply);
                    }
                }
                Err(ModelError::Engine(EngineError::Stopped))
            };
            // Dropping the generation is what cancels it.
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(ModelError::Cancelled),
                reply = generation => reply,
            }
        }
        .boxed()
    }
}

/// A reply as far as it has come.
#[derive(Default)]
struct Collected {
    content: String,
    tool_calls: Vec<chaski_engine::ToolCall>,
}

impl Collected {
    /// Takes the next event; the last one gives the whole reply.
    fn take(
        &mut self,
        event: TokenEvent,
        observe: &mut (dyn FnMut(ReplyDelta) + Send),
    ) -> Result<Option<ModelReply>, ModelError> {
        match event {
            TokenEvent::Started { prompt_tokens, cached_tokens } => {
                observe(ReplyDelta::Started { prompt_tokens, cached_tokens });
            }
            TokenEvent::Text(text) => {
                self.content.push_str(&text);
                observe(ReplyDelta::Text(text));
            }
            TokenEvent::ToolCall(call) => {
                self.tool_calls.push(call.clone());
                observe(ReplyDelta::ToolCall(call));
            }
            TokenEvent::Finished(finished) => {
                return Ok(Some(ModelReply {
                    content: std::mem::take(&mut self.content),
                    tool_calls: std::mem::take(&mut self.tool_calls),
                    cut_call: finished.cut_call,
                    finish: finished.reason,
                    usage: finished.usage,
                    timings: finished.timings,
                }));
            }
            TokenEvent::Failed(error) => return Err(error.into()),
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use chaski_engine::{FinishReason, Finished, Speculation, Timings, ToolCall, Usage};
    use serde_json::json;

    use super::*;

    #[test]
    fn events_add_up_to_the_reply() {
        let call = ToolCall { id: "call_1".into(), name: "math.add".into(), arguments: json!({"a": 1}) };
        let usage = Usage { prompt_tokens: 9, cached_tokens: 4, completion_tokens: 3 };
        let finished = Finished {
            reason: FinishReason::ToolCalls,
            cut_call: None,
            usage,
            timings: Timings::default(),
            speculation: Speculation::default(),
        };
        let mut seen = Vec::new();
        let mut collected = Collected::default();
        let mut observe = |delta| seen.push(delta);
        let events = [
            TokenEvent::Started { prompt_tokens: 9, cached_tokens: 4 },
            TokenEvent::Text("Let ".into()),
            TokenEvent::Text("me.".into()),
            TokenEvent::ToolCall(call.clone()),
        ];
        for event in events {
            assert_eq!(collected.take(event, &mut observe).expect("no failure"), None);
        }
        let reply = collected.take(TokenEvent::Finished(finished), &mut observe).expect("no failure");
        let reply = reply.expect("the last event ends the reply");
        assert_eq!((reply.content.as_str(), reply.tool_calls), ("Let me.", vec![call]));
        assert_eq!((reply.finish, reply.usage), (FinishReason::ToolCalls, usage));
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn a_failed_generation_is_the_engines_error() {
        let failed = TokenEvent::Failed(EngineError::Compute("no memory".into()));
        let error = Collected::default().take(failed, &mut |_| ()).expect_err("it failed");
        assert_eq!(error.to_string(), "forward pass: no memory");
    }
}
