//! Searching text files.

use std::path::Path;

use regex_lite::Regex;

use crate::files::{shown, text_of, walk};
use crate::path::inside;
use crate::{Answer, Found};

/// Lines of one answer.
const MAX_MATCHES: usize = 100;
/// Bytes of one line that are shown.
const MAX_LINE: usize = 200;

/// The lines below `path` that `pattern` matches.
pub fn search(root: &Path, pattern: &str, path: &str, most: usize) -> Found {
    let regex = Regex::new(pattern).map_err(|error| {
        format!(
            "`{pattern}` is not a regular expression: {error}. Write special characters as `\\(` or `[(]`"
        )
    })?;
    let start = inside(root, path)?;
    let files = if start.is_file() {
        (vec![start], false)
    } else {
        walk(&start).map_err(|error| format!("`{path}` cannot be searched: {error}"))?
    };
    let (mut text, mut matches, mut truncated) = (String::new(), 0, files.1);
    'files: for file in files.0 {
        // What is no text, or too large, has no lines to show.
        let Ok(content) = text_of(&file) else { continue };
        for (number, line) in (1..).zip(content.lines()) {
            if !regex.is_match(line) {
                continue;
            }
            let end = line.floor_char_boundary(MAX_LINE);
            let found = format!("{}:{number}: {}\n", shown(root, &file), &line[..end]);
            if matches == MAX_MATCHES || text.len() + found.len() > most.saturating_sub(60) {
                truncated = true;
                break 'files;
            }
            matches += 1;
            text += &found;
        }
    }
    if truncated {
        text += "[there are more; search a folder, or more precisely]\n";
    }
    if text.is_empty() {
        text = format!("no line matches `{pattern}`\n");
    }
    Ok(Answer { text, truncated })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_carry_their_place() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a.rs"), "fn one() {}\n// two\nfn three() {}\n").expect("a file");
        let found = search(folder.path(), r"fn \w+\(", "", 1000).expect("searches");
        assert_eq!(found.text, "a.rs:1: fn one() {}\na.rs:3: fn three() {}\n");
    }

    #[test]
    fn a_bad_pattern_is_explained() {
        let error = search(Path::new("/nowhere"), "fn (", "", 1000).expect_err("no pattern");
        assert!(error.starts_with("`fn (` is not a regular expression"), "{error}");
    }
}
