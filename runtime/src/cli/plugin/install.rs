//! `chaski plugin add`, `update` and `remove`: what lies among the installed plugins, and what is pinned.

use std::path::{Path, PathBuf};

use super::{host_without_pins, plugin_error, print_plugin};
use crate::cli::usage_error;
use crate::config::Config;
use crate::plugins::host::LoadedPlugin;
use crate::plugins::lock::{self, Pin};
use crate::plugins::manifest::{self, Manifest, is_name};
use crate::plugins::{build, catalog};

/// Installs the plugin in `dir`: a built one, or one with sources, which is built first.
pub(super) async fn add(config: &Config, dir: &Path) -> anyhow::Result<()> {
    let source = dir.canonicalize().map_err(|error| {
        usage_error(format!("`{}` cannot be read: {error}", dir.display()), None::<String>)
    })?;
    let id = Manifest::read(&source).map_err(plugin_error)?.id;
    if catalog::first_party().contains(&id) {
        return Err(usage_error(
            format!("`{id}` is the name of a plugin of chaski's own"),
            format!("`chaski plugin build {id}` builds that one; give yours another id"),
        ));
    }
    if config.plugins_dir.join(&id).exists() {
        return Err(usage_error(
            format!("a plugin `{id}` is installed already"),
            format!("`chaski plugin update {id} --from {}` puts this one in its place", dir.display()),
        ));
    }
    install(config, &id, &source).await
}

/// Puts what `from`, or the folder that it came from, holds now in the place of plugin `id`, and pins it. With
/// neither, what lies there is pinned.
pub(super) async fn update(config: &Config, id: &str, from: Option<PathBuf>) -> anyhow::Result<()> {
    let (dir, lock) = (config.plugins_dir.join(id), config.plugins_dir.join(lock::FILE_NAME));
    let progress = |line: &str| eprintln!("{line}");
    if from.is_none() && catalog::first_party().iter().any(|known| known == id) {
        let source = catalog::sources().expect("it has just been listed").join(id);
        build::build(&source, &dir, &progress).await.map_err(plugin_error)?;
        return repin(config, id, &dir).await;
    }
    let pinned = lock::read(&lock).map_err(plugin_error)?.remove(id);
    let from = from.or_else(|| pinned.and_then(|pin| pin.source));
    match from {
        Some(source) => {
            let source = source.canonicalize().map_err(|error| {
                usage_error(
                    format!("`{}`, where `{id}` comes from, cannot be read: {error}", source.display()),
                    format!("`chaski plugin update {id} --from DIR` names another folder"),
                )
            })?;
            let found = Manifest::read(&source).map_err(plugin_error)?.id;
            if found != id {
                let message = format!("`{}` holds the plugin `{found}`, not `{id}`", source.display());
                return Err(usage_error(message, None::<String>));
            }
            install(config, id, &source).await
        }
        None if is_name(id) && dir.join(manifest::FILE_NAME).is_file() => repin(config, id, &dir).await,
        None => Err(unknown(config, id)),
    }
}

/// Removes the plugin and its pin; its private data stays unless `data`.
pub(super) fn remove(config: &Config, id: &str, data: bool) -> anyhow::Result<()> {
    let (dir, lock) = (config.plugins_dir.join(id), config.plugins_dir.join(lock::FILE_NAME));
    let pinned = lock::read(&lock).map_err(plugin_error)?.contains_key(id);
    if !is_name(id) || (!dir.is_dir() && !pinned) {
        return Err(unknown(config, id));
    }
    lock::change(&lock, |pins| drop(pins.remove(id))).map_err(plugin_error)?;
    if dir.is_dir() {
        std::fs::remove_dir_all(&dir)?;
    }
    println!("removed {}", dir.display());
    let private = config.data_dir.join("plugin-data").join(id);
    match (private.is_dir(), data) {
        (true, true) => {
            std::fs::remove_dir_all(&private)?;
            println!("removed {}", private.display());
        }
        (true, false) => eprintln!("its data is kept in `{}`; `--data` removes it", private.display()),
        (false, _) => {}
    }
    if config.grants.contains_key(id) {
        eprintln!("its grants are still in `{}`", config.user_file.display());
    }
    Ok(())
}

fn unknown(config: &Config, id: &str) -> anyhow::Error {
    let known = catalog::installed(&config.plugins_dir).unwrap_or_default();
    let known: Vec<&str> = known.iter().map(|plugin| plugin.id.as_str()).collect();
    let hint = match crate::suggest::closest(id, known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "`chaski plugin list` shows the installed plugins".to_owned(),
    };
    usage_error(format!("no plugin `{id}` is installed"), hint)
}

/// Puts the plugin together in a side folder, looks at it there, and renames: it is whole or not there.
async fn install(config: &Config, id: &str, source: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.plugins_dir)?;
    let side = tempfile::Builder::new().prefix(".adding-").tempdir_in(&config.plugins_dir)?;
    let staged = side.path().join(id);
    let manifest = Manifest::read(source).map_err(plugin_error)?;
    if source.join(&manifest.component).is_file() {
        std::fs::create_dir(&staged)?;
        for name in [manifest::FILE_NAME, &manifest.component] {
            std::fs::copy(source.join(name), staged.join(name))?;
        }
    } else {
        build::build(source, &staged, &|line| eprintln!("{line}")).await.map_err(plugin_error)?;
    }
    let loaded = host_without_pins(config)?.load(&staged).await.map_err(plugin_error)?;
    let (dir, old) = (config.plugins_dir.join(id), config.plugins_dir.join(format!(".replaced-{id}")));
    if dir.exists() {
        // What an earlier interruption left.
        let _ = std::fs::remove_dir_all(&old);
        std::fs::rename(&dir, &old)?;
    }
    std::fs::rename(&staged, &dir)?;
    let _ = std::fs::remove_dir_all(&old);
    let pin = Pin { source: Some(source.to_owned()), ..loaded.pin.clone() };
    show_and_pin(config, id, &loaded, pin)
}

async fn repin(config: &Config, id: &str, dir: &Path) -> anyhow::Result<()> {
    let loaded = host_without_pins(config)?.load(dir).await.map_err(plugin_error)?;
    show_and_pin(config, id, &loaded, loaded.pin.clone())
}

fn show_and_pin(config: &Config, id: &str, loaded: &LoadedPlugin, pin: Pin) -> anyhow::Result<()> {
    print_plugin(config, loaded);
    let lock = config.plugins_dir.join(lock::FILE_NAME);
    lock::change(&lock, |pins| drop(pins.insert(id.to_owned(), pin))).map_err(plugin_error)?;
    println!("\npinned in {}", lock.display());
    Ok(())
}
