//! The models on this machine.

use std::path::PathBuf;

use super::pull::PullError;
use crate::config::Config;

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
pub async fn ensure(_config: &Config, _name: &str, _progress: bool) -> Result<LocalModel, PullError> {
    unimplemented!()
}
