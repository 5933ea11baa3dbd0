//! Settings: flags over environment over project over user over default. Unknown keys are errors.

use std::path::PathBuf;

/// The settings of this process.
#[derive(Clone, Debug)]
pub struct Config {
    /// The journal and the plugins' private folders: `$XDG_DATA_HOME/chaski`.
    pub data_dir: PathBuf,
    /// Compiled components: `$XDG_CACHE_HOME/chaski`.
    pub cache_dir: PathBuf,
    /// Models: `data_dir/models`, or `CHASKI_MODELS`.
    pub models_dir: PathBuf,
    /// Installed plugins: `data_dir/plugins`, or `CHASKI_PLUGINS`.
    pub plugins_dir: PathBuf,
    /// The model when nothing names one.
    pub model: String,
}
