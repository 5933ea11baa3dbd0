//! Making changes to files: all of them, or none.
//!
//! New contents are written to side files first; then every file is put into its place, and if one cannot be, those
//! before it are put back. A call that is killed between two renames leaves whole files, some old and some new.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::path::inside;

/// Bytes of a file that can be changed.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// What a file is to become.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// As the model writes it.
    pub path: String,
    /// What it holds now; `None`: it is not there.
    pub before: Option<String>,
    /// What it shall hold; `None`: it goes.
    pub after: Option<String>,
}

impl Change {
    /// The file `path` of `root`, to hold `after`.
    pub fn to(root: &Path, path: &str, after: Option<String>) -> Result<Self, String> {
        let before = text(root, path)?;
        Ok(Self { path: path.to_owned(), before, after })
    }
}

/// What the file `path` holds; `None` when it is not there.
pub fn text(root: &Path, path: &str) -> Result<Option<String>, String> {
    let file = inside(root, path)?;
    let fault = |reason: String| format!("`{path}` cannot be changed: {reason}.");
    if links_on_the_way(root, &file) {
        return Err(fault("it is, or lies behind, a symbolic link, which may lead elsewhere".into()));
    }
    match fs::metadata(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(error.to_string())),
        Ok(found) if found.is_dir() => return Err(fault("it is a folder".into())),
        Ok(found) if found.len() > MAX_FILE_BYTES => {
            return Err(fault(format!("it has {} bytes, the most is {MAX_FILE_BYTES}", found.len())));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(&file).map_err(|error| fault(error.to_string()))?;
    String::from_utf8(bytes).map(Some).map_err(|_| fault("it is not UTF-8 text".into()))
}

fn links_on_the_way(root: &Path, file: &Path) -> bool {
    file.ancestors()
        .take_while(|part| *part != root)
        .any(|part| fs::symlink_metadata(part).is_ok_and(|found| found.is_symlink()))
}

/// Makes all `changes`. Says what changed.
pub fn make(root: &Path, changes: &[Change]) -> Result<String, String> {
    let mut prepared = Vec::new();
    for change in changes {
        match prepare(root, change) {
            Ok(step) => prepared.push(step),
            Err(reason) => {
                discard(&prepared);
                return Err(format!("`{}` cannot be written: {reason}.", change.path));
            }
        }
    }
    for (done, step) in prepared.iter().enumerate() {
        if let Err(error) = step.commit() {
            for (step, change) in prepared.iter().zip(changes).take(done) {
                put_back(step, change)?;
            }
            discard(&prepared[done..]);
            return Err(format!("`{}` cannot be written: {error}.", changes[done].path));
        }
    }
    Ok(changes.iter().map(report).collect::<Vec<_>>().join("\n"))
}

/// A file whose new content lies beside it.
struct Step {
    file: PathBuf,
    /// `None`: the file goes.
    side: Option<PathBuf>,
}

impl Step {
    fn commit(&self) -> std::io::Result<()> {
        match &self.side {
            Some(side) => fs::rename(side, &self.file),
            None => fs::remove_file(&self.file),
        }
    }
}

fn prepare(root: &Path, change: &Change) -> Result<Step, String> {
    let file = inside(root, &change.path)?;
    let Some(after) = &change.after else { return Ok(Step { file, side: None }) };
    let folder = file.parent().unwrap_or(root);
    fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let name = file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let side = folder.join(format!(".{name}.chaski-new"));
    write_new(&side, after.as_bytes()).map_err(|error| {
        let _ = fs::remove_file(&side);
        error.to_string()
    })?;
    Ok(Step { file, side: Some(side) })
}

/// Writes a file that was not there: a link that somebody left under its name is not followed.
fn write_new(side: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if fs::symlink_metadata(side).is_ok() {
        fs::remove_file(side)?; // what a killed call left
    }
    let mut file = fs::File::create_new(side)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn discard(steps: &[Step]) {
    for side in steps.iter().filter_map(|step| step.side.as_ref()) {
        let _ = fs::remove_file(side);
    }
}

fn put_back(step: &Step, change: &Change) -> Result<(), String> {
    let back = match &change.before {
        Some(before) => fs::write(&step.file, before),
        None => fs::remove_file(&step.file),
    };
    back.map_err(|error| format!("`{}` was changed and cannot be put back: {error}.", change.path))
}

/// `src/a.rs: changed, 3 lines more`
fn report(change: &Change) -> String {
    let lines = |text: &Option<String>| text.as_ref().map_or(0, |text| text.lines().count());
    let what = match (&change.before, &change.after) {
        (None, Some(_)) => format!("created, {} lines", lines(&change.after)),
        (_, None) => "removed".to_owned(),
        (Some(before), Some(after)) if before == after => "the same as before".to_owned(),
        (Some(_), Some(_)) => match lines(&change.after) as i64 - lines(&change.before) as i64 {
            0 => "changed".to_owned(),
            more @ 1.. => format!("changed, {more} lines more"),
            fewer => format!("changed, {} lines fewer", -fewer),
        },
    };
    format!("{}: {what}", change.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("a.txt"), "one\n").expect("writes");
        folder
    }

    fn to(folder: &tempfile::TempDir, path: &str, after: Option<&str>) -> Change {
        Change::to(folder.path(), path, after.map(str::to_owned)).expect("a change")
    }

    /// Names of all files, hidden ones included.
    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let entries = fs::read_dir(folder.path()).expect("lists").map(|entry| entry.expect("an entry"));
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_created_changed_and_removed_together() {
        let folder = folder();
        fs::write(folder.path().join("b.txt"), "x\n").expect("writes");
        let changes = [
            to(&folder, "a.txt", Some("one\ntwo\n")),
            to(&folder, "new/c.txt", Some("c\n")),
            to(&folder, "b.txt", None),
        ];
        let report = make(folder.path(), &changes).expect("works");
        assert_eq!(report, "a.txt: changed, 1 lines more\nnew/c.txt: created, 1 lines\nb.txt: removed");
        assert_eq!(names(&folder), ["a.txt", "new"]);
        assert_eq!(fs::read_to_string(folder.path().join("a.txt")).expect("reads"), "one\ntwo\n");
    }

    #[test]
    fn if_one_cannot_be_written_none_is() {
        let folder = folder();
        // Removing what is not there fails after the first file is in place.
        let changes = [
            to(&folder, "a.txt", Some("two\n")),
            to(&folder, "new.txt", Some("n\n")),
            Change { path: "gone.txt".into(), before: Some("g".into()), after: None },
        ];
        let reason = make(folder.path(), &changes).expect_err("it cannot");
        assert!(reason.starts_with("`gone.txt` cannot be written"), "{reason}");
        assert_eq!(names(&folder), ["a.txt"]);
        assert_eq!(fs::read_to_string(folder.path().join("a.txt")).expect("reads"), "one\n");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_written_through() {
        let (folder, other) = (folder(), folder());
        std::os::unix::fs::symlink(other.path().join("a.txt"), folder.path().join("link")).expect("links");
        std::os::unix::fs::symlink(other.path(), folder.path().join("dir")).expect("links");
        for path in ["link", "dir/a.txt", "dir/new.txt"] {
            let reason = Change::to(folder.path(), path, Some("x".into())).expect_err("refused");
            assert!(reason.contains("symbolic link"), "{reason}");
        }
    }

    #[test]
    fn what_is_no_text_or_outside_is_refused() {
        let folder = folder();
        fs::write(folder.path().join("b.bin"), [0xff]).expect("writes");
        for (path, part) in [("b.bin", "not UTF-8"), ("../x", "not inside"), (".", "a folder")] {
            let reason = Change::to(folder.path(), path, None).expect_err("refused");
            assert!(reason.contains(part), "{reason}");
        }
    }
}
