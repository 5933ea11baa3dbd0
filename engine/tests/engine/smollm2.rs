//! The whole engine on the real SmolLM2-135M-Instruct, named by `CHASKI_TEST_MODEL`.
//!
//! Nothing here asserts on the model's judgement, only on what the engine promises about any model.

use std::path::PathBuf;
use std::sync::OnceLock;

use chaski_engine::config::KvFormat;
use chaski_engine::model::GgufFile;
use chaski_engine::tokenizer::Tokenizer;
use chaski_engine::{
    Engine, EngineError, EngineOptions, FinishReason, Finished, GenerateRequest, Generation, Message,
    OutputFormat, Prompt, Sampling, TokenEvent, ToolChoice, ToolSpec,
};

pub const TEXT: &str = include_str!("../reference/text.txt");

/// The model file. Without it a test says so and passes, but never where `CI` is set.
pub fn model() -> Option<PathBuf> {
    let path = std::env::var_os("CHASKI_TEST_MODEL").filter(|path| !path.is_empty()).map(PathBuf::from);
    if path.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CHASKI_TEST_MODEL must name the file of smollm2-135m-instruct (Q4_1)"
        );
        println!("skipped: CHASKI_TEST_MODEL does not name the file of smollm2-135m-instruct (Q4_1)");
    }
    path
}

/// One engine for all tests: their requests share its steps.
fn engine() -> Option<&'static Engine> {
    static ENGINE: OnceLock<Option<Engine>> = OnceLock::new();
    let load = || Some(Engine::load(EngineOptions::new(model()?)).expect("the model loads"));
    ENGINE.get_or_init(load).as_ref()
}

fn ask(question: &str, max_tokens: usize) -> GenerateRequest {
    GenerateRequest::chat(vec![Message::user(question)], max_tokens)
}

/// What a generation gave.
#[derive(Debug)]
struct Answer {
    text: String,
    prompt_tokens: usize,
    cached_tokens: usize,
    finished: Finished,
}

async fn answer(engine: &Engine, request: GenerateRequest) -> Answer {
    collect(engine.generate(request).await.expect("the request is fine")).await
}

async fn collect(mut generation: Generation) -> Answer {
    let mut text = String::new();
    let mut started = None;
    while let Some(event) = generation.events.recv().await {
        match event {
            TokenEvent::Started { prompt_tokens, cached_tokens } => {
                started = Some((prompt_tokens, cached_tokens))
            }
            TokenEvent::Text(more) => text += &more,
            TokenEvent::ToolCall(call) => panic!("nobody asked for {call:?}"),
            TokenEvent::Failed(error) => panic!("{error}"),
            TokenEvent::Finished(finished) => {
                let (prompt_tokens, cached_tokens) = started.expect("`Started` comes first");
                return Answer { text, prompt_tokens, cached_tokens, finished };
            }
        }
    }
    panic!("the events ended without `Finished`")
}

/// Puts the prompt into the KV cache. A prompt computed in one piece and one continued from the cache add up
/// in another order, and the last digit can tip a close choice; from here on both runs do the same.
async fn warm(engine: &Engine, question: &str) {
    answer(engine, ask(question, 1)).await;
}

pub fn reference() -> (Vec<u32>, f64) {
    let record: serde_json::Value = serde_json::from_str(include_str!("../reference/smollm2.json")).unwrap();
    let tokens = record["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    (tokens, record["mean_nll"].as_f64().unwrap())
}

#[test]
fn token_ids_equal_the_reference() {
    let Some(path) = model() else { return };
    let file = GgufFile::open(&path).unwrap();
    let tokenizer = Tokenizer::from_gguf(file.metadata(), &path).unwrap();
    assert_eq!(tokenizer.encode(TEXT).unwrap(), reference().0);
}

#[tokio::test]
async fn mean_nll_is_within_half_a_percent_of_the_reference() {
    let Some(engine) = engine() else { return };
    let (tokens, expected) = reference();
    let found = engine.mean_nll(TEXT, tokens.len()).await.unwrap();
    println!("mean NLL {found:.5}, reference {expected:.5}");
    assert!((found / expected - 1.0).abs() < 0.005, "mean NLL is {found}, the reference says {expected}");
}

#[tokio::test]
async fn keys_and_values_in_eight_bits_cost_less_than_half_a_percent() {
    let Some(path) = model() else { return };
    let Some(exact) = engine() else { return };
    let options = EngineOptions { kv_format: KvFormat::Q8, ..EngineOptions::new(path) };
    let rounded = Engine::load(options).unwrap();
    let length = reference().0.len();
    let (expected, found) =
        (exact.mean_nll(TEXT, length).await.unwrap(), rounded.mean_nll(TEXT, length).await.unwrap());
    println!("mean NLL {found:.5} with q8, {expected:.5} with f16");
    assert!(found != expected && (found / expected - 1.0).abs() < 0.005, "{found}, with f16 {expected}");
}

#[tokio::test]
async fn a_repeated_prompt_computes_only_its_last_block() {
    let Some(engine) = engine() else { return };
    let request = ask(&format!("Summarize this text in one sentence.\n\n{TEXT}"), 8);
    answer(engine, request.clone()).await;
    let again = answer(engine, request).await;
    assert!(again.cached_tokens >= again.prompt_tokens - 16 && again.cached_tokens < again.prompt_tokens);
    assert_eq!(again.finished.usage.cached_tokens, again.cached_tokens);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_text() {
    let Some(engine) = engine() else { return };
    warm(engine, "Write about a river.").await;
    let write = async |seed| {
        let sampling = Sampling { temperature: 1.2, top_p: 0.95, seed, ..Sampling::default() };
        answer(engine, GenerateRequest { sampling, ..ask("Write about a river.", 40) }).await.text
    };
    assert_eq!(write(7).await, write(7).await);
    assert_ne!(write(7).await, write(8).await);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_text_alone_together_and_with_drafts() {
    let Some(path) = model() else { return };
    let requests: Vec<_> = (1..=8)
        .map(|seed| {
            let sampling = Sampling { temperature: 0.8, top_p: 0.95, seed, ..Sampling::default() };
            let words = "long ".repeat(20 * seed as usize);
            GenerateRequest { sampling, ..ask(&format!("Tell me a {words}story about a river."), 60) }
        })
        .collect();
    let load = |speculate| {
        Engine::load(EngineOptions { speculate, ..EngineOptions::new(&path) }).expect("the model loads")
    };
    let alone = load(false);
    let together = load(true);
    let mut generations = Vec::new();
    for request in &requests {
        generations.push(together.generate(request.clone()).await.expect("the request is fine"));
    }
    for (request, generation) in requests.into_iter().zip(generations) {
        assert_eq!(collect(generation).await.text, answer(&alone, request).await.text);
    }
}

#[tokio::test]
async fn the_token_limit_ends_an_answer() {
    let Some(engine) = engine() else { return };
    let output = OutputFormat::Regex("[a-z]{400}".into());
    let answer = answer(engine, GenerateRequest { output, ..ask("Write letters.", 12) }).await;
    assert_eq!(answer.finished.reason, FinishReason::Length);
    assert_eq!(answer.finished.usage.completion_tokens, 12);
}

#[tokio::test]
async fn a_stop_string_ends_an_answer_and_is_not_part_of_it() {
    let Some(engine) = engine() else { return };
    warm(engine, "Name three colours.").await;
    let whole = answer(engine, ask("Name three colours.", 40)).await.text;
    let third: String = whole.chars().skip(whole.chars().count() / 3).take(5).collect();
    let request = GenerateRequest { stop: vec![third.clone()], ..ask("Name three colours.", 40) };
    let cut = answer(engine, request).await;
    assert_eq!(cut.finished.reason, FinishReason::Stop);
    assert_eq!(cut.text, whole[..whole.find(&third).unwrap()], "stopped before `{third}`");
}

#[tokio::test]
async fn no_special_token_is_ever_text() {
    let Some(engine) = engine() else { return };
    for seed in 0..10 {
        let sampling = Sampling { temperature: 2.0, seed, ..Sampling::default() };
        let text = answer(engine, GenerateRequest { sampling, ..ask("Say something odd.", 60) }).await.text;
        assert!(!text.contains("<|im_") && !text.contains("<|endoftext|>"), "{text}");
    }
}

#[tokio::test]
async fn a_json_schema_binds_every_answer() {
    let Some(engine) = engine() else { return };
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "severity": { "enum": ["low", "high"] },
            "line": { "type": "integer", "minimum": 1, "maximum": 99 },
            "open": { "type": "boolean" }
        },
        "required": ["severity", "line", "open"],
        "additionalProperties": false
    });
    for seed in 0..20 {
        let request = GenerateRequest {
            output: OutputFormat::JsonSchema(schema.clone()),
            sampling: Sampling { temperature: 1.5, seed, ..Sampling::default() },
            ..ask("Describe a bug.", 60)
        };
        let answer = answer(engine, request).await;
        let value: serde_json::Value = serde_json::from_str(&answer.text).expect(&answer.text);
        assert!(["low", "high"].contains(&value["severity"].as_str().unwrap()), "{value}");
        assert!((1..=99).contains(&value["line"].as_i64().unwrap()) && value["open"].is_boolean(), "{value}");
        assert_eq!(answer.finished.reason, FinishReason::Stop);
    }
}

#[tokio::test]
async fn a_late_tool_can_be_called_and_leaves_the_prompt_as_it_was() {
    let Some(engine) = engine() else { return };
    let tool = |name: &str| ToolSpec {
        name: name.into(),
        description: "Looks something up.".into(),
        parameters: serde_json::json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
    };
    let first = GenerateRequest { tools: vec![tool("docs.find")], ..ask("Find the number 7.", 60) };
    let late = GenerateRequest {
        late_tools: vec![tool("docs.open")],
        tool_choice: ToolChoice::Named("docs.open".into()),
        ..first.clone()
    };
    assert_eq!(engine.count_tokens(&first).expect("counts"), engine.count_tokens(&late).expect("counts"));
    let mut generation = engine.generate(late).await.expect("the request is fine");
    let mut called = Vec::new();
    while let Some(event) = generation.events.recv().await {
        if let TokenEvent::ToolCall(call) = event {
            called.push(call.name);
        }
    }
    assert_eq!(called.first().map(String::as_str), Some("docs.open"), "{called:?}");
    let twice = GenerateRequest { late_tools: vec![tool("docs.find")], ..first };
    assert!(matches!(engine.generate(twice).await, Err(EngineError::InvalidRequest(_))));
}

#[tokio::test]
async fn a_request_that_cannot_work_is_refused_at_once() {
    let Some(engine) = engine() else { return };
    let context = engine.info().context;
    let long = GenerateRequest { prompt: Prompt::Tokens(vec![1; context]), ..ask("", 1) };
    assert!(matches!(engine.generate(long).await, Err(EngineError::ContextTooLong { .. })));
    let refused = [
        GenerateRequest { prompt: Prompt::Tokens(Vec::new()), ..ask("", 1) },
        GenerateRequest { stop: vec![String::new()], ..ask("Hello", 1) },
        GenerateRequest { sampling: Sampling { top_p: 0.0, ..Sampling::default() }, ..ask("Hello", 1) },
        GenerateRequest {
            sampling: Sampling { temperature: f32::NAN, ..Sampling::default() },
            ..ask("Hello", 1)
        },
        ask("Hello", 0),
    ];
    for request in refused {
        let error = engine.generate(request.clone()).await.err();
        assert!(matches!(error, Some(EngineError::InvalidRequest(_))), "{request:?}: {error:?}");
    }
}

/// Waits for the first event.
async fn started(generation: &mut Generation) {
    assert!(matches!(generation.events.recv().await, Some(TokenEvent::Started { .. })));
}

#[tokio::test]
async fn a_dropped_generation_makes_way_and_a_full_queue_says_so() {
    let Some(path) = model() else { return };
    let engine =
        Engine::load(EngineOptions { queue: 1, max_sequences: 1, ..EngineOptions::new(path) }).unwrap();
    // Endless by itself: the grammar lets it end only after 4,000 letters.
    let endless = || GenerateRequest {
        output: OutputFormat::Regex("[a-z]{4000}".into()),
        ..ask("Write letters.", 4000)
    };
    let mut first = engine.generate(endless()).await.unwrap();
    started(&mut first).await;
    let second = engine.generate(ask("Hello", 3)).await.unwrap();
    assert!(matches!(engine.generate(ask("Hello", 3)).await, Err(EngineError::Overloaded { .. })));
    drop(first);
    let answer = collect(second).await;
    // 4,000 tokens take half a minute; a step takes milliseconds.
    assert!(answer.finished.timings.queued.as_secs() < 10, "{:?}", answer.finished.timings);
}

#[tokio::test]
async fn a_refused_request_does_not_hurt_the_next() {
    let Some(engine) = engine() else { return };
    let unknown = GenerateRequest { prompt: Prompt::Tokens(vec![1, u32::MAX]), ..ask("", 4) };
    assert!(matches!(engine.generate(unknown).await, Err(EngineError::InvalidRequest(_))));
    assert!(answer(engine, ask("Hello", 4)).await.finished.usage.completion_tokens > 0);
}

#[test]
fn inspecting_tells_what_the_file_holds() {
    let Some(path) = model() else { return };
    let summary = chaski_engine::inspect::inspect(&path).unwrap();
    assert_eq!((summary.format, summary.parameters, summary.faults.as_deref()), ("GGUF", 134_515_008, None));
    assert_eq!((summary.context, summary.vocabulary, summary.head_dim), (8192, 49_152, 64));
    assert_eq!(summary.tensors.get("Q4_1"), Some(&210));
    assert!(summary.chat_template && summary.tied_head);
    assert!(summary.stop_ids.unwrap().contains(&2));
    assert!(
        summary.loaded_bytes > summary.weight_bytes / 2 && summary.loaded_bytes < 2 * summary.weight_bytes
    );
}
