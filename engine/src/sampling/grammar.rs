//! The grammar of one reply: which tokens may come next.
//!
//! A request's tools and output format become one grammar of llguidance. With tools, a reply is a call of one
//! of them, its name and arguments bound to that tool's schema, or an answer of the output's shape.
//!
//! Invariant: a special token is allowed only if it ends the turn, and only where the reply may end.

use std::sync::{Arc, LazyLock};

use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{
    ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv,
};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use super::token_mask::TokenMask;
use crate::chat::message::ToolSpec;
use crate::chat::template::ToolCallStyle;
use crate::error::EngineError;
use crate::request::{OutputFormat, ToolChoice};
use crate::tokenizer::Tokenizer;

/// Compiles grammars for one vocabulary. Built once per model.
pub struct GrammarCompiler {
    factory: ParserFactory,
}

/// Where one reply stands in its grammar.
pub struct Grammar {
    matcher: Matcher,
}

impl GrammarCompiler {
    /// A compiler for `tokenizer`'s vocabulary.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] when the vocabulary has no token that ends a turn.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, EngineError> {
        let fault = |reason: String| EngineError::Grammar { what: "this vocabulary".into(), reason };
        let [first_stop, ..] = tokenizer.stop_ids() else {
            return Err(fault("it has no token that ends a turn".into()));
        };
        let words: Vec<Vec<u8>> = (0..tokenizer.vocabulary() as u32)
            .map(|id| match tokenizer.special_name(id) {
                Some(name) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
                None => tokenizer.bytes(id).to_vec(),
            })
            .collect();
        let info = TokRxInfo::new(words.len() as u32, *first_stop);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(tokenizer.stop_ids());
        let environment: TokEnv = Arc::new(Environment { trie, tokenizer });
        let capabilities = InferenceCapabilities { ff_tokens: true, ..Default::default() };
        let mut factory =
            ParserFactory::new(&environment, capabilities, &SlicedBiasComputer::general_slices())
                .map_err(|error| fault(error.to_string()))?;
        factory.quiet();
        Ok(Self { factory })
    }

    /// The grammar of a reply, or `None` when any text is fine (no tools, no output format).
    ///
    /// With tools and [`ToolChoice::Auto`]: a call of one of them, or an answer of `output`'s shape.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] when a schema, regular expression or grammar cannot be guaranteed.
    pub fn compile(
        &self,
        tools: &[ToolSpec],
        choice: &ToolChoice,
        output: &OutputFormat,
        style: ToolCallStyle,
    ) -> Result<Option<Grammar>, EngineError> {
        let callable: Vec<&ToolSpec> = match choice {
            ToolChoice::None => Vec::new(),
            ToolChoice::Named(name) => tools.iter().filter(|tool| tool.name == *name).collect(),
            ToolChoice::Auto | ToolChoice::Required => tools.iter().collect(),
        };
        let answer = match (choice, output) {
            (ToolChoice::Required | ToolChoice::Named(_), _) if !callable.is_empty() => Answer::None,
            (_, OutputFormat::Text) if callable.is_empty() => return Ok(None),
            (_, OutputFormat::Text) => Answer::Text,
            (_, OutputFormat::JsonSchema(schema)) => Answer::Json(compact(schema)),
            (_, OutputFormat::Regex(regex)) => Answer::Regex(regex.clone()),
            (_, OutputFormat::Lark(lark)) if callable.is_empty() => Answer::Lark(lark.clone()),
            (_, OutputFormat::Lark(_)) => {
                return Err(EngineError::Grammar {
                    what: "the output".into(),
                    reason: "a Lark grammar and tools cannot be combined; use a JSON schema or `tool_choice: none`"
                        .into(),
                });
            }
        };
        let whole = self.matcher(reply_grammar(&callable, style, answer), "the output");
        if whole.is_err() {
            // Which of them is it? A tool whose grammar fails alone is named.
            for tool in &callable {
                let what = format!("the tool `{}`", tool.name);
                self.matcher(reply_grammar(&[tool], style, Answer::None), &what)?;
            }
        }
        Ok(Some(Grammar { matcher: whole? }))
    }

    fn matcher(&self, lark: String, what: &str) -> Result<Matcher, EngineError> {
        let fault = |reason: String| EngineError::Grammar { what: what.to_owned(), reason };
        let parser = self.factory.create_parser(TopLevelGrammar::from_lark(lark));
        let matcher = Matcher::new(parser);
        match matcher.get_error() {
            None => Ok(matcher),
            Some(error) => Err(fault(error.lines().next().unwrap_or_default().to_owned())),
        }
    }
}

/// Whether the arguments of `tool` can be guaranteed, whatever the model: its schema becomes a grammar.
///
/// Bytes stand for the vocabulary, so a tool can be refused when it is loaded, before there is a model.
///
/// # Errors
/// [`EngineError::Grammar`] with what the schema has that no grammar can hold to.
pub fn check_tool(tool: &ToolSpec) -> Result<(), EngineError> {
    static BYTES: LazyLock<Result<GrammarCompiler, String>> = LazyLock::new(|| {
        let environment = ApproximateTokEnv::single_byte_env();
        let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &[]);
        let mut factory = factory.map_err(|error| error.to_string())?;
        factory.quiet();
        Ok(GrammarCompiler { factory })
    });
    let what = format!("the tool `{}`", tool.name);
    let compiler = BYTES
        .as_ref()
        .map_err(|reason| EngineError::Grammar { what: what.clone(), reason: reason.clone() })?;
    compiler.matcher(reply_grammar(&[tool], ToolCallStyle::LlamaJson, Answer::None), &what).map(drop)
}

/// What a reply that is no call looks like.
enum Answer {
    None,
    Text,
    Json(Value),
    Regex(String),
    Lark(String),
}

/// The reply's grammar in Lark.
fn reply_grammar(tools: &[&ToolSpec], style: ToolCallStyle, answer: Answer) -> String {
    if let Answer::Lark(lark) = answer {
        return lark;
    }
    let mut rules = Vec::new();
    let mut start = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        rules.push(call_rules(index, tool, style));
    }
    let text = if tools.is_empty() {
        "TEXT: /(.|\\n)*/"
    } else {
        let calls: Vec<String> = (0..tools.len()).map(|index| format!("call_{index}")).collect();
        rules.push(format!("call: {}", calls.join(" | ")));
        match style {
            ToolCallStyle::LlamaJson => {
                // One: the templates of Llama 3.1 and later refuse a turn with two.
                start.push("call");
                // An answer that began with a brace could be taken for a call.
                "TEXT: /[^{\\s](.|\\n)*/"
            }
            ToolCallStyle::ToolCallTags => {
                rules.push("tagged: \"<tool_call>\\n\" call \"\\n</tool_call>\"".to_owned());
                start.push("tagged (\"\\n\" tagged)*");
                if matches!(answer, Answer::Text) {
                    // Words first, then calls: the mark ends the words as soon as it is written.
                    rules.push("words[lazy]: /[^<\\s](.|\\n)*<tool_call>/".to_owned());
                    start.push("words \"\\n\" call \"\\n</tool_call>\" (\"\\n\" tagged)*");
                }
                "TEXT: /[^<\\s](.|\\n)*/ & ~/(.|\\n)*<tool_call>(.|\\n)*/"
            }
        }
    };
    match answer {
        Answer::None | Answer::Lark(_) => {}
        Answer::Text => {
            start.push("TEXT");
            rules.push(text.to_owned());
        }
        Answer::Json(schema) => {
            start.push("answer");
            rules.push(format!("answer: %json {schema}"));
        }
        Answer::Regex(regex) => {
            start.push("ANSWER");
            rules.push(format!("ANSWER: /{}/", escaped(&regex)));
        }
    }
    format!("start: {}\n{}\n", start.join(" | "), rules.join("\n"))
}

/// The rules of a call of `tool`: its name and its own arguments, nothing else.
///
/// The schema is a rule of its own, so that its references keep their root. Keys and separators are the words
/// that `%json` makes of them: an answer that is JSON too begins like a call, and they are told apart late.
fn call_rules(index: usize, tool: &ToolSpec, style: ToolCallStyle) -> String {
    let arguments = match style {
        ToolCallStyle::LlamaJson => "parameters",
        ToolCallStyle::ToolCallTags => "arguments",
    };
    let name = literal(&Value::from(tool.name.as_str()).to_string());
    let mut schema = compact(&tool.parameters);
    if let Value::Object(fields) = &mut schema
        && !fields.contains_key("$ref")
    {
        fields.entry("type").or_insert_with(|| "object".into());
    }
    format!(
        "call_{index}: \"{{\" \"\\\"name\\\"\" \": \" {name} \", \" \"\\\"{arguments}\\\"\" \": \" \
         arguments_{index} \"}}\"\narguments_{index}: %json {schema}"
    )
}

/// `text` as a string of Lark, which are written as JSON's.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// `regex` for between slashes: a slash that is not escaped yet is, and a line break is written as one.
fn escaped(regex: &str) -> String {
    let mut written = String::with_capacity(regex.len());
    let mut letters = regex.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => {
                written.push(letter);
                written.extend(letters.next());
            }
            '/' => written.push_str("\\/"),
            '\n' => written.push_str("\\n"),
            other => written.push(other),
        }
    }
    written
}

/// `schema` with one way to write each value, that of Python's `json.dumps`: `", "` and `": "` between parts
/// and no other whitespace. A small model that may write more whitespace writes nothing else.
fn compact(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(fields) = &mut schema {
        fields.insert(
            "x-guidance".into(),
            json!({"whitespace_flexible": false, "key_separator": ": ", "item_separator": ", "}),
        );
    }
    schema
}

impl Grammar {
    /// The tokens allowed next. Stop ids are in it exactly where the reply may end; no other special token ever.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] when the grammar is too complex to follow.
    pub fn mask(&mut self) -> Result<TokenMask, EngineError> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| broken(&error))?;
        Ok(TokenMask { words: mask.as_slice().to_vec() })
    }

    /// The ids that must come next, if there is only one way on; may be empty. Does not move.
    pub fn forced(&mut self) -> Vec<u32> {
        if self.matcher.is_stopped() { Vec::new() } else { self.matcher.compute_ff_tokens() }
    }

    /// How many of `tokens` may come next, one after the other. Does not move.
    pub fn allowed(&mut self, tokens: &[u32]) -> usize {
        // A grammar that cannot be followed any further says so when its mask is asked for.
        if self.matcher.is_stopped() { 0 } else { self.matcher.validate_tokens(tokens).unwrap_or(0) }
    }

    /// Moves past `id`, which [`Self::mask`] allowed.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] when the mask did not allow it.
    pub fn commit(&mut self, id: u32) -> Result<(), EngineError> {
        if self.matcher.is_stopped() {
            return Ok(());
        }
        self.matcher.consume_token(id).map_err(|error| broken(&error))
    }

    /// Whether nothing may follow but the end.
    pub fn is_finished(&self) -> bool {
        self.matcher.is_stopped()
    }
}

fn broken(error: &impl std::fmt::Display) -> EngineError {
    let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
    EngineError::Grammar { what: "this reply".into(), reason }
}

/// The vocabulary as llguidance sees it.
struct Environment {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.tokenizer.encode(text).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
