//! The `[agents]` table: what agents are told beside their instructions.

use crate::agent::offer::ToolRoom;

/// What agents are told beside their instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentSettings {
    /// Whether a project's `AGENTS.md` is read.
    pub agents_md: bool,
    /// What descriptions of tools may take of a context before the model has to search for them.
    pub tool_room: ToolRoom,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self { agents_md: true, tool_room: ToolRoom::default() }
    }
}
