//! JavaScript guests: componentize-qjs, which brings QuickJS and the plugin's evaluated modules as a snapshot.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::{NO_SOURCES, Work, cache_dir, contract_dir, logged, world};

/// The toolchain as npm installs it: exact versions with their digests.
pub(super) const TOOLCHAIN_LOCK: &str = include_str!("js/package-lock.json");
const TOOLCHAIN_PACKAGE: &str = include_str!("js/package.json");
/// Its folder in the cache; another version gets another one.
const TOOLCHAIN: &str = "componentize-qjs-0.4.5";
/// Installed as the lock file says, without running anything that a package brings.
const INSTALL: [&str; 6] =
    ["ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"];

/// Whether this machine has Node and npm.
fn has_node() -> bool {
    let answers = |program: &str| {
        let mut asked = std::process::Command::new(program);
        asked.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        asked.status().is_ok_and(|status| status.success())
    };
    answers("node") && answers("npm")
}

pub(super) async fn build(work: &Work<'_>) -> Result<(), String> {
    work.say("JavaScript");
    if !has_node() {
        return Err(
            "JavaScript plugins are built with Node (18 or newer) and npm, which are not found here".into()
        );
    }
    let tool = toolchain(work).await?;
    // Packages are installed into a copy: a plugin's source folder stays as it is.
    let staged = tempfile::tempdir_in(cache_dir()).map_err(|error| error.to_string())?;
    copy(work.source, staged.path()).map_err(|error| error.to_string())?;
    packages(staged.path()).await?;
    let mut build = Command::new(tool);
    build
        .args(["--sync", "--world", world(&work.manifest.permissions), "--wit"])
        .arg(contract_dir(work.source)?)
        .arg("--module-root")
        .arg(staged.path())
        .arg("--js")
        .arg(staged.path().join(work.app("app.js")))
        .arg("--output")
        .arg(work.component)
        .current_dir(staged.path());
    logged(build, "componentize-qjs").await
}

/// The path of componentize-qjs, installed if it is not there yet.
async fn toolchain(work: &Work<'_>) -> Result<PathBuf, String> {
    let folder = cache_dir().join(TOOLCHAIN);
    let tool = folder.join("node_modules/.bin/componentize-qjs");
    if tool.exists() {
        return Ok(tool);
    }
    (work.progress)("fetching componentize-qjs, once (40 MB)");
    let fault = |error: std::io::Error| format!("{TOOLCHAIN}: {error}");
    std::fs::create_dir_all(cache_dir()).map_err(fault)?;
    let side = tempfile::tempdir_in(cache_dir()).map_err(fault)?;
    std::fs::write(side.path().join("package.json"), TOOLCHAIN_PACKAGE).map_err(fault)?;
    std::fs::write(side.path().join("package-lock.json"), TOOLCHAIN_LOCK).map_err(fault)?;
    install(side.path()).await?;
    match std::fs::rename(side.path(), &folder) {
        Ok(()) => drop(side.keep()),
        // Another process was faster.
        Err(_) if tool.exists() => {}
        Err(error) => return Err(fault(error)),
    }
    Ok(tool)
}

/// Installs what the plugin in `dir` depends on.
async fn packages(dir: &Path) -> Result<(), String> {
    let Ok(text) = std::fs::read_to_string(dir.join("package.json")) else { return Ok(()) };
    let package: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("package.json: {error}"))?;
    if package["dependencies"].as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(());
    }
    if !dir.join("package-lock.json").is_file() {
        return Err("package.json names dependencies, but there is no package-lock.json to hold them to; \
                    `npm install --package-lock-only` writes it"
            .into());
    }
    install(dir).await
}

async fn install(dir: &Path) -> Result<(), String> {
    let mut npm = Command::new("npm");
    npm.args(INSTALL).current_dir(dir);
    logged(npm, "npm ci").await
}

/// Copies the sources in `from` to the folder `to`.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let is_source =
            !NO_SOURCES.iter().any(|other| name == *other) && !name.to_string_lossy().starts_with('.');
        if kind.is_dir() && is_source {
            std::fs::create_dir(to.join(&name))?;
            copy(&entry.path(), &to.join(&name))?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}
