//! Python guests: componentize-py, which brings CPython and what the plugin imports as a snapshot.

use tokio::process::Command;

use super::{Work, cache_dir, contract_dir, logged, world};

/// The version of componentize-py, and with it of CPython.
pub(super) const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";

pub(super) async fn build(work: &Work<'_>) -> Result<(), String> {
    work.say("Python");
    let environment = cache_dir().join("componentize-py-0.25.1");
    let tool = environment.join("bin/componentize-py");
    if !tool.is_file() {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv"]).arg(&environment);
        logged(venv, "python3 -m venv").await?;
        let mut pip = Command::new(environment.join("bin/pip"));
        pip.args(["install", "--quiet", COMPONENTIZE_PY]);
        logged(pip, "pip install componentize-py").await?;
    }
    let contract = contract_dir(work.source)?;
    let mut build = Command::new(tool);
    build
        .arg("--wit-path")
        .arg(contract)
        .args(["--world", world(&work.manifest.permissions), "componentize", work.app("app"), "-o"])
        .arg(work.component)
        .current_dir(work.source)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    logged(build, "componentize-py").await
}
