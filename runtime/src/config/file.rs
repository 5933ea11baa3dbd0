//! One settings file, read strictly: every key is known, every value has its type, or there is an error
//! with file and line.

mod agents;
mod mcp;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use chaski_engine::config::{KvFormat, RopeStretch};

use super::agents::AgentSettings;
use super::engine::EngineSettings;
use super::{ConfigError, RemoteModel};
use crate::plugins::grant::Grant;
use crate::suggest::{closest, named};
use crate::tools::mcp::McpSettings;
use crate::tools::permission::{PatternError, Rules};

/// Keys of the top level.
const KEYS: [&str; 11] = [
    "model",
    "data_dir",
    "cache_dir",
    "models_dir",
    "plugins_dir",
    "models",
    "engine",
    "permissions",
    "plugins",
    "mcp",
    "agents",
];

/// The keys among them that a project may set.
const PROJECT_KEYS: [&str; 1] = ["model"];

/// Keys of a `[models.NAME]` table.
const MODEL_KEYS: [&str; 4] = ["base_url", "model", "api_key_env", "context"];

/// Keys of the `[permissions]` table.
const PERMISSION_KEYS: [&str; 3] = ["deny", "allow", "ask"];

/// Keys of a `[plugins.ID]` table.
const GRANT_KEYS: [&str; 4] = ["http", "env", "secrets", "tools"];

/// Keys of the `[engine]` table.
const ENGINE_KEYS: [&str; 8] =
    ["context", "rope_scaling", "threads", "kv_tokens", "kv_format", "kv_disk", "speculate", "adapters"];

/// The variable that holds the key of a remote model unless its table names another.
const DEFAULT_KEY_VARIABLE: &str = "OPENAI_API_KEY";

/// Larger files are refused: settings are a page of text.
const MAX_BYTES: u64 = 1 << 20;

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The user's own.
    User,
    /// One that came with a project.
    Project,
}

/// What one file sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileSettings {
    /// The model when nothing names one.
    pub model: Option<String>,
    /// See [`super::Config`].
    pub data_dir: Option<PathBuf>,
    /// See [`super::Config`].
    pub cache_dir: Option<PathBuf>,
    /// See [`super::Config`].
    pub models_dir: Option<PathBuf>,
    /// See [`super::Config`].
    pub plugins_dir: Option<PathBuf>,
    /// Remote models by name.
    pub models: BTreeMap<String, RemoteModel>,
    /// The `[engine]` table.
    pub engine: EngineSettings,
    /// The `[permissions]` table.
    pub permissions: Rules,
    /// What each plugin was granted, by its id.
    pub plugins: BTreeMap<String, Grant>,
    /// MCP servers by name.
    pub mcp: BTreeMap<String, McpSettings>,
    /// The `[agents]` table.
    pub agents: AgentSettings,
}

impl FileSettings {
    /// What the file at `path` sets: nothing if there is none.
    ///
    /// # Errors
    /// [`ConfigError`] with the line; `user_file` is named where a project's key belongs there.
    pub fn read(path: &Path, scope: Scope, user_file: &Path) -> Result<Self, ConfigError> {
        let unreadable = |reason: String| ConfigError::Read { path: path.to_owned(), reason };
        match std::fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(unreadable(error.to_string())),
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                return Err(unreadable(format!(
                    "it has {} bytes, at most {MAX_BYTES} are read",
                    metadata.len()
                )));
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        Reader { path, text: &text, scope, user_file }.read()
    }
}

/// Where the reader is, for errors.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    scope: Scope,
    user_file: &'a Path,
}

impl Reader<'_> {
    fn read(&self) -> Result<FileSettings, ConfigError> {
        let table = DeTable::parse(self.text).map_err(|error| ConfigError::Syntax {
            path: self.path.to_owned(),
            line: self.line(error.span().map_or(0, |span| span.start)),
            reason: error.message().to_owned(),
        })?;
        let mut settings = FileSettings::default();
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            let at = key.span().start;
            if !KEYS.contains(&name) {
                return Err(self.unknown(at, "", name, &KEYS));
            }
            if self.scope == Scope::Project && !PROJECT_KEYS.contains(&name) {
                return Err(ConfigError::NotInProject {
                    path: self.path.to_owned(),
                    line: self.line(at),
                    key: name.to_owned(),
                    user_file: self.user_file.to_owned(),
                });
            }
            match name {
                "model" => settings.model = Some(self.text_of(name, value)?),
                "data_dir" => settings.data_dir = Some(self.folder(name, value)?),
                "cache_dir" => settings.cache_dir = Some(self.folder(name, value)?),
                "models_dir" => settings.models_dir = Some(self.folder(name, value)?),
                "plugins_dir" => settings.plugins_dir = Some(self.folder(name, value)?),
                "engine" => settings.engine = self.engine(value)?,
                "permissions" => settings.permissions = self.permissions(value)?,
                "plugins" => settings.plugins = self.grants(value)?,
                "mcp" => settings.mcp = self.mcp(value)?,
                "agents" => settings.agents = self.agents(value)?,
                _ => settings.models = self.models(value)?,
            }
        }
        if self.scope == Scope::Project {
            settings.model = settings.model.map(|model| self.beside_project(model));
        }
        Ok(settings)
    }

    /// `[models.NAME]` tables.
    fn models(&self, value: &Spanned<DeValue<'_>>) -> Result<BTreeMap<String, RemoteModel>, ConfigError> {
        let table = value
            .get_ref()
            .as_table()
            .ok_or_else(|| self.wrong("models", value, "must hold tables `[models.NAME]`"))?;
        table
            .iter()
            .map(|(name, value)| {
                let name = name.get_ref().to_string();
                self.remote_model(&name, value).map(|model| (name, model))
            })
            .collect()
    }

    fn remote_model(&self, name: &str, value: &Spanned<DeValue<'_>>) -> Result<RemoteModel, ConfigError> {
        let prefix = format!("models.{name}");
        let Some(table) = value.get_ref().as_table() else {
            return Err(self.wrong(&prefix, value, "must be a table with `base_url` and `model`"));
        };
        let (mut base_url, mut model, mut api_key_env, mut context) = (None, None, None, None);
        for (key, value) in table {
            let field = key.get_ref().as_ref();
            let full = format!("{prefix}.{field}");
            match field {
                "base_url" => base_url = Some(self.endpoint(&full, value)?),
                "model" => model = Some(self.text_of(&full, value)?),
                "api_key_env" => api_key_env = Some(self.variable(&full, value)?),
                "context" => context = Some(self.count(&full, value)?),
                _ => return Err(self.unknown(key.span().start, &format!("{prefix}."), field, &MODEL_KEYS)),
            }
        }
        Ok(RemoteModel {
            base_url: base_url.ok_or_else(|| self.wrong(&prefix, value, "needs `base_url`"))?,
            model: model
                .ok_or_else(|| self.wrong(&prefix, value, "needs `model`, the name at that endpoint"))?,
            api_key_env: api_key_env.unwrap_or_else(|| DEFAULT_KEY_VARIABLE.to_owned()),
            context,
        })
    }

    fn engine(&self, value: &Spanned<DeValue<'_>>) -> Result<EngineSettings, ConfigError> {
        let table =
            value.get_ref().as_table().ok_or_else(|| self.wrong("engine", value, "must be a table"))?;
        let mut settings = EngineSettings::default();
        for (key, value) in table {
            let field = key.get_ref().as_ref();
            let full = format!("engine.{field}");
            match field {
                "context" => settings.context = Some(self.count(&full, value)?),
                "kv_tokens" => settings.kv_tokens = Some(self.count(&full, value)?),
                "threads" => settings.threads = NonZeroUsize::new(self.count(&full, value)?),
                "kv_format" => settings.kv_format = Some(self.one_of(&full, value, &KvFormat::NAMES)?),
                "kv_disk" => settings.kv_disk = Some(self.size(&full, value)?),
                "rope_scaling" => {
                    settings.rope_scaling = Some(self.one_of(&full, value, &RopeStretch::NAMES)?)
                }
                "speculate" => {
                    let flag = value.get_ref().as_bool();
                    settings.speculate =
                        Some(flag.ok_or_else(|| self.wrong(&full, value, "must be true or false"))?);
                }
                "adapters" => {
                    let folders = value.get_ref().as_table();
                    let folders =
                        folders.ok_or_else(|| self.wrong(&full, value, "must be a table of folders"))?;
                    for (name, folder) in folders {
                        let name = name.get_ref().to_string();
                        let folder = self.folder(&format!("{full}.{name}"), folder)?;
                        settings.adapters.insert(name, folder);
                    }
                }
                _ => return Err(self.unknown(key.span().start, "engine.", field, &ENGINE_KEYS)),
            }
        }
        Ok(settings)
    }

    fn permissions(&self, value: &Spanned<DeValue<'_>>) -> Result<Rules, ConfigError> {
        let table = value.get_ref().as_table();
        let table = table.ok_or_else(|| self.wrong("permissions", value, "must be a table"))?;
        let mut rules = Rules::default();
        for (key, value) in table {
            let field = key.get_ref().as_ref();
            let list = match field {
                "deny" => &mut rules.deny,
                "allow" => &mut rules.allow,
                "ask" => &mut rules.ask,
                _ => {
                    return Err(self.unknown(key.span().start, "permissions.", field, &PERMISSION_KEYS));
                }
            };
            let full = format!("permissions.{field}");
            for (text, at) in self.texts(&full, value)? {
                let pattern = text.parse();
                list.push(pattern.map_err(|error: PatternError| self.wrong(&full, at, &error.reason()))?);
            }
        }
        Ok(rules)
    }

    /// `[plugins.ID]` tables.
    fn grants(&self, value: &Spanned<DeValue<'_>>) -> Result<BTreeMap<String, Grant>, ConfigError> {
        let not_tables = || self.wrong("plugins", value, "must hold tables `[plugins.ID]`");
        let table = value.get_ref().as_table().ok_or_else(not_tables)?;
        let mut grants = BTreeMap::new();
        for (id, value) in table {
            let id = id.get_ref().to_string();
            let prefix = format!("plugins.{id}");
            let fields = value.get_ref().as_table();
            let mut grant = Grant::default();
            for (key, value) in fields.ok_or_else(|| self.wrong(&prefix, value, "must be a table"))? {
                let field = key.get_ref().as_ref();
                if !GRANT_KEYS.contains(&field) {
                    return Err(self.unknown(key.span().start, &format!("{prefix}."), field, &GRANT_KEYS));
                }
                let full = format!("{prefix}.{field}");
                for (text, at) in self.texts(&full, value)? {
                    grant.add(field, &text).map_err(|reason| self.wrong(&full, at, &reason))?;
                }
            }
            grants.insert(id, grant);
        }
        Ok(grants)
    }

    /// A list of texts, each with its place.
    fn texts<'v, 'a>(
        &self,
        key: &str,
        value: &'v Spanned<DeValue<'a>>,
    ) -> Result<Vec<(String, &'v Spanned<DeValue<'a>>)>, ConfigError> {
        let items = value.get_ref().as_array();
        let items = items.ok_or_else(|| self.wrong(key, value, "must be a list of texts"))?;
        items.iter().map(|item| Ok((self.text_of(key, item)?, item))).collect()
    }

    /// What `known` has under the name that `value` is.
    fn one_of<T: Copy>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        known: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let text = self.text_of(key, value)?;
        named(&text, known).map_err(|known| self.wrong(key, value, &format!("is `{text}`; {known}")))
    }

    /// `512MiB`, `4GiB`.
    fn size(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<u64, ConfigError> {
        let text = self.text_of(key, value)?;
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "KiB" => Some(1u64 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        let size = unit.and_then(|unit| digits.trim().parse::<u64>().ok()?.checked_mul(unit));
        size.filter(|size| *size > 0)
            .ok_or_else(|| self.wrong(key, value, "must be a size with its unit, like `512MiB` or `4GiB`"))
    }

    fn text_of(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
        match value.get_ref().as_str() {
            Some(text) if !text.trim().is_empty() => Ok(text.to_owned()),
            _ => Err(self.wrong(key, value, "must be text that is not empty")),
        }
    }

    /// A folder; `~/` is the home directory, and anything else must be absolute, since the file's reader may
    /// start anywhere.
    fn folder(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<PathBuf, ConfigError> {
        let text = self.text_of(key, value)?;
        let path = match text.strip_prefix("~/") {
            Some(rest) => {
                etcetera::home_dir().map_err(|error| ConfigError::NoHome(error.to_string()))?.join(rest)
            }
            None => PathBuf::from(&text),
        };
        if path.is_absolute() {
            Ok(path)
        } else {
            Err(self.wrong(key, value, "must be absolute or begin with `~/`"))
        }
    }

    /// A base URL: TLS, but for this machine.
    fn endpoint(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
        let text = self.text_of(key, value)?;
        let url = reqwest::Url::parse(&text)
            .map_err(|error| self.wrong(key, value, &format!("must be a URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(self.wrong(
                key,
                value,
                "must begin with `https://` (or `http://` inside your network)",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(self.wrong(
                key,
                value,
                "must not hold credentials; name a variable in `api_key_env`",
            ));
        }
        Ok(text.trim_end_matches('/').to_owned())
    }

    /// The name of an environment variable: letters, digits and `_`, so that a pasted key is caught.
    fn variable(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
        let text = self.text_of(key, value)?;
        let fits = text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            && !text.starts_with(|c: char| c.is_ascii_digit());
        if fits {
            Ok(text)
        } else {
            // The value may be a secret: it is not repeated.
            Err(self.wrong(
                key,
                value,
                "must be the NAME of an environment variable (A-Z, 0-9, _), never a key",
            ))
        }
    }

    fn count(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<usize, ConfigError> {
        let number = value.get_ref().as_integer().and_then(|integer| {
            let digits = integer.as_str();
            usize::from_str_radix(digits, integer.radix()).ok().filter(|number| *number > 0)
        });
        number.ok_or_else(|| self.wrong(key, value, "must be a whole number of tokens above 0"))
    }

    /// A model given as a path is meant from the project's folder, not from where chaski was started.
    fn beside_project(&self, model: String) -> String {
        let project = self.path.parent().and_then(Path::parent);
        match project {
            Some(project) if model.ends_with(".gguf") => project.join(model).to_string_lossy().into_owned(),
            _ => model,
        }
    }

    fn unknown(&self, at: usize, prefix: &str, key: &str, known: &[&str]) -> ConfigError {
        ConfigError::UnknownKey {
            path: self.path.to_owned(),
            line: self.line(at),
            key: format!("{prefix}{key}"),
            suggestion: closest(key, known.iter().copied()).map(str::to_owned),
            known: known.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, reason: &str) -> ConfigError {
        ConfigError::Value {
            path: self.path.to_owned(),
            line: self.line(value.span().start),
            key: key.to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// The line, from 1, of the byte at `offset`.
    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
    }
}
