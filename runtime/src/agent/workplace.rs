//! What agents find where they work, beside their tools: the project's guidance, skills, room for tools.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::instructions::Guidance;
use super::offer::ToolRoom;
use super::skills::{self, Skill, SkillTool};
use super::turn::Agent;

/// What agents find where they work.
#[derive(Clone, Debug, Default)]
pub struct Workplace {
    /// The folder whose `AGENTS.md` is read; `None` to read none.
    pub project: Option<PathBuf>,
    /// The skills of each agent, by the agent's name.
    pub skills: BTreeMap<String, Vec<Skill>>,
    /// What descriptions of tools may take of a context.
    pub tool_room: ToolRoom,
}

impl Workplace {
    /// `agent` at work on `file`, if one is known: with guidance, with its skills; and what a person should know.
    pub fn furnish(&self, agent: Agent, file: Option<&str>) -> (Agent, Vec<String>) {
        let mut notices = Vec::new();
        let mut agent = agent;
        agent.limits.tool_room = self.tool_room;
        if let Some(skills) = self.skills.get(&agent.name).filter(|skills| !skills.is_empty()) {
            agent.instructions = skills::instructions(&agent.instructions, skills);
            agent.tools = agent.tools.with(Arc::new(SkillTool::new(skills.clone())));
        }
        match self.project.as_ref().map(|root| Guidance::nearest(root, file)) {
            Some(Ok(Some(guidance))) => {
                agent.instructions = guidance.after(&agent.instructions);
                notices.push(guidance.notice());
            }
            Some(Err(reason)) => notices.push(reason),
            Some(Ok(None)) | None => {}
        }
        (agent, notices)
    }
}
