//! Listing and reading.

use std::path::{Path, PathBuf};

use crate::path::inside;
use crate::{Answer, Found};

/// Files of one listing.
const MAX_FILES: usize = 1_000;
/// Files looked at in one call; a folder with more is listed in part.
const MAX_VISITED: usize = 20_000;
/// Lines of one reading.
const MAX_LINES: usize = 400;
/// Bytes of a file that can be read or searched.
pub const MAX_FILE_BYTES: u64 = 8 << 20;

/// The files below `path` whose path contains `contains`.
pub fn list(root: &Path, path: &str, contains: &str, most: usize) -> Found {
    let start = inside(root, path)?;
    let (files, mut truncated) =
        walk(&start).map_err(|error| format!("`{path}` cannot be listed: {error}"))?;
    let mut text = String::new();
    let mut count = 0;
    for file in files {
        let name = shown(root, &file);
        if !name.contains(contains) {
            continue;
        }
        let bytes = std::fs::metadata(&file).map_or(0, |found| found.len());
        let line = format!("{name} ({bytes} bytes)\n");
        if count == MAX_FILES || text.len() + line.len() > most {
            truncated = true;
            break;
        }
        count += 1;
        text += &line;
    }
    if truncated {
        text += "[there are more; list a folder, or use `contains`]\n";
    }
    if text.is_empty() {
        text = "no files\n".to_owned();
    }
    Ok(Answer { text, truncated })
}

/// The lines `start` to `end` of a file, from 1, both included, with their numbers.
pub fn read(root: &Path, path: &str, start: Option<usize>, end: Option<usize>, most: usize) -> Found {
    let file = inside(root, path)?;
    let text = text_of(&file).map_err(|reason| {
        let near = if file.exists() { String::new() } else { near(root, path) };
        format!("`{path}` cannot be read: {reason}{near}")
    })?;
    let lines: Vec<&str> = text.lines().collect();
    let first = start.unwrap_or(1).max(1);
    let last = end.unwrap_or(lines.len()).min(lines.len());
    if first > last {
        return Err(format!(
            "`{path}` has {} lines; lines {first} to {} are not among them",
            lines.len(),
            end.unwrap_or(last)
        ));
    }
    let mut shown = String::new();
    let mut truncated = false;
    for (number, line) in (first..=last).zip(&lines[first - 1..last]) {
        let line = format!("{number:>5} | {line}\n");
        if number - first == MAX_LINES || shown.len() + line.len() > most.saturating_sub(100) {
            shown += &format!("[cut at line {number} of {}; ask for `start`: {number}]\n", lines.len());
            truncated = true;
            break;
        }
        shown += &line;
    }
    Ok(Answer { text: shown, truncated })
}

/// A whole text file.
pub fn text_of(file: &Path) -> Result<String, String> {
    let found = std::fs::metadata(file).map_err(|error| reason(&error))?;
    if found.is_dir() {
        return Err("it is a folder; use `list`".to_owned());
    }
    if found.len() > MAX_FILE_BYTES {
        return Err(format!("it has {} bytes, the most is {MAX_FILE_BYTES}", found.len()));
    }
    let bytes = std::fs::read(file).map_err(|error| reason(&error))?;
    String::from_utf8(bytes).map_err(|error| {
        format!(
            "it is not UTF-8 text (byte {} is 0x{:02x})",
            error.utf8_error().valid_up_to(),
            error.as_bytes()[error.utf8_error().valid_up_to()]
        )
    })
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "the sandbox does not allow it".to_owned(),
        _ => error.to_string(),
    }
}

/// `path` as the model writes it.
pub fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

/// Files of the same name elsewhere.
fn near(root: &Path, path: &str) -> String {
    let name = Path::new(path).file_name();
    let (files, _) = walk(root).unwrap_or_default();
    let same: Vec<String> = files
        .iter()
        .filter(|file| file.file_name() == name)
        .take(5)
        .map(|file| format!("`{}`", shown(root, file)))
        .collect();
    if same.is_empty() { String::new() } else { format!(". There is {}", same.join(", ")) }
}

/// All files below `start` in the order of their paths, hidden folders left out; and whether there were more.
pub fn walk(start: &Path) -> std::io::Result<(Vec<PathBuf>, bool)> {
    let mut files = Vec::new();
    let mut visited = 0;
    let mut folders = vec![start.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(&folder)?.filter_map(Result::ok).collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        let mut inner = Vec::new();
        for entry in entries {
            visited += 1;
            if visited > MAX_VISITED {
                return Ok((files, true));
            }
            // Links are not followed: they may form circles, and lead out of the folder.
            let Ok(kind) = entry.file_type() else { continue };
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if kind.is_dir() && !hidden {
                inner.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
        folders.extend(inner.into_iter().rev());
    }
    Ok((files, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("src/.git")).expect("folders");
        std::fs::write(folder.path().join("src/a.rs"), "one\ntwo\nthree\n").expect("a file");
        std::fs::write(folder.path().join("src/.git/x"), "x").expect("a file");
        std::fs::write(folder.path().join("b.bin"), [0x66, 0xff, 0x00]).expect("a file");
        folder
    }

    #[test]
    fn a_listing_has_sizes_and_no_hidden_folders() {
        let folder = folder();
        let found = list(folder.path(), "", "", 1000).expect("lists");
        assert_eq!(found.text, "b.bin (3 bytes)\nsrc/a.rs (14 bytes)\n");
    }

    #[test]
    fn a_range_of_lines_keeps_its_numbers() {
        let folder = folder();
        let found = read(folder.path(), "src/a.rs", Some(2), Some(9), 1000).expect("reads");
        assert_eq!(found.text, "    2 | two\n    3 | three\n");
    }

    #[test]
    fn a_cut_says_where_to_go_on() {
        let folder = folder();
        let found = read(folder.path(), "src/a.rs", None, None, 113).expect("reads");
        assert_eq!(
            (found.text.as_str(), found.truncated),
            ("    1 | one\n[cut at line 2 of 3; ask for `start`: 2]\n", true)
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_named() {
        let folder = folder();
        let error = read(folder.path(), "b.bin", None, None, 1000).expect_err("no text");
        assert_eq!(error, "`b.bin` cannot be read: it is not UTF-8 text (byte 1 is 0xff)");
    }

    #[test]
    fn a_missing_file_names_its_namesake() {
        let folder = folder();
        let error = read(folder.path(), "a.rs", None, None, 1000).expect_err("missing");
        assert_eq!(error, "`a.rs` cannot be read: there is no such file. There is `src/a.rs`");
    }
}
