//! The plugin `http-fetch`: a model reads pages of the hosts that the operator granted.
//!
//! The host of this plugin sends the request: it checks the address, follows redirects and bounds size and time.
//! What comes back is a stranger's; it is turned into Markdown here, in the sandbox.

mod page;
#[path = "../../shared/html.rs"]
mod html;

use serde::Deserialize;
use serde_json::json;

wit_bindgen::generate!({ path: "../wit", world: "plugin-http" });

use chaski::plugin::http::{self, Error, Request};
use chaski::plugin::types::{CallContext, Content, Effect, Failure, Output, ToolSpec};
use page::Page;

struct HttpFetch;

export!(HttpFetch);

#[derive(Deserialize)]
struct Arguments {
    url: String,
    #[serde(default)]
    from: usize,
    #[serde(default)]
    raw: bool,
}

impl exports::chaski::plugin::tool::Guest for HttpFetch {
    fn list_tools() -> Vec<ToolSpec> {
        vec![ToolSpec {
            name: "fetch".into(),
            description: "Fetches a page by its URL and answers with its text: HTML as Markdown, JSON and text as \
                          they are. Only hosts that the operator granted can be reached. A long page is cut; the \
                          answer says with which `from` to go on."
                .into(),
            input_schema: json!({"type": "object", "properties": {
                "url": {"type": "string", "minLength": 8, "maxLength": 2000, "description": "With http:// or https://"},
                "from": {"type": "integer", "minimum": 0, "maximum": 100000000,
                         "description": "Characters of the text to leave out"},
                "raw": {"type": "boolean", "description": "HTML as it came"},
            }, "required": ["url"], "additionalProperties": false})
            .to_string(),
            output_schema: None,
            effect: Effect::Idempotent,
        }]
    }

    fn call_tool(name: String, arguments: String, context: CallContext) -> Result<Output, Failure> {
        if name != "fetch" {
            return Err(Failure::InvalidArguments(format!("http-fetch has no tool `{name}`")));
        }
        let Arguments { url, from, raw } =
            serde_json::from_str(&arguments).map_err(|error| Failure::InvalidArguments(error.to_string()))?;
        let request = Request {
            method: "GET".into(),
            url: url.clone(),
            headers: vec![(
                "accept".into(),
                "text/html, text/*;q=0.9, application/json;q=0.9, */*;q=0.1".into(),
            )],
            body: None,
            max_bytes: None,
            timeout_ms: None,
        };
        let no =
            |text: String| Output { content: vec![Content::Text(text)], is_error: true, truncated: false };
        let response = match http::send(&request) {
            Ok(response) => response,
            Err(Error::Denied(reason)) => return Err(Failure::Denied(reason)),
            Err(Error::Invalid(reason)) => return Ok(no(format!("`{url}` cannot be fetched: {reason}."))),
            Err(Error::Timeout) => return Ok(no(format!("`{url}` did not answer in time."))),
            Err(Error::Failed(reason)) => return Ok(no(format!("`{url}` did not answer: {reason}."))),
        };
        let content_type = response.headers.iter().find(|(name, _)| name == "content-type");
        let page = Page {
            url: &response.url,
            status: response.status,
            content_type: content_type.map_or("", |(_, value)| value),
            body: &response.body,
            cut_off: response.truncated,
        };
        Ok(match page.text(from, raw, context.max_output_bytes as usize) {
            Ok((text, truncated)) => {
                Output { content: vec![Content::Text(text)], is_error: response.status >= 400, truncated }
            }
            Err(reason) => no(reason),
        })
    }
}
