//! The plugin `workspace-edit`: a model changes the files of a folder that it was granted to write to.
//!
//! Apart from `workspace`, which only reads: a plugin's tools can do what the plugin can, and reading should not
//! have to ask. What a call changes is worked out whole ([`patch`]) before anything is written ([`change`]).

mod change;
mod patch;
#[path = "../../shared/path.rs"]
mod path;
#[path = "../../shared/tool.rs"]
mod tool;

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

wit_bindgen::generate!({ path: "../wit", world: "plugin" });

use change::Change;
use chaski::plugin::types::{CallContext, Content, Effect, Failure, Output, ToolSpec};
use tool::{parse, spec};

/// Where the host shows the folder.
const ROOT: &str = "/workspace";

struct WorkspaceEdit;

export!(WorkspaceEdit);

#[derive(Deserialize)]
struct EditArguments {
    path: String,
    old: String,
    new: String,
}

#[derive(Deserialize)]
struct PatchArguments {
    patch: String,
}

#[derive(Deserialize)]
struct WriteArguments {
    path: String,
    content: String,
}

impl exports::chaski::plugin::tool::Guest for WorkspaceEdit {
    fn list_tools() -> Vec<ToolSpec> {
        let path = json!({"type": "string", "minLength": 1, "maxLength": 200, "description": "Relative to the workspace"});
        vec![
            spec(
                "edit",
                "Replaces one piece of a file by another. `old` must be there exactly once, with its white space: \
                 quote enough lines around it.",
                json!({"path": path, "old": {"type": "string", "minLength": 1}, "new": {"type": "string"}}),
                &["path", "old", "new"],
                Effect::Effectful,
            ),
            spec(
                "apply_patch",
                "Applies a unified diff (`--- a/…`, `+++ b/…`, `@@` hunks) to the files of the workspace: all of it, \
                 or nothing if one hunk does not fit. `/dev/null` as a name creates or removes a file.",
                json!({"patch": {"type": "string", "minLength": 1}}),
                &["patch"],
                Effect::Effectful,
            ),
            spec(
                "write",
                "Writes a whole file, in place of what was there.",
                json!({"path": path, "content": {"type": "string"}}),
                &["path", "content"],
                Effect::Effectful,
            ),
        ]
    }

    fn call_tool(name: String, arguments: String, _context: CallContext) -> Result<Output, Failure> {
        let root = Path::new(ROOT);
        let changes = match name.as_str() {
            "edit" => {
                let EditArguments { path, old, new } = parse(&arguments)?;
                patch::replace(root, &path, &old, &new).map(|change| vec![change])
            }
            "apply_patch" => patch::changes(root, &parse::<PatchArguments>(&arguments)?.patch),
            "write" => {
                let WriteArguments { path, content } = parse(&arguments)?;
                Change::to(root, &path, Some(content)).map(|change| vec![change])
            }
            _ => return Err(Failure::InvalidArguments(format!("workspace-edit has no tool `{name}`"))),
        };
        let (text, is_error) = match changes.and_then(|changes| change::make(root, &changes)) {
            Ok(report) => (report, false),
            Err(reason) => (format!("{reason}\nNothing was changed."), true),
        };
        Ok(Output { content: vec![Content::Text(text)], is_error, truncated: false })
    }
}
