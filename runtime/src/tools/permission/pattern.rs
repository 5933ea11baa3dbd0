//! A pattern of calls: `workspace.write(path=src/**)`, `http-fetch.*`, `*`.
//!
//! A rule that allows must surely cover a call, one that forbids only has to be able to: a path is compared as
//! it stands and with its `.` and `..` taken out, so that neither way of writing it gets around a rule.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// Bytes of a pattern. A longer one is a mistake, and matching is quadratic.
const MAX_BYTES: usize = 1024;

/// Calls of some tools with some arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    tool: String,
    arguments: Vec<(String, String)>,
}

/// A pattern that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no pattern of calls: {reason}")]
pub struct PatternError {
    text: String,
    reason: &'static str,
}

impl PatternError {
    /// What is wrong, to follow the name of the place where it stands.
    pub fn reason(&self) -> String {
        format!("has `{}`, which is no pattern of calls: {}", self.text, self.reason)
    }

    /// What patterns look like.
    pub fn hint(&self) -> String {
        "patterns are like `workspace.write`, `http-fetch.*` or `workspace.write(path=src/**)`".to_owned()
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let fault = |reason| PatternError { text: text.to_owned(), reason };
        let whole = text.trim();
        if whole.len() > MAX_BYTES {
            return Err(fault("it is too long"));
        }
        let (tool, rest) = match whole.split_once('(') {
            None => (whole, None),
            Some((tool, rest)) => {
                (tool, Some(rest.strip_suffix(')').ok_or_else(|| fault("its `(` is not closed"))?))
            }
        };
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*');
        if tool.is_empty() || !tool.bytes().all(letter) {
            return Err(fault("it begins with a tool's name, `plugin.*` or `*`"));
        }
        if !tool.contains('.') && tool != "*" {
            return Err(fault("tools are named `plugin.tool`"));
        }
        let mut arguments = Vec::new();
        for part in rest.into_iter().flat_map(|rest| rest.split(',')) {
            match part.split_once('=') {
                Some((name, glob)) if !name.trim().is_empty() => {
                    arguments.push((name.trim().to_owned(), glob.trim().to_owned()));
                }
                _ => return Err(fault("in its brackets are `argument=pattern`, with `,` between them")),
            }
        }
        Ok(Self { text: whole.to_owned(), tool: tool.to_owned(), arguments })
    }
}

impl Pattern {
    /// Every call of the tool `name`, which may be one without a plugin.
    pub fn tool(name: &str) -> Self {
        Self { text: name.to_owned(), tool: name.to_owned(), arguments: Vec::new() }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Pattern {
    /// Whether the call is one of these, however its arguments are read.
    pub fn surely_covers(&self, tool: &str, arguments: &Value) -> bool {
        self.names(tool)
            && self.arguments.iter().all(|(name, pattern)| {
                arguments.get(name).is_some_and(|value| every(value, &|text| surely_fits(pattern, text)))
            })
    }

    /// Whether the call may be one of these, in some reading of its arguments.
    pub fn may_cover(&self, tool: &str, arguments: &Value) -> bool {
        self.names(tool)
            && self.arguments.iter().all(|(name, pattern)| {
                arguments.get(name).is_some_and(|value| any(value, &|text| may_fit(pattern, text)))
            })
    }

    fn names(&self, tool: &str) -> bool {
        // A tool's name has no parts that a `*` would have to stop at.
        glob(self.tool.replace('*', "**").as_bytes(), tool.as_bytes())
    }
}

/// Whether every text in `value` fits; an empty list has none that does not, and is refused.
fn every(value: &Value, fits: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::Array(items) => !items.is_empty() && items.iter().all(|item| every(item, fits)),
        Value::String(text) => fits(text),
        other => fits(&other.to_string()),
    }
}

fn any(value: &Value, fits: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| any(item, fits)),
        Value::String(text) => fits(text),
        other => fits(&other.to_string()),
    }
}

fn surely_fits(pattern: &str, text: &str) -> bool {
    let climbs = text.split(['/', '\\']).any(|part| part == "..");
    !climbs && fits(pattern, text) && fits(pattern, &plain(text))
}

fn may_fit(pattern: &str, text: &str) -> bool {
    fits(pattern, text) || fits(pattern, &plain(text))
}

fn fits(pattern: &str, text: &str) -> bool {
    glob(pattern.as_bytes(), text.as_bytes())
}

/// A path without `.`, `..` and empty parts, a URL as it is requested; other text as it is.
fn plain(text: &str) -> String {
    if text.contains("://") {
        return reqwest::Url::parse(text).map_or_else(|_| text.to_owned(), String::from);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    let root = if text.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}

/// Whether `pattern` covers all of `text`: `*` stands for any bytes but `/`, `**` for any, `?` for one but `/`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Reached positions of the pattern for each prefix of the text: no case is exponential.
    let mut reached = vec![false; pattern.len() + 1];
    reached[0] = true;
    skip_stars(pattern, &mut reached);
    for &byte in text {
        let mut next = vec![false; pattern.len() + 1];
        for at in (0..pattern.len()).filter(|&at| reached[at]) {
            match pattern[at] {
                b'*' => {
                    let double = pattern.get(at + 1) == Some(&b'*') || (at > 0 && pattern[at - 1] == b'*');
                    next[at] |= double || byte != b'/';
                }
                b'?' => next[at + 1] |= byte != b'/',
                letter => next[at + 1] |= letter == byte,
            }
        }
        skip_stars(pattern, &mut next);
        reached = next;
    }
    reached[pattern.len()]
}

/// A star may stand for nothing.
fn skip_stars(pattern: &[u8], reached: &mut [bool]) {
    for at in 0..pattern.len() {
        if reached[at] && pattern[at] == b'*' {
            reached[at + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Whether `pattern` surely covers the call, and whether it may.
    #[track_caller]
    fn check(pattern: &str, tool: &str, arguments: Value, surely: bool, may: bool) {
        let pattern: Pattern = pattern.parse().expect("a pattern");
        assert_eq!(pattern.surely_covers(tool, &arguments), surely, "surely");
        assert_eq!(pattern.may_cover(tool, &arguments), may, "may");
    }

    #[test]
    fn tools_are_named_one_by_one_or_by_stars() {
        check("a.b", "a.b", json!({}), true, true);
        check("a.b", "a.bc", json!({}), false, false);
        check("a.*", "a.b", json!({}), true, true);
        check("a.*", "ab.c", json!({}), false, false);
        check("*.read", "a.read", json!({}), true, true);
        check("*", "a.b", json!({}), true, true);
    }

    #[test]
    fn one_star_stays_in_its_folder_and_two_do_not() {
        check("w.x(path=src/*)", "w.x", json!({"path": "src/a.rs"}), true, true);
        check("w.x(path=src/*)", "w.x", json!({"path": "src/a/b.rs"}), false, false);
        check("w.x(path=src/**)", "w.x", json!({"path": "src/a/b.rs"}), true, true);
        check("w.x(path=src/**)", "w.x", json!({"path": "srcs/a"}), false, false);
        check("w.x(path=?.txt)", "w.x", json!({"path": "a.txt"}), true, true);
        check("w.x(path=**.rs)", "w.x", json!({"path": "a/b/c.rs"}), true, true);
    }

    #[test]
    fn dots_do_not_lead_around_a_rule() {
        // What is allowed must be inside, what is forbidden must not be hidden.
        check("w.x(path=src/**)", "w.x", json!({"path": "src/../etc/passwd"}), false, true);
        check("w.x(path=secret/**)", "w.x", json!({"path": "./secret/a"}), false, true);
        check("w.x(path=secret/**)", "w.x", json!({"path": "a/../secret/b"}), false, true);
        check("w.x(path=secret/**)", "w.x", json!({"path": "secret//b"}), true, true);
        check("w.x(path=src/**)", "w.x", json!({"path": "../src/a"}), false, false);
    }

    #[test]
    fn a_url_is_compared_as_it_is_requested() {
        let pattern = "h.get(url=https://a.example/**)";
        check(pattern, "h.get", json!({"url": "https://a.example/x/y?q"}), true, true);
        check(pattern, "h.get", json!({"url": "https://A.EXAMPLE/x"}), false, true);
        check(pattern, "h.get", json!({"url": "https://a.example@evil.example/x"}), false, false);
        check(pattern, "h.get", json!({"url": "https://a.example.evil/x"}), false, false);
    }

    #[test]
    fn every_argument_named_has_to_fit() {
        check("w.x(a=1,b=true)", "w.x", json!({"a": 1, "b": true}), true, true);
        check("w.x(a=1,b=true)", "w.x", json!({"a": 1}), false, false);
        check("w.x(a=x*)", "w.x", json!({"a": ["x1", "y"]}), false, true);
        check("w.x(a=x*)", "w.x", json!({"a": []}), false, false);
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        for (text, reason) in [
            ("", "it begins with a tool's name"),
            ("read", "tools are named `plugin.tool`"),
            ("a.b(path=x", "not closed"),
            ("a.b(path)", "`argument=pattern`"),
            ("a b.c", "it begins with a tool's name"),
        ] {
            let error = text.parse::<Pattern>().expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_is_still_quick() {
        let stars = "*a".repeat(200);
        check(&format!("w.x(a={stars})"), "w.x", json!({"a": "b".repeat(10_000)}), false, false);
    }
}
