//! The model's text to content and tool calls, while it streams.
//!
//! Text that may be the beginning of a call is held back; everything else is given out at once. The result of
//! a text is the same however it is cut into pieces.
//!
//! Shapes: `{"name": .., "parameters"|"arguments": {..}}` bare, in a list, in a fence, in `<tool_call>` tags,
//! after `<|python_tag|>`, `>>>name` or `functools`; `<function=name>{..}</function>`; `[name(key='value')]`;
//! `tool.call(key="value")`. A form that is not a call stays content, and so does prose around calls.

mod json;
mod python;

use serde_json::Value;

use super::message::{ToolCall, ToolSpec};
use super::template::ToolCallStyle;
use json::Scan;

/// What a piece of model text turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// Content for the user.
    Text(String),
    /// A whole tool call.
    Call(ToolCall),
}

/// A streaming parser: holds back what may be the beginning of a call, gives out the rest at once.
pub struct ToolCallParser {
    reading: Reading,
    held: String,
    /// Content was given out.
    began: bool,
    /// The only tools that a bound reply can call; an answer may be JSON that looks like a call of another.
    bound_to: Vec<String>,
    next_call: usize,
    /// The last thing given out was a call: separators and closing tags that follow are not content.
    after_call: bool,
}

/// Where calls are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Nowhere: there are no tools.
    Content,
    /// Anywhere, in every shape that a model is known to use.
    Free,
    /// Where the reply's grammar has them: JSON that only talks about calls stays content.
    Bound { opening: &'static [&'static str], anywhere: bool },
}

/// What was left when the text ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rest {
    /// Content and calls that were held back.
    pub parsed: Vec<Parsed>,
    /// A call that the end cut in the middle; set only when the text was cut.
    pub cut_call: Option<String>,
}

/// What opens a call. A text that ends in the beginning of one of them is held back.
const OPENINGS: [&str; 8] =
    ["<tool_call>", "<function=", "<|python_tag|>", "functools[", ">>>", "```", "{", "["];

/// What may follow a call without being content.
const CLOSINGS: [&str; 5] = ["</tool_call>", "</function>", "<|python_tag|>", "```", ";"];

/// What an opening turned out to be.
enum Attempt {
    /// Calls, name and arguments, in so many bytes.
    Calls(Vec<(String, Value)>, usize),
    /// So many bytes of content.
    Text(usize),
    /// More text decides.
    More,
}

impl ToolCallParser {
    /// A parser for a free reply to a request with `tools`; without tools all text is content.
    /// Call ids are `call_N`, counting on from `first_call`.
    pub fn new(tools: &[ToolSpec], first_call: usize) -> Self {
        let reading = if tools.is_empty() { Reading::Content } else { Reading::Free };
        Self {
            reading,
            held: String::new(),
            began: false,
            bound_to: Vec::new(),
            next_call: first_call,
            after_call: false,
        }
    }

    /// A parser for a reply that a grammar binds to calls of `tools` in `style`, or to an answer: `prose`, or
    /// of a shape of its own.
    pub fn bound(tools: &[ToolSpec], first_call: usize, style: ToolCallStyle, prose: bool) -> Self {
        let mut parser = Self::new(tools, first_call);
        if parser.reading == Reading::Free {
            parser.bound_to = tools.iter().map(|tool| tool.name.clone()).collect();
            parser.reading = match style {
                ToolCallStyle::LlamaJson => Reading::Bound { opening: &["{"], anywhere: false },
                ToolCallStyle::ToolCallTags => Reading::Bound { opening: &["<tool_call>"], anywhere: prose },
            };
        }
        parser
    }

    fn can_call(&self, name: &String) -> bool {
        self.bound_to.is_empty() || self.bound_to.contains(name)
    }

    /// What may open a call here.
    fn openings(&self) -> &'static [&'static str] {
        match self.reading {
            Reading::Free => &OPENINGS,
            Reading::Bound { opening, anywhere } if anywhere || !self.began => opening,
            Reading::Content | Reading::Bound { .. } => &[],
        }
    }

    /// Takes more text of the reply.
    pub fn push(&mut self, text: &str) -> Vec<Parsed> {
        self.held.push_str(text);
        // An open call can only end at one of these; waiting for them keeps long arguments linear.
        if starts_with(&self.held, self.openings()) && !text.contains(['}', ']', ')', '>', '`', ';']) {
            return Vec::new();
        }
        let mut parsed = Vec::new();
        self.advance(&mut parsed, false);
        parsed
    }

    /// Ends the reply. `cut`: by the token limit rather than by the model.
    pub fn finish(mut self, cut: bool) -> Rest {
        let mut parsed = Vec::new();
        self.advance(&mut parsed, !cut);
        let mut cut_call = None;
        if cut && starts_with(&self.held, self.openings()) && looks_like_call(&self.held) {
            cut_call = Some(self.held);
        } else if cut {
            self.advance(&mut parsed, true);
        }
        Rest { parsed, cut_call }
    }

    /// Gives out all that is decided. `last`: nothing follows, so everything is.
    fn advance(&mut self, parsed: &mut Vec<Parsed>, last: bool) {
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_str();
        while !rest.is_empty() {
            if self.after_call {
                match skip_closings(rest, last) {
                    Some(skipped) => {
                        rest = &rest[skipped..];
                        self.after_call = false;
                        continue;
                    }
                    None => break,
                }
            }
            let start = next_opening(rest, self.openings(), last);
            self.emit(parsed, &rest[..start]);
            rest = &rest[start..];
            if rest.is_empty() || start > 0 {
                continue; // what opens a call may depend on whether content came before
            }
            match attempt(rest, self.openings(), last) {
                Attempt::Calls(calls, _) if calls.iter().any(|(name, _)| !self.can_call(name)) => {
                    self.emit(parsed, &rest[..1]);
                    rest = &rest[1..];
                }
                Attempt::Calls(calls, length) => {
                    for (name, arguments) in calls {
                        let id = format!("call_{}", self.next_call);
                        self.next_call += 1;
                        parsed.push(Parsed::Call(ToolCall { id, name, arguments }));
                    }
                    self.after_call = true;
                    rest = &rest[length..];
                }
                Attempt::Text(length) => {
                    self.emit(parsed, &rest[..length]);
                    rest = &rest[length..];
                }
                Attempt::More => break,
            }
        }
        self.held = rest.to_owned();
    }

    fn emit(&mut self, parsed: &mut Vec<Parsed>, text: &str) {
        self.began |= !text.is_empty();
        match parsed.last_mut() {
            _ if text.is_empty() => {}
            Some(Parsed::Text(before)) => before.push_str(text),
            _ => parsed.push(Parsed::Text(text.to_owned())),
        }
    }
}

fn starts_with(text: &str, openings: &[&str]) -> bool {
    openings.iter().any(|opening| text.starts_with(opening))
}

/// Whether a cut beginning names a tool already, or is inside a form that holds nothing but calls.
fn looks_like_call(text: &str) -> bool {
    ["<tool_call>", "<function=", "functools["].iter().any(|opening| text.starts_with(opening))
        || text.contains("\"name\"")
        || python::is_open_call(text)
}

/// Where the next opening begins, or what may become one; the end of the text if there is none.
fn next_opening(text: &str, openings: &[&str], last: bool) -> usize {
    let whole = openings.iter().filter_map(|opening| text.find(opening)).min().unwrap_or(text.len());
    if last {
        return whole;
    }
    let partial = openings
        .iter()
        .flat_map(|opening| (1..opening.len()).filter(move |&length| text.ends_with(&opening[..length])))
        .max()
        .map_or(text.len(), |length| text.len() - length);
    whole.min(partial)
}

/// The bytes of separators and closing tags at the start of `text`; `None` if more text decides.
fn skip_closings(text: &str, last: bool) -> Option<usize> {
    let mut rest = text.trim_start();
    loop {
        if let Some(closing) = CLOSINGS.iter().find(|closing| rest.starts_with(*closing)) {
            rest = rest[closing.len()..].trim_start();
            continue;
        }
        let undecided = rest.is_empty() || CLOSINGS.iter().any(|closing| closing.starts_with(rest));
        if undecided && !last {
            return None;
        }
        return Some(text.len() - rest.len());
    }
}

/// Reads what begins at the start of `text`, which is an opening, or may become one.
fn attempt(text: &str, openings: &[&str], last: bool) -> Attempt {
    let Some(opening) = openings.iter().find(|opening| text.starts_with(*opening)) else {
        return if last { Attempt::Text(text.len()) } else { Attempt::More };
    };
    let inside = &text[opening.len()..];
    let space = inside.len() - inside.trim_start().len();
    let body = &inside[space..];
    let before = opening.len() + space;
    let found = match *opening {
        "{" => call_object(text, last),
        "[" => call_list(text, last),
        "functools[" => shifted(call_list(&text["functools".len()..], last), "functools".len()),
        "<function=" => function_tag(inside, last)
            .map_or(Attempt::Text(opening.len()), |found| shifted(found, opening.len())),
        ">>>" => named_object(inside, last)
            .map_or(Attempt::Text(opening.len()), |found| shifted(found, opening.len())),
        "```" => {
            let label =
                body.chars().take_while(|letter| letter.is_ascii_alphabetic() || *letter == '_').count();
            let after = body[label..].trim_start();
            let before = text.len() - after.len();
            match after.chars().next() {
                Some('{') => shifted(call_object(after, last), before),
                Some('[') => shifted(call_list(after, last), before),
                Some(_) => Attempt::Text(opening.len()),
                None => Attempt::More,
            }
        }
        _ => match body.chars().next() {
            Some('{') => shifted(call_object(body, last), before),
            Some('[') => shifted(call_list(body, last), before),
            Some(_) if *opening == "<|python_tag|>" => shifted(python::builtin_call(body, last), before),
            Some(_) => Attempt::Text(opening.len()),
            None => Attempt::More,
        },
    };
    match found {
        Attempt::More if last => Attempt::Text(opening.len()),
        // Content inside an opening: only the opening is surely content, the rest is looked at again.
        Attempt::Text(_) => Attempt::Text(opening.len()),
        other => other,
    }
}

fn shifted(attempt: Attempt, by: usize) -> Attempt {
    match attempt {
        Attempt::Calls(calls, length) => Attempt::Calls(calls, length + by),
        other => other,
    }
}

/// `{"name": .., "parameters": ..}`.
fn call_object(text: &str, _last: bool) -> Attempt {
    match json::scan(text) {
        Scan::Whole(length) => {
            let call = serde_json::from_str(&text[..length]).ok().and_then(call_of);
            call.map_or(Attempt::Text(length), |call| Attempt::Calls(vec![call], length))
        }
        Scan::More => Attempt::More,
        Scan::Invalid => Attempt::Text(1),
    }
}

/// `[{"name": ..}, ..]` or `[name(key='value'), ..]`.
fn call_list(text: &str, last: bool) -> Attempt {
    match text[1..].trim_start().chars().next() {
        None => Attempt::More,
        Some('{') => match json::scan(text) {
            Scan::Whole(length) => {
                let items: Vec<Value> = serde_json::from_str(&text[..length]).unwrap_or_default();
                let calls: Option<Vec<_>> = items.into_iter().map(call_of).collect();
                match calls.filter(|calls| !calls.is_empty()) {
                    Some(calls) => Attempt::Calls(calls, length),
                    None => Attempt::Text(length),
                }
            }
            Scan::More => Attempt::More,
            Scan::Invalid => Attempt::Text(1),
        },
        Some(_) => python::call_list(text, last),
    }
}

/// After `<function=`: `name>{..}`.
fn function_tag(inside: &str, last: bool) -> Option<Attempt> {
    let Some(end) = inside.find('>') else {
        return (!inside.contains(char::is_whitespace)).then_some(Attempt::More);
    };
    let name = &inside[..end];
    arguments_after(name, inside, end + 1, last)
}

/// After `>>>`: `name`, a line break and `{..}`.
fn named_object(inside: &str, last: bool) -> Option<Attempt> {
    let Some(end) = inside.find('\n') else {
        return is_name_or_empty(inside).then_some(Attempt::More);
    };
    let name = inside[..end].trim();
    if name == "all" {
        return None;
    }
    arguments_after(name, inside, end + 1, last)
}

fn arguments_after(name: &str, inside: &str, at: usize, _last: bool) -> Option<Attempt> {
    if name.is_empty() || !is_name_or_empty(name) {
        return None;
    }
    let body = inside[at..].trim_start();
    if body.is_empty() {
        return Some(Attempt::More);
    }
    let start = inside.len() - body.len();
    match body.starts_with('{').then(|| json::scan(body))? {
        Scan::Whole(length) => {
            let arguments = serde_json::from_str(&body[..length]).ok()?;
            Some(Attempt::Calls(vec![(name.to_owned(), arguments)], start + length))
        }
        Scan::More => Some(Attempt::More),
        Scan::Invalid => None,
    }
}

fn is_name_or_empty(text: &str) -> bool {
    text.chars().all(|letter| letter.is_alphanumeric() || "_.-".contains(letter))
}

/// Name and arguments of an object that is a call.
fn call_of(value: Value) -> Option<(String, Value)> {
    let Value::Object(mut fields) = value else { return None };
    if let Some(function) = fields.remove("function") {
        return match function {
            Value::Object(_) => call_of(function),
            Value::String(name) => Some((name, arguments_of(&mut fields)?)),
            _ => None,
        };
    }
    match fields.remove("name")? {
        Value::String(name) if !name.is_empty() => Some((name, arguments_of(&mut fields)?)),
        _ => None,
    }
}

/// Arguments under either name; a string that holds an object is decoded once.
fn arguments_of(fields: &mut serde_json::Map<String, Value>) -> Option<Value> {
    let arguments = fields.remove("arguments").or_else(|| fields.remove("parameters"))?;
    match arguments {
        Value::Object(_) => Some(arguments),
        Value::Null => Some(Value::Object(Default::default())),
        Value::String(text) => match serde_json::from_str::<Value>(&text) {
            Ok(Value::Object(fields)) => Some(Value::Object(fields)),
            _ => Some(Value::String(text)),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests;
