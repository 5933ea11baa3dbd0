//! What a plugin may touch: effective = manifest ∩ grant ∩ ceiling.
//!
//! The manifest asks; the run's [`Roots`] and the operator's [`Grant`] are the grant; the ceiling is what the host
//! can do at all: the manifest's parser knows no other capability. No tool can change any of the three.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::PluginError;
use super::grant::Grant;
use super::manifest::{FolderSource, HttpRequest, Manifest};
use super::origin::Origin;
use crate::tools::Effect;
use crate::tools::registry::matches;

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
    /// Where it may send requests, and which.
    pub http: Vec<HttpAccess>,
    /// The environment variables that it sees, where they are set.
    pub env: Vec<String>,
    /// The secrets that the host puts into its requests.
    pub secrets: Vec<SecretAccess>,
    /// The tools that it may call.
    pub tools: ToolAccess,
}

/// Requests that a plugin may send to one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAccess {
    /// Where to.
    pub origin: Origin,
    /// How.
    pub methods: Vec<String>,
    /// The host's name may stand for an address that is not public.
    pub private: bool,
}

/// A secret on its way from the environment into requests to one origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretAccess {
    /// What the manifest calls it.
    pub name: String,
    /// The environment variable that holds it.
    pub variable: String,
    /// The only origin that it goes to.
    pub origin: Origin,
    /// The header that carries it.
    pub header: String,
    /// What stands before it there.
    pub prefix: String,
}

/// Tools that a plugin may call: those that both lists cover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolAccess {
    /// Patterns of the manifest.
    pub asked: Vec<String>,
    /// Patterns of the grant.
    pub granted: Vec<String>,
}

impl ToolAccess {
    /// Whether `name` may be called.
    pub fn covers(&self, name: &str) -> bool {
        let covers = |list: &[String]| list.iter().any(|pattern| pattern == "*" || matches(pattern, name));
        covers(&self.asked) && covers(&self.granted)
    }
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

    /// Adds what `manifest` asks for by name and the operator granted.
    #[must_use]
    pub fn with_grant(mut self, manifest: &Manifest, grant: &Grant) -> Self {
        let asked = &manifest.permissions;
        for granted in &grant.http {
            // A manifest may name an origin and any origin, with other methods: together they are what it asks.
            let fits = |request: &&HttpRequest| {
                request.origin.as_ref().is_none_or(|origin| *origin == granted.origin)
            };
            let methods: BTreeSet<String> =
                asked.http.iter().filter(fits).flat_map(|request| request.methods.clone()).collect();
            if !methods.is_empty() {
                self.http.push(HttpAccess {
                    origin: granted.origin.clone(),
                    methods: methods.into_iter().collect(),
                    private: granted.private || granted.origin.names_an_address(),
                });
            }
        }
        self.env = asked.env.iter().filter(|name| grant.env.contains(name)).cloned().collect();
        for request in &asked.secrets {
            let granted =
                grant.secrets.iter().find(|one| one.name == request.name && one.origin == request.origin);
            if let Some(granted) = granted {
                self.secrets.push(SecretAccess {
                    name: request.name.clone(),
                    variable: granted.variable.clone(),
                    origin: request.origin.clone(),
                    header: request.header.clone(),
                    prefix: request.prefix.clone(),
                });
            }
        }
        self.tools = ToolAccess { asked: asked.tools.clone(), granted: grant.tools.clone() };
        self
    }

    /// What it comes to, a line each, in words.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for folder in &self.folders {
            let does = if folder.access == Access::Read { "reads" } else { "reads and writes" };
            let own = if folder.private { ", its own folder" } else { "" };
            lines.push(format!("{does} {}{own}", folder.host.display()));
        }
        for access in &self.http {
            let private = if access.private { ", private addresses too" } else { "" };
            lines.push(format!("sends {} to {}{private}", access.methods.join(", "), access.origin));
        }
        lines.extend(self.env.iter().map(|name| format!("sees the variable {name}")));
        for secret in &self.secrets {
            let SecretAccess { name, variable, origin, .. } = secret;
            lines.push(format!("uses the secret {name} (${variable}) at {origin}, unseen"));
        }
        if !self.tools.asked.is_empty() && !self.tools.granted.is_empty() {
            let (asked, granted) = (self.tools.asked.join(", "), self.tools.granted.join(", "));
            lines.push(format!("calls tools that are in {asked} and in {granted}"));
        }
        for (granted, what) in
            [(self.random, "gets random numbers"), (self.wall_clock, "knows the time of day")]
        {
            if granted {
                lines.push(what.to_owned());
            }
        }
        lines
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

/// Refuses roots that cover the folder with chaski's settings, or lie in it, however they are offered: what is
/// allowed stands there.
///
/// # Errors
/// [`PluginError::SettingsRoot`] naming both folders.
pub fn check_apart(roots: &Roots, settings: &Path) -> Result<(), PluginError> {
    let own = resolved(settings);
    for (name, root) in roots {
        let path = resolved(&root.path);
        if path.starts_with(&own) || own.starts_with(&path) {
            return Err(PluginError::SettingsRoot { root: name.clone(), path: root.path.clone(), own });
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
