//! The MCP servers of a run, and their tools.
//!
//! A server that a run names is started once, before the run's first step. When its connection is lost, the call
//! that was under way says so and is not repeated: it may have worked. The next call starts the server again, a
//! few times.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};

use super::answer;
use super::connection::{CallFault, Connection};
use super::error::McpError;
use super::listing::Listing;
use super::settings::McpSettings;
use crate::tools::{CallContext, Tool, ToolDefinition, ToolOutcome, ToolResult};

/// Calls of one server at one time; more wait, within their own time.
const MAX_CALLS_AT_ONCE: usize = 8;
/// Times that a server is started again in one run.
const MAX_RESTARTS: usize = 3;

/// A server and what it offered when it was started.
pub struct McpServer {
    name: String,
    settings: McpSettings,
    listing: Listing,
    state: Mutex<State>,
    turns: Semaphore,
}

/// What changes while a run goes on.
struct State {
    /// The connection, unless it was lost.
    connection: Option<Arc<Connection>>,
    /// The tools as the server last listed them.
    current: BTreeMap<String, ToolDefinition>,
    /// How many changes of them the connection had announced by then.
    changes: u64,
    restarts: usize,
}

impl McpServer {
    /// Starts the server `name`.
    ///
    /// # Errors
    /// [`McpError`] when it does not start, does not answer in time, or offers nothing that can be used.
    pub async fn start(name: &str, settings: &McpSettings) -> Result<Arc<Self>, McpError> {
        let (connection, offered) = Connection::open(name, settings).await?;
        let listing = Listing::of(name, settings, offered)?;
        if listing.usable.is_empty() {
            let first = listing.unusable.iter().next();
            let reason = first.map(|(tool, reason)| format!(": `{tool}`: {reason}")).unwrap_or_default();
            return Err(McpError::NoTools { server: name.to_owned(), reason });
        }
        let state = State {
            connection: Some(Arc::new(connection)),
            current: listing.usable.clone(),
            changes: 0,
            restarts: 0,
        };
        Ok(Arc::new(Self {
            name: name.to_owned(),
            settings: settings.clone(),
            listing,
            state: Mutex::new(state),
            turns: Semaphore::new(MAX_CALLS_AT_ONCE),
        }))
    }

    /// Its tools.
    pub fn tools(self: &Arc<Self>) -> Vec<Arc<dyn Tool>> {
        let tool = |(own_name, definition): (&String, &ToolDefinition)| {
            let (own_name, definition) = (own_name.clone(), definition.clone());
            Arc::new(McpTool { own_name, definition, server: self.clone() }) as Arc<dyn Tool>
        };
        self.listing.usable.iter().map(tool).collect()
    }

    /// What it offers that cannot be used: the name that it would have here, and why.
    pub fn unusable(&self) -> impl Iterator<Item = (&str, &str)> {
        self.listing.unusable.iter().map(|(name, reason)| (name.as_str(), reason.as_str()))
    }

    /// Takes leave of the server. Its tools answer no more calls.
    pub async fn close(&self) {
        let mut state = self.state.lock().await;
        state.restarts = MAX_RESTARTS;
        if let Some(connection) = state.connection.take().and_then(Arc::into_inner) {
            connection.close().await;
        }
    }

    /// A connection that another call has a chance on, and a check that `tool` is still what it was.
    async fn ready(&self, own_name: &str, tool: &ToolDefinition) -> Result<Arc<Connection>, ToolResult> {
        let gone = |why: String| {
            ToolResult::failed(ToolOutcome::Unavailable, format!("`{}` was not called: {why}.", tool.name))
        };
        let mut state = self.state.lock().await;
        let open = state.connection.clone().filter(|connection| connection.is_open());
        let connection = match open {
            Some(connection) if connection.changes() == state.changes => connection,
            Some(connection) => {
                let changes = connection.changes();
                let offered = connection.tools().await.map_err(|reason| {
                    gone(format!("the MCP server `{}` does not say what it offers: {reason}", self.name))
                })?;
                state.current = self.listed(offered).map_err(gone)?;
                state.changes = changes;
                connection
            }
            None if state.restarts >= MAX_RESTARTS => {
                return Err(gone(format!("the MCP server `{}` has ended", self.name)));
            }
            None => {
                // What is left of the old one ends first.
                state.connection = None;
                state.restarts += 1;
                tracing::warn!(server = self.name, again = state.restarts, "an MCP server is started again");
                let opened = Connection::open(&self.name, &self.settings).await;
                let (connection, offered) = opened.map_err(|error| gone(error.to_string()))?;
                state.current = self.listed(offered).map_err(gone)?;
                state.changes = 0;
                let connection = Arc::new(connection);
                state.connection = Some(connection.clone());
                connection
            }
        };
        match state.current.get(own_name) {
            Some(current) if current.input_schema == tool.input_schema => Ok(connection),
            Some(_) => Err(gone("its arguments are no longer what they were when this run began".into())),
            None => Err(gone(format!("the MCP server `{}` no longer offers it", self.name))),
        }
    }

    fn listed(&self, offered: Vec<rmcp::model::Tool>) -> Result<BTreeMap<String, ToolDefinition>, String> {
        // An effect of a tool that has gone is no fault now.
        let settings = McpSettings { effects: BTreeMap::new(), ..self.settings.clone() };
        let listing = Listing::of(&self.name, &settings, offered).map_err(|error| error.to_string())?;
        Ok(listing.usable)
    }

    async fn call(&self, own_name: &str, tool: &ToolDefinition, arguments: Value) -> ToolResult {
        let _turn = self.turns.acquire().await;
        let connection = match self.ready(own_name, tool).await {
            Ok(connection) => connection,
            Err(result) => return result,
        };
        let Value::Object(arguments) = arguments else {
            let text = format!("The arguments of `{}` are no object.", tool.name);
            return ToolResult::failed(ToolOutcome::InvalidArguments, text);
        };
        match connection.call(own_name, arguments).await {
            Ok(response) => answer::result(tool, response, self.settings.output),
            Err(CallFault::Refused(reason)) => ToolResult::failed(
                ToolOutcome::Error,
                format!("The MCP server `{}` refuses the call of `{}`: {reason}", self.name, tool.name),
            ),
            Err(CallFault::Gone(reason)) => ToolResult::failed(
                ToolOutcome::Unavailable,
                format!("The MCP server `{}` gave no answer: {reason}. The call may have worked.", self.name),
            ),
        }
    }
}

/// One tool of a server.
struct McpTool {
    own_name: String,
    definition: ToolDefinition,
    server: Arc<McpServer>,
}

impl Tool for McpTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    fn call<'a>(&'a self, arguments: Value, context: CallContext) -> BoxFuture<'a, ToolResult> {
        Box::pin(async move {
            let name = &self.definition.name;
            let timeout: Duration = context.timeout.min(self.server.settings.timeout);
            let answer = self.server.call(&self.own_name, &self.definition, arguments);
            tokio::select! {
                biased;
                () = context.cancel.cancelled() => {
                    ToolResult::failed(ToolOutcome::Cancelled, format!("The call of `{name}` was cancelled."))
                }
                answer = tokio::time::timeout(timeout, answer) => answer.unwrap_or_else(|_elapsed| {
                    let text = format!("The tool `{name}` did not answer within {timeout:?}.");
                    ToolResult::failed(ToolOutcome::Timeout, text)
                }),
            }
        })
    }
}

/// The servers that one run uses. Dropped, with their tools, their programs are killed.
#[derive(Default)]
pub struct McpServers {
    servers: Vec<Arc<McpServer>>,
}

impl McpServers {
    /// Starts the servers that `settings` describe, all at the same time.
    ///
    /// # Errors
    /// The first [`McpError`]; the others are ended again.
    pub async fn start(settings: &[(&str, &McpSettings)]) -> Result<Self, McpError> {
        let started =
            join_all(settings.iter().map(|(name, settings)| McpServer::start(name, settings))).await;
        Ok(Self { servers: started.into_iter().collect::<Result<_, _>>()? })
    }

    /// The servers.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<McpServer>> {
        self.servers.iter()
    }

    /// Takes leave of all of them at the same time.
    pub async fn close(self) {
        join_all(self.servers.iter().map(|server| server.close())).await;
    }
}
