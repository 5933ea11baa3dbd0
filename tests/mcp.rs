//! MCP both ways: with the official Python SDK on the other side, and with servers that misbehave.
//!
//! The SDK is installed once, in chaski's cache folder, in the versions of `mcp/requirements-*.txt`.

mod client;
mod hostile;
mod server;

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::support::{Chaski, config, repository};

/// The SDK that speaks both eras, and the last one that speaks the older alone.
const SDK: &str = "2.3.0";
const OLDER_SDK: &str = "1.30.0";

/// The Python that has the SDK in `version`.
fn python(version: &str) -> PathBuf {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _alone = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let environment = config().cache_dir.join(format!("mcp-sdk-{version}"));
    let (python, ready) = (environment.join("bin/python"), environment.join("ready"));
    if !ready.is_file() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment));
        let requirements = script(&format!("requirements-{version}.txt"));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(requirements));
        std::fs::write(&ready, "").expect("the cache folder can be written");
    }
    python
}

fn run(command: &mut Command) {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The path of `tests/mcp/NAME`.
pub fn script(name: &str) -> String {
    repository().join("tests/mcp").join(name).to_str().expect("UTF-8").to_owned()
}

/// `chaski` whose user has `settings`.
pub fn chaski_with(settings: &str) -> Chaski {
    let chaski = Chaski::new();
    chaski.file("chaski/config.toml", settings);
    chaski
}

/// A command of `chaski` that reads those settings.
pub fn command(chaski: &Chaski, arguments: &[&str]) -> Command {
    let mut command = chaski.command(arguments);
    command.env("XDG_CONFIG_HOME", chaski.data.path());
    command
}

/// Runs to the end; returns exit code, standard output and standard error.
pub fn finish(mut command: Command) -> (i32, String, String) {
    let output = command.output().expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}
