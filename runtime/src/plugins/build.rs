//! Building a plugin from its source into the folder that the host loads: one file a language.
//!
//! A plugin is built again only when its sources, or the contract, changed: their digest is kept beside the
//! component. The result is put together in a side folder and renamed, so a plugin is whole or not there.

mod js;
mod python;
mod rust;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::error::PluginError;
use super::manifest::{self, Manifest, Permissions};
pub use rust::has_wasm_target;

/// Lines of a failed build's log that are shown.
const SHOWN_LINES: usize = 15;
/// What a build leaves beside the component.
const RECORD: &str = "build.json";
/// Folders that hold no sources: what builds leave behind, and what tests compare with.
const NO_SOURCES: [&str; 4] = ["target", "__pycache__", "node_modules", "cases"];

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    /// SHA-256 over the sources and the contract.
    sources: String,
    /// SHA-256 of the component.
    component: String,
}

/// Builds the plugin in `source` into `output`, unless it is there and up to date. Whether it was built.
///
/// # Errors
/// When the manifest is not valid, a tool is missing, or the build fails; the message holds the end of its log.
pub async fn build(
    source: &Path,
    output: &Path,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<bool, PluginError> {
    let source = source
        .canonicalize()
        .map_err(|error| PluginError::Invalid(format!("`{}` cannot be read: {error}", source.display())))?;
    let manifest = Manifest::read(&source)?;
    let fault =
        |reason: String| PluginError::Invalid(format!("plugin `{}` was not built: {reason}", manifest.id));
    let parent = output.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|error| fault(error.to_string()))?;
    if kind(&manifest) == Some("rust") {
        rust::lock_dependencies(&source).await.map_err(fault)?;
    }
    let sources = sources_digest(&source).map_err(|error| fault(error.to_string()))?;
    if is_current(output, &sources, &manifest.component) {
        return Ok(false);
    }
    let _lock = lock(parent, &manifest.id).map_err(|error| fault(error.to_string()))?;
    if is_current(output, &sources, &manifest.component) {
        return Ok(false);
    }
    let side = tempfile::Builder::new()
        .prefix(".building-")
        .tempdir_in(parent)
        .map_err(|error| fault(error.to_string()))?;
    let component = side.path().join(&manifest.component);
    let work = Work { source: &source, component: &component, manifest: &manifest, progress };
    match kind(&manifest) {
        Some("rust") => rust::build(&work).await.map_err(fault)?,
        Some("python") => python::build(&work).await.map_err(fault)?,
        Some("js") => js::build(&work).await.map_err(fault)?,
        Some(other) => {
            return Err(fault(format!("`[build] kind` is `{other}`; known are `rust`, `python` and `js`")));
        }
        None => return Err(fault("its manifest has no `[build] kind`".into())),
    }
    let copy = || -> std::io::Result<()> {
        std::fs::copy(source.join(manifest::FILE_NAME), side.path().join(manifest::FILE_NAME))?;
        let record = Record { sources: sources.clone(), component: crate::models::pull::digest(&component)? };
        std::fs::write(side.path().join(RECORD), serde_json::to_string_pretty(&record)?)?;
        let old = parent.join(format!(".replaced-{}", manifest.id));
        // What an earlier interruption left.
        let _ = std::fs::remove_dir_all(&old);
        if output.exists() {
            std::fs::rename(output, &old)?;
        }
        std::fs::rename(side.path(), output)?;
        let _ = std::fs::remove_dir_all(&old);
        Ok(())
    };
    copy().map_err(|error| fault(error.to_string()))?;
    // It was renamed away; there is nothing left to clean up.
    let _ = side.keep();
    Ok(true)
}

/// What the builder of a language works with.
struct Work<'a> {
    source: &'a Path,
    component: &'a Path,
    manifest: &'a Manifest,
    progress: &'a (dyn Fn(&str) + Send + Sync),
}

impl Work<'_> {
    /// The module that exports the world's functions, `default` if the manifest does not say.
    fn app<'a>(&'a self, default: &'a str) -> &'a str {
        self.manifest.build.get("app").and_then(toml::Value::as_str).unwrap_or(default)
    }

    fn say(&self, language: &str) {
        (self.progress)(&format!("building the plugin {} ({language})", self.manifest.id));
    }
}

fn kind(manifest: &Manifest) -> Option<&str> {
    manifest.build.get("kind").and_then(toml::Value::as_str)
}

/// The world of the contract that has what the manifest asks for, and nothing else.
fn world(permissions: &Permissions) -> &'static str {
    match (permissions.http.is_empty(), permissions.tools.is_empty()) {
        (true, true) => "plugin",
        (false, true) => "plugin-http",
        (true, false) => "plugin-tools",
        (false, false) => "plugin-all",
    }
}

/// The digest of the component that the last build left in `output`.
pub(super) fn built_component(output: &Path) -> Option<String> {
    let text = std::fs::read(output.join(RECORD)).ok()?;
    serde_json::from_slice::<Record>(&text).ok().map(|record| record.component)
}

fn is_current(output: &Path, sources: &str, component: &str) -> bool {
    let record =
        std::fs::read(output.join(RECORD)).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    record.is_some_and(|record| record.sources == sources) && output.join(component).is_file()
}

/// The contract's folder: the plugin's own copy, or beside the first-party sources.
fn contract_dir(source: &Path) -> Result<PathBuf, String> {
    let beside = source.parent().map(|parent| parent.join("wit"));
    let known = super::catalog::sources().map(|sources| sources.join("wit"));
    [Some(source.join("wit")), beside, known]
        .into_iter()
        .flatten()
        .find(|path| path.is_dir())
        .ok_or_else(|| "the plugin contract (wit) is not found".into())
}

/// Runs a tool to its end; an error holds the last lines that it wrote.
async fn logged(mut command: Command, name: &str) -> Result<(), String> {
    let done = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("`{name}` cannot be started: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let log = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let lines: Vec<&str> = log.lines().collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    Err(format!("`{name}` failed ({})\n  {}", done.status, shown.join("\n  ")))
}

/// Toolchains and intermediate results: large, and made again when lost.
fn cache_dir() -> PathBuf {
    let folder = etcetera::choose_base_strategy().map(|folders| etcetera::BaseStrategy::cache_dir(&folders));
    folder.unwrap_or_else(|_| std::env::temp_dir()).join("chaski")
}

/// Keeps two processes from building one plugin at the same time: the second waits.
fn lock(parent: &Path, id: &str) -> std::io::Result<std::fs::File> {
    let file = std::fs::File::create(parent.join(format!(".{id}.lock")))?;
    file.lock()?;
    Ok(file)
}

/// SHA-256 over the names and bytes of a plugin's sources, of those it may share with its neighbours and of the
/// contract, in hexadecimal.
fn sources_digest(source: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    let mut folders = vec![source.to_owned()];
    folders.extend(contract_dir(source).ok());
    folders.extend(Some(source.join("../shared")).filter(|shared| shared.is_dir()));
    for lock in [source.join("../Cargo.lock"), source.join("../Cargo.toml")] {
        if let Ok(bytes) = std::fs::read(lock) {
            hash.update(bytes);
        }
    }
    hash.update(python::COMPONENTIZE_PY);
    hash.update(js::TOOLCHAIN_LOCK);
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = std::fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type()?;
            if kind.is_dir() && !NO_SOURCES.contains(&name.as_str()) && !name.starts_with('.') {
                folders.push(entry.path());
            } else if kind.is_file() && !name.ends_with(".wasm") {
                hash.update(name.as_bytes());
                hash.update(std::fs::read(entry.path())?);
            }
        }
    }
    Ok(crate::digest::finish(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_plugins_share_is_a_source_of_each() {
        let folder = tempfile::tempdir().expect("a folder");
        let (plugin, shared) = (folder.path().join("plugin"), folder.path().join("shared"));
        for folder in [&plugin, &shared] {
            std::fs::create_dir(folder).expect("a folder");
        }
        std::fs::write(shared.join("path.rs"), "1").expect("writes");
        let before = sources_digest(&plugin).expect("a digest");
        assert_eq!(sources_digest(&plugin).expect("a digest"), before);
        std::fs::write(shared.join("path.rs"), "2").expect("writes");
        assert_ne!(sources_digest(&plugin).expect("a digest"), before);
    }
}
