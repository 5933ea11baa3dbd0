use chaski_engine::ToolCall;
use serde_json::json;

use super::*;

/// A token a byte of content, so that a test can count by eye.
fn bytes(messages: &[Message]) -> Result<usize, ModelError> {
    Ok(messages.iter().map(|message| message.content.len()).sum())
}

/// A reply with one call, and its result.
fn turn(id: &str, result: &str) -> [Message; 2] {
    let call = ToolCall { id: id.into(), name: "t".into(), arguments: json!({}) };
    [Message::assistant("", vec![call.clone()]), Message::tool_result(&call, result)]
}

/// Fits `messages`, of which `task` is worked on; tells what is left, where the task is then, and the notices.
#[track_caller]
fn fit(
    messages: &[Message],
    task: usize,
    context: usize,
    reply: usize,
) -> (Vec<Message>, usize, Vec<String>) {
    let mut transcript = Transcript { messages: messages.to_vec() };
    let mut now = task;
    let fit = transcript.fit(&mut now, Room { context, reply }, &bytes).expect("it fits");
    assert_eq!(fit.prompt_tokens, bytes(&transcript.messages).expect("it counts"));
    assert!(fit.prompt_tokens < context);
    for (index, message) in transcript.messages.iter().enumerate().filter(|(_, m)| m.role == Role::Tool) {
        let reply = transcript.messages[..index].iter().rev().find(|m| m.role == Role::Assistant);
        let calls = &reply.expect("a result has its call before it").tool_calls;
        assert!(calls.iter().any(|call| Some(&call.id) == message.tool_call_id.as_ref()));
    }
    (transcript.messages, now, fit.notices)
}

#[test]
fn what_fits_stays_as_it_is() {
    let messages = [Message::user("Hello")];
    assert_eq!(fit(&messages, 0, 100, 50), (messages.to_vec(), 0, vec![]));
}

#[test]
fn old_results_lose_their_middle_first() {
    let mut messages = vec![Message::user("task")];
    messages.extend(turn("1", &"a".repeat(3_000)));
    messages.extend(turn("2", &"b".repeat(900)));
    let (fitted, _, notices) = fit(&messages, 0, 2_000, 500);
    assert_eq!(fitted.len(), messages.len());
    assert_eq!(
        fitted[2].content,
        format!("{}\n[... left out to fit the context ...]\n{}", "a".repeat(266), "a".repeat(133))
    );
    assert_eq!(fitted[4].content.len(), 900, "the newest result is whole");
    assert_eq!(notices, ["the context of 2000 tokens is full: 1 tool result lost their middle"]);
}

#[test]
fn a_result_longer_than_the_context_does_not_push_the_conversation_out() {
    let mut messages =
        vec![Message::user("before"), Message::assistant("yes", vec![]), Message::user("task")];
    messages.extend(turn("1", &"a".repeat(50_000)));
    let count = |messages: &[Message]| bytes(messages).map(|bytes| bytes / 4);
    let mut transcript = Transcript { messages };
    let mut task = 2;
    transcript.fit(&mut task, Room { context: 2_000, reply: 500 }, &count).expect("it fits");
    assert_eq!((transcript.messages.len(), task), (5, 2));
    assert!(transcript.messages[4].content.contains("left out to fit the context"));
}

#[test]
fn the_oldest_exchange_goes_next_and_leaves_a_mark() {
    let messages = [
        Message::user("a".repeat(400)),
        Message::assistant("b".repeat(400), vec![]),
        Message::user("c"),
        Message::assistant("d", vec![]),
        Message::user("task"),
    ];
    let (fitted, task, notices) = fit(&messages, 4, 1_000, 300);
    assert_eq!(fitted[0].content, "[Earlier messages were left out here to fit the context.]\n\nc");
    assert_eq!((fitted.len(), task), (3, 2));
    assert_eq!(notices, ["the context of 1000 tokens is full: the oldest 2 messages left out"]);
}

#[test]
fn a_second_loss_does_not_mark_twice() {
    let mut messages: Vec<Message> = (0..6).map(|_| Message::user("a".repeat(300))).collect();
    messages.push(Message::user("task"));
    let (fitted, task, notices) = fit(&messages, 6, 1_000, 300);
    assert_eq!(fitted[0].content.matches("Earlier messages").count(), 1);
    assert_eq!((fitted.len(), task), (3, 2));
    assert_eq!(notices, ["the context of 1000 tokens is full: the oldest 4 messages left out"]);
}

#[test]
fn a_long_task_loses_its_first_turns_but_never_itself() {
    let mut messages = vec![Message::user("task")];
    for id in ["1", "2", "3", "4"] {
        messages.extend(turn(id, &"r".repeat(450)));
    }
    let (fitted, task, notices) = fit(&messages, 0, 1_500, 300);
    let mark = "\n\n[Your first tool calls for this task were left out here to fit the context.]";
    assert_eq!((fitted[0].content.as_str(), task), (format!("task{mark}").as_str(), 0));
    assert_eq!((fitted[1].tool_calls[0].id.as_str(), fitted.len()), ("3", 5));
    assert_eq!(notices, ["the context of 1500 tokens is full: the first 2 turns of this task left out"]);
}

#[test]
fn a_prompt_that_leaves_less_than_the_reply_wants_says_so() {
    let (_, _, notices) = fit(&[Message::user("a".repeat(900))], 0, 1_000, 400);
    assert_eq!(notices, ["the prompt has 900 of the context's 1000 tokens: the reply may have 100, not 400"]);
}

#[test]
fn a_task_that_fills_the_context_is_an_error_with_a_hint() {
    let mut transcript = Transcript::of_user("a".repeat(1_000));
    let error = transcript.fit(&mut 0, Room { context: 1_000, reply: 10 }, &bytes).expect_err("no room");
    assert_eq!(
        error.to_string(),
        "the prompt has 1000 tokens, the context holds 1000 and the answer needs at least 1"
    );
    assert!(error.hint().expect("there is a way out").contains("shorten the prompt"));
}

#[test]
fn a_cut_never_splits_a_character() {
    let mut messages = vec![Message::user("task")];
    messages.extend(turn("1", &"é".repeat(2_000)));
    messages.extend(turn("2", "x"));
    let (fitted, _, _) = fit(&messages, 0, 1_500, 300);
    assert!(fitted[2].content.starts_with("éé") && fitted[2].content.ends_with("éé"));
}
