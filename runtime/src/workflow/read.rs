//! From a file to typed data: bounds first, then the YAML, then the version.
//!
//! The first thing that the parser cannot read ends the reading, because what follows it cannot be trusted.
//! Faults of meaning are left to [`super::check`], which finds them all.

use std::path::{Path, PathBuf};

use serde_saphyr::{Error as YamlError, Options};

use super::fault::{Fault, InvalidWorkflow};
use super::schema::{Position, VERSION, WorkflowSpec};
use crate::suggest::closest;

/// Largest file read as a workflow, or as instructions or a schema of one, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Keys of the language that this version does not run yet: refused, never ignored.
const NOT_YET: [&str; 4] = ["approve", "wait", "workflow", "on"];

/// A workflow file, read but not checked.
#[derive(Clone, Debug)]
pub struct Workflow {
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What it says.
    pub spec: WorkflowSpec,
}

impl Workflow {
    /// Reads the file `path`, which ends in `.yaml` or `.yml`.
    pub fn read(path: &Path) -> Result<Self, InvalidWorkflow> {
        let refuse = |fault: Fault| InvalidWorkflow::new(path, "", vec![fault]);
        let whole = |message: String| Fault::new("", Position::default(), message);
        if !path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            let fault = whole(format!("`{}` does not end in `.yaml` or `.yml`", path.display()));
            return Err(refuse(fault));
        }
        let text = read_text(path).map_err(|message| refuse(whole(message)))?;
        Self::parse(path, text)
    }

    /// Reads `text` as the content of the file `path`.
    pub fn parse(path: &Path, text: impl Into<String>) -> Result<Self, InvalidWorkflow> {
        let text = text.into();
        let fault = match serde_saphyr::from_str_with_options::<WorkflowSpec>(&text, options()) {
            Ok(spec) if spec.version.value == VERSION => {
                return Ok(Self { path: path.to_owned(), text, spec });
            }
            Ok(spec) => {
                let found = format!("version {} of the workflow language is not known", spec.version.value);
                Fault::new("", spec.version.position, found).with_hint(format!("write `version: {VERSION}`"))
            }
            Err(error) => yaml_fault(error.without_snippet()),
        };
        Err(InvalidWorkflow::new(path, text, vec![fault]))
    }

    /// The folder that paths in the file are relative to.
    pub fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }
}

/// The text of a small UTF-8 file, or a sentence on why not.
pub fn read_text(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let cannot = |error: std::io::Error| format!("cannot read `{shown}`: {error}");
    let size = std::fs::metadata(path).map_err(cannot)?;
    if size.is_dir() {
        return Err(format!("`{shown}` is a folder"));
    }
    if size.len() > MAX_FILE_BYTES {
        return Err(format!("`{shown}` has {} bytes, the most is {MAX_FILE_BYTES}", size.len()));
    }
    let bytes = std::fs::read(path).map_err(cannot)?;
    String::from_utf8(bytes).map_err(|error| {
        format!("`{shown}` is not UTF-8: byte {} is wrong", error.utf8_error().valid_up_to())
    })
}

/// YAML 1.2 booleans only, so that `on` and `no` stay text; one document; small enough for a person to read.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 64,
            max_nodes: 50_000,
            max_events: 200_000,
            max_aliases: 1_000,
            max_documents: 1,
        },
        strict_booleans: true,
        with_snippet: false,
    }
}

/// What the parser said, in our words where a person can do something about it.
fn yaml_fault(error: &YamlError) -> Fault {
    let position = error.location().map_or(Position::default(), |location| Position {
        line: usize::try_from(location.line()).unwrap_or(0),
        column: usize::try_from(location.column()).unwrap_or(0),
    });
    let fault = |message: String| Fault::new("", position, message);
    match error {
        YamlError::SerdeUnknownField { field, .. } if NOT_YET.contains(&field.as_str()) => {
            fault(format!("`{field}` is not supported yet"))
        }
        YamlError::SerdeUnknownField { field, expected, .. } => {
            let known = expected.join("`, `");
            let hint = match closest(field, expected.iter().copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("the keys here are `{known}`"),
            };
            fault(format!("unknown key `{field}`")).with_hint(hint)
        }
        YamlError::SerdeMissingField { field, .. } => fault(format!("the key `{field}` is missing")),
        YamlError::SerdeUnknownVariant { variant, expected, .. } => {
            let known = format!("it is one of `{}`", expected.join("`, `"));
            let hint = match closest(variant, expected.iter().copied()) {
                Some(name) => format!("did you mean `{name}`? {known}"),
                None => known,
            };
            fault(format!("`{variant}` is not known here")).with_hint(hint)
        }
        other => fault(without_place(&other.render())),
    }
}

/// The parser's message without the place that it ends with, because ours comes first.
fn without_place(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let cut = first.rfind(" at line ").unwrap_or(first.len());
    let (text, place) = first.split_at(cut);
    let is_place = place.chars().all(|c| c.is_ascii_digit() || " ,:atlinecolumn".contains(c));
    if is_place { text.to_owned() } else { first.to_owned() }
}
