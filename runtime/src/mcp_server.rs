//! chaski as an MCP server: tools for other programs' models, in both eras of the protocol.
//!
//! What is offered is a [`ToolSet`]: plugin tools in their sandbox, and workflows. A call takes the same way as a
//! call of our own models ([`crate::run::calls`]): the rules decide, and it is in the journal before it runs.
//! [`stdio`] serves one client, [`http`] many.
//!
//! Invariant: nothing is offered that the operator did not name, and whatever a client sends, it gets an answer or
//! an error of the protocol.

pub mod stdio;
pub mod http;
pub mod workflow_tool;

use std::sync::Arc;
use std::time::Duration;

use chaski_engine::ToolCall;
use rmcp::RoleServer;
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData, Implementation,
    ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool as Listed,
    ToolAnnotations,
};
use rmcp::service::RequestContext;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::run::calls::CallSite;
use crate::run::event::Place;
use crate::run::journal::JournalError;
use crate::run::recorder::Recorder;
use crate::tools::{CallContext, Effect, ToolDefinition, ToolOutcome, ToolResult, ToolSet};

/// Calls of all clients at one time; further ones are told to come back.
const MAX_CALLS_AT_ONCE: usize = 16;
/// Most time for one call. A plugin's own limit is shorter; a workflow with a model may take long.
const CALL_TIME: Duration = Duration::from_secs(3600);
/// Where the calls of clients happen, in the log.
const PLACE: &str = "mcp";

/// What one process offers, shared by all its clients.
#[derive(Clone)]
pub struct Offer {
    shared: Arc<Shared>,
}

struct Shared {
    tools: ToolSet,
    recorder: Recorder,
    turns: Arc<Semaphore>,
}

impl Offer {
    /// An offer of `tools`, whose calls are recorded with `recorder`.
    pub fn new(tools: ToolSet, recorder: Recorder) -> Self {
        let turns = Arc::new(Semaphore::new(MAX_CALLS_AT_ONCE));
        Self { shared: Arc::new(Shared { tools, recorder, turns }) }
    }
}

impl Shared {
    /// Runs `call` to its end, which is in the journal as its beginning is.
    async fn run(
        &self,
        call: ToolCall,
        key: String,
        cancel: CancellationToken,
    ) -> Result<ToolResult, JournalError> {
        let Ok(_turn) = self.turns.try_acquire() else {
            let text = format!(
                "`{}` was not run: {MAX_CALLS_AT_ONCE} calls run already. Try again later.",
                call.name
            );
            return Ok(ToolResult::failed(ToolOutcome::Overloaded, text));
        };
        let place = Place { step: PLACE.into(), item: None };
        let site = CallSite::new(self.tools.clone(), place, self.recorder.clone());
        let admitted = site.admit(&call).await?;
        let context = CallContext { cancel, ..site.context(&call, key, CALL_TIME) };
        let (result, cached) = site.run(&call, admitted, context).await;
        site.answered(&call, &result, cached)?;
        Ok(result)
    }
}

impl ServerHandler for Offer {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("chaski", env!("CARGO_PKG_VERSION")))
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools = self.shared.tools.definitions().map(listed).collect();
        Ok(ListToolsResult::with_all_items(tools))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let name = request.name.to_string();
        if self.shared.tools.get(&name).is_none() {
            return Err(ErrorData::invalid_params(format!("there is no tool `{name}`"), None));
        }
        let id = ulid::Ulid::generate().to_string();
        let call_id = format!("{}/{PLACE}/{id}", self.shared.recorder.run());
        let arguments = Value::Object(request.arguments.unwrap_or_default());
        let cancel = context.ct.child_token();
        // A client that goes away cancels its call; the task lives on until that is in the journal.
        let _gone = cancel.clone().drop_guard();
        let shared = self.shared.clone();
        let call = ToolCall { id, name, arguments };
        let running = tokio::spawn(async move { shared.run(call, call_id, cancel).await });
        match running.await {
            Ok(Ok(result)) => Ok(answer(result).into()),
            Ok(Err(error)) => Err(ErrorData::internal_error(error.to_string(), None)),
            Err(error) => Err(ErrorData::internal_error(format!("the call was lost: {error}"), None)),
        }
    }
}

fn listed(definition: &ToolDefinition) -> Listed {
    let object = |schema: &Value| schema.as_object().cloned().unwrap_or_default();
    let hints = match definition.effect {
        Effect::Pure => ToolAnnotations::new().read_only(true).idempotent(true),
        Effect::Idempotent => ToolAnnotations::new().read_only(false).idempotent(true),
        Effect::Effectful => ToolAnnotations::new().read_only(false),
    };
    let tool = Listed::new(
        definition.name.clone(),
        definition.description.clone(),
        object(&definition.input_schema),
    );
    let tool = tool.with_annotations(hints);
    // The protocol knows objects only as structured answers; others are in the text as JSON.
    match definition.output_schema.as_ref().filter(|schema| schema["type"] == "object") {
        Some(schema) => tool.with_raw_output_schema(Arc::new(object(schema))),
        None => tool,
    }
}

fn answer(result: ToolResult) -> CallToolResult {
    let text = vec![ContentBlock::text(result.text)];
    if result.outcome != ToolOutcome::Ok {
        return CallToolResult::error(text);
    }
    let mut answer = CallToolResult::success(text);
    answer.structured_content = result.json.filter(Value::is_object);
    answer
}
