//! What a plugin may touch: effective = manifest ∩ grant ∩ ceiling.
//!
//! The manifest asks, the run's [`Roots`] are the grant, and the ceiling is what the host can do at all: the
//! manifest's parser knows no other capability. No tool can change any of the three.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::PluginError;
use super::manifest::{FolderSource, Manifest};
use crate::tools::Effect;

/// How a folder may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Files can be listed and read.
    #[default]
    Read,
    /// Files can also be created, changed and removed.
    ReadWrite,
}

/// A folder that the operator offers to plugins under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The folder, absolute.
    pub path: PathBuf,
    /// The most that any plugin gets there.
    pub access: Access,
}

/// The folders of one run, by name. A plugin reaches a root only if its manifest asks for that name.
pub type Roots = BTreeMap<String, Root>;

/// What a plugin may touch in one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    /// The folders it sees.
    pub folders: Vec<Folder>,
    /// The roots that its manifest asks for and this run does not offer. While there is one, its tools do
    /// not run: they would find an empty world and take it for the answer.
    pub missing_roots: Vec<String>,
    /// Random numbers differ from call to call; otherwise every call sees the same.
    pub random: bool,
    /// The time of day is real; otherwise it is always the start of 1970.
    pub wall_clock: bool,
}

/// A folder as one plugin sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Where it is.
    pub host: PathBuf,
    /// Where the plugin sees it.
    pub guest: String,
    /// What the plugin may do there.
    pub access: Access,
    /// Whether it is the plugin's own, rather than the operator's.
    pub private: bool,
}

impl Effective {
    /// What `manifest` gets where the run offers `roots`. Private folders are kept below `data_dir`.
    pub fn of(manifest: &Manifest, roots: &Roots, data_dir: &Path) -> Self {
        let mut effective = Self {
            random: manifest.permissions.random,
            wall_clock: manifest.permissions.wall_clock,
            ..Self::default()
        };
        for request in &manifest.permissions.fs {
            let (host, most, private) = match &request.host {
                FolderSource::Private(name) => {
                    (private_folder(data_dir, &manifest.id, name), Access::ReadWrite, true)
                }
                FolderSource::Root(name) => match roots.get(name) {
                    Some(root) => (root.path.clone(), root.access, false),
                    None => {
                        effective.missing_roots.push(name.clone());
                        continue;
                    }
                },
            };
            let access = request.access.min(most);
            effective.folders.push(Folder { host, guest: request.guest.clone(), access, private });
        }
        effective
    }

    /// Creates the private folders, readable by this user alone.
    ///
    /// # Errors
    /// [`PluginError::Storage`] when one cannot be created or is no folder.
    pub fn create_private_folders(&self) -> Result<(), PluginError> {
        for folder in self.folders.iter().filter(|folder| folder.private) {
            private_or_refused(&folder.host).map_err(|reason| PluginError::Storage {
                path: folder.host.clone(),
                reason,
                hint: Some("move it away; the plugin then starts with an empty folder".to_owned()),
            })?;
        }
        Ok(())
    }
}

/// Private folders lie apart from the installed plugins, so that a rebuild never takes a plugin's data along.
fn private_folder(data_dir: &Path, plugin: &str, name: &str) -> PathBuf {
    data_dir.join("plugin-data").join(plugin).join(name)
}

fn private_or_refused(path: &Path) -> Result<(), String> {
    crate::config::create_private(path).map_err(|error| error.to_string())?;
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err("is not a folder".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The weakest effect that a tool of this plugin can truthfully claim, by what its manifest asks for.
///
/// What a run does not grant makes no difference: a tool's effect is the same in every run. A plugin's own
/// folder does not count as outside: what it leaves there is seen by its own tools only. Neither do tools that it
/// calls: each of those calls is decided, and written down, with the effect of its own tool.
pub fn weakest_claim(manifest: &Manifest) -> Effect {
    let permissions = &manifest.permissions;
    let writes_outside = permissions
        .fs
        .iter()
        .any(|folder| folder.access == Access::ReadWrite && matches!(folder.host, FolderSource::Root(_)));
    let sends = permissions.http.iter().any(|request| !request.reads_only());
    let sees_more = permissions.random
        || permissions.wall_clock
        || !permissions.fs.is_empty()
        || !permissions.http.is_empty()
        || !permissions.env.is_empty()
        || !permissions.tools.is_empty();
    if writes_outside || sends {
        Effect::Effectful
    } else if sees_more {
        Effect::Idempotent
    } else {
        Effect::Pure
    }
}

/// Refuses roots in which a plugin could write to chaski's `own` folders: compiled components are native
/// code, and whoever writes there is out of the sandbox.
///
/// # Errors
/// [`PluginError::UnsafeRoot`] naming both folders.
pub fn check_roots(roots: &Roots, own: &[&Path]) -> Result<(), PluginError> {
    for (name, root) in roots.iter().filter(|(_, root)| root.access == Access::ReadWrite) {
        let path = resolved(&root.path);
        for own in own.iter().map(|own| resolved(own)) {
            if path.starts_with(&own) || own.starts_with(&path) {
                return Err(PluginError::UnsafeRoot { root: name.clone(), path: root.path.clone(), own });
            }
        }
    }
    Ok(())
}

/// `path` with the links in it followed as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(whole), _, _) => whole,
        (Err(_), Some(parent), Some(name)) => resolved(parent).join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests;
