//! Many requests at once, on a tiny random model: each gets what it would get alone.

use chaski_engine::config::KvStoreOptions;
use chaski_engine::{
    Engine, EngineError, EngineOptions, FinishReason, Finished, GenerateRequest, Generation, OutputFormat,
    Priority, Prompt, Sampling, SessionId, TokenEvent,
};
use tempfile::TempDir;

use crate::tiny::{Shape, TinyModel, VOCABULARY};

/// An engine with a context of 1,024 tokens, and the folder of its model.
fn engine(change: impl FnOnce(&mut EngineOptions)) -> (TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let mut model = TinyModel::new(&Shape {
        hidden: 64,
        feed_forward: 128,
        vocabulary: VOCABULARY,
        context: 1024,
        ..Shape::default()
    });
    model.set_vocabulary();
    model.write(&path);
    let mut options = EngineOptions::new(path);
    change(&mut options);
    let engine = Engine::load(options).expect("the model loads");
    (folder, engine)
}

/// A prompt of its own for each `seed`, `length` tokens long.
fn prompt(seed: u32, length: usize) -> Prompt {
    let length = length as u32;
    Prompt::Tokens(
        (0..length).map(|index| (index * index * 7 + index * seed * 13 + seed * 101) % 256).collect(),
    )
}

/// Random tokens, the same for the same seed.
fn request(seed: u32, length: usize, max_tokens: usize) -> GenerateRequest {
    let sampling = Sampling { temperature: 1.0, seed: u64::from(seed), ..Sampling::default() };
    GenerateRequest {
        prompt: prompt(seed, length),
        sampling,
        ..GenerateRequest::chat(Vec::new(), max_tokens)
    }
}

/// A reply of so many letters, a token for each: the vocabulary has no pair of them.
fn letters(prompt: Vec<u32>, count: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt::Tokens(prompt),
        output: OutputFormat::Regex(format!("[c-z]{{{count}}}")),
        ..GenerateRequest::chat(Vec::new(), 1000)
    }
}

async fn start(engine: &Engine, request: GenerateRequest) -> Generation {
    engine.generate(request).await.expect("the request is fine")
}

/// Text and end of a generation.
async fn collect(mut generation: Generation) -> (String, Finished) {
    let mut text = String::new();
    while let Some(event) = generation.events.recv().await {
        match event {
            TokenEvent::Started { .. } => assert_eq!(text, "", "`Started` comes first"),
            TokenEvent::Text(more) => text += &more,
            TokenEvent::ToolCall(call) => panic!("nobody asked for {call:?}"),
            TokenEvent::Failed(error) => panic!("{error}"),
            TokenEvent::Finished(finished) => return (text, finished),
        }
    }
    panic!("the events ended without `Finished`")
}

async fn answer(engine: &Engine, request: GenerateRequest) -> (String, Finished) {
    collect(start(engine, request).await).await
}

/// Runs the requests one after the other, each on an empty cache, and then all at once. Texts must be equal.
async fn check(change: impl Fn(&mut EngineOptions), requests: &[GenerateRequest]) {
    let mut alone = Vec::new();
    for request in requests {
        let (_folder, engine) = engine(|options| *options = EngineOptions::new(options.model.clone()));
        alone.push(answer(&engine, request.clone()).await);
    }
    let (_folder, engine) = engine(change);
    let mut together = Vec::new();
    for request in requests {
        together.push(start(&engine, request.clone()).await);
    }
    for (generation, (text, finished)) in together.into_iter().zip(alone) {
        let (found, found_finished) = collect(generation).await;
        assert_eq!(found, text);
        assert_eq!(found_finished.reason, finished.reason);
        assert_eq!(found_finished.usage.completion_tokens, finished.usage.completion_tokens);
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_tokens_alone_and_together() {
    let requests: Vec<_> = (1..=8).map(|seed| request(seed, 20 + 17 * seed as usize, 60)).collect();
    check(|_| {}, &requests).await;
}

/// Runs a request with drafts and without. Text must be equal; returns how many drafts came true.
async fn check_drafts(request: GenerateRequest) -> usize {
    let (_folder, plain) = engine(|options| options.speculate = false);
    let (_folder, guessing) = engine(|_| {});
    let (expected, finished) = answer(&plain, request.clone()).await;
    assert_eq!(finished.speculation.drafted_tokens, 0);
    let (found, found_finished) = answer(&guessing, request).await;
    assert_eq!(found, expected);
    assert_eq!(found_finished.usage, finished.usage);
    assert_eq!(found_finished.reason, finished.reason);
    found_finished.speculation.accepted_tokens
}

#[tokio::test]
async fn drafts_change_no_greedy_reply() {
    let greedy = GenerateRequest { prompt: prompt(3, 50), ..GenerateRequest::chat(Vec::new(), 300) };
    let accepted = check_drafts(greedy).await;
    assert!(accepted > 10, "{accepted}");
}

#[tokio::test]
async fn drafts_change_no_sampled_reply() {
    let mut accepted = 0;
    for seed in 1..6 {
        let mut sampled = request(seed, 50, 300);
        sampled.sampling.temperature = 0.1;
        accepted += check_drafts(sampled).await;
    }
    assert!(accepted > 0);
}

#[tokio::test]
async fn drafts_change_no_reply_under_a_grammar() {
    let mut accepted = 0;
    for seed in 1..6 {
        let mut sampled = letters(vec![seed; 30], 5);
        sampled.output = OutputFormat::Regex(r#"\[("(fix|test) [0-9]{2,4} [c-z]{1,3}", ){12}0\]"#.into());
        sampled.sampling = Sampling { temperature: 0.7, seed: seed.into(), ..Sampling::default() };
        accepted += check_drafts(sampled).await;
    }
    assert!(accepted > 0);
}

#[tokio::test]
async fn small_steps_change_nothing() {
    let requests: Vec<_> = (1..=6).map(|seed| request(seed, 150, 30)).collect();
    check(|options| options.step_tokens = 20, &requests).await;
}

#[tokio::test]
async fn preempted_requests_lose_nothing() {
    let requests: Vec<_> = (1..=8)
        .map(|seed| GenerateRequest {
            priority: if seed % 3 == 0 { Priority::Batch } else { Priority::Interactive },
            ..request(seed, 30, 120)
        })
        .collect();
    // 8 × 150 tokens want 80 blocks; there are 16.
    let little = |options: &mut EngineOptions| {
        (options.context, options.kv_tokens) = (Some(256), Some(256));
    };
    check(little, &requests).await;
}

#[tokio::test]
async fn sixty_four_requests_progress_together() {
    let (_folder, engine) = engine(|_| {});
    let mut generations = Vec::new();
    for seed in 0..64 {
        generations.push(start(&engine, letters(vec![seed; 20], 400)).await);
    }
    // None can end before it is read: its events are more than a channel holds.
    for generation in &mut generations {
        assert!(matches!(generation.events.recv().await, Some(TokenEvent::Started { .. })));
    }
    for generation in generations {
        assert_eq!(collect(generation).await.0.len(), 400);
    }
}

#[tokio::test]
async fn a_slow_reader_holds_up_nobody_and_misses_nothing() {
    let (_folder, engine) = engine(|options| options.max_sequences = 2);
    let slow = start(&engine, letters(vec![1; 10], 600)).await;
    for seed in 0..4 {
        answer(&engine, request(seed, 20, 300)).await;
    }
    let (text, finished) = collect(slow).await;
    assert_eq!((text.len(), finished.reason), (600, FinishReason::Stop));
    assert_eq!(text, answer(&engine, letters(vec![1; 10], 600)).await.0);
}

#[tokio::test]
async fn an_unread_generation_does_not_keep_a_slot() {
    let (_folder, engine) = engine(|options| options.max_sequences = 1);
    let unread = start(&engine, request(1, 10, 1000)).await;
    for seed in 2..5 {
        answer(&engine, request(seed, 20, 10)).await;
    }
    assert_eq!(collect(unread).await.0, answer(&engine, request(1, 10, 1000)).await.0);
}

#[tokio::test]
async fn a_dropped_generation_makes_way() {
    let (_folder, engine) = engine(|options| options.max_sequences = 1);
    drop(start(&engine, letters(vec![1; 10], 900)).await);
    answer(&engine, request(2, 20, 10)).await;
}

#[tokio::test]
async fn interactive_requests_do_not_wait_for_batch_ones() {
    let (_folder, engine) = engine(|options| options.max_sequences = 1);
    let batch = GenerateRequest { priority: Priority::Batch, ..request(1, 10, 900) };
    let mut batch = start(&engine, batch).await;
    assert!(matches!(batch.events.recv().await, Some(TokenEvent::Started { .. })));
    answer(&engine, request(2, 20, 10)).await;
    // The batch request is not done: it gave up its place and goes on now.
    let mut events = 0;
    while batch.events.try_recv().is_ok() {
        events += 1;
    }
    assert!(events < 900);
    assert!(batch.events.recv().await.is_some());
}

/// Two turns of a session, the second one continuing the first: how many of its tokens were found, of how many.
async fn second_turn(engine: &Engine, session: Option<SessionId>) -> (usize, usize) {
    let with = |request| GenerateRequest { session: session.clone(), ..request };
    let first: Vec<u32> = vec![5; 20];
    let (text, _) = answer(engine, with(letters(first.clone(), 43))).await;
    let said: Vec<u32> = text.bytes().map(u32::from).collect();
    let next = [first, said, vec![6; 5]].concat();
    let length = next.len();
    let (_, finished) = answer(engine, with(letters(next, 1))).await;
    (finished.usage.cached_tokens, length)
}

#[tokio::test]
async fn a_session_computes_its_new_tokens_only() {
    let (_folder, engine) = engine(|_| {});
    let (cached, length) = second_turn(&engine, Some(SessionId::new("agent"))).await;
    // Five new ones, and the last one of the answer, after which nothing was asked.
    assert_eq!((cached, length), (62, 68));
}

#[tokio::test]
async fn without_a_session_whole_blocks_are_found() {
    let (_folder, engine) = engine(|_| {});
    let (cached, length) = second_turn(&engine, None).await;
    assert_eq!((cached, length), (48, 68));
}

#[tokio::test]
async fn an_ended_session_keeps_whole_blocks_at_most() {
    let (_folder, engine) = engine(|_| {});
    let session = SessionId::new("agent");
    let first = vec![5; 25];
    answer(&engine, GenerateRequest { session: Some(session.clone()), ..letters(first.clone(), 1) }).await;
    engine.end_session(session.clone()).await.unwrap();
    let again = GenerateRequest { session: Some(session), ..letters([first, vec![6]].concat(), 1) };
    assert_eq!(answer(&engine, again).await.1.usage.cached_tokens, 16);
}

#[tokio::test]
async fn sessions_never_block_the_cache() {
    let (_folder, engine) = engine(|options| (options.context, options.kv_tokens) = (Some(256), Some(256)));
    for seed in 0..20 {
        let session = Some(SessionId::new(seed.to_string()));
        let request = GenerateRequest { session, ..request(seed, 100, 20) };
        answer(&engine, request).await;
    }
}

#[tokio::test]
async fn a_likelihood_is_the_same_beside_other_requests() {
    let (_folder, engine) = engine(|options| options.step_tokens = 50);
    let text = "the quick brown fox jumps over the lazy dog".repeat(5);
    let alone = engine.mean_nll(&text, 200).await.unwrap();
    let others: Vec<_> =
        [start(&engine, request(1, 60, 100)).await, start(&engine, request(2, 60, 100)).await].into();
    let together = engine.mean_nll(&text, 200).await.unwrap();
    assert!((alone - together).abs() < 1e-4, "{alone} {together}");
    for other in others {
        collect(other).await;
    }
}

#[tokio::test]
async fn a_token_outside_the_vocabulary_is_refused() {
    let (_folder, engine) = engine(|_| {});
    let request = letters(vec![1, VOCABULARY as u32], 1);
    assert!(matches!(engine.generate(request).await, Err(EngineError::InvalidRequest(_))));
}

#[test]
fn a_cache_smaller_than_the_context_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let mut model = TinyModel::new(&Shape { vocabulary: VOCABULARY, ..Shape::default() });
    model.set_vocabulary();
    model.write(&path);
    let options = EngineOptions { kv_tokens: Some(100), ..EngineOptions::new(path) };
    let error = Engine::load(options).err().expect("it does not fit").to_string();
    assert!(error.contains("a context of 6000 tokens does not fit into a KV cache of 100"), "{error}");
}

#[tokio::test]
async fn a_full_queue_says_so() {
    let (_folder, engine) = engine(|options| (options.queue, options.max_sequences) = (1, 1));
    let mut first = start(&engine, request(1, 10, 900)).await;
    assert!(matches!(first.events.recv().await, Some(TokenEvent::Started { .. })));
    let second = start(&engine, request(2, 10, 5)).await;
    let third = engine.generate(request(3, 10, 5)).await;
    assert!(matches!(third, Err(EngineError::Overloaded { waiting: 1 })));
    drop(first);
    collect(second).await;
}

/// An engine that keeps its blocks in `kv`, with the model of `folder`.
fn engine_with_store(folder: &TempDir, kv: &std::path::Path) -> Engine {
    let mut options = EngineOptions::new(folder.path().join("tiny.gguf"));
    options.kv_store = Some(KvStoreOptions { folder: kv.to_owned(), most_bytes: 64 << 20 });
    Engine::load(options).expect("the model loads")
}

#[tokio::test]
async fn a_prompt_is_known_after_a_restart() {
    let (folder, first) = engine(|_| {});
    drop(first);
    let kv = folder.path().join("kv");
    let (expected, before) = answer(&engine_with_store(&folder, &kv), request(3, 200, 20)).await;
    assert_eq!(before.usage.cached_tokens, 0);
    let (found, after) = answer(&engine_with_store(&folder, &kv), request(3, 200, 20)).await;
    assert_eq!((found, after.usage.cached_tokens), (expected, 192));
}

#[tokio::test]
async fn damaged_blocks_are_computed_again() {
    let (folder, first) = engine(|_| {});
    drop(first);
    let kv = folder.path().join("kv");
    let (expected, _) = answer(&engine_with_store(&folder, &kv), request(4, 100, 20)).await;
    for entry in std::fs::read_dir(&kv).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(&path, bytes).unwrap();
    }
    let (found, after) = answer(&engine_with_store(&folder, &kv), request(4, 100, 20)).await;
    assert_eq!((found, after.usage.cached_tokens), (expected, 0));
}

#[tokio::test]
async fn another_model_never_uses_stored_blocks() {
    let (folder, first) = engine(|_| {});
    drop(first);
    let kv = folder.path().join("kv");
    answer(&engine_with_store(&folder, &kv), request(5, 100, 5)).await;
    // The same bytes, written again, are another file.
    let path = folder.path().join("tiny.gguf");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let (_, after) = answer(&engine_with_store(&folder, &kv), request(5, 100, 5)).await;
    assert_eq!(after.usage.cached_tokens, 0);
}
