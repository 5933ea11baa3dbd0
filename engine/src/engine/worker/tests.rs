#[allow(dead_code)]
#[path = "../../../tests/engine/tiny.rs"]
mod tiny;

use candle_core::Device;

use super::*;
use crate::chat::template::ToolCallStyle;
use crate::config::KvFormat;
use crate::model::Checkpoint;
use crate::request::FinishReason;
use tiny::{Shape, TinyModel, VOCABULARY};

fn worker() -> Worker {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let mut model = TinyModel::new(&Shape {
        hidden: 32,
        feed_forward: 64,
        heads: 2,
        kv_heads: 1,
        vocabulary: VOCABULARY,
        ..Shape::default()
    });
    model.set_vocabulary();
    model.write(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let tokenizer = Arc::new(checkpoint.tokenizer().unwrap());
    let config = checkpoint.config().unwrap();
    let model = Model::load(&checkpoint, config, 256, Vec::new(), &Device::Cpu, None).unwrap();
    let options = SchedulerOptions { num_blocks: 32, step_tokens: 64, max_sequences: 2 };
    let kv_cache = model.new_kv_cache(options.num_blocks, KvFormat::F16).unwrap();
    Worker::new(model, kv_cache, tokenizer, vec![CacheKey::default()], None, options, true).unwrap()
}

/// Asks for a greedy reply of at most five tokens.
fn ask(worker: &mut Worker, prompt: Vec<u32>) -> mpsc::Receiver<TokenEvent> {
    let (events, receiver) = mpsc::channel(100);
    worker.take(Command::Generate(Box::new(Job {
        prompt,
        adapter: None,
        grammar: None,
        parser: ToolCallParser::bound(&[], 1, ToolCallStyle::LlamaJson, true),
        sampling: Sampling::default(),
        max_tokens: 5,
        stop: Vec::new(),
        priority: Priority::Interactive,
        session: None,
        place: None,
        events,
        arrived: Instant::now(),
    })));
    receiver
}

/// Steps until there is nothing to do.
fn run(worker: &mut Worker) {
    while worker.step() {}
}

/// How a generation ended.
fn end(mut events: mpsc::Receiver<TokenEvent>) -> Result<FinishReason, EngineError> {
    while let Ok(event) = events.try_recv() {
        match event {
            TokenEvent::Finished(finished) => return Ok(finished.reason),
            TokenEvent::Failed(error) => return Err(error),
            _ => {}
        }
    }
    panic!("it has not ended")
}

#[test]
fn a_failed_step_ends_its_requests_and_no_others() {
    let mut worker = worker();
    let first = ask(&mut worker, vec![1; 20]);
    let second = ask(&mut worker, vec![2; 20]);
    let waits = ask(&mut worker, vec![3; 20]);
    // The model checks that a batch fits the cache.
    let good = std::mem::replace(&mut worker.kv_cache, worker.model.new_kv_cache(1, KvFormat::F16).unwrap());
    assert!(worker.step());
    worker.kv_cache = good;
    run(&mut worker);
    assert!(matches!(end(first), Err(EngineError::Compute(_))));
    assert!(matches!(end(second), Err(EngineError::Compute(_))));
    assert!(end(waits).is_ok());
    assert!(worker.tasks.is_empty());
}

#[test]
fn a_request_that_cannot_be_sampled_ends_alone() {
    let mut worker = worker();
    let bad = ask(&mut worker, vec![1; 20]);
    let good = ask(&mut worker, vec![2; 20]);
    let batch = worker.scheduler.schedule();
    worker.scheduler.commit(&batch);
    let rows = [vec![f32::NAN; VOCABULARY], vec![0.0; VOCABULARY]].concat();
    worker.advance(&batch, &Logits::new(VOCABULARY, rows));
    run(&mut worker);
    assert!(matches!(end(bad), Err(EngineError::Compute(_))));
    assert!(end(good).is_ok());
}

#[test]
fn a_panic_in_one_request_ends_it_alone() {
    let mut worker = worker();
    let bad = ask(&mut worker, vec![1; 20]);
    let good = ask(&mut worker, vec![2; 20]);
    let mut batch = worker.scheduler.schedule();
    worker.scheduler.commit(&batch);
    // There is no such row of logits.
    batch.sequences.reverse();
    worker.advance(&batch, &Logits::new(VOCABULARY, vec![0.0; VOCABULARY]));
    run(&mut worker);
    assert!(matches!(end(bad), Err(EngineError::Compute(_))));
    assert!(end(good).is_ok());
}

#[test]
fn starting_over_tells_everyone_and_goes_on() {
    let mut worker = worker();
    let told = [ask(&mut worker, vec![1; 20]), ask(&mut worker, vec![2; 20]), ask(&mut worker, vec![3; 20])];
    assert!(worker.step());
    worker.start_over();
    let next = ask(&mut worker, vec![1; 20]);
    run(&mut worker);
    assert!(told.into_iter().all(|events| matches!(end(events), Err(EngineError::Compute(_)))));
    assert!(end(next).is_ok());
}

#[test]
fn a_reader_that_goes_away_ends_its_request_before_the_next_step() {
    let mut worker = worker();
    let gone = ask(&mut worker, vec![1; 20]);
    let stays = ask(&mut worker, vec![2; 20]);
    assert!(worker.step());
    drop(gone);
    worker.deliver();
    assert_eq!(worker.tasks.len(), 1);
    run(&mut worker);
    assert!(end(stays).is_ok());
}

#[test]
fn a_request_beyond_the_cache_is_told() {
    let mut worker = worker();
    let refused = ask(&mut worker, vec![1; 600]);
    assert!(matches!(end(refused), Err(EngineError::OutOfBlocks { needed: 38, num_blocks: 32 })));
}
