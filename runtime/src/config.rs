//! Settings: flags over environment over project over user over default.
//!
//! The user's file may set everything. A project's file comes with a cloned repository, so it may only name
//! a model: it can neither send prompts to another server nor move where chaski reads and writes.
//!
//! Invariant: a setting that nobody knows is an error, wherever it stands.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use serde::Serialize;

use crate::cli::GlobalFlags;
use crate::plugins::grant::Grant;
use crate::tools::mcp::McpSettings;
use crate::tools::permission::Rules;

pub mod agents;
pub mod engine;
pub mod file;

use agents::AgentSettings;
use engine::EngineSettings;
use file::{FileSettings, Scope};

/// The model when nothing names one: small enough for any laptop.
pub const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

/// The settings of this process.
#[derive(Clone, Debug)]
pub struct Config {
    /// The journal and the plugins' private folders: `$XDG_DATA_HOME/chaski`.
    pub data_dir: PathBuf,
    /// Compiled components: `$XDG_CACHE_HOME/chaski`.
    pub cache_dir: PathBuf,
    /// Models: `data_dir/models`, or `CHASKI_MODELS`.
    pub models_dir: PathBuf,
    /// Installed plugins: `data_dir/plugins`, or `CHASKI_PLUGINS`.
    pub plugins_dir: PathBuf,
    /// The model when nothing names one.
    pub model: String,
    /// Remote models by the name that workflows use.
    pub models: BTreeMap<String, RemoteModel>,
    /// How the model in this process is run.
    pub engine: EngineSettings,
    /// What decides about tool calls.
    pub permissions: Rules,
    /// What each plugin was granted, by its id.
    pub grants: BTreeMap<String, Grant>,
    /// The user's file. Its folder is never a plugin's to see.
    pub user_file: PathBuf,
    /// MCP servers by the name that their tools begin with.
    pub mcp: BTreeMap<String, McpSettings>,
    /// What agents are told beside their instructions.
    pub agents: AgentSettings,
    /// Where skills are looked for: the project's folder, then the user's.
    pub skill_dirs: Vec<PathBuf>,
}

/// A model behind an OpenAI-compatible endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RemoteModel {
    /// The endpoint, up to and without `/chat/completions`.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// The environment variable that holds the key; the key itself is never in a file.
    pub api_key_env: String,
    /// Tokens that prompt and answer may have together, if known.
    pub context: Option<usize>,
}

/// What the settings are computed from, so that a test needs no process environment.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Environment variables.
    pub variables: HashMap<String, String>,
    /// The working directory; a project's file is looked for here and above.
    pub working_dir: PathBuf,
    /// The user's file.
    pub user_file: PathBuf,
    /// `data_dir` when nothing sets it.
    pub default_data_dir: PathBuf,
    /// `cache_dir` when nothing sets it.
    pub default_cache_dir: PathBuf,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("cannot read `{path}`: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's word for it.
        reason: String,
    },
    /// A file is not TOML.
    #[error("`{path}` is not valid TOML\n  line {line}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the parser expected.
        reason: String,
    },
    /// A file has a key that nobody knows.
    #[error("`{path}` has an unknown key\n  line {line}: `{key}`")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The key with the tables it is in.
        key: String,
        /// The known key that was probably meant.
        suggestion: Option<String>,
        /// All keys known there.
        known: Vec<String>,
    },
    /// A project's file sets what only the user may set.
    #[error("`{path}` sets what a project may not set\n  line {line}: `{key}`")]
    NotInProject {
        /// The project's file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The key.
        key: String,
        /// Where the key belongs.
        user_file: PathBuf,
    },
    /// A key has a value that it cannot have.
    #[error("`{path}` has a wrong value\n  line {line}: `{key}` {reason}")]
    Value {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The key with the tables it is in.
        key: String,
        /// What it must be, and what was found.
        reason: String,
    },
    /// A flag or variable has a value that it cannot have.
    #[error("`{name}` {reason}")]
    Setting {
        /// The flag or variable.
        name: String,
        /// What it must be, and what was found.
        reason: String,
    },
    /// A folder could not be made.
    #[error("cannot create the folder `{path}`: {reason}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The operating system's word for it.
        reason: String,
    },
    /// There is no home directory.
    #[error("the home directory is unknown: {0}")]
    NoHome(String),
}

impl ConfigError {
    /// What to do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { suggestion: Some(meant), .. } => Some(format!("did you mean `{meant}`?")),
            Self::UnknownKey { known, .. } => Some(format!("known here: {}", quoted(known))),
            Self::NotInProject { key, user_file, .. } => Some(format!(
                "a cloned repository must not redirect prompts or files; move `{key}` to `{}`",
                user_file.display()
            )),
            Self::Folder { .. } | Self::NoHome(_) => {
                Some("choose another folder with `--data-dir` or `CHASKI_DATA_DIR`".into())
            }
            Self::Read { .. } | Self::Syntax { .. } | Self::Value { .. } | Self::Setting { .. } => None,
        }
    }
}

impl Config {
    /// The settings of this process; makes the data and cache folders, readable by their owner only.
    ///
    /// # Errors
    /// Every [`ConfigError`]: a file, variable or flag that cannot be understood is never skipped.
    pub fn load(flags: &GlobalFlags) -> Result<Self, ConfigError> {
        let config = Self::resolve(flags, &Surroundings::of_process(flags)?)?;
        for dir in [&config.data_dir, &config.cache_dir] {
            create_private(dir)?;
        }
        Ok(config)
    }

    /// The settings that follow from `flags` and `surroundings`; touches no folder.
    ///
    /// # Errors
    /// As [`Config::load`], but for folders.
    pub fn resolve(flags: &GlobalFlags, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let user = FileSettings::read(&surroundings.user_file, Scope::User, &surroundings.user_file)?;
        let project = match project_file(&surroundings.working_dir, &surroundings.user_file) {
            Some(path) => FileSettings::read(&path, Scope::Project, &surroundings.user_file)?,
            None => FileSettings::default(),
        };
        let folder = |flag: Option<&PathBuf>, variable: &str, in_file: Option<PathBuf>, default: PathBuf| {
            let from_variable = setting(&surroundings.variables, variable)?.map(PathBuf::from);
            let path = flag.cloned().or(from_variable).or(in_file).unwrap_or(default);
            Ok::<_, ConfigError>(surroundings.working_dir.join(path))
        };
        let data_dir = folder(
            flags.data_dir.as_ref(),
            "CHASKI_DATA_DIR",
            user.data_dir,
            surroundings.default_data_dir.clone(),
        )?;
        let cache_default = surroundings.default_cache_dir.clone();
        Ok(Self {
            cache_dir: folder(None, "CHASKI_CACHE_DIR", user.cache_dir, cache_default)?,
            models_dir: folder(None, "CHASKI_MODELS", user.models_dir, data_dir.join("models"))?,
            plugins_dir: folder(None, "CHASKI_PLUGINS", user.plugins_dir, data_dir.join("plugins"))?,
            data_dir,
            model: (flags.model.clone())
                .or(setting(&surroundings.variables, "CHASKI_MODEL")?)
                .or(project.model)
                .or(user.model)
                .unwrap_or_else(|| DEFAULT_MODEL.to_owned()),
            models: user.models,
            permissions: user.permissions,
            grants: user.plugins,
            user_file: surroundings.working_dir.join(&surroundings.user_file),
            mcp: user.mcp,
            agents: user.agents,
            skill_dirs: skill_dirs(&surroundings.working_dir, &surroundings.user_file),
            engine: EngineSettings { context: flags.context.or(user.engine.context), ..user.engine },
        })
    }
}

impl Surroundings {
    fn of_process(flags: &GlobalFlags) -> Result<Self, ConfigError> {
        let variables: HashMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let working_dir = std::env::current_dir()
            .map_err(|error| ConfigError::Read { path: ".".into(), reason: error.to_string() })?;
        let folders = etcetera::choose_base_strategy();
        match folders {
            Ok(folders) => Ok(Self {
                variables,
                working_dir,
                user_file: folders.config_dir().join("chaski").join("config.toml"),
                default_data_dir: folders.data_dir().join("chaski"),
                default_cache_dir: folders.cache_dir().join("chaski"),
            }),
            // Containers and services may have no home; one folder given by hand is enough.
            Err(error) => {
                let data_dir = (flags.data_dir.clone())
                    .or_else(|| variables.get("CHASKI_DATA_DIR").map(PathBuf::from))
                    .ok_or_else(|| ConfigError::NoHome(error.to_string()))?;
                Ok(Self {
                    variables,
                    working_dir,
                    user_file: data_dir.join("config.toml"),
                    default_cache_dir: data_dir.join("cache"),
                    default_data_dir: data_dir,
                })
            }
        }
    }
}

/// The nearest `.chaski/config.toml` in `start` or above, unless it is the user's own file.
fn project_file(start: &Path, user_file: &Path) -> Option<PathBuf> {
    start
        .ancestors()
        .map(|dir| dir.join(".chaski").join("config.toml"))
        .find(|file| file.is_file() && file != user_file)
}

/// The nearest `.chaski/skills` in `start` or above, and `skills` beside the user's file.
fn skill_dirs(start: &Path, user_file: &Path) -> Vec<PathBuf> {
    let project = start.ancestors().map(|dir| dir.join(".chaski").join("skills")).find(|dir| dir.is_dir());
    project.into_iter().chain(user_file.parent().map(|dir| dir.join("skills"))).collect()
}

/// The value of a variable; an empty one would silently mean "here", so it is refused.
fn setting(variables: &HashMap<String, String>, name: &str) -> Result<Option<String>, ConfigError> {
    match variables.get(name) {
        Some(value) if value.trim().is_empty() => Err(ConfigError::Setting {
            name: name.into(),
            reason: "is set but empty; unset it instead".into(),
        }),
        value => Ok(value.cloned()),
    }
}

/// Makes `dir` and its parents if they are missing; a folder made here is closed to other users.
///
/// # Errors
/// [`ConfigError::Folder`].
pub fn create_private(dir: &Path) -> Result<(), ConfigError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(dir)
        .map_err(|error| ConfigError::Folder { path: dir.to_owned(), reason: error.to_string() })
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
