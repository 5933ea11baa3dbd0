//! Rust guests: rustup's `wasm32-wasip2`, or Debian's toolchain where that is not to be had.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::{Work, cache_dir, logged};
use crate::plugins::catalog;

/// The target that a Rust guest is built for where rustup has it.
const TARGET: &str = "wasm32-wasip2";

/// Whether this machine's Rust can build for WebAssembly as it is.
pub fn has_wasm_target() -> bool {
    let asked = std::process::Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    asked.is_ok_and(|asked| Path::new(String::from_utf8_lossy(&asked.stdout).trim()).is_dir())
}

/// Writes the lock file of a new project, which every build after that holds to.
pub(super) async fn lock_dependencies(source: &Path) -> Result<(), String> {
    if source.join("Cargo.lock").is_file() || source.join("../Cargo.lock").is_file() {
        return Ok(());
    }
    let mut cargo = Command::new("cargo");
    cargo.arg("generate-lockfile").current_dir(source);
    logged(cargo, "cargo generate-lockfile").await
}

pub(super) async fn build(work: &Work<'_>) -> Result<(), String> {
    let Work { source, component, progress, .. } = *work;
    work.say("Rust");
    let target = cache_dir().join("guests");
    let added = has_wasm_target() || {
        let mut rustup = Command::new("rustup");
        rustup.args(["target", "add", TARGET]);
        logged(rustup, "rustup").await.is_ok() && has_wasm_target()
    };
    if added {
        let mut cargo = Command::new("cargo");
        cargo
            .args(["build", "--lib", "--release", "--locked", "--target", TARGET, "--target-dir"])
            .arg(&target)
            .current_dir(source)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTFLAGS");
        logged(cargo, "cargo").await?;
        let built = target.join(TARGET).join("release").join(format!("{}.wasm", crate_name(source)?));
        std::fs::copy(&built, component).map_err(|error| format!("{}: {error}", built.display()))?;
        return Ok(());
    }
    let script = catalog::sources()
        .map(|sources| sources.join("toolchain.sh"))
        .filter(|script| script.is_file() && Path::new("/usr/bin/apt-get").exists());
    let Some(script) = script else {
        return Err(format!("Rust has no target {TARGET} here; `rustup target add {TARGET}` brings it"));
    };
    progress("Rust has no WebAssembly target here; Debian's is used, fetched once (150 MB)");
    let mut bash = Command::new("bash");
    bash.arg(script)
        .arg(cache_dir().join("toolchain"))
        .arg(source)
        .arg(component)
        .env("CARGO_TARGET_DIR", target);
    logged(bash, "toolchain.sh").await
}

fn crate_name(source: &Path) -> Result<String, String> {
    let text =
        std::fs::read_to_string(source.join("Cargo.toml")).map_err(|error| format!("Cargo.toml: {error}"))?;
    let manifest: toml::Table =
        toml::from_str(&text).map_err(|error| format!("Cargo.toml: {}", error.message()))?;
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    name.map(|name| name.replace('-', "_")).ok_or_else(|| "Cargo.toml names no package".to_owned())
}
