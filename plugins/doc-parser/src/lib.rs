//! The plugin `doc-parser`: documents as text that a model can read and cite.
//!
//! Parsers of files that strangers wrote are where programs break. Here a fresh instance reads one file, with a
//! bound on memory and time and nothing within reach but the folder that it was shown.

mod docx;
#[path = "../../shared/html.rs"]
mod html;
mod part;
mod pdf;
#[path = "../../shared/path.rs"]
mod path;

use std::path::Path;

use serde::Deserialize;
use serde_json::json;

wit_bindgen::generate!({ path: "../wit", world: "plugin" });

use chaski::plugin::types::{CallContext, Content, Effect, Failure, Output, ToolSpec};

/// Where the host shows the folder.
const ROOT: &str = "/documents";
/// Bytes of a file that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

struct DocParser;

export!(DocParser);

#[derive(Deserialize)]
struct Arguments {
    path: String,
    #[serde(default)]
    from: usize,
}

impl exports::chaski::plugin::tool::Guest for DocParser {
    fn list_tools() -> Vec<ToolSpec> {
        vec![ToolSpec {
            name: "parse".into(),
            description: "Reads a PDF, DOCX, HTML, Markdown or text file as text, with `[page n]` where a page of a \
                          PDF begins. A long one is cut; the answer says with which `from` to go on."
                .into(),
            input_schema: json!({"type": "object", "properties": {
                "path": {"type": "string", "minLength": 1, "maxLength": 200, "description": "Relative to the documents"},
                "from": {"type": "integer", "minimum": 0, "maximum": 100000000,
                         "description": "Characters of the text to leave out"},
            }, "required": ["path"], "additionalProperties": false})
            .to_string(),
            output_schema: Some(
                json!({"type": "object", "properties": {
                    "format": {"enum": ["pdf", "docx", "html", "text"]},
                    "pages": {"type": "integer"}, "characters": {"type": "integer"},
                    "from": {"type": "integer"}, "to": {"type": "integer"},
                    "parts": {"type": "array", "items": {"type": "object", "properties": {
                        "page": {"type": "integer"}, "start": {"type": "integer"}, "text": {"type": "string"},
                    }, "required": ["page", "start", "text"]}},
                }, "required": ["format", "pages", "characters", "from", "to", "parts"]})
                .to_string(),
            ),
            // Files change while a plugin does not know.
            effect: Effect::Idempotent,
        }]
    }

    fn call_tool(name: String, arguments: String, context: CallContext) -> Result<Output, Failure> {
        if name != "parse" {
            return Err(Failure::InvalidArguments(format!("doc-parser has no tool `{name}`")));
        }
        let arguments: Arguments =
            serde_json::from_str(&arguments).map_err(|error| Failure::InvalidArguments(error.to_string()))?;
        let answer = read(Path::new(ROOT), &arguments.path)
            .and_then(|document| part::part(&document, arguments.from, context.max_output_bytes as usize));
        Ok(match answer {
            Ok(part) => Output {
                truncated: part.to < part.characters,
                content: vec![Content::Text(part.shown()), Content::Json(json!(part).to_string())],
                is_error: false,
            },
            Err(reason) => {
                let text = format!("`{}` cannot be parsed: {reason}.", arguments.path);
                Output { content: vec![Content::Text(text)], is_error: true, truncated: false }
            }
        })
    }
}

/// A document as text.
#[derive(Debug, PartialEq, Eq)]
struct Document {
    format: &'static str,
    /// One for formats that have none.
    pages: Vec<String>,
}

fn read(root: &Path, path: &str) -> Result<Document, String> {
    let file = path::inside(root, path)?;
    let found = std::fs::metadata(&file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => error.to_string(),
    })?;
    if found.is_dir() {
        return Err("it is a folder".into());
    }
    if found.len() > MAX_FILE_BYTES {
        return Err(format!("it has {} bytes, the most is {MAX_FILE_BYTES}", found.len()));
    }
    document(&std::fs::read(&file).map_err(|error| error.to_string())?)
}

/// The format is told by the content: names lie.
fn document(bytes: &[u8]) -> Result<Document, String> {
    if bytes.starts_with(b"%PDF-") {
        return Ok(Document { format: "pdf", pages: pdf::pages(bytes)? });
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return Ok(Document { format: "docx", pages: vec![docx::text(bytes)?] });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        format!("it is neither PDF, DOCX, HTML nor UTF-8 text (byte {} fits none)", error.valid_up_to())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if html::is_html(text) {
        return Ok(Document { format: "html", pages: vec![html::markdown(text)?] });
    }
    Ok(Document { format: "text", pages: vec![text.to_owned()] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], format: &str, text: &str) {
        let found = document(bytes).expect("a document");
        assert_eq!((found.format, found.pages.concat().as_str()), (format, text));
    }

    #[test]
    fn formats_are_told_by_content() {
        check(b"# Title\n\nWords.\n", "text", "# Title\n\nWords.\n");
        check("\u{feff}<!DOCTYPE html><h1>Title</h1><p>Words".as_bytes(), "html", "# Title\n\nWords");
        check(b"\n <html><body>x</body></html>", "html", "x");
    }

    #[test]
    fn what_is_none_of_them_is_refused() {
        let reason = document(b"ab\xff\xfe").expect_err("no text");
        assert!(reason.contains("byte 2 fits none"), "{reason}");
        assert!(document(b"%PDF-1.7 nonsense").is_err());
        assert!(document(b"PK\x03\x04nonsense").is_err());
    }

    #[test]
    fn missing_files_and_folders_are_told() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read(folder.path(), "x.pdf").expect_err("missing"), "there is no such file");
        assert_eq!(read(folder.path(), "").expect_err("a folder"), "it is a folder");
        assert!(read(folder.path(), "../x").expect_err("outside").contains("not inside"));
    }
}
