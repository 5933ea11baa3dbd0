//! `plugin.toml`: what a plugin is and what it asks for. A request, not a grant.
//!
//! Invariant: a [`Manifest`] that was read asks for nothing that the host does not know. An unknown key, a
//! limit above its ceiling or a capability that does not exist yet is an error with its line, never ignored.

pub(crate) mod parse;

use std::path::Path;
use std::time::Duration;

use super::error::PluginError;
use super::origin::Origin;
use super::permissions::Access;

/// The manifest's file name, in the plugin's folder.
pub const FILE_NAME: &str = "plugin.toml";

/// Bytes of a manifest; a larger file is a mistake or an attack.
const MAX_MANIFEST_BYTES: u64 = 64 * 1024;

/// What a plugin says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The namespace of its tools.
    pub id: String,
    /// Its version, for people.
    pub version: String,
    /// The component's file name, in the same folder.
    pub component: String,
    /// What it is for.
    pub description: String,
    /// What one call may use.
    pub limits: Limits,
    /// What it asks to touch.
    pub permissions: Permissions,
    /// How it is built, for `chaski plugin build`; the host does not read it.
    pub build: toml::Table,
}

/// What one call may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of linear memory, all memories together.
    pub memory: usize,
    /// Wall-clock time, instantiation included, waiting for a turn not.
    pub timeout: Duration,
    /// Bytes of an answer that reach the model.
    pub output: usize,
    /// Calls of this plugin at one time.
    pub concurrency: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: 64 << 20, timeout: Duration::from_secs(10), output: 64 << 10, concurrency: 4 }
    }
}

/// The most that a manifest can ask for.
const CEILING: Limits =
    Limits { memory: 1 << 30, timeout: Duration::from_secs(600), output: 1 << 20, concurrency: 64 };

/// What a plugin asks to touch. What is not listed is not granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Folders.
    pub fs: Vec<FolderRequest>,
    /// Random numbers that differ from call to call.
    pub random: bool,
    /// The time of day.
    pub wall_clock: bool,
    /// Requests.
    pub http: Vec<HttpRequest>,
    /// Environment variables, by name.
    pub env: Vec<String>,
    /// Secrets that the host puts into requests.
    pub secrets: Vec<SecretRequest>,
    /// Tools that it calls: names, `plugin.*`, or `*`.
    pub tools: Vec<String>,
}

/// Requests that a plugin asks to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// Where to; `None` for whatever the operator names (`*`).
    pub origin: Option<Origin>,
    /// How: in capitals. Reading alone, if the manifest does not say.
    pub methods: Vec<String>,
}

impl HttpRequest {
    /// The methods that change nothing.
    pub const READING: [&str; 2] = ["GET", "HEAD"];

    /// Whether it asks for reading alone.
    pub fn reads_only(&self) -> bool {
        self.methods.iter().all(|method| Self::READING.contains(&method.as_str()))
    }
}

impl std::fmt::Display for HttpRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let methods = self.methods.join(", ");
        match &self.origin {
            Some(origin) => write!(f, "{methods} {origin}"),
            None => write!(f, "{methods} any origin that you name"),
        }
    }
}

/// A secret that the host puts into requests to one origin. The plugin never sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRequest {
    /// What the plugin calls it.
    pub name: String,
    /// The only origin that it is sent to.
    pub origin: Origin,
    /// The header that carries it, in lower case.
    pub header: String,
    /// What stands before it there: `Bearer `.
    pub prefix: String,
}

impl std::fmt::Display for SecretRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in the header `{}` to {}", self.name, self.header, self.origin)
    }
}

/// A folder that a plugin asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderRequest {
    /// Which folder of the host's.
    pub host: FolderSource,
    /// Where the plugin sees it, absolute.
    pub guest: String,
    /// The most that it wants to do there.
    pub access: Access,
}

/// Which folder of the host's a plugin asks for. Always a name, never a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FolderSource {
    /// `root:NAME`: the folder that the run offers under this name.
    Root(String),
    /// `private:NAME`: a folder of the plugin's own, which outlives the run.
    Private(String),
}

impl std::fmt::Display for FolderSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root(name) => write!(f, "root:{name}"),
            Self::Private(name) => write!(f, "private:{name}"),
        }
    }
}

impl Manifest {
    /// Reads the manifest of the plugin in `dir`.
    ///
    /// # Errors
    /// [`PluginError::Unreadable`] when there is none, [`PluginError::Manifest`] when it is not valid.
    pub fn read(dir: &Path) -> Result<Self, PluginError> {
        let file = dir.join(FILE_NAME);
        let unreadable = |reason: String| PluginError::Unreadable { file: file.clone(), reason };
        let bytes = std::fs::metadata(&file).map_err(|error| unreadable(error.to_string()))?.len();
        if bytes > MAX_MANIFEST_BYTES {
            return Err(unreadable(format!("it has {bytes} bytes; the most is {MAX_MANIFEST_BYTES}")));
        }
        let text = std::fs::read_to_string(&file).map_err(|error| unreadable(error.to_string()))?;
        parse::parse(&text).map_err(|fault| PluginError::Manifest {
            line: fault.line(&text),
            reason: fault.reason,
            hint: fault.hint,
            file,
        })
    }
}

/// Whether `name` can be a plugin's id, a root's or a private folder's name: `[a-z][a-z0-9-]{0,63}`.
///
/// Such a name is one path component on every system.
pub fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests;
