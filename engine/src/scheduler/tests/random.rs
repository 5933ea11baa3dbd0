//! Random arrivals, lengths, priorities, sessions, forks, pauses and pool sizes, against a model that can be
//! checked: a position's "keys and values" are a hash of all tokens up to it, and so is the next token.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use batch::ScheduledBatch;

/// Most drafts that a sequence gets.
const MOST_DRAFTS: usize = 8;

/// What the cache holds at one position: a hash of everything up to there.
type Cell = u64;

fn after(cell: Cell, token: u32) -> Cell {
    (cell ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

fn cell_after(tokens: &[u32]) -> Cell {
    tokens.iter().fold(1, |cell, &token| after(cell, token))
}

/// What the model says after `tokens`. Few different tokens, so that sequences have beginnings in common.
fn next_token(cell: Cell) -> u32 {
    (cell >> 40) as u32 % 3
}

struct FakeCache {
    cells: Vec<Cell>,
}

impl FakeCache {
    /// Computes a step as the model would: copies first, then reads and writes by block table.
    fn forward(&mut self, batch: &ScheduledBatch) {
        for (from, to) in &batch.copies {
            let from = from.index() * BLOCK_TOKENS;
            self.cells.copy_within(from..from + BLOCK_TOKENS, to.index() * BLOCK_TOKENS);
        }
        for part in &batch.sequences {
            for (position, &token) in (part.position..).zip(&part.tokens) {
                let before = if position == 0 { 1 } else { self.cells[slot(part, position - 1)] };
                self.cells[slot(part, position)] = after(before, token);
            }
        }
    }

    /// Whether all that a part reads is what its sequence put there.
    fn check(&self, part: &ScheduledSequence, known: &[u32]) {
        let mut cell = 1;
        for (position, &token) in known[..part.position].iter().chain(&part.tokens).enumerate() {
            cell = after(cell, token);
            assert_eq!(self.cells[slot(part, position)], cell, "position {position} of {:?}", part.id);
        }
    }
}

fn slot(part: &ScheduledSequence, position: usize) -> usize {
    part.block_table[position / BLOCK_TOKENS].index() * BLOCK_TOKENS + position % BLOCK_TOKENS
}

/// A sequence under way.
struct Reply {
    id: SequenceId,
    tokens: Vec<u32>,
    most_tokens: usize,
    paused_until: usize,
}

struct Trial {
    random: ChaCha8Rng,
    options: SchedulerOptions,
    scheduler: Scheduler,
    cache: FakeCache,
    replies: Vec<Reply>,
    finished: usize,
    /// Drafts that came true.
    accepted: usize,
    steps: usize,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut between = |least: usize, most: usize| least + random.next_u64() as usize % (most - least + 1);
        let options = SchedulerOptions {
            num_blocks: between(3, 40),
            step_tokens: between(1, 80),
            max_sequences: between(1, 9),
        };
        let cache = FakeCache { cells: vec![0; options.num_blocks * BLOCK_TOKENS] };
        let scheduler = Scheduler::new(options);
        Self { random, options, scheduler, cache, replies: Vec::new(), finished: 0, accepted: 0, steps: 0 }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.next_u64() as usize % bound
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// A request: often the beginning of another one, often of a session.
    fn arrive(&mut self) {
        let most = self.options.num_blocks * BLOCK_TOKENS;
        let mut tokens = match self.below(self.replies.len() + 1) {
            0 => Vec::new(),
            known => {
                let tokens = self.replies[known - 1].tokens.clone();
                let kept = self.below(tokens.len()) + 1;
                tokens[..kept].to_vec()
            }
        };
        for _ in 0..self.below(60) {
            tokens.push(self.below(3) as u32);
        }
        tokens.push(1);
        let most_tokens = tokens.len() + 1 + self.below(50);
        let new = NewSequence {
            tokens: tokens.clone(),
            most_tokens,
            priority: if self.one_in(3) { Priority::Batch } else { Priority::Interactive },
            session: self.one_in(2).then(|| SessionId::new(self.below(4).to_string())),
            cache_key: CacheKey::default(),
            adapter: None,
            purpose: Purpose::Generate,
        };
        match self.scheduler.add(new) {
            Ok(id) => self.replies.push(Reply { id, tokens, most_tokens, paused_until: 0 }),
            Err(OutOfBlocks { .. }) => assert!(blocks_for(most_tokens) > blocks_for(most)),
        }
    }

    /// One engine step, with all its checks.
    fn step(&mut self) {
        self.steps += 1;
        for index in 0..self.replies.len() {
            if self.one_in(40) {
                self.replies[index].paused_until = self.steps + self.random.next_u64() as usize % 20;
            }
            let Reply { id, paused_until, .. } = self.replies[index];
            self.scheduler.set_paused(id, paused_until > self.steps);
            if self.one_in(3) {
                let drafts = self.drafts(index);
                self.scheduler.draft(id, &drafts);
            }
        }
        let batch = self.scheduler.schedule();
        let computed: usize = batch.sequences.iter().map(|part| part.tokens.len()).sum();
        assert!(computed <= self.options.step_tokens, "the budget is kept");
        assert!(self.scheduler.num_admitted() <= self.options.max_sequences);
        let runnable = self.replies.iter().any(|reply| reply.paused_until <= self.steps);
        assert_eq!(runnable, !batch.sequences.is_empty(), "work is done while there is some");
        if self.one_in(200) {
            self.scheduler.forget_blocks();
            self.cache.cells.fill(0);
            return;
        }
        self.cache.forward(&batch);
        for part in &batch.sequences {
            let reply = self.replies.iter().find(|reply| reply.id == part.id).expect("it runs");
            assert!(reply.paused_until <= self.steps);
            assert!(part.block_table.len() <= blocks_for(reply.most_tokens));
            self.cache.check(part, &reply.tokens);
        }
        self.scheduler.commit(&batch);
        for part in &batch.sequences {
            if part.logits != LogitsWanted::None {
                self.sample(part);
            }
        }
        let Scheduler { pool, sessions, sequences, .. } = &self.scheduler;
        pool.check(sequences.iter().flat_map(|sequence| &sequence.block_table).chain(sessions.blocks()));
    }

    /// Guesses at what comes next, some of them wrong.
    fn drafts(&mut self, index: usize) -> Vec<u32> {
        let mut cell = cell_after(&self.replies[index].tokens);
        let count = self.below(MOST_DRAFTS + 1);
        let mut drafts = Vec::new();
        for _ in 0..count {
            let token = if self.one_in(4) { 9 } else { next_token(cell) };
            cell = after(cell, token);
            drafts.push(token);
        }
        drafts
    }

    /// Goes on with one sequence as the engine would.
    fn sample(&mut self, part: &ScheduledSequence) {
        let index = self.replies.iter().position(|reply| reply.id == part.id).expect("it runs");
        let known = self.replies[index].tokens.len();
        let drafts = &part.tokens[known - part.position..];
        if self.one_in(60)
            && let Some(id) = self.scheduler.fork(part.id)
        {
            // It continues in another way.
            let Reply { ref tokens, most_tokens, .. } = self.replies[index];
            let fork = Reply { id, tokens: [&tokens[..], &[3]].concat(), most_tokens, paused_until: 0 };
            if fork.tokens.len() < most_tokens {
                self.scheduler.extend(id, &[3]);
                self.replies.push(fork);
            } else {
                self.scheduler.finish(id);
            }
        }
        let mut added = Vec::new();
        // As long as the drafts come true, there are logits to sample from.
        while drafts.starts_with(&added) {
            let reply = &self.replies[index];
            let cell = self.cache.cells[slot(part, known + added.len() - 1)];
            assert_eq!(cell, cell_after(&[&reply.tokens[..], &added].concat()), "nothing was lost");
            // Now and then a grammar forces more.
            let count = if self.one_in(10) { 2 + self.below(30) } else { 1 };
            added.extend(vec![next_token(cell); count]);
            self.accepted += usize::from(drafts.starts_with(&added));
        }
        let reply = &mut self.replies[index];
        if reply.tokens.len() + added.len() >= reply.most_tokens || self.random.next_u64().is_multiple_of(50)
        {
            self.scheduler.finish(part.id);
            self.replies.swap_remove(index);
            self.finished += 1;
            return;
        }
        reply.tokens.extend(&added);
        self.scheduler.extend(part.id, &added);
    }
}

#[test]
fn whatever_comes_is_computed_rightly_and_finishes() {
    let (mut finished, mut accepted) = (0, 0);
    for seed in 0..150 {
        let mut trial = Trial::new(seed);
        for _ in 0..100 {
            if trial.one_in(4) && trial.replies.len() < 40 {
                trial.arrive();
            }
            if trial.one_in(60) {
                trial.scheduler.end_session(&SessionId::new("1"));
            }
            if trial.one_in(50) && !trial.replies.is_empty() {
                let gone = trial.below(trial.replies.len());
                let gone = trial.replies.swap_remove(gone);
                trial.scheduler.finish(gone.id);
            }
            trial.step();
        }
        // Nobody else comes: all that are there come to their end, in a bounded number of steps.
        let left = trial.replies.len();
        while !trial.replies.is_empty() {
            trial.step();
            assert!(trial.steps < 40_000, "seed {seed}: {} of {left} never finish", trial.replies.len());
        }
        finished += trial.finished;
        accepted += trial.accepted;
        let pinned = trial.scheduler.sessions.blocks().count();
        assert!(trial.scheduler.pool.num_free() + pinned >= trial.options.num_blocks, "seed {seed}: lost");
    }
    assert!(finished > 2000 && accepted > 2000, "{finished} {accepted}");
}
