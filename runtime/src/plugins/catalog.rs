//! Where plugins are found, and first-party ones built when they are missing.

use std::path::PathBuf;

use super::host::PluginError;

/// A plugin found on this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct InstalledPlugin {
    /// Its id, the namespace of its tools.
    pub id: String,
    /// The folder with `plugin.toml` and the component.
    pub dir: PathBuf,
}

/// The folder of plugin `id`, built from its source first if it is first-party and not built yet.
///
/// `progress` gets a sentence for every slow step.
pub async fn ensure(
    _plugins_dir: &std::path::Path,
    _id: &str,
    _progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<InstalledPlugin, PluginError> {
    unimplemented!()
}

/// All plugins in `plugins_dir`.
pub fn installed(_plugins_dir: &std::path::Path) -> Result<Vec<InstalledPlugin>, PluginError> {
    unimplemented!()
}
