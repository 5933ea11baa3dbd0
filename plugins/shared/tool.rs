//! What every tool of a folder does with its arguments and its schema.

use serde::Deserialize;
use serde_json::json;

use crate::chaski::plugin::types::{Effect, Failure, ToolSpec};

/// The arguments of a call.
pub fn parse<'a, T: Deserialize<'a>>(arguments: &'a str) -> Result<T, Failure> {
    serde_json::from_str(arguments).map_err(|error| Failure::InvalidArguments(error.to_string()))
}

/// A tool that answers in text.
pub fn spec(
    name: &str,
    description: &str,
    properties: serde_json::Value,
    required: &[&str],
    effect: Effect,
) -> ToolSpec {
    ToolSpec {
        name: name.to_owned(),
        description: description.to_owned(),
        input_schema: json!({"type": "object", "properties": properties, "required": required,
                             "additionalProperties": false})
        .to_string(),
        output_schema: None,
        effect,
    }
}
