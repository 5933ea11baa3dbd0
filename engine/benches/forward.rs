//! The forward pass alone: no tokenizer, sampler or grammar.
//!
//!     cargo bench -p chaski-engine --bench forward -- MODEL.gguf [RUNS]
//!
//! Prints tokens per second: the best and the median of the runs.

use std::num::NonZeroUsize;
use std::time::Instant;

use candle_core::Device;
use chaski_engine::config::KvFormat;
use chaski_engine::model::{Checkpoint, KvCache, Model};
use chaski_engine::scheduler::BLOCK_TOKENS;
use chaski_engine::scheduler::batch::{LogitsWanted, ScheduledBatch, ScheduledSequence};
use chaski_engine::scheduler::block_pool::BlockId;
use chaski_engine::scheduler::sequence::SequenceId;

const CONTEXT: usize = 4096;
const STEP_TOKENS: usize = 512;

struct Bench {
    model: Model,
    cache: KvCache,
    runs: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(path) = arguments.first() else {
        eprintln!("usage: forward MODEL.gguf [RUNS]");
        return;
    };
    let runs = arguments.get(1).map_or(3, |runs| runs.parse().expect("a number of runs"));
    let threads = std::env::var("THREADS").ok().and_then(|threads| threads.parse::<NonZeroUsize>().ok());
    let started = Instant::now();
    let checkpoint = Checkpoint::open(path.as_ref()).expect("a model");
    let model =
        Model::load(&checkpoint, checkpoint.config().unwrap(), CONTEXT, Vec::new(), &Device::Cpu, threads)
            .expect("a model");
    println!("load {:.2} s", started.elapsed().as_secs_f64());
    let cache = model.new_kv_cache(8 * CONTEXT / BLOCK_TOKENS, KvFormat::F16).expect("a cache");
    let mut bench = Bench { model, cache, runs };
    bench.report("decode at 0", 32, |bench| bench.decode(1, 0, 32));
    bench.report("prefill 512", 512, |bench| bench.prefill(512));
    bench.report("prefill 2048", 2048, |bench| bench.prefill(2048));
    bench.prefill(1024);
    bench.report("decode at 1024", 32, |bench| bench.decode(1, 1024, 32));
    bench.report("decode of 4", 4 * 16, |bench| bench.decode(4, 0, 16));
    bench.report("decode of 8", 8 * 16, |bench| bench.decode(8, 0, 16));
}

impl Bench {
    fn report(&mut self, what: &str, tokens: usize, mut work: impl FnMut(&mut Self)) {
        work(self);
        let mut speeds: Vec<f64> = (0..self.runs)
            .map(|_| {
                let started = Instant::now();
                work(self);
                tokens as f64 / started.elapsed().as_secs_f64()
            })
            .collect();
        speeds.sort_by(f64::total_cmp);
        println!("{what:16} {:9.1} best {:9.1} median", speeds[speeds.len() - 1], speeds[speeds.len() / 2]);
    }

    fn prefill(&mut self, tokens: usize) {
        for start in (0..tokens).step_by(STEP_TOKENS) {
            self.step(&[(0, start, STEP_TOKENS.min(tokens - start))]);
        }
    }

    fn decode(&mut self, sequences: usize, depth: usize, tokens: usize) {
        for token in 0..tokens {
            let steps: Vec<_> = (0..sequences).map(|sequence| (sequence, depth + token, 1)).collect();
            self.step(&steps);
        }
    }

    /// Computes (sequence, position, tokens) of each.
    fn step(&mut self, parts: &[(usize, usize, usize)]) {
        let blocks = CONTEXT / BLOCK_TOKENS;
        let sequences = parts
            .iter()
            .map(|&(sequence, position, tokens)| ScheduledSequence {
                id: SequenceId(sequence as u64),
                tokens: (position..position + tokens).map(|at| (at * 7919 % 30_000) as u32 + 100).collect(),
                position,
                block_table: (0..blocks).map(|block| BlockId::new(sequence * blocks + block)).collect(),
                logits: LogitsWanted::Last,
                adapter: None,
            })
            .collect();
        let batch = ScheduledBatch { sequences, copies: Vec::new() };
        self.model.forward(&batch, &mut self.cache).expect("computes");
    }
}
