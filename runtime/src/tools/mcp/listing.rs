//! What a server says about its tools, held to what chaski asks of a plugin's tools.

use std::collections::BTreeMap;

use rmcp::model::Tool as Offered;
use serde_json::Value;

use super::error::McpError;
use super::settings::McpSettings;
use crate::suggest::closest;
use crate::tools::{Effect, ToolDefinition};

/// Bytes of a tool's name.
const MAX_NAME: usize = 64;
/// Bytes of a tool's description, and of its schema: each costs a prompt its length.
const MAX_DESCRIPTION: usize = 8 << 10;
const MAX_SCHEMA: usize = 64 << 10;
/// Characters of a name that is quoted in an error.
const SHOWN_NAME: usize = 80;

/// What a server offers.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// What can be used, by the server's own names.
    pub usable: BTreeMap<String, ToolDefinition>,
    /// What cannot, by the name that it would have here, and why.
    pub unusable: BTreeMap<String, String>,
}

impl Listing {
    /// The tools that `server` offers, as `server.tool`.
    ///
    /// # Errors
    /// [`McpError::UnknownEffect`] when the settings speak of a tool that is not there.
    pub(super) fn of(server: &str, settings: &McpSettings, offered: Vec<Offered>) -> Result<Self, McpError> {
        let mut listing = Self::default();
        for tool in offered {
            let own = tool.name.to_string();
            let shown: String = own.chars().filter(|letter| !letter.is_control()).take(SHOWN_NAME).collect();
            let name = format!("{server}.{shown}");
            if listing.usable.remove(&own).is_some() || listing.unusable.contains_key(&name) {
                listing.unusable.insert(name, "the server lists two tools of this name".into());
                continue;
            }
            let effect = settings.effects.get(&own).copied().unwrap_or(Effect::Effectful);
            match definition(server, tool, effect) {
                Ok(definition) => {
                    listing.usable.insert(own, definition);
                }
                Err(reason) => {
                    listing.unusable.insert(name, reason);
                }
            }
        }
        let known = |tool: &&String| {
            listing.usable.contains_key(*tool) || listing.unusable.contains_key(&format!("{server}.{tool}"))
        };
        match settings.effects.keys().find(|tool| !known(tool)) {
            None => Ok(listing),
            Some(tool) => {
                let names = listing.usable.keys().map(String::as_str);
                let closest = closest(tool, names).map(str::to_owned);
                Err(McpError::UnknownEffect { server: server.to_owned(), tool: tool.clone(), closest })
            }
        }
    }
}

fn definition(server: &str, tool: Offered, effect: Effect) -> Result<ToolDefinition, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let is_name = (1..=MAX_NAME).contains(&tool.name.len())
        && tool.name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && tool.name.bytes().all(allowed);
    if !is_name {
        return Err(format!("its name is not of the form `[A-Za-z0-9][A-Za-z0-9_.-]{{0,{}}}`", MAX_NAME - 1));
    }
    let description = tool.description.map(String::from).or(tool.title).unwrap_or_default();
    if description.len() > MAX_DESCRIPTION {
        return Err(format!("its description has more than {MAX_DESCRIPTION} bytes"));
    }
    let input_schema = schema(Value::Object(tool.input_schema.as_ref().clone()), "input schema")?;
    if input_schema["type"] != "object" {
        return Err("its input schema is not of `type: object`".into());
    }
    let output = tool.output_schema.map(|schema| Value::Object(schema.as_ref().clone()));
    let output_schema = output.map(|value| schema(value, "output schema")).transpose()?;
    let name = format!("{server}.{}", tool.name);
    Ok(ToolDefinition { name, description, input_schema, output_schema, effect })
}

fn schema(value: Value, what: &str) -> Result<Value, String> {
    if value.to_string().len() > MAX_SCHEMA {
        return Err(format!("its {what} has more than {MAX_SCHEMA} bytes"));
    }
    match jsonschema::validator_for(&value) {
        Ok(_) => Ok(value),
        Err(error) => Err(format!("its {what} is no JSON Schema: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tools::mcp::settings::McpEndpoint;

    fn settings() -> McpSettings {
        McpSettings::new(McpEndpoint::Http { url: "http://127.0.0.1:1".into(), key_env: None })
    }

    fn offered(name: &str, schema: Value) -> Offered {
        let Value::Object(schema) = schema else { unreachable!("the tests give objects") };
        Offered::new(name.to_owned(), "", schema)
    }

    #[track_caller]
    fn check(tools: Vec<Offered>, usable: &[&str], unusable: &[(&str, &str)]) {
        let listing = Listing::of("docs", &settings(), tools).expect("no effects are named");
        assert_eq!(listing.usable.keys().collect::<Vec<_>>(), usable);
        let found: Vec<(&str, &str)> =
            listing.unusable.iter().map(|(name, reason)| (name.as_str(), reason.as_str())).collect();
        assert_eq!(
            found.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            unusable.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        );
        for ((_, reason), (_, part)) in found.iter().zip(unusable) {
            assert!(reason.contains(part), "{reason}");
        }
    }

    #[test]
    fn tools_get_the_servers_name_before_theirs() {
        let listing = Listing::of("docs", &settings(), vec![offered("search", json!({"type": "object"}))]);
        let definition = &listing.expect("valid").usable["search"];
        assert_eq!((definition.name.as_str(), definition.effect), ("docs.search", Effect::Effectful));
    }

    #[test]
    fn a_malformed_name_is_not_offered() {
        let object = json!({"type": "object"});
        check(
            vec![offered("a b", object.clone()), offered("", object.clone()), offered("ok", object)],
            &["ok"],
            &[("docs.", "its name is not of the form"), ("docs.a b", "its name is not of the form")],
        );
    }

    #[test]
    fn two_tools_of_one_name_are_both_left_out() {
        let object = json!({"type": "object"});
        let tools = vec![offered("a", object.clone()), offered("a", object.clone()), offered("a", object)];
        check(tools, &[], &[("docs.a", "two tools of this name")]);
    }

    #[test]
    fn a_schema_that_is_none_is_not_offered() {
        check(
            vec![offered("a", json!({"type": "object", "properties": {"x": {"type": "strnig"}}}))],
            &[],
            &[("docs.a", "its input schema is no JSON Schema")],
        );
    }

    #[test]
    fn arguments_that_are_no_object_are_not_offered() {
        check(vec![offered("a", json!({"type": "string"}))], &[], &[("docs.a", "not of `type: object`")]);
    }

    #[test]
    fn the_operator_says_what_a_tool_leaves_behind() {
        let effects = BTreeMap::from([("search".to_owned(), Effect::Pure)]);
        let settings = McpSettings { effects, ..settings() };
        let tools = vec![offered("search", json!({"type": "object"}))];
        let listing = Listing::of("docs", &settings, tools).expect("valid");
        assert_eq!(listing.usable["search"].effect, Effect::Pure);
    }

    #[test]
    fn an_effect_of_a_tool_that_is_not_there_is_an_error() {
        let effects = BTreeMap::from([("serach".to_owned(), Effect::Pure)]);
        let settings = McpSettings { effects, ..settings() };
        let error = Listing::of("docs", &settings, vec![offered("search", json!({"type": "object"}))])
            .expect_err("there is no such tool");
        assert_eq!(error.hint().as_deref(), Some("did you mean `search`?"));
    }
}
