//! Messages to prompt pieces, by the checkpoint's chat template or a built-in one.
//!
//! Invariant: only the template's own text becomes special tokens; nothing inside a message, a tool
//! description or a tool result can. Special strings inside them are marked before the template runs
//! ([`guard`]), so that what is split off afterwards is the template's alone.

mod builtin;
mod guard;
mod jinja;
mod tools;

use super::message::{Message, ToolSpec};
use crate::error::EngineError;
use guard::Guard;
use jinja::Jinja;

/// A part of a rendered prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PromptPiece {
    /// A special token, by its name in the vocabulary: `<|eot_id|>`.
    Special(String),
    /// Ordinary text, encoded so that nothing in it becomes a special token.
    Text(String),
}

/// How a model is asked to write tool calls; the grammar and the worked example follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolCallStyle {
    /// `{"name": .., "parameters": {..}}` as the whole message: Llama 3, 3.1, 3.2.
    LlamaJson,
    /// `<tool_call>\n{"name": .., "arguments": {..}}\n</tool_call>`, one or more: ChatML models, Hermes, Groq.
    ToolCallTags,
}

/// A chat template and what goes with it.
pub struct ChatTemplate {
    name: &'static str,
    style: ToolCallStyle,
    /// The template writes tools, calls and results itself.
    writes_tools: bool,
    jinja: Jinja,
    guard: Guard,
}

impl ChatTemplate {
    /// Chooses: `overriding` if given, else the checkpoint's own if it parses, else the built-in one of the
    /// family that the vocabulary's special tokens show. `specials` are the vocabulary's special tokens.
    ///
    /// # Errors
    /// [`EngineError::Template`] when the overriding template does not parse, or nothing fits.
    pub fn choose(
        overriding: Option<&str>,
        checkpoint: Option<&str>,
        specials: &[String],
    ) -> Result<Self, EngineError> {
        let has = |name: &str| specials.iter().any(|special| special == name);
        let family = if has("<|start_header_id|>") && has("<|eom_id|>") {
            Some(("llama-3.1", builtin::LLAMA_3_1, ToolCallStyle::LlamaJson))
        } else if has("<|start_header_id|>") {
            Some(("llama-3", builtin::LLAMA_3, ToolCallStyle::LlamaJson))
        } else if has("<|im_start|>") {
            Some(("chatml", builtin::CHATML, ToolCallStyle::ToolCallTags))
        } else {
            None
        };
        let style = family.map_or(ToolCallStyle::ToolCallTags, |(_, _, style)| style);
        let build = |name, source: &str| {
            let jinja = Jinja::parse(source, specials)?;
            let style = if source.contains("<tool_call>") { ToolCallStyle::ToolCallTags } else { style };
            let writes_tools = jinja.mentions("tools");
            Ok(Self { name, style, writes_tools, jinja, guard: Guard::new(specials) })
        };
        if let Some(source) = overriding {
            return build("custom", source);
        }
        if let Some(source) = checkpoint {
            match build("checkpoint", source) {
                Ok(template) => return Ok(template),
                Err(error) => {
                    tracing::warn!(%error, "the checkpoint's chat template is not usable, a built-in one is used")
                }
            }
        }
        match family {
            Some((name, source, _)) => build(name, source),
            None => Err(EngineError::Template(
                "the checkpoint has none, and its special tokens belong to no known family".into(),
            )),
        }
    }

    /// The built-in template `name` (`llama-3`, `llama-3.1`, `llama-3.2` or `chatml`), if there is one.
    pub fn builtin(name: &str) -> Option<&'static str> {
        match name {
            "llama-3" => Some(builtin::LLAMA_3),
            "llama-3.1" | "llama-3.2" => Some(builtin::LLAMA_3_1),
            "chatml" => Some(builtin::CHATML),
            _ => None,
        }
    }

    /// `checkpoint`, `llama-3`, `llama-3.1`, `chatml` or `custom`.
    pub fn name(&self) -> &str {
        self.name
    }

    /// How tool calls are written.
    pub fn tool_call_style(&self) -> ToolCallStyle {
        self.style
    }

    /// The prompt for the next assistant turn.
    ///
    /// # Errors
    /// [`EngineError::Template`] when the template refuses these messages, with its own words.
    pub fn render(&self, messages: &[Message], tools: &[ToolSpec]) -> Result<Vec<PromptPiece>, EngineError> {
        let guarded: Vec<Message> = messages.iter().map(|message| self.guard.message(message)).collect();
        let specs: Vec<ToolSpec> = tools.iter().map(|tool| self.guard.tool(tool)).collect();
        let text = if self.writes_tools {
            self.jinja.render(&guarded, &specs)?
        } else {
            self.jinja.render(&tools::write_out(&guarded, &specs, self.style), &[])?
        };
        Ok(self.guard.split(&text))
    }
}

#[cfg(test)]
mod tests;
