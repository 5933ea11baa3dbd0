//! `[mcp.NAME]` tables.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::Reader;
use crate::config::ConfigError;
use crate::plugins::manifest::is_name;
use crate::tools::Effect;
use crate::tools::mcp::{McpEndpoint, McpSettings};
use crate::workflow::schema::interval;

/// Keys of a `[mcp.NAME]` table.
const MCP_KEYS: [&str; 9] =
    ["command", "args", "env", "url", "key_env", "effects", "start_timeout", "timeout", "output"];

/// Most bytes of one answer that can be asked for; a plugin gets no more.
const MAX_OUTPUT: u64 = 1 << 20;

impl Reader<'_> {
    /// `[mcp.NAME]` tables.
    pub(super) fn mcp(
        &self,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<BTreeMap<String, McpSettings>, ConfigError> {
        let table = value.get_ref().as_table();
        let table = table.ok_or_else(|| self.wrong("mcp", value, "must hold tables `[mcp.NAME]`"))?;
        let server = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let name: String = std::borrow::Cow::to_string(key.get_ref());
            if !is_name(&name) {
                let key = format!("mcp.{name}");
                return Err(self.wrong(
                    &key,
                    value,
                    "must have a name of lower-case letters, digits and `-`",
                ));
            }
            self.mcp_server(&name, value).map(|settings| (name, settings))
        };
        table.iter().map(server).collect()
    }

    fn mcp_server(&self, name: &str, value: &Spanned<DeValue<'_>>) -> Result<McpSettings, ConfigError> {
        let prefix = format!("mcp.{name}");
        let wrong = |reason: &str| self.wrong(&prefix, value, reason);
        let table = value.get_ref().as_table();
        let table = table.ok_or_else(|| wrong("must be a table with `command` or `url`"))?;
        let (mut command, mut args, mut env, mut url, mut key_env) = (None, None, None, None, None);
        // The endpoint takes its place below.
        let mut settings = McpSettings::new(McpEndpoint::Http { url: String::new(), key_env: None });
        for (key, value) in table {
            let field = key.get_ref().as_ref();
            let full = format!("{prefix}.{field}");
            match field {
                "command" => command = Some(self.text_of(&full, value)?),
                "args" => args = Some(self.list(&full, value, Self::text)?),
                "env" => env = Some(self.list(&full, value, Self::variable)?),
                "url" => url = Some(self.endpoint(&full, value)?),
                "key_env" => key_env = Some(self.variable(&full, value)?),
                "effects" => settings.effects = self.effects(&full, value)?,
                "start_timeout" => settings.start_timeout = self.interval(&full, value)?,
                "timeout" => settings.timeout = self.interval(&full, value)?,
                "output" => {
                    let bytes = self.size(&full, value)?;
                    if bytes > MAX_OUTPUT {
                        return Err(self.wrong(&full, value, "must be at most `1024KiB`"));
                    }
                    settings.output = usize::try_from(bytes).unwrap_or(usize::MAX);
                }
                _ => return Err(self.unknown(key.span().start, &format!("{prefix}."), field, &MCP_KEYS)),
            }
        }
        settings.endpoint = match (command, url) {
            (Some(_), Some(_)) => {
                return Err(wrong("has a `command` and a `url`; it is reached by one of them"));
            }
            (None, None) => {
                return Err(wrong("needs a `command` to start, or the `url` of a server that runs"));
            }
            (Some(_), None) if key_env.is_some() => {
                return Err(wrong(
                    "has a `key_env`, which goes with a `url`; a program gets variables by `env`",
                ));
            }
            (None, Some(_)) if args.is_some() || env.is_some() => {
                return Err(wrong("has `args` or `env`, which go with a `command`"));
            }
            (Some(command), None) => {
                McpEndpoint::Program { command, args: args.unwrap_or_default(), env: env.unwrap_or_default() }
            }
            (None, Some(url)) => McpEndpoint::Http { url, key_env },
        };
        Ok(settings)
    }

    fn list(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        read: impl Fn(&Self, &str, &Spanned<DeValue<'_>>) -> Result<String, ConfigError>,
    ) -> Result<Vec<String>, ConfigError> {
        let list = value.get_ref().as_array();
        let list = list.ok_or_else(|| self.wrong(key, value, "must be a list of texts"))?;
        list.iter().map(|item| read(self, key, item)).collect()
    }

    /// Any text; an argument may be empty.
    fn text(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<String, ConfigError> {
        let text = value.get_ref().as_str().map(str::to_owned);
        text.ok_or_else(|| self.wrong(key, value, "must be a list of texts"))
    }

    fn interval(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Result<Duration, ConfigError> {
        let text = self.text_of(key, value)?;
        interval::parse(&text).map_err(|reason| self.wrong(key, value, &format!("is wrong: {reason}")))
    }

    fn effects(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<BTreeMap<String, Effect>, ConfigError> {
        let table = value.get_ref().as_table();
        let table = table.ok_or_else(|| self.wrong(key, value, "must be a table of tools and effects"))?;
        let effect = |(tool, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let tool: String = std::borrow::Cow::to_string(tool.get_ref());
            let effect = match value.get_ref().as_str() {
                Some("pure") => Effect::Pure,
                Some("idempotent") => Effect::Idempotent,
                Some("effectful") => Effect::Effectful,
                _ => {
                    let key = format!("{key}.{tool}");
                    return Err(self.wrong(&key, value, "must be `pure`, `idempotent` or `effectful`"));
                }
            };
            Ok((tool, effect))
        };
        table.iter().map(effect).collect()
    }
}
