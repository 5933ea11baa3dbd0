//! Where an MCP server is and what it may cost, as the user's settings say.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::tools::Effect;

/// One `[mcp.NAME]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McpSettings {
    /// How it is reached.
    pub endpoint: McpEndpoint,
    /// What calls of a tool leave behind, by the server's own name of the tool. What is not here is effectful:
    /// a server's own word for it is a hint only.
    pub effects: BTreeMap<String, Effect>,
    /// Most time until it has said which tools it has.
    pub start_timeout: Duration,
    /// Most time for one call.
    pub timeout: Duration,
    /// Bytes of one answer that reach the model.
    pub output: usize,
}

/// How an MCP server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum McpEndpoint {
    /// A program that chaski starts; it speaks on its standard input and output.
    Program {
        /// The program, looked for in `PATH`.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// The variables it gets besides `PATH`, `HOME` and `LANG`, by name.
        env: Vec<String>,
    },
    /// A server that runs already, over streamable HTTP.
    Http {
        /// Where.
        url: String,
        /// The variable that holds its key, sent as a bearer token.
        key_env: Option<String>,
    },
}

impl McpSettings {
    /// The settings of a server at `endpoint`, with the bounds that hold when none are named.
    ///
    /// Starting may take half a minute: a client that probes the newer era waits ten seconds for a server that
    /// does not answer, before it tries the older one.
    pub fn new(endpoint: McpEndpoint) -> Self {
        Self {
            endpoint,
            effects: BTreeMap::new(),
            start_timeout: Duration::from_secs(30),
            timeout: Duration::from_secs(60),
            output: 64 << 10,
        }
    }
}
