//! From what a model asks for to the changes that it means.

use std::collections::BTreeMap;
use std::path::Path;

use diffy::patch_set::{FileOperation, FilePatch, ParseOptions, PatchSet};

use crate::change::{Change, text};

/// `old` of the file `path` replaced by `new`.
pub fn replace(root: &Path, path: &str, old: &str, new: &str) -> Result<Change, String> {
    let before = text(root, path)?.ok_or_else(|| format!("There is no file `{path}`."))?;
    let after = match before.matches(old).count() {
        1 => before.replacen(old, new, 1),
        0 => return Err(format!("`old` is not in `{path}`.{}", nearest(&before, old))),
        many => {
            let lines: Vec<String> =
                before.match_indices(old).map(|(at, _)| line_of(&before, at).to_string()).collect();
            return Err(format!(
                "`old` is in `{path}` {many} times, in lines {}: quote more of what is around the one you mean.",
                lines.join(", ")
            ));
        }
    };
    Ok(Change { path: path.to_owned(), before: Some(before), after: Some(after) })
}

/// The changes of a unified diff.
pub fn changes(root: &Path, patch: &str) -> Result<Vec<Change>, String> {
    // A last line without its end is no fault of a hunk.
    let patch = if patch.ends_with('\n') { patch.to_owned() } else { format!("{patch}\n") };
    let options = match patch.lines().any(|line| line.starts_with("diff --git ")) {
        true => ParseOptions::gitdiff(),
        false => ParseOptions::unidiff(),
    };
    // A file may come twice: the second time it is what the first has made of it.
    let mut files = Files { root, changes: Vec::new(), places: BTreeMap::new() };
    for file in PatchSet::parse(&patch, options) {
        let file = file.map_err(|error| {
            format!("This is no unified diff with `---` and `+++` lines and `@@` hunks: {error}.")
        })?;
        files.apply(&file)?;
    }
    Ok(files.changes)
}

struct Files<'a> {
    root: &'a Path,
    changes: Vec<Change>,
    /// Where in `changes` a path is.
    places: BTreeMap<String, usize>,
}

impl Files<'_> {
    fn apply(&mut self, file: &FilePatch<'_, str>) -> Result<(), String> {
        let (from, to) = paths(file.operation());
        let shown = to.as_ref().or(from.as_ref()).cloned().unwrap_or_default();
        let hunks =
            file.patch().as_text().ok_or_else(|| format!("`{shown}`: binary patches are not applied."))?;
        let before = match &from {
            Some(from) => self.current(from)?.ok_or_else(|| format!("There is no file `{from}`."))?,
            None => match self.current(&shown)? {
                Some(_) => return Err(format!("`{shown}` is to be created, and is already there.")),
                None => String::new(),
            },
        };
        let after = diffy::apply(&before, hunks).map_err(|error| {
            format!("`{shown}`: {error}: its lines are not those of the file. Read the file again and quote it exactly.")
        })?;
        match (from, to) {
            (Some(from), None) if !after.is_empty() => {
                return Err(format!("`{from}` is to be removed, but the hunks leave some of its lines."));
            }
            (from, Some(to)) => {
                if let Some(from) = from.filter(|from| *from != to) {
                    if self.current(&to)?.is_some() {
                        return Err(format!(
                            "`{to}` is to be the new name of `{from}`, and is already there."
                        ));
                    }
                    if !file.operation().is_copy() {
                        self.set(&from, None)?;
                    }
                }
                self.set(&to, Some(after))
            }
            (Some(from), None) => self.set(&from, None),
            (None, None) => Err("A part of the patch names no file.".into()),
        }
    }

    fn current(&self, path: &str) -> Result<Option<String>, String> {
        match self.places.get(path) {
            Some(place) => Ok(self.changes[*place].after.clone()),
            None => text(self.root, path),
        }
    }

    fn set(&mut self, path: &str, after: Option<String>) -> Result<(), String> {
        match self.places.get(path) {
            Some(place) => self.changes[*place].after = after,
            None => {
                self.places.insert(path.to_owned(), self.changes.len());
                self.changes.push(Change::to(self.root, path, after)?);
            }
        }
        Ok(())
    }
}

/// The file's name before and after; `None` where there is none.
fn paths(operation: &FileOperation<'_, str>) -> (Option<String>, Option<String>) {
    // git's `a/` and `b/`, unless a folder is really called so: then the whole name is meant.
    let strip = |path: &str| {
        let path = path.split('\t').next().unwrap_or(path);
        path.strip_prefix("a/").or_else(|| path.strip_prefix("b/")).unwrap_or(path).to_owned()
    };
    match operation {
        FileOperation::Create(path) => (None, Some(strip(path))),
        FileOperation::Delete(path) => (Some(strip(path)), None),
        FileOperation::Modify { original, modified } => (Some(strip(original)), Some(strip(modified))),
        // Headers of renames and copies have no prefixes.
        FileOperation::Rename { from, to } | FileOperation::Copy { from, to } => {
            (Some(from.to_string()), Some(to.to_string()))
        }
    }
}

/// Where the file comes closest to the first line of `old`, for a model that quoted from memory.
fn nearest(text: &str, old: &str) -> String {
    let wanted = old.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let found = text.lines().enumerate().find(|(_, line)| !wanted.is_empty() && line.trim() == wanted);
    match found {
        Some((index, line)) => {
            format!(" Line {} is `{line}`: mind its white space and what follows.", index + 1)
        }
        None => " Read the file again and quote it exactly.".to_owned(),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a.txt"), "one\n two\nthree\ntwo\n").expect("writes");
        folder
    }

    #[track_caller]
    fn check(patch: &str, expected: Result<&[(&str, Option<&str>)], &str>) {
        let folder = folder();
        match (changes(folder.path(), patch), expected) {
            (Ok(found), Ok(expected)) => {
                let found: Vec<_> =
                    found.iter().map(|change| (&*change.path, change.after.as_deref())).collect();
                assert_eq!(found, expected);
            }
            (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn an_edit_needs_its_piece_exactly_once() {
        let folder = folder();
        let edit = |old: &str| replace(folder.path(), "a.txt", old, "2");
        assert_eq!(edit("three").expect("once").after.as_deref(), Some("one\n two\n2\ntwo\n"));
        assert!(edit("two").expect_err("twice").contains("2 times, in lines 2, 4"));
        assert!(edit("  two\nx").expect_err("not there").contains("Line 2 is ` two`"));
        assert!(edit("four").expect_err("not there").contains("Read the file again"));
        assert!(replace(folder.path(), "b.txt", "x", "y").expect_err("no file").contains("no file `b.txt`"));
    }

    #[test]
    fn a_patch_changes_creates_and_removes() {
        check(
            "--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n one\n- two\n+ 2\n",
            Ok(&[("a.txt", Some("one\n 2\nthree\ntwo\n"))]),
        );
        check("--- /dev/null\n+++ b/n.txt\n@@ -0,0 +1 @@\n+new\n", Ok(&[("n.txt", Some("new\n"))]));
        check(
            "--- a/a.txt\n+++ /dev/null\n@@ -1,4 +0,0 @@\n-one\n- two\n-three\n-two\n",
            Ok(&[("a.txt", None)]),
        );
    }

    #[test]
    fn hunks_may_have_moved_and_the_last_line_may_lack_its_end() {
        check(
            "--- a.txt\n+++ a.txt\n@@ -7,1 +7,1 @@\n-three\n+3",
            Ok(&[("a.txt", Some("one\n two\n3\ntwo\n"))]),
        );
    }

    #[test]
    fn a_file_may_come_twice() {
        let one = "--- a/a.txt\n+++ b/a.txt\n@@ -1,1 +1,1 @@\n-one\n+1\n";
        let again = "--- a/a.txt\n+++ b/a.txt\n@@ -1,1 +1,1 @@\n-1\n+I\n";
        check(&format!("{one}{again}"), Ok(&[("a.txt", Some("I\n two\nthree\ntwo\n"))]));
    }

    #[test]
    fn git_renames_move_a_file() {
        let patch = "diff --git a/a.txt b/b.txt\nsimilarity index 90%\nrename from a.txt\nrename to b.txt\n\
                     --- a/a.txt\n+++ b/b.txt\n@@ -1,1 +1,1 @@\n-one\n+1\n";
        check(patch, Ok(&[("a.txt", None), ("b.txt", Some("1\n two\nthree\ntwo\n"))]));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        check("--- a/a.txt\n+++ b/a.txt\n@@ -1,1 +1,1 @@\n-eleven\n+1\n", Err("not those of the file"));
        check("--- a/x.txt\n+++ b/x.txt\n@@ -1,1 +1,1 @@\n-1\n+2\n", Err("no file `x.txt`"));
        check("--- /dev/null\n+++ b/a.txt\n@@ -0,0 +1 @@\n+new\n", Err("already there"));
        check("--- a/../x\n+++ b/../x\n@@ -1,1 +1,1 @@\n-1\n+2\n", Err("not inside the workspace"));
        check("hello", Err("no unified diff"));
        check("--- a/a.txt\n+++ b/a.txt\n@@ nonsense @@\n", Err("no unified diff"));
    }
}
