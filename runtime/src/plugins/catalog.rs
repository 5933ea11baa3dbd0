//! Where plugins are found, and first-party ones built when they are missing or out of date.

use std::path::{Path, PathBuf};

use super::build;
use super::error::PluginError;
use super::lock;
use super::manifest::{self, Manifest};
use crate::suggest::closest;

/// A plugin found on this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct InstalledPlugin {
    /// Its id, the namespace of its tools.
    pub id: String,
    /// The folder with `plugin.toml` and the component.
    pub dir: PathBuf,
}

/// The folder of plugin `id`, built from its source first if it is first-party and missing or out of date.
///
/// `progress` gets a sentence for every slow step.
///
/// # Errors
/// When there is no such plugin, or it could not be built.
pub async fn ensure(
    plugins_dir: &Path,
    id: &str,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<InstalledPlugin, PluginError> {
    let dir = plugins_dir.join(id);
    let source =
        sources().map(|sources| sources.join(id)).filter(|source| source.join(manifest::FILE_NAME).is_file());
    match source {
        _ if !manifest::is_name(id) => Err(unknown(plugins_dir, id)),
        Some(source) => {
            build::build(&source, &dir, progress).await?;
            lock::pin_build(&plugins_dir.join(lock::FILE_NAME), id, &dir)?;
            Ok(InstalledPlugin { id: id.to_owned(), dir })
        }
        None if dir.join(manifest::FILE_NAME).is_file() => Ok(InstalledPlugin { id: id.to_owned(), dir }),
        None => Err(unknown(plugins_dir, id)),
    }
}

fn unknown(plugins_dir: &Path, id: &str) -> PluginError {
    let known: Vec<String> =
        installed(plugins_dir).unwrap_or_default().into_iter().map(|plugin| plugin.id).collect();
    let known: Vec<String> = known.into_iter().chain(first_party()).collect();
    let meant = closest(id, known.iter().map(String::as_str)).map(|name| format!("; did you mean `{name}`?"));
    PluginError::Invalid(format!("no plugin is called `{id}`{}", meant.unwrap_or_default()))
}

/// All plugins in `plugins_dir`, by id. First-party builds that have no pin yet, as before there were pins, get one.
///
/// # Errors
/// When the folder cannot be read, or a manifest in it is not valid.
pub fn installed(plugins_dir: &Path) -> Result<Vec<InstalledPlugin>, PluginError> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(plugins_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(PluginError::Invalid(format!("`{}`: {error}", plugins_dir.display()))),
    };
    for entry in entries.filter_map(Result::ok) {
        let dir = entry.path();
        if dir.join(manifest::FILE_NAME).is_file() && !entry.file_name().to_string_lossy().starts_with('.') {
            found.push(InstalledPlugin { id: Manifest::read(&dir)?.id, dir });
        }
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    let own = first_party();
    for plugin in found.iter().filter(|plugin| own.contains(&plugin.id)) {
        lock::pin_build(&plugins_dir.join(lock::FILE_NAME), &plugin.id, &plugin.dir)?;
    }
    Ok(found)
}

/// Whether a plugin `id` is installed, or can be built from its source.
pub fn is_known(plugins_dir: &Path, id: &str) -> bool {
    let folders = sources().into_iter().chain([plugins_dir.to_owned()]);
    folders.map(|folder| folder.join(id).join(manifest::FILE_NAME)).any(|file| file.is_file())
}

/// The ids of the plugins whose sources are at hand.
pub fn first_party() -> Vec<String> {
    let entries = sources().and_then(|sources| std::fs::read_dir(sources).ok());
    let mut ids: Vec<String> = entries
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join(manifest::FILE_NAME).is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    ids.sort();
    ids
}

/// The folder with the first-party plugins' sources: `CHASKI_PLUGIN_SOURCES`, or where this program was built.
pub fn sources() -> Option<PathBuf> {
    let given = std::env::var_os("CHASKI_PLUGIN_SOURCES").map(PathBuf::from);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
    given.or(Some(built)).filter(|path| path.is_dir())
}
