//! JSON in and out of the template engine.

use minijinja::value::{Value as Jinja, ValueKind};
use minijinja::{Error, ErrorKind};
use serde_json::{Map, Number, Value};

/// Deepest nesting of a value that leaves an expression; the same as our JSON parser's.
const MAX_DEPTH: usize = 128;

/// `value` for use in expressions. Keys keep their order.
pub fn from_json(value: &Value) -> Jinja {
    match value {
        Value::Null => Jinja::from(()),
        Value::Bool(value) => Jinja::from(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Jinja::from(number),
            (None, Some(number)) => Jinja::from(number),
            (None, None) => Jinja::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Jinja::from(text.as_str()),
        Value::Array(items) => Jinja::from(items.iter().map(from_json).collect::<Vec<_>>()),
        Value::Object(entries) => {
            Jinja::from_pairs(entries.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// The JSON of `value`.
///
/// # Errors
/// For what JSON cannot hold: undefined values, functions, bytes, numbers that are not finite.
pub fn to_json(value: &Jinja) -> Result<Value, Error> {
    convert(value, 0)
}

fn convert(value: &Jinja, depth: usize) -> Result<Value, Error> {
    let refuse = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("{what} cannot be JSON"));
    if depth > MAX_DEPTH {
        return Err(refuse("a value that is nested this deeply"));
    }
    match value.kind() {
        ValueKind::Undefined => Err(ErrorKind::UndefinedError.into()),
        ValueKind::None => Ok(Value::Null),
        ValueKind::Bool => Ok(Value::Bool(value.is_true())),
        ValueKind::Number => number(value).map(Value::Number).ok_or_else(|| refuse("this number")),
        ValueKind::String => Ok(Value::String(value.as_str().unwrap_or_default().to_owned())),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.checked().map(|item| convert(&item?, depth + 1));
            items.collect::<Result<_, _>>().map(Value::Array)
        }
        ValueKind::Map => {
            let mut entries = Map::new();
            for key in value.try_iter()?.checked() {
                let key = key?;
                let name = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                entries.insert(name, convert(&value.get_item(&key)?, depth + 1)?);
            }
            Ok(Value::Object(entries))
        }
        other => Err(refuse(&format!("a value of the kind {other}"))),
    }
}

fn number(value: &Jinja) -> Option<Number> {
    if !value.is_integer() {
        return Number::from_f64(f64::try_from(value.clone()).ok()?);
    }
    let signed = i64::try_from(value.clone()).ok().map(Number::from);
    signed.or_else(|| u64::try_from(value.clone()).ok().map(Number::from))
}
