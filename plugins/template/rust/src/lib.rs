//! The plugin `my-plugin`: this file speaks the contract (`wit/plugin.wit`), `describe` does the work.

mod describe;

use serde::Deserialize;
use serde_json::json;

wit_bindgen::generate!({ path: "wit", world: "plugin" });

use chaski::plugin::types::{CallContext, Content, Effect, Failure, Output, ToolSpec};

struct Plugin;

export!(Plugin);

#[derive(Deserialize)]
struct Arguments {
    numbers: Vec<f64>,
}

impl exports::chaski::plugin::tool::Guest for Plugin {
    fn list_tools() -> Vec<ToolSpec> {
        let number = json!({"type": "number"});
        let input = json!({
            "type": "object",
            "properties": {
                "numbers": {"type": "array", "items": number, "minItems": 1, "description": "The numbers"},
            },
            "required": ["numbers"],
            "additionalProperties": false,
        });
        let output = json!({
            "type": "object",
            "properties": {
                "count": {"type": "integer"}, "mean": number, "median": number, "least": number, "most": number,
            },
            "required": ["count", "mean", "median", "least", "most"],
        });
        vec![ToolSpec {
            name: "describe".into(),
            description: "Describes a list of numbers: count, mean, median, least and most.".into(),
            input_schema: input.to_string(),
            output_schema: Some(output.to_string()),
            // Same arguments, same answer, no trace left.
            effect: Effect::Pure,
        }]
    }

    fn call_tool(
        name: String,
        arguments: String,
        _context: CallContext,
    ) -> Result<Output, Failure> {
        if name != "describe" {
            return Err(Failure::InvalidArguments(format!(
                "my-plugin has no tool `{name}`"
            )));
        }
        let Arguments { numbers } = serde_json::from_str(&arguments)
            .map_err(|error| Failure::InvalidArguments(error.to_string()))?;
        let Some(found) = describe::describe(&numbers) else {
            // The tool ran and says no: the model reads why.
            let text = "there are no numbers to describe".to_owned();
            return Ok(Output {
                content: vec![Content::Text(text)],
                is_error: true,
                truncated: false,
            });
        };
        // Text for the model, JSON for later steps of a workflow.
        let content = vec![
            Content::Text(found.to_string()),
            Content::Json(json!(found).to_string()),
        ];
        Ok(Output {
            content,
            is_error: false,
            truncated: false,
        })
    }
}
