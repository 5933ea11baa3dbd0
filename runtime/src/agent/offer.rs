//! Which tools the model is told of at the start, and how it finds the others.
//!
//! Descriptions of many tools would eat the context. Beyond a limit the model reads a catalogue of a few lines and
//! gets `tool_search`, whose answers hold descriptions and schemas. What was found can be called from the next
//! turn on. It is told in the conversation, behind what was there: the prompt's beginning stays as it is, and so
//! does what the KV cache holds of it.

mod catalogue;
mod search;

use std::sync::Arc;

use chaski_engine::{GenerateRequest, Message, ToolChoice, ToolSpec};

use self::catalogue::catalogue;
use self::search::{SEARCH, ToolSearch};
use super::model::{ChatModel, ModelError};
use super::turn::Agent;
use crate::tools::ToolSet;

/// What descriptions of tools may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolRoom {
    /// Tools that are described from the start.
    pub tools: usize,
    /// Percent of the context that their descriptions may take.
    pub percent: usize,
}

impl Default for ToolRoom {
    /// A tenth of the context leaves room for a task and its results; among more than twenty tools, small models
    /// choose badly.
    fn default() -> Self {
        Self { tools: 20, percent: 10 }
    }
}

/// What one agent's model is told of its tools.
pub(super) struct Offer {
    /// Every tool that can be called, the search included.
    pub tools: ToolSet,
    /// What happened, for a person, if not all tools are described.
    pub notice: Option<String>,
    described: Vec<ToolSpec>,
    search: Option<Arc<ToolSearch>>,
}

impl Offer {
    /// The offer of `agent`'s tools to `model`. What `messages` say was found before is found still.
    pub(super) fn of(agent: &Agent, model: &dyn ChatModel, messages: &[Message]) -> Result<Self, ModelError> {
        let specs = agent.tools.specs();
        let room = agent.limits.tool_room;
        let budget = model.context() * room.percent / 100;
        let tokens = if specs.is_empty() { 0 } else { tokens_of_tools(model, &specs)? };
        if agent.tool_choice == ToolChoice::None || (specs.len() <= room.tools && tokens <= budget) {
            let tools = agent.tools.clone();
            return Ok(Self { tools, notice: None, described: specs, search: None });
        }
        let base = tokens_of_text(model, "")?;
        let count = |text: &str| Ok::<_, ModelError>(tokens_of_text(model, text)?.saturating_sub(base));
        let known = catalogue(&specs, &count)?;
        let search = Arc::new(ToolSearch::new(specs.clone(), &known, budget));
        for call in messages.iter().flat_map(|message| &message.tool_calls).filter(|call| call.name == SEARCH)
        {
            search.search(&call.arguments);
        }
        // What must be called first must be known first.
        let named = specs.iter().filter(|spec| agent.tool_choice == ToolChoice::Named(spec.name.clone()));
        let described = [search.spec()].into_iter().chain(named.cloned()).collect();
        let notice = format!(
            "{} tools would take {tokens} of the context's {} tokens: the model reads a catalogue and finds them \
             with `{SEARCH}`",
            specs.len(),
            model.context(),
        );
        let tools = agent.tools.clone().with(search.clone());
        Ok(Self { tools, notice: Some(notice), described, search: Some(search) })
    }

    /// What the beginning of every prompt describes.
    pub(super) fn described(&self) -> Vec<ToolSpec> {
        self.described.clone()
    }

    /// What was found since, in the order it was found.
    pub(super) fn found(&self) -> Vec<ToolSpec> {
        let found = self.search.iter().flat_map(|search| search.found());
        found.filter(|spec| !self.described.iter().any(|known| known.name == spec.name)).collect()
    }
}

/// Tokens that `tools` add to a prompt.
fn tokens_of_tools(model: &dyn ChatModel, tools: &[ToolSpec]) -> Result<usize, ModelError> {
    let without = GenerateRequest::chat(vec![Message::user("x")], 1);
    let with = GenerateRequest { tools: tools.to_vec(), ..without.clone() };
    Ok(model.count_tokens(&with)?.saturating_sub(model.count_tokens(&without)?))
}

/// Tokens of a prompt that says `text`.
fn tokens_of_text(model: &dyn ChatModel, text: &str) -> Result<usize, ModelError> {
    model.count_tokens(&GenerateRequest::chat(vec![Message::user(format!("x{text}"))], 1))
}

#[cfg(test)]
mod tests;
