//! Answers that were given for good, in `permissions.toml` beside the user's settings.
//!
//! No plugin ever gets a folder in which this file lies: the host refuses such roots.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::whole_file;

/// The file's name, beside the settings.
const FILE_NAME: &str = "permissions.toml";
const HEAD: &str = "# Permissions that were given when chaski asked. Remove an entry to be asked again.\n\n";

/// Answers that were given for good.
pub struct Remembered {
    path: PathBuf,
    /// The project that this process works in.
    project: PathBuf,
    entries: Mutex<Vec<Entry>>,
}

/// What cannot be remembered.
#[derive(Debug, thiserror::Error)]
#[error("the permissions in `{path}` cannot be {action}: {reason}")]
pub struct RememberedError {
    path: PathBuf,
    action: &'static str,
    reason: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    allow: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    tool: String,
    /// Everywhere, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    project: Option<PathBuf>,
    given: String,
}

impl Remembered {
    /// The answers in `folder` that hold in the project around `working_dir`.
    ///
    /// # Errors
    /// [`RememberedError`] when the file is there and is not what this program wrote.
    pub fn open(folder: &Path, working_dir: &Path) -> Result<Self, RememberedError> {
        let path = folder.join(FILE_NAME);
        let entries = Mutex::new(read(&path)?);
        Ok(Self { path, project: project(working_dir), entries })
    }

    /// How it comes that `tool` is allowed, if it is.
    pub fn allows(&self, tool: &str) -> Option<String> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |entry: &&Entry| {
            entry.tool == tool && entry.project.as_ref().is_none_or(|project| *project == self.project)
        };
        entries.iter().find(holds).map(|entry| match &entry.project {
            Some(project) => format!("allowed in `{}` on {}", project.display(), entry.given),
            None => format!("allowed for good on {}", entry.given),
        })
    }

    /// Remembers that `tool` is allowed: the whole file is written anew, or it stays as it was.
    ///
    /// # Errors
    /// [`RememberedError`].
    pub fn allow(&self, tool: &str, in_project: bool) -> Result<(), RememberedError> {
        let fault = |reason: String| RememberedError { path: self.path.clone(), action: "written", reason };
        let folder = self.path.parent().unwrap_or(Path::new("."));
        crate::config::create_private(folder).map_err(|error| fault(error.to_string()))?;
        // Another process may have added to it.
        let lock =
            std::fs::File::create(folder.join(".permissions.lock")).map_err(|e| fault(e.to_string()))?;
        lock.lock().map_err(|error| fault(error.to_string()))?;
        let mut file = File { allow: read(&self.path)? };
        file.allow.push(Entry {
            tool: tool.to_owned(),
            project: in_project.then(|| self.project.clone()),
            given: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        });
        let text = toml::to_string(&file).map_err(|error| fault(error.to_string()))?;
        let write = |side: &mut NamedTempFile| {
            side.write_all(HEAD.as_bytes())?;
            side.write_all(text.as_bytes())
        };
        whole_file::replace(&self.path, write).map_err(|error| fault(error.to_string()))?;
        *self.entries.lock().unwrap_or_else(PoisonError::into_inner) = file.allow;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<Entry>, RememberedError> {
    let fault = |reason: String| RememberedError { path: path.to_owned(), action: "read", reason };
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(fault(error.to_string())),
        Ok(text) => toml::from_str::<File>(&text)
            .map(|file| file.allow)
            .map_err(|error| fault(error.message().into())),
    }
}

/// The folder that a person would call the project: the nearest with `.chaski` or `.git`, else the folder itself.
fn project(working_dir: &Path) -> PathBuf {
    let marked = |dir: &&Path| dir.join(".chaski").is_dir() || dir.join(".git").exists();
    working_dir.ancestors().find(marked).unwrap_or(working_dir).to_owned()
}
