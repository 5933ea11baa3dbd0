//! How work ends that may not go on: what is cancelled, what is in the journal, what is not tried again.

use super::*;

impl TestRun {
    /// Tool calls as they were answered: `a-0-call cancelled`. Every call that began is among them.
    #[track_caller]
    fn answered(&self) -> Vec<String> {
        let called = |event: &&RunEvent| matches!(event, RunEvent::ToolCalled { .. });
        let answers = self.events.iter().filter_map(|event| match event {
            RunEvent::ToolAnswered { call_id, outcome, .. } => {
                Some(format!("{call_id} {outcome:?}").to_lowercase())
            }
            _ => None,
        });
        let answers: Vec<String> = answers.collect();
        assert_eq!(self.events.iter().filter(called).count(), answers.len(), "a call without an answer");
        answers
    }
}

#[test]
fn an_item_that_fails_cancels_those_that_run_and_none_begins_after_it() {
    let yaml = "
steps: [{ id: a, foreach: [0, 1, 0], parallel: 2, tool: test.hang, with: { value: '{{ [7][item] }}' } }]";
    let run = run(yaml).ends(FinalState::Failed, "step `a`, item 1: `[7][item]` has no value");
    assert_eq!(run.ended(), ["a[1] failed", "a failed"]);
    assert_eq!(run.answered(), ["a-0-call cancelled"]);
}

#[test]
fn a_slow_item_does_not_keep_others_from_beginning() {
    let yaml = "
steps: [{ id: a, foreach: [3, 0, 0, 0], parallel: 2, tool: test.queue, with: { after: '{{ item }}' } }]
outputs: { all: '{{ steps.a.output }}' }";
    let run = run(yaml).gives(json!({"all": [3, 0, 0, 0]}));
    let ended = ["a[1] succeeded", "a[2] succeeded", "a[3] succeeded", "a[0] succeeded", "a succeeded"];
    assert_eq!(run.ended(), ended);
}

#[test]
fn a_call_that_ran_out_of_time_has_its_answer_in_the_journal() {
    let run = run("steps: [{ id: a, tool: test.hang, timeout: 5ms }]");
    assert_eq!(run.ended(), ["a failed"]);
    assert_eq!(run.answered(), ["a-call cancelled"]);
}

#[test]
fn a_call_of_a_cancelled_run_has_its_answer_in_the_journal() {
    let yaml = "
steps:
  - { id: wait, needs: [], tool: test.hang }
  - { id: stop, needs: [], tool: test.say }";
    let run = run(yaml).ends(FinalState::Cancelled, "cancelled");
    assert_eq!(run.answered().len(), 1);
}

#[test]
fn what_cannot_end_differently_is_not_tried_again() {
    let yaml = "
steps:
  - { id: a, tool: test.echo, with: { value: { n: 1 } } }
  - { id: b, tool: test.echo, with: { value: '{{ steps.a.output.m }}' }, retry: { max: 3 } }";
    let run =
        run(yaml).ends(FinalState::Failed, "step `b`: `steps.a.output.m` has no value: there is no `m`");
    assert_eq!(run.notices(), ["hint: known there: `n`"]);
}

#[test]
fn a_list_of_items_is_bounded() {
    run("steps: [{ id: a, foreach: '{{ range(10001) | list }}', tool: test.say }]")
        .ends(FinalState::Failed, "step `a`: `foreach` has 10001 items, the most is 10000");
}

#[test]
fn an_output_that_was_cut_is_said_to_be() {
    let run = run("steps: [{ id: a, tool: test.cut }]").gives(json!({}));
    assert_eq!(run.notices(), ["the answer of `test.cut` was cut; the step's output is not the whole of it"]);
}
