//! Tools: what a model may call, whoever provides them.
//!
//! A [`Tool`] comes from a plugin, from an MCP server ([`mcp`]) or from the host. A [`registry::ToolSet`] holds those that one agent was
//! granted; [`dispatch`] validates a call's arguments, runs it and always ends with a [`ToolResult`]: what
//! goes wrong in a call is told to the model, and never ends the run.

pub mod arguments;
pub mod permission;
pub mod registry;
pub mod dispatch;
pub mod cache;
pub mod result;
pub mod mcp;

use std::sync::Arc;
use std::time::Duration;

use chaski_engine::ToolSpec;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use registry::{ToolRegistry, ToolSet};
pub use result::{ToolOutcome, ToolResult};

/// What a call may leave behind; drives retry, concurrency, approval and resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Same arguments, same answer, no trace left.
    Pure,
    /// Safe to repeat under one call id.
    Idempotent,
    /// Each call may change something outside.
    Effectful,
}

/// A tool as the registry, the model and the operator see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolDefinition {
    /// `plugin.tool`.
    pub name: String,
    /// When to use it and what it answers.
    pub description: String,
    /// JSON Schema of the arguments, `type: object`.
    pub input_schema: Value,
    /// JSON Schema of the structured answer, if the tool gives one.
    pub output_schema: Option<Value>,
    /// What a call may leave behind.
    pub effect: Effect,
}

impl ToolDefinition {
    /// The part that the model reads.
    pub fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: self.name.clone(),
            description: self.description.clone(),
            parameters: self.input_schema.clone(),
        }
    }
}

/// What a running call may ask of the run that it belongs to.
pub trait CallSession: Send + Sync {
    /// The tools that it could call, were its plugin granted them all.
    fn tools(&self) -> Vec<ToolDefinition>;

    /// Calls another tool: decided, written down and bounded like any call.
    fn call<'a>(&'a self, name: &'a str, arguments: Value, timeout: Duration) -> BoxFuture<'a, ToolResult>;

    /// Writes down that a capability was used or refused.
    fn audit(&self, audit: Audit);
}

/// A capability that a call used, or was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// `http`, `tools`.
    pub capability: &'static str,
    /// What was asked for: `GET https://api.example.com/path`.
    pub what: String,
    /// Why it was refused; `None` if it was not.
    pub refused: Option<String>,
}

/// What a call is told about itself.
#[derive(Clone, Default)]
pub struct CallContext {
    /// The same for every repetition of one call.
    pub call_id: String,
    /// Most time the caller gives it; a plugin's own limit may be shorter.
    pub timeout: Duration,
    /// Set when the run is cancelled: the call ends soon after, with [`ToolOutcome::Cancelled`].
    pub cancel: CancellationToken,
    /// The run; `None` for a call outside of one.
    pub session: Option<Arc<dyn CallSession>>,
    /// Another call makes it, and waits for it.
    pub nested: bool,
}

/// Something a model, or a workflow step, can call.
pub trait Tool: Send + Sync {
    /// Its name, schema and effect; the same for the tool's whole life.
    fn definition(&self) -> &ToolDefinition;

    /// What a call may touch in this run, a line each, for whoever is asked about one.
    fn reach(&self) -> Vec<String> {
        Vec::new()
    }

    /// Runs it with arguments that are valid under its schema. Bounded in time by `context.timeout`.
    fn call<'a>(&'a self, arguments: Value, context: CallContext) -> BoxFuture<'a, ToolResult>;
}
