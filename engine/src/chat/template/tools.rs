//! Tools for templates that know none: into the system message, and calls and results as text.
//!
//! Kept short, because a small model has a small window, and without a worked example: the grammar guarantees
//! the form, and a small model copies an example's arguments.

use serde_json::json;

use super::ToolCallStyle;
use super::jinja::spaced;
use crate::chat::message::{Message, Role, ToolCall, ToolSpec};

/// `messages` with everything about tools turned into text.
pub(super) fn write_out(messages: &[Message], tools: &[ToolSpec], style: ToolCallStyle) -> Vec<Message> {
    let mut written: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    if !tools.is_empty() {
        let instructions = messages.first().filter(|message| message.role == Role::System);
        let before = instructions.map_or(String::new(), |message| format!("{}\n\n", message.content.trim()));
        written.push(Message::system(before + &instruction(tools, style)));
    }
    let skip =
        usize::from(!tools.is_empty() && messages.first().is_some_and(|first| first.role == Role::System));
    for message in &messages[skip..] {
        match message.role {
            Role::Tool => add_result(&mut written, message),
            Role::Assistant if !message.tool_calls.is_empty() => {
                let calls: Vec<String> =
                    message.tool_calls.iter().map(|call| call_text(call, style)).collect();
                let content = message.content.trim();
                let text = if content.is_empty() { String::new() } else { format!("{content}\n") };
                let separator = if style == ToolCallStyle::ToolCallTags { "\n" } else { "; " };
                written.push(Message::new(Role::Assistant, text + &calls.join(separator)));
            }
            _ => written.push(message.clone()),
        }
    }
    written
}

/// Results are told as a user turn: neither ChatML nor Llama 3 was trained on a turn of tools. Several results
/// of one turn share it, because templates may insist that turns alternate.
fn add_result(written: &mut Vec<Message>, message: &Message) {
    let text = format!("<tool_response>\n{}\n</tool_response>", message.content);
    match written.last_mut() {
        Some(last) if last.role == Role::User && last.content.ends_with("</tool_response>") => {
            last.content.push('\n');
            last.content.push_str(&text);
        }
        _ => written.push(Message::user(text)),
    }
}

fn instruction(tools: &[ToolSpec], style: ToolCallStyle) -> String {
    let listed: Vec<String> = tools
        .iter()
        .map(|tool| {
            let mut line = String::new();
            let spec =
                json!({"name": tool.name, "description": tool.description, "parameters": tool.parameters});
            spaced(&spec, &mut line);
            line
        })
        .collect();
    let form = match style {
        ToolCallStyle::LlamaJson => "{\"name\": tool, \"parameters\": {..}}",
        ToolCallStyle::ToolCallTags => "<tool_call>\n{\"name\": tool, \"arguments\": {..}}\n</tool_call>",
    };
    format!(
        "You can call these tools:\n{}\nTo call a tool, answer with nothing but the call, in this form:\n{form}",
        listed.join("\n")
    )
}

fn call_text(call: &ToolCall, style: ToolCallStyle) -> String {
    let (key, before, after) = match style {
        ToolCallStyle::LlamaJson => ("parameters", "", ""),
        ToolCallStyle::ToolCallTags => ("arguments", "<tool_call>\n", "\n</tool_call>"),
    };
    let mut text = String::from(before);
    spaced(&json!({"name": call.name, key: call.arguments}), &mut text);
    text + after
}
