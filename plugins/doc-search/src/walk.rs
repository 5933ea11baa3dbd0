//! The text files of a folder.

use std::path::{Component, Path, PathBuf};

/// Files of one collection.
const MAX_FILES: usize = 20_000;
/// A larger file is data, not a document.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Endings of files that hold text worth finding.
const ENDINGS: [&str; 26] = [
    "md", "markdown", "txt", "rst", "adoc", "org", "tex", "html", "rs", "py", "js", "ts", "go", "c", "h",
    "cpp", "java", "rb", "sh", "sql", "toml", "yaml", "yml", "json", "csv", "xml",
];

/// A text file: its path below the documents, and its text.
pub struct Document {
    pub path: String,
    pub text: String,
}

/// What was found and what was left out, with the reason.
#[derive(Default)]
pub struct Found {
    pub documents: Vec<Document>,
    pub skipped: Vec<String>,
}

/// Reads the text files below `path` in `root`, hidden folders left out.
pub fn documents(root: &Path, path: &str) -> Result<Found, String> {
    let relative = Path::new(path.trim());
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!(
            "`{path}` is not inside the documents: paths are relative to them, without `..`"
        ));
    }
    let mut found = Found::default();
    let mut folders = vec![root.join(relative)];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .map_err(|error| format!("the folder `{}` cannot be read: {error}", shown(root, &folder)))?;
        let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            // Links are not followed: they may form circles, and lead out of the folder.
            let Ok(kind) = entry.file_type() else { continue };
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            match (kind.is_dir(), kind.is_file()) {
                (true, _) if !hidden => folders.push(entry.path()),
                (_, true) => read(root, entry.path(), &mut found)?,
                _ => {}
            }
        }
    }
    Ok(found)
}

fn read(root: &Path, file: PathBuf, found: &mut Found) -> Result<(), String> {
    let path = shown(root, &file);
    if found.documents.len() == MAX_FILES {
        return Err(format!("there are more than {MAX_FILES} text files; index one folder at a time"));
    }
    let mut skip = |reason: &str| found.skipped.push(format!("{path}: {reason}"));
    let ending = file.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    if !ENDINGS.contains(&ending.as_str()) {
        skip("not a text file by its ending");
        return Ok(());
    }
    match std::fs::metadata(&file) {
        Ok(about) if about.len() > MAX_FILE_BYTES => skip("larger than 4 MiB"),
        Err(error) => skip(&error.to_string()),
        Ok(_) => match std::fs::read(&file).map(String::from_utf8) {
            Ok(Ok(text)) => found.documents.push(Document { path, text }),
            Ok(Err(_)) => skip("not UTF-8"),
            Err(error) => skip(&error.to_string()),
        },
    }
    Ok(())
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}
