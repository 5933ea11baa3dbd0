//! `tool_search`: finds tools by words, and makes those that it found callable.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use chaski_engine::ToolSpec;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::tools::{CallContext, Effect, Tool, ToolDefinition, ToolResult};

/// The search's own name. It has no dot, so no plugin's or server's tool can have it.
pub(super) const SEARCH: &str = "tool_search";
/// Tools that one search finds at most.
const MAX_FOUND: usize = 5;
/// Bytes of a token in a schema, roughly.
const BYTES_PER_TOKEN: usize = 3;
/// How soon more of the same word stops to matter, and how much a long description weighs: the usual values of
/// BM25.
const SATURATION: f64 = 1.2;
const LENGTH_WEIGHT: f64 = 0.75;
/// A tool that fits this much worse than the best one is not told: its description would cost more than it helps.
const RELEVANT: f64 = 0.3;
/// A word of the name counts as much as this many in the description.
const NAME_WEIGHT: usize = 4;

/// The search over one agent's tools.
pub(super) struct ToolSearch {
    definition: ToolDefinition,
    tools: Vec<ToolSpec>,
    /// The words of each tool, those of its name several times.
    words: Vec<Vec<String>>,
    /// Bytes of one answer.
    room: usize,
    /// Indexes of the tools found so far, in order.
    found: Mutex<Vec<usize>>,
}

impl ToolSearch {
    /// A search over `tools`, of which `known` gives an idea; one answer has about `room` tokens.
    pub(super) fn new(tools: Vec<ToolSpec>, known: &str, room: usize) -> Self {
        let definition = ToolDefinition {
            name: SEARCH.into(),
            description: format!(
                "Finds tools by what they do and says how to call them. Call it first: a tool can be called once it \
                 was found. There are:\n{known}"
            ),
            input_schema: json!({
                "type": "object",
                "properties": {"query": {"type": "string", "minLength": 1, "maxLength": 200}},
                "required": ["query"],
                "additionalProperties": false,
            }),
            output_schema: None,
            // Found tools are remembered: the answer of another agent's search would not do.
            effect: Effect::Idempotent,
        };
        let words = tools.iter().map(words_of).collect();
        Self { definition, tools, words, room: room * BYTES_PER_TOKEN, found: Mutex::default() }
    }

    /// What the model reads of the search itself.
    pub(super) fn spec(&self) -> ToolSpec {
        self.definition.spec()
    }

    /// The tools found so far.
    pub(super) fn found(&self) -> Vec<ToolSpec> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.iter().map(|index| self.tools[*index].clone()).collect()
    }

    /// Answers the call with `arguments`, and remembers what it found.
    pub(super) fn search(&self, arguments: &Value) -> String {
        let query = arguments["query"].as_str().unwrap_or_default();
        let mut text = String::new();
        let mut shown = Vec::new();
        for index in self.best(query) {
            let tool = &self.tools[index];
            let entry =
                format!("{}: {}\n  arguments: {}\n", tool.name, tool.description.trim(), tool.parameters);
            // One tool is told whatever its schema takes; without it the model could not go on.
            if !shown.is_empty() && text.len() + entry.len() > self.room {
                break;
            }
            text.push_str(&entry);
            shown.push(index);
        }
        if shown.is_empty() {
            return format!("None of the {} tools fits `{query}`. Try other words.", self.tools.len());
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        for index in &shown {
            if !found.contains(index) {
                found.push(*index);
            }
        }
        format!("{} of {} tools. You can call them now.\n{text}", shown.len(), self.tools.len())
    }

    /// The indexes of the tools that fit `query`, best first (BM25).
    fn best(&self, query: &str) -> Vec<usize> {
        let asked: HashSet<String> = words(query).collect();
        let count = self.words.len() as f64;
        let average = self.words.iter().map(Vec::len).sum::<usize>() as f64 / count.max(1.0);
        let mut scores = vec![0.0; self.words.len()];
        for word in &asked {
            let times: Vec<f64> = self
                .words
                .iter()
                .map(|words| words.iter().filter(|other| are_alike(other, word)).count() as f64)
                .collect();
            let having = times.iter().filter(|times| **times > 0.0).count() as f64;
            let rarity = (1.0 + (count - having + 0.5) / (having + 0.5)).ln();
            for (index, times) in times.iter().enumerate() {
                let length = 1.0 - LENGTH_WEIGHT + LENGTH_WEIGHT * self.words[index].len() as f64 / average;
                scores[index] += rarity * times * (SATURATION + 1.0) / (times + SATURATION * length);
            }
        }
        let best = scores.iter().copied().fold(0.0, f64::max);
        let fits = |index: &usize| scores[*index] > 0.0 && scores[*index] >= best * RELEVANT;
        let mut order: Vec<usize> = (0..scores.len()).filter(fits).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        order.truncate(MAX_FOUND);
        order
    }
}

/// Whether two words mean the same, but for an ending of letters: `file` and `files`, `search` and `searches`.
fn are_alike(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    match long.strip_prefix(short) {
        Some(ending) => {
            ending.is_empty()
                || (short.len() >= 4
                    && ending.len() <= 3
                    && ending.bytes().all(|byte| byte.is_ascii_lowercase()))
        }
        None => false,
    }
}

fn words_of(tool: &ToolSpec) -> Vec<String> {
    let name = words(&tool.name).collect::<Vec<_>>();
    let arguments = tool.parameters["properties"].as_object().into_iter().flat_map(|fields| fields.keys());
    let arguments: Vec<String> = arguments.flat_map(|field| words(field)).collect();
    let mut all: Vec<String> = std::iter::repeat_n(name, NAME_WEIGHT).flatten().collect();
    all.extend(words(&tool.description));
    all.extend(arguments);
    all
}

/// The words of `text`, in small letters; `readFile` and `read_file` are two each.
fn words(text: &str) -> impl Iterator<Item = String> {
    let mut spaced = String::with_capacity(text.len() + 8);
    let mut was_small = false;
    for letter in text.chars() {
        if letter.is_uppercase() && was_small {
            spaced.push(' ');
        }
        was_small = letter.is_lowercase();
        spaced.extend(letter.to_lowercase());
    }
    let words: Vec<String> = spaced
        .split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| word.len() > 1)
        .map(str::to_owned)
        .collect();
    words.into_iter()
}

impl Tool for ToolSearch {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    fn call<'a>(&'a self, arguments: Value, _context: CallContext) -> BoxFuture<'a, ToolResult> {
        async move { ToolResult::ok(self.search(&arguments)) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search() -> ToolSearch {
        let tool = |name: &str, description: &str, field: &str| ToolSpec {
            name: name.into(),
            description: description.into(),
            parameters: json!({"type": "object", "properties": {field: {"type": "string"}}}),
        };
        let tools = vec![
            tool("files.readFile", "Reads a text file.", "path"),
            tool("files.list", "Lists the files of a folder.", "folder"),
            tool("mail.send", "Sends a message to a person.", "recipient"),
            tool("weather.today", "What the weather is like.", "city"),
        ];
        ToolSearch::new(tools, "", 1_000)
    }

    #[track_caller]
    fn check(query: &str, expected: &[&str]) {
        let search = search();
        search.search(&json!({"query": query}));
        let found: Vec<String> = search.found().into_iter().map(|tool| tool.name).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_word_of_the_name_finds_a_tool() {
        check("weather", &["weather.today"]);
    }

    #[test]
    fn a_word_of_the_description_finds_a_tool() {
        check("message someone", &["mail.send"]);
    }

    #[test]
    fn the_name_counts_more_than_the_description() {
        check("read files", &["files.readFile", "files.list"]);
    }

    #[test]
    fn an_argument_finds_a_tool() {
        check("recipient", &["mail.send"]);
    }

    #[test]
    fn an_ending_makes_no_difference_and_a_number_does() {
        assert!(are_alike("searches", "search") && are_alike("file", "files"));
        assert!(!are_alike("topic", "topic7") && !are_alike("read", "write"));
    }

    #[test]
    fn nothing_that_fits_is_said() {
        let text = search().search(&json!({"query": "database"}));
        assert_eq!(text, "None of the 4 tools fits `database`. Try other words.");
    }

    #[test]
    fn what_was_found_stays_found() {
        let search = search();
        search.search(&json!({"query": "weather"}));
        search.search(&json!({"query": "mail"}));
        let found: Vec<String> = search.found().into_iter().map(|tool| tool.name).collect();
        assert_eq!(found, ["weather.today", "mail.send"]);
    }

    #[test]
    fn an_answer_says_how_to_call() {
        insta::assert_snapshot!(search().search(&json!({"query": "weather"})), @r#"
        1 of 4 tools. You can call them now.
        weather.today: What the weather is like.
          arguments: {"type":"object","properties":{"city":{"type":"string"}}}
        "#);
    }

    #[test]
    fn an_answer_keeps_to_its_room_but_for_the_first_tool() {
        let search = ToolSearch { room: 1, ..search() };
        search.search(&json!({"query": "files"}));
        assert_eq!(search.found().len(), 1);
    }
}
