//! The plugin `workspace`: a model looks around in a folder that it was granted.
//!
//! The host shows the folder at [`ROOT`], read-only. Paths in calls are relative to it; the sandbox would refuse
//! to leave it anyway, and [`path`] says so in words that a model can act on.

mod files;
#[path = "../../shared/path.rs"]
mod path;
mod search;
#[path = "../../shared/tool.rs"]
mod tool;

use serde::Deserialize;
use serde_json::json;

wit_bindgen::generate!({ path: "../wit", world: "plugin" });

use chaski::plugin::types::{CallContext, Content, Effect, Failure, Output, ToolSpec};
use tool::{parse, spec};

/// Where the host shows the folder.
const ROOT: &str = "/workspace";

struct Workspace;

export!(Workspace);

#[derive(Deserialize)]
struct ListArguments {
    #[serde(default)]
    path: String,
    #[serde(default)]
    contains: String,
}

#[derive(Deserialize)]
struct ReadArguments {
    path: String,
    start: Option<usize>,
    end: Option<usize>,
}

#[derive(Deserialize)]
struct SearchArguments {
    pattern: String,
    #[serde(default)]
    path: String,
}

impl exports::chaski::plugin::tool::Guest for Workspace {
    // Files change while a plugin does not know, so no tool here is pure.
    fn list_tools() -> Vec<ToolSpec> {
        let path = json!({"type": "string", "maxLength": 200, "description": "Relative to the workspace"});
        vec![
            spec(
                "read",
                "Reads a text file of the workspace, with line numbers. Answers at most 400 lines; ask for a range \
                 with `start` and `end`.",
                json!({"path": path, "start": {"type": "integer", "minimum": 1, "maximum": 1000000},
                       "end": {"type": "integer", "minimum": 1, "maximum": 1000000}}),
                &["path"],
                Effect::Idempotent,
            ),
            spec(
                "search",
                "Finds the lines of the workspace's text files that a regular expression matches, as `path:line: text`.",
                json!({"pattern": {"type": "string", "minLength": 1, "maxLength": 200}, "path": path}),
                &["pattern"],
                Effect::Idempotent,
            ),
            spec(
                "list",
                "Lists the files of the workspace, or of one folder in it, with their sizes.",
                json!({"path": path, "contains": {"type": "string", "maxLength": 100,
                       "description": "Only paths that contain this text"}}),
                &[],
                Effect::Idempotent,
            ),
        ]
    }

    fn call_tool(name: String, arguments: String, context: CallContext) -> Result<Output, Failure> {
        let most = context.max_output_bytes as usize;
        let root = std::path::Path::new(ROOT);
        let answer = match name.as_str() {
            "list" => parse(&arguments)
                .and_then(|ListArguments { path, contains }| Ok(files::list(root, &path, &contains, most))),
            "read" => parse(&arguments).and_then(|ReadArguments { path, start, end }| {
                Ok(files::read(root, &path, start, end, most))
            }),
            "search" => parse(&arguments).and_then(|SearchArguments { pattern, path }| {
                Ok(search::search(root, &pattern, &path, most))
            }),
            _ => Err(Failure::InvalidArguments(format!("workspace has no tool `{name}`"))),
        }?;
        let (text, is_error, truncated) = match answer {
            Ok(Answer { text, truncated }) => (text, false, truncated),
            Err(reason) => (reason, true, false),
        };
        Ok(Output { content: vec![Content::Text(text)], is_error, truncated })
    }
}

/// What a tool found; `Err` is a no that the model can act on.
type Found = Result<Answer, String>;

/// Text for the model.
#[derive(Debug, PartialEq)]
struct Answer {
    text: String,
    /// There was more.
    truncated: bool,
}
