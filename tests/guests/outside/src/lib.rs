//! A plugin that reaches for what is granted by name: requests, variables, other tools.

use serde_json::{Value, json};

wit_bindgen::generate!({ path: "../../../plugins/wit", world: "plugin-all" });

use chaski::plugin::types::{CallContext, Content, Effect, Failure, Output, ToolSpec};
use chaski::plugin::{http, tools};

/// Each tool, its description, its arguments.
const TOOLS: &[(&str, &str, &[&str])] = &[
    ("request", "Sends a request and answers with status, URL and body.", &["method", "url", "header", "body"]),
    ("many", "Sends a request `count` times and answers with the last answer.", &["url", "count"]),
    ("call", "Calls the tool `name` with `arguments`, `count` times.", &["name", "arguments", "count"]),
    ("list", "The tools that can be called.", &[]),
    ("variable", "The environment variable `name`.", &["name"]),
];

struct Outside;

impl exports::chaski::plugin::tool::Guest for Outside {
    fn list_tools() -> Vec<ToolSpec> {
        TOOLS.iter().map(|(name, description, fields)| spec(name, description, fields)).collect()
    }

    fn call_tool(name: String, arguments: String, _: CallContext) -> Result<Output, Failure> {
        let arguments: Value = serde_json::from_str(&arguments)
            .map_err(|error| Failure::InvalidArguments(error.to_string()))?;
        let answer = match name.as_str() {
            "request" => request(&arguments),
            "many" => repeated(&arguments, || {
                request(&json!({"method": "GET", "url": arguments["url"], "header": "", "body": ""}))
            }),
            "call" => repeated(&arguments, || call(&arguments)),
            "list" => Ok(tools::list().into_iter().map(|tool| tool.name).collect::<Vec<_>>().join("\n")),
            "variable" => Ok(std::env::var(text(&arguments, "name")).unwrap_or_else(|_| "not set".to_owned())),
            other => Err(format!("there is no tool `{other}`")),
        };
        let (text, is_error) = match answer {
            Ok(text) => (text, false),
            Err(reason) => (reason, true),
        };
        Ok(Output { content: vec![Content::Text(text)], is_error, truncated: false })
    }
}

export!(Outside);

fn spec(name: &str, description: &str, fields: &[&str]) -> ToolSpec {
    let properties: serde_json::Map<String, Value> = fields
        .iter()
        .map(|&field| {
            let kind = if field == "count" { "integer" } else { "string" };
            (field.to_owned(), json!({ "type": kind }))
        })
        .collect();
    let schema = json!({
        "type": "object", "properties": properties, "required": fields, "additionalProperties": false,
    });
    ToolSpec {
        name: name.to_owned(),
        description: description.to_owned(),
        input_schema: schema.to_string(),
        output_schema: None,
        effect: Effect::Effectful,
    }
}

fn text(arguments: &Value, field: &str) -> String {
    arguments[field].as_str().unwrap_or_default().to_owned()
}

fn repeated(arguments: &Value, once: impl Fn() -> Result<String, String>) -> Result<String, String> {
    let mut last = Err("it was not done once".to_owned());
    for _ in 0..arguments["count"].as_u64().unwrap_or(1) {
        last = once();
    }
    last
}

fn request(arguments: &Value) -> Result<String, String> {
    let (header, body) = (text(arguments, "header"), text(arguments, "body"));
    let header = header.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let request = http::Request {
        method: text(arguments, "method"),
        url: text(arguments, "url"),
        headers: header.into_iter().collect(),
        body: (!body.is_empty()).then(|| body.into_bytes()),
        max_bytes: None,
        timeout_ms: None,
    };
    match http::send(&request) {
        Ok(response) => {
            let cut = if response.truncated { ", cut" } else { "" };
            let headers: Vec<String> =
                response.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            let body = String::from_utf8_lossy(&response.body);
            let bytes = body.len();
            let shown: String = body.chars().take(2_000).collect();
            Ok(format!("{} {}{cut}, {bytes} bytes\n{}\n\n{shown}", response.status, response.url, headers.join("\n")))
        }
        Err(http::Error::Invalid(reason)) => Err(format!("invalid: {reason}")),
        Err(http::Error::Denied(reason)) => Err(format!("denied: {reason}")),
        Err(http::Error::Timeout) => Err("timeout".to_owned()),
        Err(http::Error::Failed(reason)) => Err(format!("failed: {reason}")),
    }
}

fn call(arguments: &Value) -> Result<String, String> {
    let called = tools::call(&text(arguments, "name"), &text(arguments, "arguments"));
    called.map(|answer| answer.text).map_err(|failure| format!("{failure:?}"))
}
