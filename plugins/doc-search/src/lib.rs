//! The plugin `doc-search`: tantivy inside the sandbox.
//!
//! Documents are shown by the host at [`DOCUMENTS`], read-only; indexes are kept in the plugin's own folder at
//! [`INDEXES`]. A collection is a folder there with one index a generation and a file that names the current
//! one ([`generation`]): a call that is killed while it indexes leaves the old index in place.

mod chunk;
mod directory;
mod generation;
mod index;
mod walk;

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

wit_bindgen::generate!({ path: "../wit", world: "plugin" });

use chaski::plugin::host;
use chaski::plugin::types::{CallContext, Content, Effect, Failure, Output, ToolSpec};

const DOCUMENTS: &str = "/documents";
const INDEXES: &str = "/index";

struct DocSearch;

export!(DocSearch);

#[derive(Deserialize)]
struct IndexArguments {
    #[serde(default)]
    path: String,
    #[serde(default = "default_collection")]
    collection: String,
}

#[derive(Deserialize)]
struct SearchArguments {
    query: String,
    #[serde(default = "default_limit")]
    limit: usize,
    #[serde(default = "default_collection")]
    collection: String,
}

fn default_collection() -> String {
    "default".to_owned()
}

fn default_limit() -> usize {
    5
}

impl exports::chaski::plugin::tool::Guest for DocSearch {
    fn list_tools() -> Vec<ToolSpec> {
        let collection = json!({"type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$",
                                "description": "Name of the index; `default` if absent"});
        vec![
            ToolSpec {
                name: "search".into(),
                description: "Finds the passages of the indexed documents that fit a question best. Answers with \
                              path, lines and text of each."
                    .into(),
                input_schema: json!({"type": "object", "properties": {
                    "query": {"type": "string", "minLength": 1, "maxLength": 500, "description": "Words to look for"},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 50},
                    "collection": collection,
                }, "required": ["query"], "additionalProperties": false})
                .to_string(),
                output_schema: Some(
                    json!({"type": "array", "items": {"type": "object", "properties": {
                        "id": {"type": "string"}, "path": {"type": "string"}, "title": {"type": "string"},
                        "start_line": {"type": "integer"}, "end_line": {"type": "integer"},
                        "score": {"type": "number"}, "snippet": {"type": "string"}, "text": {"type": "string"},
                    }, "required": ["id", "path", "start_line", "end_line", "score", "text"]}})
                    .to_string(),
                ),
                effect: Effect::Idempotent,
            },
            ToolSpec {
                name: "index".into(),
                description: "Indexes the text files of the documents' folder, or of one folder in it. Replaces the \
                              index of that name."
                    .into(),
                input_schema: json!({"type": "object", "properties": {
                    "path": {"type": "string", "maxLength": 200, "description": "A folder, relative to the documents"},
                    "collection": collection,
                }, "required": [], "additionalProperties": false})
                .to_string(),
                output_schema: Some(
                    json!({"type": "object", "properties": {
                        "files": {"type": "integer"}, "chunks": {"type": "integer"},
                        "skipped": {"type": "array", "items": {"type": "string"}},
                        "skipped_count": {"type": "integer"},
                    }, "required": ["files", "chunks", "skipped_count"]})
                    .to_string(),
                ),
                effect: Effect::Idempotent,
            },
        ]
    }

    fn call_tool(name: String, arguments: String, _context: CallContext) -> Result<Output, Failure> {
        let invalid = |error: serde_json::Error| Failure::InvalidArguments(error.to_string());
        let found = match name.as_str() {
            "index" => {
                let IndexArguments { path, collection } =
                    serde_json::from_str(&arguments).map_err(invalid)?;
                let indexed =
                    index::build(Path::new(DOCUMENTS), &path, Path::new(INDEXES), &collection, &|line| {
                        host::emit(line);
                    });
                indexed.map(|report| (report.text(), json!(report)))
            }
            "search" => {
                let SearchArguments { query, limit, collection } =
                    serde_json::from_str(&arguments).map_err(invalid)?;
                let hits = index::search(Path::new(INDEXES), &collection, &query, limit.clamp(1, 50));
                hits.map(|hits| (index::shown(&hits), json!(hits)))
            }
            _ => return Err(Failure::InvalidArguments(format!("doc-search has no tool `{name}`"))),
        };
        Ok(match found {
            Ok((text, json)) => Output {
                content: vec![Content::Text(text), Content::Json(json.to_string())],
                is_error: false,
                truncated: false,
            },
            Err(reason) => Output { content: vec![Content::Text(reason)], is_error: true, truncated: false },
        })
    }
}
