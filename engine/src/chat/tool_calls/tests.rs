use serde_json::json;

use super::*;

fn tools() -> Vec<ToolSpec> {
    vec![ToolSpec { name: "f".into(), description: String::new(), parameters: json!({"type": "object"}) }]
}

/// The parsed text in one line: content as it is, calls as `⟨name arguments⟩`, a cut call as `✂text`.
fn parse(pieces: &[&str], cut: bool) -> String {
    let mut parser = ToolCallParser::new(&tools(), 1);
    let mut parsed: Vec<Parsed> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    let rest = parser.finish(cut);
    parsed.extend(rest.parsed);
    let mut shown: String = parsed
        .iter()
        .map(|parsed| match parsed {
            Parsed::Text(text) => text.clone(),
            Parsed::Call(call) => format!("⟨{} {}⟩", call.name, call.arguments),
        })
        .collect();
    if let Some(text) = rest.cut_call {
        shown += &format!("✂{text}");
    }
    shown
}

/// Parses `text` whole, cut in two at every place, and letter by letter: always the same.
#[track_caller]
fn check_ending(text: &str, cut: bool, expected: &str) {
    assert_eq!(parse(&[text], cut), expected, "whole");
    for (at, _) in text.char_indices() {
        assert_eq!(parse(&[&text[..at], &text[at..]], cut), expected, "cut at {at}");
    }
    let letters: Vec<String> = text.chars().map(String::from).collect();
    let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
    assert_eq!(parse(&letters, cut), expected, "letter by letter");
}

#[track_caller]
fn check(text: &str, expected: &str) {
    check_ending(text, false, expected);
}

#[test]
fn plain_text_is_content() {
    check("Hello <b>you</b>, a < b > c.", "Hello <b>you</b>, a < b > c.");
}

#[test]
fn a_bare_object_is_a_call() {
    check(r#"{"name": "f", "parameters": {"a": 1}}"#, r#"⟨f {"a":1}⟩"#);
}

#[test]
fn arguments_may_be_called_arguments() {
    check(r#"{"name": "f", "arguments": {"a": "}\"{"}}"#, r#"⟨f {"a":"}\"{"}⟩"#);
}

#[test]
fn five_levels_of_nesting_are_fine() {
    check(
        r#"{"name": "f", "parameters": {"a": {"b": {"c": {"d": [{"e": "ü"}]}}}}}"#,
        r#"⟨f {"a":{"b":{"c":{"d":[{"e":"ü"}]}}}}⟩"#,
    );
}

#[test]
fn calls_may_be_separated_by_semicolons_or_lines() {
    let call = r#"{"name": "f", "parameters": {}}"#;
    for separator in [";", "; ", "\n", "<|python_tag|>"] {
        check(&format!("{call}{separator}{call}"), "⟨f {}⟩⟨f {}⟩");
    }
}

#[test]
fn prose_around_a_call_is_kept() {
    check(r#"I will look. {"name": "f", "parameters": {}} Done {x}."#, "I will look. ⟨f {}⟩Done {x}.");
}

#[test]
fn an_object_without_name_or_arguments_is_content() {
    check(r#"{"findings": []}"#, r#"{"findings": []}"#);
    check(r#"{"name": "f"}"#, r#"{"name": "f"}"#);
    check(r#"{"parameters": {}}"#, r#"{"parameters": {}}"#);
}

#[test]
fn tags_hold_calls() {
    check("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>", r#"⟨f {"a":1}⟩"#);
}

#[test]
fn several_tags_hold_several_calls() {
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    check(&format!("a {call}\n{call} b"), "a ⟨f {}⟩⟨f {}⟩b");
}

#[test]
fn a_missing_closing_tag_at_the_end_is_forgiven() {
    check("<tool_call>\n{\"name\": \"f\", \"arguments\": {}}", "⟨f {}⟩");
}

#[test]
fn arguments_in_a_string_are_decoded_once() {
    check(r#"{"name": "f", "arguments": "{\"a\": \"[1]\"}"}"#, r#"⟨f {"a":"[1]"}⟩"#);
    check(r#"{"name": "f", "arguments": "a=1"}"#, r#"⟨f "a=1"⟩"#);
}

#[test]
fn a_python_tag_opens_calls() {
    check(r#"<|python_tag|>{"name": "f", "parameters": {}}"#, "⟨f {}⟩");
    check(r#"<|python_tag|>f.call(query="x y")"#, r#"⟨f {"query":"x y"}⟩"#);
    check("<|python_tag|>import os", "<|python_tag|>import os");
}

#[test]
fn function_tags_hold_arguments() {
    check(r#"<function=f>{"a": 1}</function>"#, r#"⟨f {"a":1}⟩"#);
    check("<function=not a name>", "<function=not a name>");
}

#[test]
fn a_list_of_objects_is_calls() {
    check(r#"[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]"#, "⟨f {}⟩⟨g {}⟩");
    check(r#" functools[{"name": "f", "arguments": {}}]"#, " ⟨f {}⟩");
    check(r#"[{"a": 1}]"#, r#"[{"a": 1}]"#);
}

#[test]
fn python_calls_in_a_list_are_calls() {
    check(
        r#"[f(a='x\'y', b=[1, 2.5, None], c={"k": True}), pkg.g()]"#,
        r#"⟨f {"a":"x'y","b":[1,2.5,null],"c":{"k":true}}⟩⟨pkg.g {}⟩"#,
    );
}

#[test]
fn one_bad_python_call_does_not_lose_the_good_ones() {
    check("[f(1), g(a=2), h(x=b'raw'), i(y=1e999)]", r#"⟨g {"a":2}⟩"#);
}

#[test]
fn a_link_is_no_call() {
    check("see [the docs](x) and [1, 2]", "see [the docs](x) and [1, 2]");
}

#[test]
fn a_fence_may_hold_a_call() {
    check("```json\n{\"name\": \"f\", \"parameters\": {}}\n```", "⟨f {}⟩");
    check("```rust\nfn f() {}\n```", "```rust\nfn f() {}\n```");
}

#[test]
fn arrows_name_a_function() {
    check(">>>f\n{\"a\": 1}", r#"⟨f {"a":1}⟩"#);
    check(">>>all\nHello", ">>>all\nHello");
}

#[test]
fn a_beginning_that_never_becomes_a_call_is_content() {
    check("a <|python_", "a <|python_");
    check(r#"{"name": "f", "par"#, r#"{"name": "f", "par"#);
}

#[test]
fn a_call_cut_by_the_limit_is_told_apart() {
    check_ending(r#"{"name": "f", "parameters": {"a"#, true, r#"✂{"name": "f", "parameters": {"a"#);
    check_ending("<tool_call>\n{\"na", true, "✂<tool_call>\n{\"na");
    check_ending("[f(a='x", true, "✂[f(a='x");
    check_ending("so {x", true, "so {x");
}

#[test]
fn without_tools_everything_is_content() {
    let mut parser = ToolCallParser::new(&[], 1);
    let text = r#"{"name": "f", "parameters": {}}"#;
    assert_eq!(parser.push(text), [Parsed::Text(text.into())]);
    assert_eq!(parser.finish(false), Rest::default());
}

#[test]
fn ids_count_on() {
    let mut parser = ToolCallParser::new(&tools(), 4);
    let mut parsed = parser.push(r#"{"name": "f", "parameters": {}};{"name": "f", "parameters": {}}"#);
    parsed.extend(parser.finish(false).parsed);
    let ids: Vec<_> = parsed
        .iter()
        .filter_map(|parsed| match parsed {
            Parsed::Call(call) => Some(call.id.as_str()),
            Parsed::Text(_) => None,
        })
        .collect();
    assert_eq!(ids, ["call_4", "call_5"]);
}

/// Like [`parse`], for a reply that a grammar binds.
fn parse_bound(text: &str, style: ToolCallStyle, prose: bool) -> String {
    let mut parser = ToolCallParser::bound(&tools(), 1, style, prose);
    let mut parsed: Vec<Parsed> =
        text.char_indices().flat_map(|(at, letter)| parser.push(&text[at..at + letter.len_utf8()])).collect();
    parsed.extend(parser.finish(false).parsed);
    parsed
        .iter()
        .map(|parsed| match parsed {
            Parsed::Text(text) => text.clone(),
            Parsed::Call(call) => format!("⟨{} {}⟩", call.name, call.arguments),
        })
        .collect()
}

#[test]
fn a_bound_reply_that_only_talks_about_calls_is_content() {
    let call = r#"{"name": "f", "parameters": {}}"#;
    for text in [&format!("Write {call}."), &format!("```\n{call}\n```"), "See <function=f>{}</function>."] {
        for style in [ToolCallStyle::LlamaJson, ToolCallStyle::ToolCallTags] {
            assert_eq!(parse_bound(text, style, true), *text);
        }
    }
    assert_eq!(parse_bound(call, ToolCallStyle::LlamaJson, true), "⟨f {}⟩");
    assert_eq!(parse_bound(call, ToolCallStyle::ToolCallTags, true), call);
}

#[test]
fn bound_calls_in_tags_may_follow_words_but_not_stand_in_json() {
    let tagged = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
    let style = ToolCallStyle::ToolCallTags;
    assert_eq!(parse_bound(&format!("So: {tagged}\n{tagged}"), style, true), "So: ⟨f {}⟩⟨f {}⟩");
    let answer = serde_json::json!({"a": tagged}).to_string();
    assert_eq!(parse_bound(&answer, style, false), answer);
}

#[test]
fn a_bound_answer_that_looks_like_a_call_of_no_tool_is_content() {
    let answer = r#"{"name": "g", "parameters": {"a": 1}}"#;
    assert_eq!(parse_bound(answer, ToolCallStyle::LlamaJson, false), answer);
}
