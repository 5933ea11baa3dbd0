//! The `[agents]` table.

use toml::Spanned;
use toml::de::DeValue;

use super::Reader;
use crate::config::ConfigError;
use crate::config::agents::AgentSettings;

/// Keys of the `[agents]` table.
const AGENT_KEYS: [&str; 3] = ["agents_md", "described_tools", "described_percent"];

impl Reader<'_> {
    pub(super) fn agents(&self, value: &Spanned<DeValue<'_>>) -> Result<AgentSettings, ConfigError> {
        let table = value.get_ref().as_table();
        let table = table.ok_or_else(|| self.wrong("agents", value, "must be a table"))?;
        let mut settings = AgentSettings::default();
        for (key, value) in table {
            let field = key.get_ref().as_ref();
            let full = format!("agents.{field}");
            match field {
                "agents_md" => {
                    let flag = value.get_ref().as_bool();
                    settings.agents_md =
                        flag.ok_or_else(|| self.wrong(&full, value, "must be true or false"))?;
                }
                "described_tools" => settings.tool_room.tools = self.whole(&full, value, 100_000)?,
                "described_percent" => settings.tool_room.percent = self.whole(&full, value, 100)?,
                _ => return Err(self.unknown(key.span().start, "agents.", field, &AGENT_KEYS)),
            }
        }
        Ok(settings)
    }

    fn whole(&self, key: &str, value: &Spanned<DeValue<'_>>, most: usize) -> Result<usize, ConfigError> {
        let number = value.get_ref().as_integer().and_then(|integer| {
            usize::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| *number <= most)
        });
        number.ok_or_else(|| self.wrong(key, value, &format!("must be a whole number from 0 to {most}")))
    }
}
