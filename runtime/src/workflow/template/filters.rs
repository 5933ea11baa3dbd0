//! The filters that workflows can use: the template engine's own, and what lists of outputs need.

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};

use super::TemplateError;
use crate::suggest::closest;

/// The names that a mistyped one is compared with.
const FAMILIAR: [&str; 38] = [
    "abs",
    "attr",
    "batch",
    "bool",
    "chain",
    "compact",
    "default",
    "dictsort",
    "first",
    "flatten",
    "float",
    "format",
    "from_json",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "round",
    "select",
    "selectattr",
    "sort",
    "split",
    "sum",
    "tojson",
    "trim",
    "unique",
];

/// Adds the filters that the template engine does not have.
pub fn add(environment: &mut Environment<'static>) {
    environment.add_filter("flatten", flatten);
    environment.add_filter("compact", compact);
    environment.add_filter("from_json", from_json);
}

/// A list of lists as one list: `steps.look.output | map(attribute="findings") | flatten`. Skips `null`, which
/// is the output of an item that failed under `on_error: continue`.
fn flatten(lists: Value) -> Result<Vec<Value>, Error> {
    let mut flat = Vec::new();
    for list in lists.try_iter()?.checked() {
        match list? {
            none if none.is_none() => {}
            list => {
                for item in list.try_iter()?.checked() {
                    flat.push(item?);
                }
            }
        }
    }
    Ok(flat)
}

/// A list without its `null`s.
fn compact(list: Value) -> Result<Vec<Value>, Error> {
    let items: Vec<Value> = list.try_iter()?.checked().collect::<Result<_, _>>()?;
    Ok(items.into_iter().filter(|item| !item.is_none()).collect())
}

/// The value that a JSON text holds.
fn from_json(text: &str) -> Result<Value, Error> {
    let value = serde_json::from_str(text)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("from_json: {error}")))?;
    Ok(super::value::from_json(&value))
}

/// Refuses a filter that does not exist: the template engine itself would notice only while filling in.
pub fn check(environment: &Environment<'_>, template: &str) -> Result<(), TemplateError> {
    for name in used(template) {
        let exists = environment.compile_expression_owned(format!("{name:?} is filter"));
        let exists = exists.and_then(|test| test.eval(())).is_ok_and(|exists| exists.is_true());
        if !exists {
            let hint = match closest(name, FAMILIAR) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("the usual ones are `{}`", FAMILIAR.join("`, `")),
            };
            let error = TemplateError::new(format!("there is no filter `{name}`"));
            return Err(TemplateError { hint: Some(hint), ..error });
        }
    }
    Ok(())
}

/// The names that follow a `|` inside the braces of `template` and outside of quotes.
fn used(template: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = template;
    while let Some(open) = ["{{", "{%", "{#"].iter().filter_map(|mark| rest.find(mark)).min() {
        let close = match &rest[open..open + 2] {
            "{{" => "}}",
            "{%" => "%}",
            _ => "#}",
        };
        rest = &rest[open + 2..];
        let end = if close == "#}" { rest.find(close).unwrap_or(rest.len()) } else { code_end(rest, close) };
        if close != "#}" {
            filters_in(&rest[..end], &mut names);
        }
        rest = &rest[end..];
    }
    names
}

/// Where `close` stands in `code`, outside of quotes.
fn code_end(code: &str, close: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in code.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if code[at..].starts_with(close) => return at,
            None => {}
        }
    }
    code.len()
}

fn filters_in<'a>(code: &'a str, names: &mut Vec<&'a str>) {
    let mut rest = code;
    loop {
        let bar = code_end(rest, "|");
        if bar == rest.len() {
            return;
        }
        rest = rest[bar + 1..].trim_start();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > 0 {
            names.push(&rest[..end]);
        }
        rest = &rest[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_used(template: &str, expected: &[&str]) {
        assert_eq!(used(template), expected);
    }

    #[test]
    fn filters_are_found_in_expressions_and_blocks() {
        check_used(
            "a | b {{ x | tojson | upper }} {% for y in z|sort(reverse=true) %}",
            &["tojson", "upper", "sort"],
        );
    }

    #[test]
    fn bars_in_text_in_quotes_and_in_comments_are_not_filters() {
        check_used("| no {{ 'a | no' ~ \"}} | no\" | join('|') }} {# x | no #}", &["join"]);
    }

    #[test]
    fn unfinished_code_is_left_to_the_parser() {
        check_used("{{ x | ", &[]);
        check_used("{{ 'x | y", &[]);
    }
}
