//! Decides, once per engine step, which sequences run, which of their tokens are computed, and where their
//! keys and values go.
//!
//! A sequence is not "in prefill" or "in decode": it has known tokens and computed tokens, and each step moves
//! the second count towards the first. Chunked prefill, prefix-cache hits, resuming after preemption and
//! grammar-forced text are all this one rule; guesses at what comes next are computed along and kept as far as
//! they come true. Who has little to compute goes first; prefill chunks fill the
//! rest of the step. When KV blocks run out, the sequence of lowest rank gives up its own and is computed
//! again later, from the tokens it knows.
//!
//! Invariant: a KV block is free or in at least one block table (of a sequence or a session), never both.
//! The admitted sequence of highest rank that is not paused is never preempted, so there is always progress.

pub mod sequence;
pub mod block_hash;
pub mod block_pool;
mod free_blocks;
pub mod sessions;
pub mod batch;
mod plan;

use std::collections::HashSet;

use crate::request::{Priority, SessionId};
use batch::ScheduledBatch;
use block_hash::{BlockHash, CacheKey, HashChain};
use block_pool::{BlockId, BlockPool};
use plan::Plan;
use sequence::{NewSequence, Purpose, Sequence, SequenceId};
use sessions::{Pin, Sessions};

/// Tokens of a KV block. Small enough that a shared prefix is used nearly whole, large enough that a table of
/// 8,192 tokens has 512 entries.
pub const BLOCK_TOKENS: usize = 16;

/// A sequence with no more pending tokens than this goes before prefill: a sampled token, and what its grammar
/// forced after it.
const FEW_TOKENS: usize = 16;

/// While others wait for their prefill, one takes half of what is left of a step, but not less than this:
/// matrices want rows.
const SHARED_CHUNK: usize = 32;

/// After so many steps in which nothing of it was computed, a sequence no longer makes way for later ones of higher
/// priority. At a quarter of a second a step that is half a minute.
const LONG_WAIT: u64 = 128;

/// Blocks that `tokens` tokens take.
pub fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

/// What a scheduler has to deal out.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerOptions {
    /// KV blocks.
    pub num_blocks: usize,
    /// Most tokens that one step computes, at least 1.
    pub step_tokens: usize,
    /// Most sequences that hold blocks at once, at least 1. Others wait.
    pub max_sequences: usize,
}

/// A sequence that needs more KV blocks than there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBlocks {
    /// Blocks it may come to need.
    pub needed: usize,
    /// Blocks there are.
    pub num_blocks: usize,
}

/// Which tokens are computed next, and where.
pub struct Scheduler {
    options: SchedulerOptions,
    pool: BlockPool,
    sessions: Sessions,
    /// In the order of their rank: by priority, then by arrival.
    sequences: Vec<Sequence>,
    /// Blocks that the step under way copies from. They stay in use until it is committed.
    copied_from: Vec<BlockId>,
    next_id: u64,
    step: u64,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(options: SchedulerOptions) -> Self {
        Self {
            options,
            pool: BlockPool::new(options.num_blocks),
            sessions: Sessions::default(),
            sequences: Vec::new(),
            copied_from: Vec::new(),
            next_id: 0,
            step: 0,
        }
    }

    /// Takes in a sequence. It waits until slots and blocks are left for it.
    ///
    /// # Errors
    /// [`OutOfBlocks`] when it could not even run alone.
    ///
    /// # Panics
    /// When it has no tokens: nothing could be sampled from it.
    pub fn add(&mut self, new: NewSequence) -> Result<SequenceId, OutOfBlocks> {
        assert!(!new.tokens.is_empty(), "a sequence begins with a token");
        let needed = blocks_for(new.most_tokens.max(new.tokens.len()));
        if needed > self.pool.num_blocks() {
            return Err(OutOfBlocks { needed, num_blocks: self.pool.num_blocks() });
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.insert(Sequence { served: self.step, ..Sequence::new(id, new) });
        Ok(id)
    }

    /// The next step's work; empty when no sequence has anything to compute, or all that have are paused.
    pub fn schedule(&mut self) -> ScheduledBatch {
        self.step += 1;
        self.promote();
        let mut plan = Plan::new(self.options.step_tokens.max(1));
        for id in self.decoding() {
            self.compute(id, usize::MAX, &mut plan);
        }
        // Whoever was made to wait for lack of blocks would come back at once.
        if !plan.preempted {
            self.admit(&mut plan);
        }
        let prefilling = self.prefilling(&plan);
        let mut others = prefilling.len();
        for id in prefilling {
            others -= 1;
            let most = if others > 0 { (plan.budget() / 2).max(SHARED_CHUNK) } else { usize::MAX };
            self.compute(id, most, &mut plan);
        }
        let batch = plan.into_batch();
        self.copied_from = batch.copies.iter().map(|&(from, _)| from).collect();
        batch
    }

    /// Notes that `batch`, the last one scheduled, was computed, and offers its full blocks to other sequences.
    pub fn commit(&mut self, batch: &ScheduledBatch) {
        for part in &batch.sequences {
            if let Some(index) = self.index(part.id).filter(|&index| self.sequences[index].admitted) {
                // Drafts are not known yet.
                let sequence = &mut self.sequences[index];
                sequence.computed = sequence.tokens.len().min(part.position + part.tokens.len());
                self.publish(index);
            }
        }
        for block in std::mem::take(&mut self.copied_from) {
            self.pool.release(block);
        }
    }

    /// Guesses at the tokens after the known ones. Where the next step has room for them, they are computed
    /// after the last known token, with the logits of all these positions. They are not known, and no other
    /// sequence finds them, until [`Self::extend`] says that they came true.
    pub fn draft(&mut self, id: SequenceId, drafts: &[u32]) {
        if let Some(index) = self.index(id) {
            let sequence = &mut self.sequences[index];
            let room = sequence.most_tokens.saturating_sub(sequence.tokens.len());
            sequence.drafts = drafts[..drafts.len().min(room)].to_vec();
        }
    }

    /// Adds tokens to a sequence: sampled, or forced by its grammar. Those that begin as the drafts of the last
    /// step need not be computed again.
    ///
    /// # Panics
    /// When it then knows more than its `most_tokens`: it could need more blocks than there are.
    pub fn extend(&mut self, id: SequenceId, tokens: &[u32]) {
        if let Some(index) = self.index(id) {
            let sequence = &mut self.sequences[index];
            let drafts = std::mem::take(&mut sequence.drafts);
            let right = drafts.iter().zip(tokens).take_while(|(draft, token)| draft == token).count();
            // The last token's logits are always wanted.
            sequence.computed += right.min(tokens.len().saturating_sub(1));
            sequence.tokens.extend_from_slice(tokens);
            assert!(sequence.tokens.len() <= sequence.most_tokens, "a sequence knows its own bound");
        }
    }

    /// While `paused`, a sequence is not computed, and the first to give up its blocks when others need them.
    pub fn set_paused(&mut self, id: SequenceId, paused: bool) {
        if let Some(index) = self.index(id) {
            self.sequences[index].paused = paused;
        }
    }

    /// A copy of a sequence that will continue in another way. It shares all blocks; the partly filled last one
    /// is copied as soon as one of the two writes to it. `None` when there is no such sequence.
    pub fn fork(&mut self, id: SequenceId) -> Option<SequenceId> {
        let mut fork = self.sequences[self.index(id)?].clone();
        fork.id = SequenceId(self.next_id);
        self.next_id += 1;
        fork.session = None;
        fork.drafts.clear();
        // Blocks beyond the computed tokens are empty: each takes its own.
        fork.block_table.truncate(blocks_for(fork.computed));
        if self.num_admitted() < self.options.max_sequences {
            for &block in &fork.block_table {
                self.pool.retain(block);
            }
        } else {
            fork.reset();
        }
        let id = fork.id;
        self.insert(fork);
        Some(id)
    }

    /// Ends a sequence. Its full blocks stay until their memory is needed; those of a session are kept for its
    /// next turn, the partly filled last one included.
    pub fn finish(&mut self, id: SequenceId) {
        let Some(index) = self.index(id) else { return };
        self.publish(index);
        let mut sequence = self.sequences.remove(index);
        let unused = sequence.block_table.split_off(blocks_for(sequence.computed));
        self.pool.release_table(&unused);
        match sequence.session {
            Some(session) if sequence.computed > 0 => {
                sequence.tokens.truncate(sequence.computed);
                let Sequence { cache_key, tokens, block_table, .. } = sequence;
                self.sessions.keep(Pin { session, cache_key, tokens, block_table }, &mut self.pool);
            }
            _ => self.pool.release_table(&sequence.block_table),
        }
    }

    /// Takes in what `fill` can bring of the beginning of `tokens`: it is called for each full block that the
    /// cache does not have, in order, with the block to be filled, until it answers `false`. Returns how many
    /// were filled. They stay like the blocks of a sequence that ended.
    pub fn restore(
        &mut self,
        cache_key: CacheKey,
        tokens: &[u32],
        mut fill: impl FnMut(BlockHash, BlockId) -> bool,
    ) -> usize {
        let mut chain = HashChain::new(cache_key);
        chain.extend(tokens);
        let mut table: Vec<BlockId> = Vec::new();
        let mut filled = 0;
        for &hash in chain.hashes() {
            if let Some(block) = self.pool.find(&hash) {
                self.pool.retain(block);
                table.push(block);
                continue;
            }
            let Some(blocks) = self.pool.allocate(1, table.last().copied(), 0) else { break };
            table.extend(&blocks);
            if !fill(hash, blocks[0]) {
                break;
            }
            self.pool.publish(hash, blocks[0]);
            filled += 1;
        }
        self.pool.release_table(&table);
        filled
    }

    /// The full blocks of a sequence that others can find, and what they hold.
    pub fn full_blocks(&self, id: SequenceId) -> impl Iterator<Item = (BlockHash, BlockId)> {
        let sequence = self.index(id).map(|index| &self.sequences[index]);
        sequence.into_iter().flat_map(|sequence| {
            let table = sequence.block_table.iter().take(sequence.published);
            sequence.chain.hashes().iter().copied().zip(table.copied())
        })
    }

    /// Keeps no blocks for `session` any more.
    pub fn end_session(&mut self, session: &SessionId) {
        self.sessions.end(session, &mut self.pool);
        for sequence in &mut self.sequences {
            if sequence.session.as_ref() == Some(session) {
                sequence.session = None;
            }
        }
    }

    /// Forgets what all blocks hold, because a step broke off in the middle. The sequences stay and are
    /// computed again.
    pub fn forget_blocks(&mut self) {
        self.pool = BlockPool::new(self.options.num_blocks);
        self.sessions = Sessions::default();
        self.copied_from.clear();
        for sequence in &mut self.sequences {
            sequence.reset();
        }
    }

    /// Gives the highest priority to those that have waited long: their early ids then put them first.
    fn promote(&mut self) {
        let step = self.step;
        let waits = |sequence: &Sequence| {
            let has_work = !sequence.admitted || sequence.pending() > 0;
            has_work && !sequence.paused && sequence.served + LONG_WAIT < step
        };
        let late = self.sequences.iter_mut().filter(|s| s.priority > Priority::Interactive && waits(s));
        if late.map(|sequence| sequence.priority = Priority::Interactive).count() > 0 {
            self.sequences.sort_by_key(Sequence::rank);
        }
    }

    /// Sequences that have little to compute, the one served longest ago first within a priority.
    fn decoding(&self) -> Vec<SequenceId> {
        let few = |sequence: &&Sequence| sequence.runs() && (1..=FEW_TOKENS).contains(&sequence.pending());
        let mut found: Vec<_> = self.sequences.iter().filter(few).collect();
        found.sort_by_key(|sequence| (sequence.priority, sequence.served, sequence.id));
        found.into_iter().map(|sequence| sequence.id).collect()
    }

    /// The other sequences with tokens to compute, in order of rank. One whose next block another is about to
    /// compute is left out: it takes that block over when it is there.
    fn prefilling(&mut self, plan: &Plan) -> Vec<SequenceId> {
        let mut claimed: HashSet<BlockHash> = HashSet::new();
        let mut found = Vec::new();
        for index in 0..self.sequences.len() {
            let sequence = &self.sequences[index];
            if !sequence.runs() || sequence.pending() == 0 || plan.holds(sequence.id) {
                continue;
            }
            self.catch_up(index);
            let sequence = &self.sequences[index];
            if sequence.next_hash().is_some_and(|hash| claimed.contains(&hash)) {
                continue;
            }
            claimed.extend(sequence.chain.hashes().iter().skip(blocks_for(sequence.computed)));
            found.push(sequence.id);
        }
        found
    }

    /// Takes over blocks that other sequences computed since this one was admitted.
    fn catch_up(&mut self, index: usize) {
        let sequence = &mut self.sequences[index];
        sequence.chain.extend(&sequence.tokens);
        while let Some(block) = sequence.next_hash().and_then(|hash| self.pool.find(&hash)) {
            let place = sequence.computed / BLOCK_TOKENS;
            self.pool.retain(block);
            match sequence.block_table.get_mut(place) {
                Some(own) => self.pool.release(std::mem::replace(own, block)),
                None => sequence.block_table.push(block),
            }
            sequence.computed += BLOCK_TOKENS;
            sequence.published = place + 1;
        }
    }

    /// Plans at most `most` tokens of a sequence, unless it has to give up its blocks.
    fn compute(&mut self, id: SequenceId, most: usize, plan: &mut Plan) {
        let Some(sequence) = self.get(id).filter(|sequence| sequence.runs()) else { return };
        let (position, known) = (sequence.computed, sequence.tokens.len());
        let mut end = known.min(position.saturating_add(most.min(plan.budget())));
        if end < known && end - end % BLOCK_TOKENS > position {
            end -= end % BLOCK_TOKENS; // Whole blocks can be shared at once.
        }
        let drafts = self.drafts_with_room(sequence, end, plan);
        if let Some(index) = self.index(id) {
            self.sequences[index].drafts.truncate(drafts);
        }
        if end > position && self.reserve(id, end + drafts, plan) {
            let index = self.index(id).expect("a sequence that reserved blocks is there");
            self.sequences[index].served = self.step;
            plan.push(&self.sequences[index], end);
        }
    }

    /// How many drafts of a sequence can be computed after its tokens up to `end`. Nobody gives up blocks for
    /// them, and only a sequence with nothing else to compute has them checked.
    fn drafts_with_room(&self, sequence: &Sequence, end: usize, plan: &Plan) -> usize {
        if end < sequence.tokens.len() || sequence.pending() != 1 {
            return 0;
        }
        let shared = sequence.next_block().is_some_and(|(_, block)| self.pool.users(block) > 1);
        let blocks = sequence.block_table.len() + if shared { 0 } else { self.pool.num_free() };
        let slots = (blocks * BLOCK_TOKENS).saturating_sub(end);
        sequence.drafts.len().min(slots).min(plan.budget().saturating_sub(1))
    }

    /// Sees to it that a sequence has blocks of its own for the tokens up to `end`. `false` when it had to give
    /// up all its blocks instead.
    fn reserve(&mut self, id: SequenceId, end: usize, plan: &mut Plan) -> bool {
        loop {
            let Some(sequence) = self.get(id).filter(|sequence| sequence.admitted) else { return false };
            // Who copies a block in this step leaves it to the others.
            let users = |block| self.pool.users(block) - plan.copies_of(block);
            let shared = sequence.next_block().filter(|&(_, block)| users(block) > 1);
            let missing = blocks_for(end).saturating_sub(sequence.block_table.len());
            let (after, room) = (sequence.block_table.last().copied(), sequence.growth());
            let Some(mut blocks) = self.allocate(missing + usize::from(shared.is_some()), after, room) else {
                let victim = self.victim().expect("this sequence itself is admitted");
                self.preempt(victim, plan);
                continue;
            };
            let index = self.index(id).expect("it was there a moment ago");
            let sequence = &mut self.sequences[index];
            if let Some((place, from)) = shared {
                let to = blocks.pop().expect("one more was allocated");
                sequence.block_table[place] = to;
                plan.copy(id, from, to);
            } else if let Some((place, block)) = sequence.next_block() {
                // What it held will be written over.
                self.pool.forget_content(block);
                sequence.published = sequence.published.min(place);
            }
            sequence.block_table.extend(blocks);
            return true;
        }
    }

    /// Lets waiting sequences in, by rank, as long as there are slots and blocks. A sequence of lower priority
    /// makes way, and so does one that is paused.
    fn admit(&mut self, plan: &mut Plan) {
        while let Some(waiting) =
            self.sequences.iter().find(|sequence| !sequence.admitted && !sequence.paused)
        {
            let (id, priority) = (waiting.id, waiting.priority);
            if self.try_admit(id) {
                continue;
            }
            let below = |sequence: &&Sequence| sequence.paused || sequence.priority > priority;
            match self.victim().filter(|&victim| self.get(victim).as_ref().is_some_and(below)) {
                Some(victim) => self.preempt(victim, plan),
                None => break,
            }
        }
    }

    fn try_admit(&mut self, id: SequenceId) -> bool {
        let others = self.num_admitted();
        if others >= self.options.max_sequences.max(1) {
            return false;
        }
        let index = self.index(id).expect("the caller found it");
        let beginning = self.known_beginning(index);
        let sequence = &self.sequences[index];
        let missing = sequence.blocks_wanted().saturating_sub(beginning.block_table.len());
        // One block for each of the others, or they would preempt it again within a few steps.
        while self.pool.num_free() < missing + others {
            if !self.sessions.give_up_oldest(&mut self.pool) {
                self.give_back(index, beginning);
                return false;
            }
        }
        let after = beginning.block_table.last().copied();
        let room = sequence.growth().saturating_sub(missing);
        let blocks = self.pool.allocate(missing, after, room).expect("so many are free");
        let sequence = &mut self.sequences[index];
        sequence.block_table = beginning.block_table;
        sequence.block_table.extend(blocks);
        sequence.computed = beginning.computed;
        sequence.published = beginning.computed / BLOCK_TOKENS;
        sequence.admitted = true;
        true
    }

    /// What need not be computed of a sequence: its session's last turn, or what any other sequence computed.
    /// At least the last token is always computed: its logits are wanted.
    fn known_beginning(&mut self, index: usize) -> Beginning {
        let sequence = &mut self.sequences[index];
        if sequence.purpose == Purpose::Score {
            return Beginning::default();
        }
        sequence.chain.extend(&sequence.tokens);
        let known = &sequence.tokens[..sequence.tokens.len() - 1];
        let hashes = &sequence.chain.hashes()[..known.len() / BLOCK_TOKENS];
        let shared: Vec<BlockId> = hashes.iter().map_while(|hash| self.pool.find(hash)).collect();
        if let Some(session) = &sequence.session {
            let matching = self.sessions.matching(session, sequence.cache_key, known);
            if matching > shared.len() * BLOCK_TOKENS
                && let Some(pin) = self.sessions.take(session, matching, &mut self.pool)
            {
                return Beginning { block_table: pin.block_table, computed: matching, pinned: true };
            }
        }
        for &block in &shared {
            self.pool.retain(block);
        }
        Beginning { computed: shared.len() * BLOCK_TOKENS, block_table: shared, pinned: false }
    }

    /// Undoes [`Self::known_beginning`].
    fn give_back(&mut self, index: usize, beginning: Beginning) {
        let sequence = &self.sequences[index];
        match &sequence.session {
            Some(session) if beginning.pinned => {
                let pin = Pin {
                    session: session.clone(),
                    cache_key: sequence.cache_key,
                    tokens: sequence.tokens[..beginning.computed].to_vec(),
                    block_table: beginning.block_table,
                };
                self.sessions.keep(pin, &mut self.pool);
            }
            _ => self.pool.release_table(&beginning.block_table),
        }
    }

    /// Takes free blocks, if need be those kept for sessions.
    fn allocate(&mut self, count: usize, after: Option<BlockId>, room: usize) -> Option<Vec<BlockId>> {
        while self.pool.num_free() < count {
            if !self.sessions.give_up_oldest(&mut self.pool) {
                return None;
            }
        }
        self.pool.allocate(count, after, room)
    }

    /// Who gives up its blocks first: one that is paused, else the one of lowest rank.
    fn victim(&self) -> Option<SequenceId> {
        let admitted = self.sequences.iter().filter(|sequence| sequence.admitted);
        admitted.max_by_key(|sequence| (sequence.paused, sequence.rank())).map(|sequence| sequence.id)
    }

    /// Takes a sequence's blocks. It waits to be computed again; full blocks can be found until they are used.
    fn preempt(&mut self, id: SequenceId, plan: &mut Plan) {
        for source in plan.remove(id) {
            self.pool.release(source);
        }
        if let Some(index) = self.index(id) {
            let table = self.sequences[index].reset();
            self.pool.release_table(&table);
        }
    }

    /// Makes the full computed blocks of a sequence findable.
    fn publish(&mut self, index: usize) {
        let sequence = &mut self.sequences[index];
        let full = sequence.computed / BLOCK_TOKENS;
        sequence.chain.extend(&sequence.tokens);
        for place in sequence.published..full {
            self.pool.publish(sequence.chain.hashes()[place], sequence.block_table[place]);
        }
        sequence.published = sequence.published.max(full);
    }

    fn insert(&mut self, sequence: Sequence) {
        let place = self.sequences.partition_point(|other| other.rank() < sequence.rank());
        self.sequences.insert(place, sequence);
    }

    fn num_admitted(&self) -> usize {
        self.sequences.iter().filter(|sequence| sequence.admitted).count()
    }

    fn index(&self, id: SequenceId) -> Option<usize> {
        self.sequences.iter().position(|sequence| sequence.id == id)
    }

    fn get(&self, id: SequenceId) -> Option<&Sequence> {
        self.index(id).map(|index| &self.sequences[index])
    }
}

/// What need not be computed of a sequence.
#[derive(Default)]
struct Beginning {
    block_table: Vec<BlockId>,
    computed: usize,
    /// It was kept for the sequence's session.
    pinned: bool,
}

#[cfg(test)]
mod tests;
