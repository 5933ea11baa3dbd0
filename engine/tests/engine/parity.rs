//! The forward pass against candle-transformers' own quantised Llama, on tiny models of every weight format.
//!
//! Both sides read the same file. The oracle attends without our cache, blocks or chunks. Where weights are
//! quantised both round the activations to 8 bits, each in its own way. So f32 files must agree closely, and
//! the others as far as 8 bits allow.

use std::fs::File;

use crate::tiny::{Shape, TinyModel};
use candle_core::quantized::{GgmlDType, gguf_file};
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use chaski_engine::config::KvFormat;
use chaski_engine::model::{Checkpoint, KvCache, Model};
use chaski_engine::scheduler::BLOCK_TOKENS;
use chaski_engine::scheduler::batch::{LogitsWanted, ScheduledBatch, ScheduledSequence};
use chaski_engine::scheduler::block_pool::BlockId;
use chaski_engine::scheduler::sequence::SequenceId;

struct Pair {
    ours: Model,
    oracle: ModelWeights,
    vocabulary: usize,
}

impl Pair {
    fn new(shape: &Shape) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        TinyModel::new(shape).write(&path);
        let checkpoint = Checkpoint::open(&path).unwrap();
        let ours = Model::load(
            &checkpoint,
            checkpoint.config().unwrap(),
            shape.context,
            Vec::new(),
            &Device::Cpu,
            None,
        )
        .unwrap();
        let mut reader = File::open(&path).unwrap();
        let content = gguf_file::Content::read(&mut reader).unwrap();
        let oracle = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).unwrap();
        Self { ours, oracle, vocabulary: shape.vocabulary }
    }

    fn tokens(&self, count: usize) -> Vec<u32> {
        (0..count).map(|index| ((index * 37 + index * index * 11) % self.vocabulary) as u32).collect()
    }

    /// The oracle's logits after the last of `tokens`.
    fn expected(&mut self, tokens: &[u32]) -> Vec<f32> {
        self.oracle.clear_kv_cache();
        let ids = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        self.oracle.forward(&ids, 0).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Our logits after the last of `tokens`, computed in steps of these many tokens, in these blocks.
    fn found(&mut self, tokens: &[u32], steps: &[usize], table: &[usize]) -> Vec<f32> {
        let mut cache = self.ours.new_kv_cache(table.iter().max().unwrap() + 1, KvFormat::F16).unwrap();
        let mut position = 0;
        let mut logits = Vec::new();
        for &count in steps {
            let batch = batch(&tokens[position..position + count], position, table, LogitsWanted::Last);
            logits = rows(&mut self.ours, &batch, &mut cache).pop().unwrap();
            position += count;
        }
        assert_eq!(position, tokens.len(), "the steps cover the tokens");
        logits
    }
}

pub fn batch(tokens: &[u32], position: usize, table: &[usize], logits: LogitsWanted) -> ScheduledBatch {
    let block_table = table.iter().map(|&index| BlockId::new(index)).collect();
    let sequence = ScheduledSequence {
        id: SequenceId(0),
        tokens: tokens.to_vec(),
        position,
        block_table,
        logits,
        adapter: None,
    };
    ScheduledBatch { sequences: vec![sequence], copies: Vec::new() }
}

pub fn rows(model: &mut Model, batch: &ScheduledBatch, cache: &mut KvCache) -> Vec<Vec<f32>> {
    let logits = model.forward(batch, cache).unwrap();
    (0..logits.rows()).map(|row| logits.row(row).to_vec()).collect()
}

/// The root of the mean squared difference, relative to the root of the mean square.
pub fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square =
        |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
    let apart = square(&mut found.iter().zip(expected).map(|(found, expected)| found - expected));
    (apart / square(&mut expected.iter().copied())).sqrt()
}

/// Most difference on a file of floats: keys and values are cached as f16.
const EXACT: f64 = 2e-3;
/// Most difference where activations are rounded to 8 bits.
const ROUNDED: f64 = 0.05;

#[track_caller]
fn check(shape: Shape, tokens: usize, steps: &[usize], within: f64) {
    let mut pair = Pair::new(&shape);
    let ids = pair.tokens(tokens);
    let table: Vec<usize> = (0..tokens.div_ceil(BLOCK_TOKENS)).collect();
    let expected = pair.expected(&ids);
    let apart = difference(&pair.found(&ids, steps, &table), &expected);
    println!("{:?} in {} steps: {apart:.6} apart", shape.format, steps.len());
    assert!(apart < within, "{:?} logits are {apart:.5} apart, {within} is the most", shape.format);
}

fn of(format: GgmlDType) -> Shape {
    Shape { format, ..Shape::default() }
}

#[test]
fn f32_prefill_in_one_step() {
    check(of(GgmlDType::F32), 50, &[50], EXACT)
}

#[test]
fn f32_token_by_token() {
    check(of(GgmlDType::F32), 20, &[1; 20], EXACT)
}

#[test]
fn f32_prefill_in_uneven_chunks() {
    check(of(GgmlDType::F32), 300, &[7, 129, 1, 150, 13], EXACT)
}

#[test]
fn heads_of_128() {
    check(Shape { hidden: 512, ..of(GgmlDType::F32) }, 40, &[33, 7], EXACT)
}

#[test]
fn as_many_key_heads_as_query_heads() {
    check(Shape { kv_heads: 4, ..of(GgmlDType::F32) }, 40, &[33, 7], EXACT)
}

#[test]
fn the_head_may_be_the_embedding_table() {
    check(Shape { tied: true, ..of(GgmlDType::F32) }, 40, &[33, 7], EXACT)
}

#[test]
fn every_quantised_format() {
    let formats = [
        GgmlDType::F16,
        GgmlDType::BF16,
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];
    for format in formats {
        check(of(format), 40, &[40], ROUNDED);
        check(of(format), 40, &[32, 1, 1, 1, 5], ROUNDED);
    }
}

#[test]
fn blocks_may_lie_anywhere() {
    let mut pair = Pair::new(&of(GgmlDType::F32));
    let ids = pair.tokens(70);
    let steps = [40, 1, 29];
    let in_order = pair.found(&ids, &steps, &[0, 1, 2, 3, 4]);
    let scattered = pair.found(&ids, &steps, &[6, 2, 3, 9, 0]);
    assert!(difference(&scattered, &in_order) < 1e-6);
}

#[test]
fn copied_blocks_continue_another_way() {
    let mut pair = Pair::new(&of(GgmlDType::F32));
    let ids = pair.tokens(40);
    let whole = pair.found(&ids, &[40], &[0, 1, 2]);
    let mut cache = pair.ours.new_kv_cache(6, KvFormat::F16).unwrap();
    rows(&mut pair.ours, &batch(&ids[..32], 0, &[0, 1], LogitsWanted::None), &mut cache);
    let mut rest = batch(&ids[32..], 32, &[4, 3, 5], LogitsWanted::Last);
    rest.copies = vec![(BlockId::new(0), BlockId::new(4)), (BlockId::new(1), BlockId::new(3))];
    assert!(difference(&rows(&mut pair.ours, &rest, &mut cache)[0], &whole) < 1e-5);
}

#[test]
fn two_sequences_in_a_step_do_not_see_each_other() {
    let mut pair = Pair::new(&of(GgmlDType::F32));
    let (first, second) = (pair.tokens(20), pair.tokens(45)[15..].to_vec());
    let mut cache = pair.ours.new_kv_cache(4, KvFormat::F16).unwrap();
    let mut both = batch(&first, 0, &[3, 0], LogitsWanted::Last);
    both.sequences.extend(batch(&second, 0, &[1, 2], LogitsWanted::Last).sequences);
    let found = rows(&mut pair.ours, &both, &mut cache);
    assert!(difference(&found[0], &pair.found(&first, &[20], &[0, 1])) < 1e-5);
    assert!(difference(&found[1], &pair.found(&second, &[30], &[0, 1])) < 1e-5);
}

#[test]
fn only_wanted_logits_are_computed() {
    let mut pair = Pair::new(&of(GgmlDType::F32));
    let ids = pair.tokens(12);
    let mut cache = pair.ours.new_kv_cache(1, KvFormat::F16).unwrap();
    let mut count = |wanted| pair.ours.forward(&batch(&ids, 0, &[0], wanted), &mut cache).unwrap().rows();
    assert_eq!((count(LogitsWanted::None), count(LogitsWanted::Last), count(LogitsWanted::All)), (0, 1, 12));
}

/// The stock model's rotary tables end at 4,096 positions; Llama 3 has 8,192.
#[test]
fn positions_past_4096_work() {
    let mut pair = Pair::new(&Shape { layers: 1, ..of(GgmlDType::F32) });
    let ids = pair.tokens(4200);
    let table: Vec<usize> = (0..4200usize.div_ceil(BLOCK_TOKENS)).collect();
    let whole = pair.found(&ids, &[2100, 2100], &table);
    let steps = pair.found(&ids, &[4090, 100, 10], &table);
    assert!(whole.iter().all(|logit| logit.is_finite()));
    assert!(difference(&steps, &whole) < EXACT);
}

#[test]
fn a_batch_that_does_not_fit_is_an_error() {
    let mut pair = Pair::new(&of(GgmlDType::F32));
    let mut cache = pair.ours.new_kv_cache(2, KvFormat::F16).unwrap();
    let mut fails = |tokens: &[u32], position, table: &[usize]| {
        let batch = batch(tokens, position, table, LogitsWanted::Last);
        pair.ours.forward(&batch, &mut cache).unwrap_err().to_string()
    };
    assert!(fails(&[1; 17], 0, &[0]).contains("wants positions 0..17 in 1 blocks"));
    assert!(fails(&[1], 0, &[2]).contains("wants positions"));
    assert!(fails(&[], 0, &[0]).contains("wants positions"));
    assert!(fails(&[96], 0, &[0]).contains("token 96 is outside the vocabulary of 96"));
}
