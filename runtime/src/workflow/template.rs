//! Expressions: how one step's output gets into the next one's input.
//!
//! A field that is one expression (`"{{ steps.hunks.output }}"`, spaces around it do not count) keeps the
//! type of its value; any other text with `{{ }}` or `{% %}` in it becomes text, where a value that is not
//! text is written as JSON. Text without them is never touched. What an expression fills in is data: it is
//! not evaluated again.
//!
//! Invariant: a name that has no value is an error that names it, never an empty string. Work and output are
//! bounded, because a workflow file may come from someone else.

mod filters;
pub mod scope;
mod value;

use std::collections::BTreeSet;
use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value;

pub use scope::Scope;

use super::schema::{At, Data, Position};
use crate::suggest::closest;

/// Instructions that one template may take: far more than a prompt over a large diff needs.
const FUEL: u64 = 5_000_000;

/// Longest text that one template may make, in bytes. Beyond it no model could read it.
const MAX_TEXT_BYTES: usize = 8 << 20;

/// Compiles and fills in templates.
pub struct Templates {
    environment: Environment<'static>,
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// What was asked and what was found.
    pub message: String,
    /// The way out, if one is known.
    pub hint: Option<String>,
    /// The line within the text, from 1.
    pub line: usize,
    /// Where in the file, once the field is known.
    pub position: Position,
}

/// Whether `text` has anything to fill in.
pub fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

impl Default for Templates {
    fn default() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        // What stands in the file is what the model reads, its last line break included.
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.expect("the standard delimiters are valid"));
        environment.set_formatter(|output, _state, value| match value.as_str() {
            Some(text) => Ok(output.write_str(text)?),
            None => Ok(write!(output, "{}", value::to_json(value)?)?),
        });
        filters::add(&mut environment);
        Self { environment }
    }
}

impl Templates {
    /// `text` with everything filled in, as text.
    pub fn text(&self, text: &str, scope: &Scope) -> Result<String, TemplateError> {
        if !is_template(text) {
            return Ok(text.to_owned());
        }
        let template =
            self.environment.template_from_str(text).map_err(|error| explain(&error, text, None))?;
        let mut rendered = Bounded::default();
        match template.render_captured_to(scope.context(), &mut rendered) {
            Ok(_) => {}
            Err(_) if rendered.full => return Err(too_long()),
            Err(error) => return Err(explain(&error, text, Some(scope))),
        }
        String::from_utf8(rendered.bytes).map_err(|_| too_long())
    }

    /// The value of `text`: of its type if it is one expression, text otherwise.
    pub fn value(&self, text: &str, scope: &Scope) -> Result<Value, TemplateError> {
        let Some(expression) = self.single_expression(text) else {
            return self.text(text, scope).map(Value::String);
        };
        let compiled = self.environment.compile_expression(expression);
        let compiled = compiled.map_err(|error| explain(&error, expression, None))?;
        let value =
            compiled.eval(scope.context()).map_err(|error| explain(&error, expression, Some(scope)))?;
        if value.is_undefined() {
            return Err(undefined(expression.trim(), Some(scope), 1));
        }
        value::to_json(&value).map_err(|error| explain(&error, expression, Some(scope)))
    }

    /// `data` with every template in it filled in. An error has the place of the field it is in.
    pub fn data(&self, data: &At<Data>, scope: &Scope) -> Result<Value, TemplateError> {
        match &data.value {
            Data::Scalar(value) => Ok(value.clone()),
            Data::Text(text) => self.value(text, scope).map_err(|error| error.at(data.position)),
            Data::List(items) => items.iter().map(|item| self.data(item, scope)).collect(),
            Data::Map(entries) => {
                let pairs =
                    entries.iter().map(|(key, value)| Ok((key.value.clone(), self.data(value, scope)?)));
                pairs.collect::<Result<_, _>>().map(Value::Object)
            }
        }
    }

    /// Whether the condition `data` holds: a boolean, or one expression that gives a boolean.
    pub fn condition(&self, data: &At<Data>, scope: &Scope) -> Result<bool, TemplateError> {
        match self.data(data, scope)? {
            Value::Bool(holds) => Ok(holds),
            other => Err(TemplateError {
                message: format!("`if` must be true or false, and is {}", kind(&other)),
                hint: Some("compare it, as in `{{ steps.look.output | length > 0 }}`".to_owned()),
                line: 1,
                position: data.position,
            }),
        }
    }

    /// The names that `text` reads, dotted as far as they are constant: `steps.look.output`.
    ///
    /// # Errors
    /// When it does not parse, or uses a filter that does not exist.
    pub fn names(&self, text: &str) -> Result<BTreeSet<String>, TemplateError> {
        if !is_template(text) {
            return Ok(BTreeSet::new());
        }
        let names = match self.single_expression(text) {
            Some(expression) => {
                let compiled = self.environment.compile_expression(expression);
                compiled.map_err(|error| explain(&error, text, None))?.undeclared_variables(true)
            }
            None => {
                let template = self.environment.template_from_str(text);
                template.map_err(|error| explain(&error, text, None))?.undeclared_variables(true)
            }
        };
        filters::check(&self.environment, text)?;
        let is_global = |name: &String| {
            let root = name.split('.').next().unwrap_or_default();
            self.environment.globals().any(|(global, _)| global == root)
        };
        Ok(names.into_iter().filter(|name| !is_global(name)).collect())
    }

    /// What is between the braces, if `text` is one expression and nothing else.
    fn single_expression<'a>(&self, text: &'a str) -> Option<&'a str> {
        let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
        let inner = inner.strip_prefix('-').unwrap_or(inner);
        let inner = inner.strip_suffix('-').unwrap_or(inner);
        // `{{ a }} and {{ b }}` has braces at both ends too, but what is between them does not parse.
        self.environment.compile_expression(inner).is_ok().then_some(inner)
    }

    /// Whether `text` is one expression and nothing else.
    pub fn is_single_expression(&self, text: &str) -> bool {
        self.single_expression(text).is_some()
    }
}

impl TemplateError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, line: 1, position: Position::default() }
    }

    /// The same error, in the field at `position`.
    pub fn at(self, position: Position) -> Self {
        Self { position, ..self }
    }
}

fn too_long() -> TemplateError {
    TemplateError::new(format!("the text would be longer than {MAX_TEXT_BYTES} bytes"))
}

/// What JSON calls the type of `value`, with an article.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// The template engine's error in our words. `scope` is there when it happened while filling in.
fn explain(error: &minijinja::Error, source: &str, scope: Option<&Scope>) -> TemplateError {
    let line = error.line().unwrap_or(1);
    let about = error.range().and_then(|range| source.get(from_its_name(source, range)));
    let about = about.map(str::trim).filter(|text| !text.is_empty());
    match error.kind() {
        ErrorKind::UndefinedError => undefined(about.unwrap_or(source.trim()), scope, line),
        ErrorKind::OutOfFuel => TemplateError {
            hint: Some("a loop in it is too long".to_owned()),
            line,
            ..TemplateError::new("the template takes too much work")
        },
        kind => {
            // What does not parse is told by its line: the parser's own range is the token it stopped at.
            let (what, about) = match kind {
                ErrorKind::SyntaxError => ("does not parse", source.lines().nth(line.saturating_sub(1))),
                _ => ("has no value", about),
            };
            let reason = error.detail().map_or_else(|| kind.to_string(), str::to_owned);
            let about = shorten(about.unwrap_or(source).trim());
            TemplateError { line, ..TemplateError::new(format!("expression `{about}` {what}: {reason}")) }
        }
    }
}

/// `range` in `source`, from the beginning of the dotted name that it may start within: the template engine's
/// range of `b.c` in `a.b.c` is `.b.c`.
fn from_its_name(source: &str, range: Range<usize>) -> Range<usize> {
    let before = source.get(..range.start).unwrap_or_default();
    let name = before.trim_end_matches(|c: char| c.is_alphanumeric() || "_.".contains(c));
    match source.get(range.clone()).is_some_and(|about| about.starts_with(['.', '['])) {
        true => name.len()..range.end,
        false => range,
    }
}

/// The error for `about`, an expression that reads a name without a value.
fn undefined(about: &str, scope: Option<&Scope>, line: usize) -> TemplateError {
    let missing = scope.and_then(|scope| scope.missing_name(about));
    let (message, hint) = match missing {
        Some(missing) => {
            let hint = match closest(&missing.name, missing.known.iter().map(String::as_str)) {
                Some(name) => format!("did you mean `{name}`?"),
                None if missing.known.is_empty() => "nothing is known there".to_owned(),
                None => format!("known there: `{}`", missing.known.join("`, `")),
            };
            (format!("`{}` has no value: there is no `{}`", missing.path, missing.name), Some(hint))
        }
        None => {
            let hint = "give it a value with `| default(...)`, or test it with `is defined`".to_owned();
            (format!("`{}` has no value", shorten(about)), Some(hint))
        }
    };
    TemplateError { message, hint, line, position: Position::default() }
}

/// At most a line's worth of `text`.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= LONGEST && line.len() == text.len() {
        return line.to_owned();
    }
    format!("{} …", line.chars().take(LONGEST).collect::<String>().trim_end())
}

/// A buffer that refuses to grow past [`MAX_TEXT_BYTES`].
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_TEXT_BYTES {
            self.full = true;
            return Err(std::io::Error::other("the text is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
