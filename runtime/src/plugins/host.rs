//! The wasmtime engine that all plugins share, and the plugins loaded into it.

use std::path::PathBuf;
use std::sync::Arc;

use super::permissions::Roots;
use crate::tools::Tool;

/// Called with the tool's name and text that a running call emitted.
pub type OutputObserver = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// What a plugin host is built from.
#[derive(Clone)]
pub struct HostOptions {
    /// Compiled components are kept here.
    pub cache_dir: PathBuf,
    /// Plugins' private folders are kept below here.
    pub data_dir: PathBuf,
    /// The folders of this run.
    pub roots: Roots,
    /// Sees what running calls emit.
    pub output: OutputObserver,
}

/// The wasmtime engine, its ticker and its own tokio runtime. Ends them when dropped.
pub struct PluginHost {}

/// Why a plugin cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// Placeholder.
    #[error("{0}")]
    Invalid(String),
}

impl PluginHost {
    /// A host with no plugin loaded.
    pub fn new(_options: HostOptions) -> Result<Self, PluginError> {
        unimplemented!()
    }

    /// Loads the plugin in `dir` (its `plugin.toml` and component; compiled once, then from the cache) and
    /// returns its tools, named `plugin.tool`.
    pub async fn load(&self, _dir: &std::path::Path) -> Result<Vec<Arc<dyn Tool>>, PluginError> {
        unimplemented!()
    }
}
