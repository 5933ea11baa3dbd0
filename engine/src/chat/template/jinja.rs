//! A Jinja template as Hugging Face's libraries run it.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value as JinjaValue};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, context};
use serde_json::{Value, json};

use crate::chat::jinja_value::{from_json, to_json as json_of};
use crate::chat::message::{Message, Role, ToolSpec};
use crate::error::EngineError;

/// Steps that a template may take; a real one takes some dozen for each message.
const FUEL: u64 = 10_000_000;

/// A parsed template.
pub(super) struct Jinja {
    environment: Environment<'static>,
    source: String,
    begin_of_text: String,
    end_of_text: String,
}

const NAME: &str = "chat";

impl Jinja {
    pub(super) fn parse(source: &str, specials: &[String]) -> Result<Self, EngineError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| EngineError::Template(error.to_string()))?);
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(python_method);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| EngineError::Template(error.to_string()))?;
        let first = |names: &[&str]| {
            let known = names.iter().find(|name| specials.iter().any(|special| special == *name));
            known.map_or_else(String::new, |name| (*name).to_owned())
        };
        Ok(Self {
            environment,
            source: source.to_owned(),
            begin_of_text: first(&["<|begin_of_text|>", "<s>", "<|im_start|>"]),
            end_of_text: first(&["<|eot_id|>", "<|im_end|>", "</s>", "<|end_of_text|>"]),
        })
    }

    /// Whether the template reads the variable `name`.
    pub(super) fn mentions(&self, name: &str) -> bool {
        self.environment
            .get_template(NAME)
            .is_ok_and(|template| template.undeclared_variables(false).contains(name))
            && self.source.contains(name)
    }

    pub(super) fn render(&self, messages: &[Message], tools: &[ToolSpec]) -> Result<String, EngineError> {
        let messages = from_json(&messages.iter().map(message).collect());
        let tools: Vec<Value> = tools
            .iter()
            .map(|tool| {
                json!({"type": "function", "function": {
                    "name": tool.name, "description": tool.description, "parameters": tool.parameters,
                }})
            })
            .collect();
        let tools = if tools.is_empty() { JinjaValue::UNDEFINED } else { from_json(&Value::Array(tools)) };
        let template =
            self.environment.get_template(NAME).map_err(|error| EngineError::Template(error.to_string()))?;
        template
            .render(context! {
                messages => messages,
                tools => tools,
                add_generation_prompt => true,
                bos_token => self.begin_of_text.as_str(),
                eos_token => self.end_of_text.as_str(),
            })
            .map_err(|error| EngineError::Template(error.to_string()))
    }
}

/// A message as templates expect it: calls wrapped as OpenAI does.
fn message(message: &Message) -> Value {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let mut fields = json!({"role": role, "content": message.content});
    if !message.tool_calls.is_empty() {
        fields["tool_calls"] = message
            .tool_calls
            .iter()
            .map(|call| {
                json!({"id": call.id, "type": "function",
                       "function": {"name": call.name, "arguments": call.arguments}})
            })
            .collect();
    }
    if let Some(id) = &message.tool_call_id {
        fields["tool_call_id"] = json!(id);
    }
    if let Some(name) = &message.name {
        fields["name"] = json!(name);
    }
    fields
}

/// `tojson` as Python's `json.dumps(ensure_ascii=False)` writes it: spaces after `:` and `,`, nothing escaped
/// for HTML.
fn to_json(value: JinjaValue, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let value = json_of(&value)?;
    Ok(match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent.min(16));
            let mut out = Vec::new();
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
            serde::Serialize::serialize(&value, &mut serializer)
                .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
            String::from_utf8_lossy(&out).into_owned()
        }
        None => {
            let mut text = String::new();
            spaced(&value, &mut text);
            text
        }
    })
}

/// JSON with a space after each `:` and `,`.
pub(super) fn spaced(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                spaced(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (index, (key, value)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push_str(": ");
                spaced(value, out);
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// The methods of Python's `str` and `dict` that chat templates use.
fn python_method(
    _state: &mut minijinja::State,
    value: &JinjaValue,
    method: &str,
    arguments: &[JinjaValue],
) -> Result<JinjaValue, Error> {
    let argument = |index: usize| arguments.get(index).and_then(JinjaValue::as_str);
    if let Some(text) = value.as_str() {
        let letters: Vec<char> = argument(0).unwrap_or(" \t\r\n").chars().collect();
        let found = match (method, argument(0)) {
            ("strip", _) => JinjaValue::from(text.trim_matches(&letters[..])),
            ("lstrip", _) => JinjaValue::from(text.trim_start_matches(&letters[..])),
            ("rstrip", _) => JinjaValue::from(text.trim_end_matches(&letters[..])),
            ("upper", _) => JinjaValue::from(text.to_uppercase()),
            ("lower", _) => JinjaValue::from(text.to_lowercase()),
            ("startswith", Some(prefix)) => JinjaValue::from(text.starts_with(prefix)),
            ("endswith", Some(suffix)) => JinjaValue::from(text.ends_with(suffix)),
            ("split", Some(by)) if !by.is_empty() => text.split(by).map(JinjaValue::from).collect(),
            ("split", None) => text.split_whitespace().map(JinjaValue::from).collect(),
            ("replace", Some(from)) => JinjaValue::from(text.replace(from, argument(1).unwrap_or_default())),
            _ => return Err(Error::new(ErrorKind::UnknownMethod, format!("str has no method `{method}`"))),
        };
        return Ok(found);
    }
    if let (Some(object), "items" | "keys" | "values" | "get") = (value.as_object(), method) {
        if method == "get" {
            let key = arguments.first().cloned().unwrap_or_default();
            return Ok(object.get_value(&key).or(arguments.get(1).cloned()).unwrap_or(JinjaValue::from(())));
        }
        let pairs = object.try_iter_pairs().into_iter().flatten();
        return Ok(match method {
            "items" => pairs.map(|(key, value)| JinjaValue::from(vec![key, value])).collect(),
            "keys" => pairs.map(|(key, _)| key).collect(),
            _ => pairs.map(|(_, value)| value).collect(),
        });
    }
    Err(Error::new(ErrorKind::UnknownMethod, format!("{} has no method `{method}`", value.kind())))
}
