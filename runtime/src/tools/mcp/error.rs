//! Why an MCP server's tools are not there.

use std::time::Duration;

/// Why an MCP server's tools are not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum McpError {
    /// Its name is taken.
    #[error("the MCP server `{server}` cannot be used: {what} has the same name")]
    NameTaken {
        /// Its name in the settings.
        server: String,
        /// Whose name it is.
        what: String,
    },
    /// It could not be started.
    #[error("the MCP server `{server}` cannot be started: {reason}")]
    Start {
        /// Its name in the settings.
        server: String,
        /// Why, and its last words if it said any.
        reason: String,
    },
    /// It did not say in time which tools it has.
    #[error("the MCP server `{server}` did not answer within {waited:?}{last_words}")]
    Silent {
        /// Its name in the settings.
        server: String,
        /// How long it was waited for.
        waited: Duration,
        /// What it wrote to its standard error last, if anything.
        last_words: String,
    },
    /// It offers nothing that can be used.
    #[error("the MCP server `{server}` offers no tool that can be used{reason}")]
    NoTools {
        /// Its name in the settings.
        server: String,
        /// Why not, if it offers any.
        reason: String,
    },
    /// The settings name an effect of a tool that it does not have.
    #[error("`mcp.{server}.effects` names the tool `{tool}`, which the server does not offer")]
    UnknownEffect {
        /// Its name in the settings.
        server: String,
        /// The tool.
        tool: String,
        /// The name of its that is closest.
        closest: Option<String>,
    },
}

impl McpError {
    /// What to do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NameTaken { server, .. } => {
                Some(format!("rename `[mcp.{server}]`, and the tools of it that workflows name"))
            }
            Self::Start { server, .. } => Some(format!(
                "check `[mcp.{server}]`: `command`, `args` and the variables named in `env`, or `url` and `key_env`"
            )),
            Self::Silent { server, .. } => Some(format!(
                "a program that speaks MCP writes nothing else to its standard output; a slow one needs a longer \
                 `mcp.{server}.start_timeout`"
            )),
            Self::NoTools { .. } => None,
            Self::UnknownEffect { closest, .. } => {
                closest.as_ref().map(|name| format!("did you mean `{name}`?"))
            }
        }
    }
}
