//! A server's answer to a call, as the model reads it.

use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, ResourceContents};
use serde_json::Value;

use crate::tools::result::cut_middle;
use crate::tools::{ToolDefinition, ToolOutcome, ToolResult};

/// Stands for a part of an answer that a later version of the protocol brings.
const UNKNOWN_PART: &str = "[a part of a kind that is not known here]";

/// The result of a call of `definition` that `response` answers, with `limit` bytes of text.
pub(super) fn result(definition: &ToolDefinition, response: CallToolResponse, limit: usize) -> ToolResult {
    let name = &definition.name;
    match response {
        CallToolResponse::Complete(answer) => complete(definition, answer, limit),
        CallToolResponse::InputRequired(_) => ToolResult::failed(
            ToolOutcome::Unavailable,
            format!("The tool `{name}` asks a person for more, and nobody can be asked here."),
        ),
        _ => ToolResult::failed(
            ToolOutcome::Unavailable,
            format!("The tool `{name}` answers with a task to be looked at later, which is not known here."),
        ),
    }
}

fn complete(definition: &ToolDefinition, answer: CallToolResult, limit: usize) -> ToolResult {
    let json = answer.structured_content;
    let mut text = answer.content.iter().map(block).collect::<Vec<_>>().join("\n");
    if let (true, Some(json)) = (answer.content.is_empty(), &json) {
        text = json.to_string();
    }
    let (text, truncated) = cut_middle(&text, limit);
    if answer.is_error == Some(true) {
        let text =
            if text.trim().is_empty() { format!("The tool `{}` failed.", definition.name) } else { text };
        return ToolResult { truncated, ..ToolResult::failed(ToolOutcome::Error, text) };
    }
    match misfit(definition, json.as_ref()) {
        Some(fault) => {
            let text = format!("The answer of `{}` is not what it promises: {fault}.", definition.name);
            ToolResult::failed(ToolOutcome::Error, text)
        }
        None => ToolResult { truncated, json, ..ToolResult::ok(text) },
    }
}

/// What is wrong with the structured answer, if its schema is known.
fn misfit(definition: &ToolDefinition, json: Option<&Value>) -> Option<String> {
    let schema = definition.output_schema.as_ref()?;
    let Some(json) = json else { return Some("it has no structured part".into()) };
    // A schema that does not compile was refused when the tool was listed.
    let validator = jsonschema::validator_for(schema).ok()?;
    validator.iter_errors(json).next().map(|fault| match fault.instance_path().as_str() {
        "" => fault.to_string(),
        path => format!("at `{path}`: {fault}"),
    })
}

/// A part of an answer as text; what is no text is named.
fn block(block: &ContentBlock) -> String {
    match block {
        ContentBlock::Text(text) => text.text.clone(),
        ContentBlock::Image(image) => left_out("an image", Some(&image.mime_type), image.data.len()),
        ContentBlock::Audio(audio) => left_out("sound", Some(&audio.mime_type), audio.data.len()),
        ContentBlock::Resource(embedded) => match &embedded.resource {
            ResourceContents::TextResourceContents { uri, text, .. } => format!("[{uri}]\n{text}"),
            ResourceContents::BlobResourceContents { uri, mime_type, blob, .. } => {
                format!("[{uri}] {}", left_out("data", mime_type.as_ref(), blob.len()))
            }
            _ => UNKNOWN_PART.to_owned(),
        },
        ContentBlock::ResourceLink(link) => format!("[{}: {}]", link.name, link.uri),
        _ => UNKNOWN_PART.to_owned(),
    }
}

/// `letters` of base64 that a text model has no use for.
fn left_out(what: &str, kind: Option<&String>, letters: usize) -> String {
    let kind = kind.map(|kind| format!(" ({kind})")).unwrap_or_default();
    format!("[{what}{kind}, about {} bytes, not shown]", letters / 4 * 3)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tools::Effect;

    fn answer(response: Value, output_schema: Option<Value>) -> ToolResult {
        let definition = ToolDefinition {
            name: "docs.search".into(),
            description: String::new(),
            input_schema: json!({"type": "object"}),
            output_schema,
            effect: Effect::Effectful,
        };
        let response: CallToolResult = serde_json::from_value(response).expect("an answer");
        result(&definition, response.into(), 60)
    }

    #[test]
    fn texts_are_joined_and_pictures_named() {
        let found = answer(
            json!({"content": [{"type": "text", "text": "one"},
                   {"type": "image", "mimeType": "image/png", "data": "AAAABBBB"}]}),
            None,
        );
        assert_eq!(found.text, "one\n[an image (image/png), about 6 bytes, not shown]");
    }

    #[test]
    fn a_long_answer_is_cut_and_says_so() {
        let found = answer(json!({"content": [{"type": "text", "text": "x".repeat(100)}]}), None);
        assert!(found.truncated && found.text.contains("[... 40 bytes left out ...]"), "{}", found.text);
    }

    #[test]
    fn a_structured_answer_stands_for_text() {
        let found = answer(json!({"content": [], "structuredContent": {"n": 1}}), None);
        assert_eq!((found.text.as_str(), found.json), (r#"{"n":1}"#, Some(json!({"n": 1}))));
    }

    #[test]
    fn an_answer_that_breaks_its_own_promise_is_an_error() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let found = answer(json!({"content": [], "structuredContent": {"n": "1"}}), Some(schema));
        assert_eq!(found.outcome, ToolOutcome::Error);
        assert!(found.text.contains("at `/n`"), "{}", found.text);
    }

    #[test]
    fn an_error_says_so_to_the_model() {
        let found = answer(json!({"content": [], "isError": true}), None);
        assert_eq!(
            (found.outcome, found.text.as_str()),
            (ToolOutcome::Error, "The tool `docs.search` failed.")
        );
    }
}
