//! Why a plugin cannot be used, told to the operator: nothing here reaches a model.

use std::path::PathBuf;

/// Why a plugin, or the plugin host as a whole, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// A plugin that could not be found, built or listed.
    #[error("{0}")]
    Invalid(String),
    /// `plugin.toml` is missing or cannot be read.
    #[error("plugin manifest `{file}` cannot be read: {reason}")]
    Unreadable {
        /// The manifest.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// `plugin.toml` says something that it may not say.
    #[error("plugin manifest `{file}`{}: {reason}", line.map(|line| format!(" (line {line})")).unwrap_or_default())]
    Manifest {
        /// The manifest.
        file: PathBuf,
        /// From 1, where a single line is at fault.
        line: Option<usize>,
        /// What is wrong.
        reason: String,
        /// The way out.
        hint: Option<String>,
    },
    /// The component is no plugin, or wants more of the host than there is.
    #[error("plugin `{plugin}`, component `{file}`: {reason}")]
    Component {
        /// The plugin's id.
        plugin: String,
        /// The component.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The way out.
        hint: Option<String>,
    },
    /// What the plugin says about its tools cannot be used.
    #[error("plugin `{plugin}`, tool `{tool}`: {reason}")]
    Tool {
        /// The plugin's id.
        plugin: String,
        /// The tool's name as the plugin gave it, shortened.
        tool: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The plugin did not say which tools it has.
    #[error("plugin `{plugin}` did not list its tools: {reason}")]
    NoTools {
        /// The plugin's id.
        plugin: String,
        /// What happened instead.
        reason: String,
    },
    /// A folder of the host's own cannot be used safely.
    #[error("folder `{path}`: {reason}")]
    Storage {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The way out.
        hint: Option<String>,
    },
    /// A root offers plugins a folder in which they could change chaski itself.
    #[error("root `{root}` offers plugins to write to `{path}`, which holds chaski's own files in `{own}`")]
    UnsafeRoot {
        /// The root's name.
        root: String,
        /// The root's folder.
        path: PathBuf,
        /// The folder that has to stay out of reach.
        own: PathBuf,
    },
    /// A plugin is another than the one that was installed.
    #[error(
        "the {what} of plugin `{plugin}` changed since it was installed\n  pinned {pinned}\n  found  {found}"
    )]
    Changed {
        /// The plugin's id.
        plugin: String,
        /// What changed.
        what: &'static str,
        /// The digest that was pinned.
        pinned: String,
        /// The digest that was found.
        found: String,
    },
    /// A plugin lies among the installed ones and was not installed.
    #[error("plugin `{plugin}` was not installed: `{file}` has no pin for it")]
    NotPinned {
        /// The plugin's id.
        plugin: String,
        /// The lock file.
        file: PathBuf,
    },
    /// A root covers the folder with chaski's settings.
    #[error("root `{root}` offers plugins `{path}`, which covers chaski's settings in `{own}`")]
    SettingsRoot {
        /// The root's name.
        root: String,
        /// The root's folder.
        path: PathBuf,
        /// The folder that has to stay out of reach.
        own: PathBuf,
    },
    /// What was granted to a plugin cannot be given.
    #[error("plugin `{plugin}`: {reason}")]
    Grant {
        /// The plugin's id.
        plugin: String,
        /// Why.
        reason: String,
    },
    /// The WebAssembly engine did not start.
    #[error("the plugin host did not start: {0}")]
    Host(String),
}

impl PluginError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Manifest { hint, .. } | Self::Component { hint, .. } | Self::Storage { hint, .. } => {
                hint.clone()
            }
            Self::Unreadable { .. } => {
                Some("`chaski plugin list` shows the installed plugins and their folders".to_owned())
            }
            Self::Tool { .. } | Self::NoTools { .. } => {
                Some("this is a fault of the plugin: update it, or tell its author".to_owned())
            }
            Self::UnsafeRoot { .. } => {
                Some("name a narrower folder, or offer it with `access: read`".to_owned())
            }
            Self::Changed { plugin, .. } => Some(format!(
                "if you meant that, `chaski plugin update {plugin}` shows what it is now and pins it"
            )),
            Self::NotPinned { plugin, .. } => Some(format!(
                "`chaski plugin update {plugin}` shows what it is and pins it; `chaski plugin add DIR` installs"
            )),
            Self::SettingsRoot { .. } => Some("name a narrower folder".to_owned()),
            Self::Grant { plugin, .. } => {
                Some(format!("`chaski plugin inspect {plugin}` shows what it was granted"))
            }
            Self::Invalid(_) | Self::Host(_) => None,
        }
    }
}
