//! Calls in Python's spelling: `[read(path='a.rs', lines=[1, 2]), list()]` and `search.call(query="x")`.
//!
//! Arguments are literals with names. Anything else (positional arguments, expressions, bytes, infinities)
//! makes that one call no call; its well-formed neighbours in the list stay calls.

use serde_json::{Map, Number, Value};

use super::Attempt;

/// The list of calls at the start of `text`, which begins with `[`.
pub(super) fn call_list(text: &str, last: bool) -> Attempt {
    let first = text[1..].trim_start();
    if !begins_call(first) {
        return Attempt::Text(1);
    }
    let Some(end) = closing(text) else {
        if !last {
            return Attempt::More;
        }
        // The list never ended: its whole calls are worth keeping.
        return calls_in(&text[1..]).map_or(Attempt::Text(1), |calls| Attempt::Calls(calls, text.len()));
    };
    match calls_in(&text[1..end]) {
        Some(calls) => Attempt::Calls(calls, end + 1),
        None => Attempt::Text(1),
    }
}

/// `name.call(key="value")`, as Llama 3.1 calls its built-in tools.
pub(super) fn builtin_call(text: &str, last: bool) -> Attempt {
    if !begins_call(text) {
        return Attempt::Text(1);
    }
    let name = name_length(text);
    if name == text.len() {
        return if last { Attempt::Text(1) } else { Attempt::More };
    }
    match closing(&text[name..]) {
        None if last => Attempt::Text(1),
        None => Attempt::More,
        Some(end) => match call(&text[..name + end + 1]) {
            Some((name, arguments)) => {
                let name = name.strip_suffix(".call").map(str::to_owned).unwrap_or(name);
                Attempt::Calls(vec![(name, arguments)], text.len().min(name_length(text) + end + 1))
            }
            None => Attempt::Text(1),
        },
    }
}

/// Whether `text`, from its opening on, is inside a call that has begun.
pub(super) fn is_open_call(text: &str) -> bool {
    let body = text.trim_start_matches("<|python_tag|>").trim_start_matches('[').trim_start();
    let name = name_length(body);
    name > 0 && body[name..].starts_with('(')
}

/// A name, or the whole text as the beginning of one, followed by `(`.
fn begins_call(text: &str) -> bool {
    let name = name_length(text);
    name > 0 && (name == text.len() || text[name..].starts_with('('))
}

fn name_length(text: &str) -> usize {
    if !text.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_') {
        return 0;
    }
    text.find(|letter: char| !(letter.is_ascii_alphanumeric() || "_.-".contains(letter)))
        .unwrap_or(text.len())
}

/// The index of the bracket that closes the one at the start of `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '[' | '(' | '{' => depth += 1,
            ']' | ')' | '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at);
                }
            }
            '\'' | '"' => {
                while let Some((_, inner)) = letters.next() {
                    if inner == '\\' {
                        letters.next();
                    } else if inner == letter {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    None
}

/// The well-formed calls of a list's inside; `None` when there is none.
fn calls_in(inside: &str) -> Option<Vec<(String, Value)>> {
    let mut calls = Vec::new();
    let mut rest = inside.trim_start();
    while !rest.is_empty() {
        let name = name_length(rest);
        let Some(end) = closing(&rest[name..]) else { break };
        calls.extend(call(&rest[..name + end + 1]));
        rest = rest[name + end + 1..].trim_start().trim_start_matches(',').trim_start();
    }
    (!calls.is_empty()).then_some(calls)
}

/// `name(key=literal, ..)`, nothing around it.
fn call(text: &str) -> Option<(String, Value)> {
    let name = name_length(text);
    let inside = text[name..].strip_prefix('(')?.strip_suffix(')')?;
    let mut reader = Reader { rest: inside.trim() };
    let mut arguments = Map::new();
    while !reader.rest.is_empty() {
        let key = name_length(reader.rest);
        let word = reader.rest[..key].to_owned();
        reader.rest = reader.rest[key..].trim_start();
        if key == 0 || !reader.take('=') {
            return None;
        }
        arguments.insert(word, reader.literal(0)?);
        if !reader.take(',') && !reader.rest.is_empty() {
            return None;
        }
    }
    (name > 0).then(|| (text[..name].to_owned(), Value::Object(arguments)))
}

/// Deepest nesting of a literal.
const MAX_DEPTH: usize = 64;

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// Takes `letter` and the space after it, if it is next.
    fn take(&mut self, letter: char) -> bool {
        match self.rest.strip_prefix(letter) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn literal(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        if self.take('[') {
            return self.items(']', depth).map(Value::Array);
        }
        if self.take('(') {
            return self.items(')', depth).map(Value::Array);
        }
        if self.take('{') {
            return self.entries(depth).map(Value::Object);
        }
        if let Some(quote) = self.rest.chars().next().filter(|letter| *letter == '\'' || *letter == '"') {
            return self.string(quote).map(Value::String);
        }
        self.word()
    }

    fn items(&mut self, end: char, depth: usize) -> Option<Vec<Value>> {
        let mut items = Vec::new();
        while !self.take(end) {
            items.push(self.literal(depth + 1)?);
            if !self.take(',') && !self.rest.starts_with(end) {
                return None;
            }
        }
        Some(items)
    }

    fn entries(&mut self, depth: usize) -> Option<Map<String, Value>> {
        let mut entries = Map::new();
        while !self.take('}') {
            let Value::String(key) = self.literal(depth + 1)? else { return None };
            if !self.take(':') {
                return None;
            }
            entries.insert(key, self.literal(depth + 1)?);
            if !self.take(',') && !self.rest.starts_with('}') {
                return None;
            }
        }
        Some(entries)
    }

    fn string(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut letters = self.rest[1..].char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => match letters.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'u' => {
                        let code: String = letters.by_ref().take(4).map(|(_, digit)| digit).collect();
                        text.push(u32::from_str_radix(&code, 16).ok().and_then(char::from_u32)?);
                    }
                    '\n' => {}
                    other @ ('\\' | '\'' | '"') => text.push(other),
                    other => text.extend(['\\', other]),
                },
                end if end == quote => {
                    self.rest = self.rest[1 + at + 1..].trim_start();
                    return Some(text);
                }
                other => text.push(other),
            }
        }
        None
    }

    /// A number, or one of Python's names for true, false and nothing.
    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find([',', ')', ']', '}', ':', ' ', '\n']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        match word {
            "True" | "true" => Some(Value::Bool(true)),
            "False" | "false" => Some(Value::Bool(false)),
            "None" | "null" => Some(Value::Null),
            number => match number.parse::<i64>() {
                Ok(number) => Some(Value::from(number)),
                Err(_)
                    if number.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) =>
                {
                    number.parse().ok().and_then(Number::from_f64).map(Value::Number)
                }
                Err(_) => None,
            },
        }
    }
}
