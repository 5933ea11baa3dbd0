//! Starting the binary, and what tests share.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use chaski::cli::GlobalFlags;
use chaski::config::Config;

/// The folder of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// Where models and plugins are kept on this machine.
pub fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| Config::load(&GlobalFlags::default()).expect("the settings of this machine"))
}

/// The default model's file, pulled if it is missing.
pub fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let local = runtime.block_on(chaski::models::store::ensure(config(), "smollm2-135m-instruct", false));
        local.expect("the default model").weights
    })
}

/// The folder of a plugin built from `source` below the repository.
pub fn plugin(source: &str) -> PathBuf {
    let source = repository().join(source);
    let id = source.file_name().expect("a folder").to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let dir = config().cache_dir.join("test-plugins").join(id);
    runtime.block_on(chaski::plugins::build::build(&source, &dir, &|_| {})).expect("the plugin builds");
    dir
}

/// `chaski` with a journal of its own, in the repository's folder.
pub struct Chaski {
    pub data: tempfile::TempDir,
    /// Settings of its own, apart from its data: no root may cover them.
    pub config: tempfile::TempDir,
}

impl Chaski {
    pub fn new() -> Self {
        let folder = || tempfile::tempdir().expect("a folder");
        Self { data: folder(), config: folder() }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chaski"));
        command
            .args(arguments)
            .current_dir(repository())
            .env("CHASKI_DATA_DIR", self.data.path())
            .env("XDG_CONFIG_HOME", self.config.path())
            .env("CHASKI_MODELS", &config().models_dir)
            .env("CHASKI_PLUGINS", &config().plugins_dir)
            .env("CHASKI_CACHE_DIR", &config().cache_dir)
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG");
        command
    }

    /// Runs to the end; returns exit code, standard output and standard error.
    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().expect("the binary starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (status.code().expect("an exit code"), text(stdout), text(stderr))
    }

    /// Writes a file beside the journal and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.data.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        std::fs::write(&path, content).expect("writes");
        path.to_str().expect("UTF-8").to_owned()
    }
}
