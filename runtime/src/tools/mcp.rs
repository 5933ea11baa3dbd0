//! MCP servers as tools: `[mcp.NAME]` of the settings, offered to models as `NAME.tool`.
//!
//! [`settings`] says where a server is. [`process`] starts one that runs here, with nothing of our environment
//! but what was named; [`connection`] speaks with it in either era of the protocol; [`listing`] turns what it
//! offers into tool definitions; [`server`] keeps a connection and makes each tool a [`Tool`](super::Tool).
//!
//! Invariant: a server is not trusted. What it says about a tool's effects is a hint that nobody acts on, what
//! it sends is bounded, and however it behaves a call ends in time with a [`ToolResult`](super::ToolResult).

pub mod settings;
pub mod error;
mod bounded;
mod process;
mod connection;
mod listing;
mod answer;
pub mod server;

pub use error::McpError;
pub use server::{McpServer, McpServers};
pub use settings::{McpEndpoint, McpSettings};
