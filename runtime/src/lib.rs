//! chaski: agents that run next to the model.
//!
//! One request, file after file: an entrance ([`cli`]) builds a run ([`run`]); a workflow ([`workflow`])
//! is a list of steps; an agent step is a loop of turns ([`agent`]); a turn asks the model (the engine
//! crate, or a remote endpoint) and dispatches the tool calls it wants ([`tools`]) to sandboxed plugins
//! ([`plugins`]). Every event is in the journal before it is acted on.

pub mod cli;
pub mod config;
pub mod workflow;
pub mod run;
pub mod agent;
pub mod tools;
pub mod plugins;
pub mod mcp_server;
pub mod review;
pub mod models;
pub mod digest;
pub mod whole_file;
pub mod suggest;
