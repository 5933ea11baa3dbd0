use super::*;

/// A vocabulary of single bytes and one stop token.
fn compiler() -> (GrammarCompiler, Arc<Tokenizer>) {
    // GPT-2's alphabet: a letter for each byte, its own where that can be seen.
    let seen = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let unseen: Vec<u32> = (0..256).filter(|byte| !seen(*byte)).collect();
    let vocabulary: serde_json::Map<String, Value> = (0..256u32)
        .map(|byte| {
            let place = unseen.iter().position(|unseen| *unseen == byte);
            let letter = place.map_or(byte, |place| 256 + place as u32);
            (char::from_u32(letter).expect("a letter").to_string(), byte.into())
        })
        .collect();
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let file = json!({
        "version": "1.0",
        "added_tokens": [{"id": 256, "content": "<|eot_id|>", "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    let path = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(path.path(), file.to_string()).expect("writes");
    let tokenizer = Arc::new(Tokenizer::from_file(path.path()).expect("a vocabulary"));
    (GrammarCompiler::new(tokenizer.clone()).expect("a compiler"), tokenizer)
}

fn tool(name: &str, parameters: Value) -> ToolSpec {
    ToolSpec { name: name.into(), description: String::new(), parameters }
}

fn read() -> ToolSpec {
    tool("read", json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}))
}

struct Case {
    tools: Vec<ToolSpec>,
    choice: ToolChoice,
    output: OutputFormat,
    style: ToolCallStyle,
}

impl Case {
    fn auto(style: ToolCallStyle) -> Self {
        Self { tools: vec![read()], choice: ToolChoice::Auto, output: OutputFormat::Text, style }
    }

    fn compile(&self) -> Result<Option<Grammar>, EngineError> {
        compiler().0.compile(&self.tools, &self.choice, &self.output, self.style)
    }

    /// Whether `text` is a whole reply, as the masks tell it byte by byte.
    fn takes(&self, text: &str) -> bool {
        let mut grammar = self.compile().expect("compiles").expect("a grammar");
        for byte in text.bytes() {
            if grammar.is_finished() || !grammar.mask().expect("a mask").allows(byte.into()) {
                return false;
            }
            grammar.commit(byte.into()).expect("allowed");
        }
        grammar.is_finished() || grammar.mask().expect("a mask").allows(256)
    }

    #[track_caller]
    fn check(&self, taken: &[&str], refused: &[&str]) {
        for text in taken {
            assert!(self.takes(text), "{text} is refused");
        }
        for text in refused {
            assert!(!self.takes(text), "{text} is taken");
        }
    }
}

#[test]
fn a_llama_call_is_the_whole_message() {
    Case::auto(ToolCallStyle::LlamaJson).check(
        &[r#"{"name": "read", "parameters": {"path": "a/b"}}"#, "Hello {you}, see [1] and <b>."],
        &[
            r#"{"name": "write", "parameters": {"path": "a"}}"#,
            r#"{"name": "read", "parameters": {}}"#,
            r#"{"name": "read", "parameters": {"path": "a"}} then"#,
            r#"{"answer": 1}"#,
        ],
    );
}

#[test]
fn tagged_calls_may_follow_words_and_each_other() {
    let call = "<tool_call>\n{\"name\": \"read\", \"arguments\": {\"path\": \"a\"}}\n</tool_call>";
    Case::auto(ToolCallStyle::ToolCallTags).check(
        &[
            call,
            &format!("{call}\n{call}"),
            &format!("I will read a < b.\n{call}"),
            &format!("I will read.\n{call}\n{call}"),
            "{\"name\": \"read\"} is how it looks, with <tool> and a <tool_cal",
        ],
        &["I will. <tool_call>\n{\"name\": \"read\"}", "Read.<tool_call>", &format!("{call} and words")],
    );
}

#[test]
fn a_call_and_an_answer_that_both_are_json_are_told_apart_late() {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
                        "required": ["name", "n"], "additionalProperties": false});
    let output = OutputFormat::JsonSchema(schema);
    Case { output, ..Case::auto(ToolCallStyle::LlamaJson) }.check(
        &[
            r#"{"name": "read", "parameters": {"path": "a"}}"#,
            r#"{"name": "read", "n": 1}"#,
            r#"{"name": "reader", "n": 1}"#,
        ],
        &[r#"{"name": "reader", "parameters": {"path": "a"}}"#, "words"],
    );
}

#[test]
fn references_inside_a_tools_schema_keep_their_root() {
    let schema = json!({
        "type": "object", "properties": {"at": {"$ref": "#/$defs/place"}}, "required": ["at"],
        "additionalProperties": false,
        "$defs": {"place": {"type": "object", "properties": {"line": {"type": "integer"}}, "required": ["line"],
                            "additionalProperties": false}},
    });
    Case { tools: vec![tool("go", schema)], ..Case::auto(ToolCallStyle::LlamaJson) }.check(
        &[r#"{"name": "go", "parameters": {"at": {"line": 3}}}"#],
        &[r#"{"name": "go", "parameters": {"at": {"line": "3"}}}"#],
    );
}

#[test]
fn arguments_are_an_object_whatever_the_schema_leaves_open() {
    Case { tools: vec![tool("any \"one\"", json!({}))], ..Case::auto(ToolCallStyle::LlamaJson) }.check(
        &[r#"{"name": "any \"one\"", "parameters": {"a": [1, null]}}"#],
        &[r#"{"name": "any \"one\"", "parameters": [1]}"#],
    );
}

#[test]
fn a_required_call_leaves_no_room_for_words() {
    let case = Case { choice: ToolChoice::Required, ..Case::auto(ToolCallStyle::LlamaJson) };
    case.check(&[r#"{"name": "read", "parameters": {"path": ""}}"#], &["no", ""]);
}

#[test]
fn a_regular_expression_may_hold_slashes_escaped_or_not() {
    for regex in ["a/b\\d+", "a\\/b\\d+"] {
        let output = OutputFormat::Regex(regex.into());
        let case = Case { tools: Vec::new(), output, ..Case::auto(ToolCallStyle::LlamaJson) };
        case.check(&["a/b12"], &["a/b", "a\\/b1"]);
    }
}

#[test]
fn a_schema_that_cannot_be_guaranteed_names_its_tool() {
    let odd = tool("odd", json!({"type": "object", "properties": {"a": {"type": "strange"}}}));
    let case = Case { tools: vec![read(), odd], ..Case::auto(ToolCallStyle::LlamaJson) };
    let error = case.compile().err().expect("refused").to_string();
    assert!(error.contains("`odd`") && !error.contains("`read`"), "{error}");
}

#[test]
fn a_tool_is_checked_without_a_model() {
    check_tool(&read()).expect("any grammar holds to it");
    let unique = json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
    let error = check_tool(&tool("pick", unique)).expect_err("no grammar counts values").to_string();
    assert!(error.contains("the tool `pick`") && error.contains("uniqueItems"), "{error}");
}
