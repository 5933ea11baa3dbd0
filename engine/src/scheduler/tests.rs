use super::*;

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).collect()
}

/// Runs one sequence to the end of its known tokens; returns the tokens computed a step.
fn run(scheduler: &mut Scheduler) -> Vec<usize> {
    let mut steps = Vec::new();
    while let Some(batch) = scheduler.schedule() {
        let batch = batch.expect("blocks are left");
        steps.push(batch.sequences[0].tokens.len());
        scheduler.commit(&batch);
    }
    steps
}

#[track_caller]
fn check(step_tokens: usize, prompt: usize, expected: &[usize]) {
    let mut scheduler = Scheduler::new(64, step_tokens);
    assert_eq!(scheduler.start(tokens(prompt)), 0);
    assert_eq!(run(&mut scheduler), expected);
}

#[test]
fn a_short_prompt_is_one_step() {
    check(8, 3, &[3]);
}

#[test]
fn a_long_prompt_is_prefilled_in_chunks() {
    check(8, 20, &[8, 8, 4]);
}

#[test]
fn only_the_last_chunk_wants_logits() {
    let mut scheduler = Scheduler::new(64, 8);
    scheduler.start(tokens(12));
    let first = scheduler.schedule().expect("work").expect("blocks");
    scheduler.commit(&first);
    let second = scheduler.schedule().expect("work").expect("blocks");
    assert_eq!(
        (first.sequences[0].logits, second.sequences[0].logits),
        (LogitsWanted::None, LogitsWanted::Last)
    );
}

#[test]
fn the_same_beginning_is_not_computed_again() {
    let mut scheduler = Scheduler::new(64, 512);
    scheduler.start(tokens(50));
    run(&mut scheduler);
    scheduler.finish();
    // 49 tokens may be shared, which is three full blocks.
    assert_eq!(scheduler.start(tokens(50)), 48);
    assert_eq!(run(&mut scheduler), [2]);
}

#[test]
fn the_last_token_is_always_computed() {
    let mut scheduler = Scheduler::new(64, 512);
    scheduler.start(tokens(32));
    run(&mut scheduler);
    scheduler.finish();
    assert_eq!(scheduler.start(tokens(32)), 16);
}

#[test]
fn another_beginning_shares_nothing() {
    let mut scheduler = Scheduler::new(64, 512);
    scheduler.start(tokens(50));
    run(&mut scheduler);
    scheduler.finish();
    let mut other = tokens(50);
    other[0] = 99;
    assert_eq!(scheduler.start(other), 0);
}

#[test]
fn generated_tokens_join_the_prefix() {
    let mut scheduler = Scheduler::new(64, 512);
    scheduler.start(tokens(16));
    run(&mut scheduler);
    scheduler.extend(&[100; 16]);
    assert_eq!(run(&mut scheduler), [16]);
    scheduler.finish();
    let mut longer = tokens(16);
    longer.extend([100; 16]);
    longer.push(7);
    assert_eq!(scheduler.start(longer), 32);
}

#[test]
fn old_blocks_make_room_for_new_ones() {
    let mut scheduler = Scheduler::new(4, 512);
    for start in 0..20u32 {
        scheduler.start((start * 1000..start * 1000 + 64).collect());
        assert_eq!(run(&mut scheduler), [64]);
        scheduler.finish();
    }
}

#[test]
fn a_sequence_beyond_the_pool_is_told() {
    let mut scheduler = Scheduler::new(2, 512);
    scheduler.start(tokens(33));
    assert_eq!(scheduler.schedule(), Some(Err(OutOfBlocks)));
    scheduler.finish();
    assert_eq!(scheduler.pool.num_free(), 2);
}
