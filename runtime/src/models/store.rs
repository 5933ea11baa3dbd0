//! The models on this machine.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::catalog::{self, CatalogModel};
use super::pull::{self, PullError};
use crate::config::Config;
use crate::suggest::closest;

/// What is here of a model of the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    /// Its file, whole and checked when it came.
    Installed,
    /// The beginning of it; the next pull goes on from there.
    Partial {
        /// Bytes that are here.
        bytes: u64,
    },
    /// Nothing yet.
    Available,
    /// Nothing, and this engine could not load it.
    NotRunnable,
}

/// What is here of `model`.
pub fn state(config: &Config, model: &CatalogModel) -> State {
    let Some(file) = model.file.as_ref().filter(|_| model.runnable) else { return State::NotRunnable };
    let file = config.models_dir.join(file);
    if file.is_file() {
        return State::Installed;
    }
    let lengths = pull::partials(&file).into_iter().filter_map(|path| Some(path.metadata().ok()?.len()));
    match lengths.max() {
        Some(bytes) => State::Partial { bytes },
        None => State::Available,
    }
}

/// The files of a model that can be loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalModel {
    /// Its name in the catalog, or the path it was given by.
    pub name: String,
    /// The GGUF file.
    pub weights: PathBuf,
}

/// The local files of model `name` (a catalog name, or a path to a GGUF file), pulled first if missing.
///
/// `progress` shows bars when true. No network is used when the files are there.
///
/// # Errors
/// [`PullError`]: the name is unknown, the file is not there, or it could not be fetched.
pub async fn ensure(config: &Config, name: &str, progress: bool) -> Result<LocalModel, PullError> {
    if let Some(found) = local(config, name)? {
        return Ok(found);
    }
    let model = catalog::find(name)?;
    tracing::info!("fetching model `{name}`");
    let weights = pull::pull(model, &config.models_dir, progress).await?;
    Ok(LocalModel { name: name.to_owned(), weights })
}

/// The local files of model `name`, if they are there.
///
/// # Errors
/// [`PullError::Unknown`] for a name that is neither in the catalog nor a path, [`PullError::Read`] for a path
/// without a file.
pub fn local(config: &Config, name: &str) -> Result<Option<LocalModel>, PullError> {
    if is_path(name) {
        let weights = PathBuf::from(name);
        return match std::fs::metadata(&weights) {
            Ok(_) => Ok(Some(LocalModel { name: name.to_owned(), weights })),
            Err(error) => Err(PullError::Read { path: weights, reason: error.to_string() }),
        };
    }
    let model = catalog::find(name).map_err(|error| match error {
        PullError::Unknown { name, suggestion: None } => {
            let suggestion = closest(&name, config.models.keys().map(String::as_str)).map(str::to_owned);
            PullError::Unknown { name, suggestion }
        }
        error => error,
    })?;
    let file = model.file.as_ref().map(|file| config.models_dir.join(file)).filter(|file| file.is_file());
    Ok(file.map(|weights| LocalModel { name: name.to_owned(), weights }))
}

/// Removes the file of catalog model `name`; whether there was one.
///
/// # Errors
/// [`PullError::Unknown`] or [`PullError::Write`].
pub fn remove(config: &Config, name: &str) -> Result<bool, PullError> {
    let model = catalog::find(name)?;
    let Some(file) = model.file.as_ref().map(|file| config.models_dir.join(file)) else { return Ok(false) };
    // What a broken pull left goes too.
    for rest in pull::partials(&file).into_iter().chain([pull::record_path(&file)]) {
        let _ = std::fs::remove_file(rest);
    }
    match std::fs::remove_file(&file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(PullError::Write { path: file, reason: error.to_string() }),
    }
}

/// Whether `name` is meant as a path rather than a catalog name.
fn is_path(name: &str) -> bool {
    name.contains('/')
        || Path::new(name).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}
