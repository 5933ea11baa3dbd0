mod random;

use super::*;
use batch::{LogitsWanted, ScheduledSequence};
use block_hash::{CacheKey, HashChain};

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).collect()
}

fn scheduler(num_blocks: usize, step_tokens: usize) -> Scheduler {
    Scheduler::new(SchedulerOptions { num_blocks, step_tokens, max_sequences: 64 })
}

/// A sequence that may come to know 100 tokens more.
fn sequence(tokens: Vec<u32>) -> NewSequence {
    NewSequence {
        most_tokens: tokens.len() + 100,
        tokens,
        priority: Priority::Interactive,
        session: None,
        cache_key: CacheKey::default(),
        adapter: None,
        purpose: Purpose::Generate,
    }
}

/// One that may come to know `most_tokens`.
fn bounded(tokens: Vec<u32>, most_tokens: usize) -> NewSequence {
    NewSequence { most_tokens, ..sequence(tokens) }
}

fn of_session(tokens: Vec<u32>) -> NewSequence {
    NewSequence { session: Some(SessionId::new("agent")), ..sequence(tokens) }
}

fn add(scheduler: &mut Scheduler, new: NewSequence) -> SequenceId {
    scheduler.add(new).expect("it fits")
}

/// One step: (sequence, tokens computed) for each part.
fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize)> {
    let batch = scheduler.schedule();
    scheduler.commit(&batch);
    batch.sequences.iter().map(|part| (part.id.0, part.tokens.len())).collect()
}

/// Steps until nothing is left to compute; returns the parts in order.
fn run(scheduler: &mut Scheduler) -> Vec<ScheduledSequence> {
    let mut parts = Vec::new();
    loop {
        let batch = scheduler.schedule();
        scheduler.commit(&batch);
        match batch.sequences.is_empty() {
            true => return parts,
            false => parts.extend(batch.sequences),
        }
    }
}

/// Runs a sequence to its end; returns how many of its tokens were not computed.
fn cached(scheduler: &mut Scheduler, new: NewSequence) -> usize {
    let id = add(scheduler, new);
    let first = run(scheduler)[0].position;
    scheduler.finish(id);
    first
}

/// Prompt lengths in, the parts of each step out. Prompts share nothing.
#[track_caller]
fn check(step_tokens: usize, prompts: &[usize], expected: &[&[(u64, usize)]]) {
    let mut scheduler = scheduler(1024, step_tokens);
    for (index, &length) in prompts.iter().enumerate() {
        add(&mut scheduler, sequence((0..length).map(|token| (1000 * index + token) as u32).collect()));
    }
    for step_expected in expected {
        assert_eq!(step(&mut scheduler), *step_expected);
    }
    assert_eq!(step(&mut scheduler), [], "nothing is left");
}

#[test]
fn a_short_prompt_is_one_step() {
    check(8, &[3], &[&[(0, 3)]]);
}

#[test]
fn a_long_prompt_is_prefilled_in_chunks() {
    check(8, &[20], &[&[(0, 8)], &[(0, 8)], &[(0, 4)]]);
}

#[test]
fn chunks_end_with_a_block_where_they_can() {
    check(40, &[50], &[&[(0, 32)], &[(0, 18)]]);
}

#[test]
fn short_prompts_share_a_step() {
    check(100, &[20, 30], &[&[(0, 20), (1, 30)]]);
}

#[test]
fn a_long_prompt_leaves_half_a_step_to_others() {
    check(128, &[200, 40], &[&[(0, 64), (1, 40)], &[(0, 128)], &[(0, 8)]]);
}

#[test]
fn decoding_goes_before_prefill() {
    let mut scheduler = scheduler(1024, 64);
    let first = add(&mut scheduler, sequence(tokens(20)));
    step(&mut scheduler);
    scheduler.extend(first, &[7]);
    add(&mut scheduler, sequence(vec![9; 100]));
    assert_eq!(step(&mut scheduler), [(0, 1), (1, 48)]);
}

#[test]
fn everyone_decodes_in_turn_when_a_step_is_too_small() {
    let mut scheduler = scheduler(1024, 2);
    let ids: Vec<_> = (0..4).map(|index| add(&mut scheduler, sequence(vec![index]))).collect();
    let mut served = [0; 4];
    for _ in 0..40 {
        for (id, _) in step(&mut scheduler) {
            served[id as usize] += 1;
            scheduler.extend(ids[id as usize], &[1]);
        }
    }
    assert_eq!(served, [20; 4]);
}

#[test]
fn interactive_prompts_go_before_batch_ones() {
    let mut scheduler = scheduler(1024, 64);
    add(&mut scheduler, NewSequence { priority: Priority::Batch, ..sequence(vec![1; 40]) });
    add(&mut scheduler, sequence(vec![2; 64]));
    assert_eq!(step(&mut scheduler), [(1, 32), (0, 32)]);
}

#[test]
fn an_interactive_request_takes_the_place_of_a_batch_one() {
    let mut scheduler =
        Scheduler::new(SchedulerOptions { num_blocks: 64, step_tokens: 64, max_sequences: 1 });
    let batch = add(&mut scheduler, NewSequence { priority: Priority::Batch, ..sequence(tokens(20)) });
    assert_eq!(step(&mut scheduler), [(0, 20)]);
    scheduler.extend(batch, &[7]);
    let interactive = add(&mut scheduler, sequence(vec![9; 5]));
    assert_eq!(step(&mut scheduler), [(1, 5)]);
    scheduler.finish(interactive);
    // 16 of its 21 tokens are found again.
    assert_eq!(step(&mut scheduler), [(0, 5)]);
}

#[test]
fn only_the_last_chunk_wants_logits() {
    let mut scheduler = scheduler(64, 8);
    add(&mut scheduler, sequence(tokens(12)));
    let wanted: Vec<_> = run(&mut scheduler).iter().map(|part| part.logits).collect();
    assert_eq!(wanted, [LogitsWanted::None, LogitsWanted::Last]);
}

#[test]
fn the_same_beginning_is_not_computed_again() {
    let mut scheduler = scheduler(64, 512);
    assert_eq!(cached(&mut scheduler, sequence(tokens(50))), 0);
    // 49 tokens may be shared, which is three full blocks.
    assert_eq!(cached(&mut scheduler, sequence(tokens(50))), 48);
}

#[test]
fn the_last_token_is_always_computed() {
    let mut scheduler = scheduler(64, 512);
    cached(&mut scheduler, sequence(tokens(32)));
    assert_eq!(cached(&mut scheduler, sequence(tokens(32))), 16);
}

#[test]
fn another_beginning_shares_nothing() {
    let mut scheduler = scheduler(64, 512);
    cached(&mut scheduler, sequence(tokens(50)));
    let mut other = tokens(50);
    other[0] = 99;
    assert_eq!(cached(&mut scheduler, sequence(other)), 0);
}

#[test]
fn another_adapter_shares_nothing() {
    let mut scheduler = scheduler(64, 512);
    cached(&mut scheduler, sequence(tokens(50)));
    let cache_key = CacheKey::of(&["model", "adapter"]);
    assert_eq!(cached(&mut scheduler, NewSequence { cache_key, ..sequence(tokens(50)) }), 0);
}

#[test]
fn a_text_to_score_is_computed_whole() {
    let mut scheduler = scheduler(64, 512);
    cached(&mut scheduler, sequence(tokens(50)));
    add(&mut scheduler, NewSequence { purpose: Purpose::Score, ..sequence(tokens(50)) });
    let parts = run(&mut scheduler);
    assert_eq!((parts[0].position, parts[0].logits), (0, LogitsWanted::All));
}

#[test]
fn running_sequences_share_their_blocks_at_once() {
    let mut scheduler = scheduler(64, 512);
    add(&mut scheduler, sequence(tokens(50)));
    step(&mut scheduler);
    add(&mut scheduler, sequence(tokens(50)));
    assert_eq!(step(&mut scheduler), [(1, 2)]);
}

#[test]
fn a_common_beginning_is_computed_once() {
    let mut scheduler = scheduler(64, 64);
    for last in 0..3 {
        add(&mut scheduler, sequence([tokens(96), vec![900 + last; 20]].concat()));
    }
    // The first takes all of a step; the others take over its blocks and go their own way after.
    assert_eq!(step(&mut scheduler), [(0, 64)]);
    assert_eq!(step(&mut scheduler), [(0, 52)]);
    assert_eq!(step(&mut scheduler), [(1, 20), (2, 20)]);
}

#[test]
fn generated_tokens_join_the_prefix() {
    let mut scheduler = scheduler(64, 512);
    let id = add(&mut scheduler, sequence(tokens(16)));
    run(&mut scheduler);
    scheduler.extend(id, &[100; 16]);
    run(&mut scheduler);
    scheduler.finish(id);
    let longer = [tokens(16), vec![100; 16], vec![7]].concat();
    assert_eq!(cached(&mut scheduler, sequence(longer)), 32);
}

#[test]
fn a_session_keeps_its_last_partial_block() {
    let mut scheduler = scheduler(64, 512);
    let id = add(&mut scheduler, of_session(tokens(20)));
    run(&mut scheduler);
    scheduler.extend(id, &[100; 5]);
    run(&mut scheduler);
    scheduler.finish(id);
    let next_turn = [tokens(20), vec![100; 5], vec![7; 3]].concat();
    assert_eq!(cached(&mut scheduler, of_session(next_turn)), 25);
}

#[test]
fn a_session_may_continue_in_another_way() {
    let mut scheduler = scheduler(64, 512);
    cached(&mut scheduler, of_session(tokens(40)));
    let next_turn = [tokens(20), vec![7; 20]].concat();
    assert_eq!(cached(&mut scheduler, of_session(next_turn)), 20);
    // The block that was written over is not found under its old name.
    assert_eq!(cached(&mut scheduler, sequence(tokens(40))), 16);
}

#[test]
fn an_ended_session_leaves_only_full_blocks() {
    let mut scheduler = scheduler(64, 512);
    cached(&mut scheduler, of_session(tokens(25)));
    scheduler.end_session(&SessionId::new("agent"));
    assert_eq!(scheduler.pool.num_free(), 64);
    assert_eq!(cached(&mut scheduler, of_session(tokens(30))), 16);
}

#[test]
fn sessions_make_room_when_others_need_it() {
    let mut scheduler = scheduler(8, 512);
    for agent in 0..4u32 {
        let session = Some(SessionId::new(agent.to_string()));
        let new = NewSequence { session, ..bounded(vec![agent; 30], 31) };
        assert_eq!(cached(&mut scheduler, new), 0);
    }
    assert_eq!(scheduler.pool.num_free(), 0);
    cached(&mut scheduler, bounded(vec![9; 60], 61));
    // The two that were used last kept theirs.
    assert_eq!(scheduler.sessions.blocks().count(), 4);
}

#[test]
fn old_blocks_make_room_for_new_ones() {
    let mut scheduler = scheduler(4, 512);
    for start in 0..20u32 {
        let prompt = (start * 1000..start * 1000 + 63).collect();
        assert_eq!(cached(&mut scheduler, bounded(prompt, 64)), 0);
    }
}

#[test]
fn a_sequence_beyond_the_pool_is_refused() {
    let refused = scheduler(2, 512).add(bounded(tokens(10), 33));
    assert_eq!(refused, Err(OutOfBlocks { needed: 3, num_blocks: 2 }));
}

#[test]
fn admission_waits_for_blocks() {
    let mut scheduler = scheduler(4, 512);
    let first = add(&mut scheduler, bounded(vec![1; 40], 41));
    let second = add(&mut scheduler, bounded(vec![2; 40], 41));
    assert_eq!(step(&mut scheduler), [(first.0, 40)]);
    assert_eq!(step(&mut scheduler), []);
    scheduler.finish(first);
    assert_eq!(step(&mut scheduler), [(second.0, 40)]);
}

#[test]
fn the_last_to_come_is_preempted_and_computed_again() {
    let mut scheduler = scheduler(5, 512);
    let first = add(&mut scheduler, bounded(vec![1; 31], 80));
    let second = add(&mut scheduler, bounded(vec![2; 15], 80));
    assert_eq!(step(&mut scheduler), [(0, 31), (1, 15)]);
    scheduler.extend(first, &[8; 17]);
    scheduler.extend(second, &[9; 2]);
    // Their blocks are all in use: the first needs a third one, the second a second one.
    assert_eq!(step(&mut scheduler), [(1, 2), (0, 17)]);
    scheduler.extend(first, &[8; 16]);
    scheduler.extend(second, &[9]);
    assert_eq!(step(&mut scheduler), [(0, 16)]);
    scheduler.finish(first);
    // 16 of its 18 tokens were found again.
    assert_eq!(step(&mut scheduler), [(1, 2)]);
}

#[test]
fn a_paused_sequence_stands_still_and_makes_way() {
    let mut scheduler =
        Scheduler::new(SchedulerOptions { num_blocks: 64, step_tokens: 64, max_sequences: 1 });
    let slow = add(&mut scheduler, sequence(tokens(20)));
    assert_eq!(step(&mut scheduler), [(0, 20)]);
    scheduler.extend(slow, &[7]);
    scheduler.set_paused(slow, true);
    assert_eq!(step(&mut scheduler), []);
    let other = add(&mut scheduler, sequence(vec![9; 5]));
    assert_eq!(step(&mut scheduler), [(1, 5)]);
    scheduler.set_paused(slow, false);
    scheduler.finish(other);
    assert_eq!(step(&mut scheduler), [(0, 5)]);
}

#[test]
fn a_fork_shares_all_blocks_until_it_is_written_to() {
    let mut scheduler = scheduler(64, 512);
    let parent = add(&mut scheduler, sequence(tokens(20)));
    run(&mut scheduler);
    let fork = scheduler.fork(parent).expect("the parent is there");
    scheduler.extend(parent, &[7]);
    scheduler.extend(fork, &[8]);
    let batch = scheduler.schedule();
    scheduler.commit(&batch);
    let [ours, theirs] = &batch.sequences[..] else { panic!("{batch:?}") };
    assert_eq!(ours.block_table[0], theirs.block_table[0]);
    assert_eq!(batch.copies, [(theirs.block_table[1], ours.block_table[1])]);
    // From here on each writes to its own.
    scheduler.extend(parent, &[7]);
    scheduler.extend(fork, &[8]);
    assert_eq!(scheduler.schedule().copies, []);
}

#[test]
fn blocks_are_forgotten_and_sequences_are_not() {
    let mut scheduler = scheduler(64, 512);
    add(&mut scheduler, sequence(tokens(40)));
    assert_eq!(step(&mut scheduler), [(0, 40)]);
    scheduler.extend(SequenceId(0), &[7]);
    let _broke_off = scheduler.schedule();
    scheduler.forget_blocks();
    assert_eq!(step(&mut scheduler), [(0, 41)]);
}

#[test]
fn a_table_lies_side_by_side_and_has_room_to_grow() {
    let mut scheduler = scheduler(64, 512);
    let ids = [add(&mut scheduler, sequence(vec![1; 40])), add(&mut scheduler, sequence(vec![2; 40]))];
    for _ in 0..50 {
        let batch = scheduler.schedule();
        scheduler.commit(&batch);
        for part in &batch.sequences {
            let mut pairs = part.block_table.windows(2);
            assert!(pairs.all(|pair| pair[0].index() + 1 == pair[1].index()), "{:?}", part.block_table);
        }
        for id in ids {
            scheduler.extend(id, &[7]);
        }
    }
}

#[test]
fn equal_hashes_mean_equal_beginnings() {
    let chain = |key: &[&str], tokens: &[u32]| {
        let mut chain = HashChain::new(CacheKey::of(key));
        chain.extend(tokens);
        chain.hashes().to_vec()
    };
    let known = chain(&["a"], &tokens(40));
    assert_eq!(known.len(), 2);
    assert_eq!(chain(&["a"], &tokens(32)), known);
    assert_ne!(chain(&["b"], &tokens(32)), known);
    assert_ne!(chain(&["a", ""], &tokens(32)), known);
    let other = [vec![99], tokens(40)[1..].to_vec()].concat();
    assert!(chain(&["a"], &other).iter().all(|hash| !known.contains(hash)));
}

/// A sequence of 20 tokens with drafts, what was sampled then, and how many tokens the next step computes.
#[track_caller]
fn check_drafts(drafts: &[u32], sampled: &[u32], expected: usize) {
    let mut scheduler = scheduler(64, 512);
    let id = add(&mut scheduler, sequence(tokens(20)));
    run(&mut scheduler);
    scheduler.extend(id, &[7]);
    scheduler.draft(id, drafts);
    let batch = scheduler.schedule();
    scheduler.commit(&batch);
    assert_eq!(batch.sequences[0].tokens, [&[7], drafts].concat());
    assert_eq!(batch.sequences[0].logits, LogitsWanted::All);
    scheduler.extend(id, sampled);
    assert_eq!(step(&mut scheduler), [(id.0, expected)]);
}

#[test]
fn drafts_that_come_true_are_not_computed_again() {
    check_drafts(&[1, 2, 3], &[1, 2, 3, 4], 1);
    check_drafts(&[1, 2, 3], &[1, 2, 9], 1);
    check_drafts(&[1, 2, 3], &[9], 1);
    // The grammar forced three tokens after a right draft.
    check_drafts(&[1, 2, 3], &[1, 5, 5, 5], 3);
}

#[test]
fn wrong_drafts_are_never_found() {
    let mut scheduler = scheduler(64, 512);
    let id = add(&mut scheduler, sequence(tokens(31)));
    run(&mut scheduler);
    scheduler.extend(id, &[7]);
    scheduler.draft(id, &[100; 16]);
    assert_eq!(step(&mut scheduler), [(id.0, 17)]);
    scheduler.extend(id, &[200; 20]);
    run(&mut scheduler);
    scheduler.finish(id);
    let begin = [tokens(31), vec![7]].concat();
    assert_eq!(cached(&mut scheduler, sequence([&begin[..], &[100; 17]].concat())), 32);
    assert_eq!(cached(&mut scheduler, sequence([&begin[..], &[200; 17]].concat())), 48);
}

#[test]
fn nobody_gives_up_blocks_for_drafts() {
    let mut scheduler = scheduler(3, 512);
    let id = add(&mut scheduler, bounded(tokens(15), 32));
    let other = add(&mut scheduler, bounded(vec![9; 15], 32));
    run(&mut scheduler);
    scheduler.extend(other, &[9; 2]);
    run(&mut scheduler);
    scheduler.extend(id, &[7]);
    scheduler.draft(id, &[8; 5]);
    assert_eq!(step(&mut scheduler), [(0, 1)]);
}

#[test]
fn a_batch_sequence_is_computed_in_the_end_under_endless_interactive_load() {
    // Room for one sequence at a time.
    let mut scheduler = scheduler(2, 512);
    let batch = NewSequence { priority: Priority::Batch, ..bounded(vec![1; 20], 32) };
    let patient = add(&mut scheduler, batch);
    let mut first = add(&mut scheduler, bounded(vec![2; 20], 32));
    for round in 0..2 * LONG_WAIT as u32 {
        let parts = step(&mut scheduler);
        if parts.iter().any(|(id, _)| *id == patient.0) {
            assert!(u64::from(round) >= LONG_WAIT, "it went first in step {round}");
            return;
        }
        // The next one is there before this one ends.
        let next = add(&mut scheduler, bounded(vec![3 + round; 20], 32));
        scheduler.finish(first);
        first = next;
    }
    panic!("it was never computed");
}
