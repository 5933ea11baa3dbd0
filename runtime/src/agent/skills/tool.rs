//! `skill.read`: a skill's text, then the files beneath it.

use std::path::{Component, Path, PathBuf};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::Skill;
use crate::tools::result::cut_middle;
use crate::tools::{CallContext, Effect, Tool, ToolDefinition, ToolOutcome, ToolResult};

/// The tool's name.
pub const NAME: &str = "skill.read";
/// Bytes of one answer.
const MAX_ANSWER: usize = 32 << 10;
/// A larger file is refused.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Files that are named behind a skill's text, and how deep they are looked for.
const MAX_NAMED: usize = 50;
const MAX_DEPTH: usize = 4;

/// Reads an agent's skills.
pub struct SkillTool {
    definition: ToolDefinition,
    skills: Vec<Skill>,
}

impl SkillTool {
    /// The tool for `skills`, of which there must be at least one.
    pub fn new(skills: Vec<Skill>) -> Self {
        let names: Vec<&str> = skills.iter().map(|skill| skill.name.as_str()).collect();
        let definition = ToolDefinition {
            name: NAME.into(),
            description: "Reads a skill; with `path`, a file that the skill names.".into(),
            input_schema: json!({
                "type": "object",
                "properties": {
                    "skill": {"type": "string", "enum": names},
                    "path": {"type": "string", "minLength": 1, "maxLength": 500},
                },
                "required": ["skill"],
                "additionalProperties": false,
            }),
            output_schema: None,
            // The files may be edited while a run goes on.
            effect: Effect::Idempotent,
        };
        Self { definition, skills }
    }

    fn read(&self, arguments: &Value) -> ToolResult {
        let asked = arguments["skill"].as_str().unwrap_or_default();
        let Some(skill) = self.skills.iter().find(|skill| skill.name == asked) else {
            return ToolResult::failed(ToolOutcome::Error, format!("There is no skill `{asked}`."));
        };
        let text = match arguments["path"].as_str() {
            None => with_files(skill),
            Some(path) => match file(&skill.folder, path) {
                Ok(text) => text,
                Err(reason) => {
                    let text = format!("`{path}` of the skill `{asked}` cannot be read: {reason}.");
                    return ToolResult::failed(ToolOutcome::Error, text);
                }
            },
        };
        let (text, truncated) = cut_middle(&text, MAX_ANSWER);
        ToolResult { truncated, ..ToolResult::ok(text) }
    }
}

impl Tool for SkillTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    fn call<'a>(&'a self, arguments: Value, _context: CallContext) -> BoxFuture<'a, ToolResult> {
        async move { self.read(&arguments) }.boxed()
    }
}

/// A skill's text, and the names of the files beneath it.
fn with_files(skill: &Skill) -> String {
    let mut files = Vec::new();
    collect(&skill.folder, Path::new(""), 0, &mut files);
    files.retain(|file| file != Path::new(super::FILE_NAME));
    files.sort();
    if files.is_empty() {
        return skill.body.clone();
    }
    let more = files.len().saturating_sub(MAX_NAMED);
    let mut named: Vec<String> =
        files.iter().take(MAX_NAMED).map(|file| file.display().to_string()).collect();
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    format!("{}\n\n[Files of this skill: {}]", skill.body, named.join(", "))
}

/// The files below `folder`, no links, relative to where the search began.
fn collect(folder: &Path, relative: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    for entry in entries {
        let Ok(kind) = entry.file_type() else { continue };
        let path = relative.join(entry.file_name());
        if kind.is_file() {
            files.push(path);
        } else if kind.is_dir() && depth < MAX_DEPTH {
            collect(&entry.path(), &path, depth + 1, files);
        }
    }
}

/// The text of the file `path` beneath `folder`. No part of the way may be a link, or lead up.
fn file(folder: &Path, path: &str) -> Result<String, String> {
    let mut whole = folder.to_owned();
    let mut metadata = None;
    for part in Path::new(path).components() {
        let Component::Normal(name) = part else {
            return Err("it must name a file in the skill's folder".into());
        };
        whole.push(name);
        let found = std::fs::symlink_metadata(&whole).map_err(|_| "there is no such file".to_owned())?;
        if found.is_symlink() {
            return Err("links are not followed".into());
        }
        metadata = Some(found);
    }
    let metadata = metadata.filter(std::fs::Metadata::is_file).ok_or("it is no file")?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(format!("it has {} bytes, the most is {MAX_FILE_BYTES}", metadata.len()));
    }
    let bytes = std::fs::read(&whole).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "it is not text".into())
}
