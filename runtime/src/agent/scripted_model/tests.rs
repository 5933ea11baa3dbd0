use std::io::Write;

use super::*;

fn script(text: &str) -> Result<ScriptedModel, ModelError> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("it is writable");
    ScriptedModel::from_file(file.path())
}

fn ask(model: &ScriptedModel, prompt: &str) -> Result<ModelReply, ModelError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let request = GenerateRequest::chat(vec![Message::user(prompt)], 10);
    runtime.block_on(model.reply(request, &mut |_| (), &CancellationToken::new()))
}

#[test]
fn replies_come_in_order_and_calls_are_numbered() {
    let model = script(
        "- content: Let me look.\n  tool_calls:\n  - {name: workspace.read, arguments: {path: a.rs}}\n  \
         - {name: workspace.list}\n- content: Done.\n",
    );
    let model = model.expect("a valid script");
    let first = ask(&model, "Review a.rs").expect("a reply");
    assert_eq!(first.finish, FinishReason::ToolCalls);
    assert_eq!(
        first.tool_calls.iter().map(|call| call.id.as_str()).collect::<Vec<_>>(),
        ["call_1", "call_2"]
    );
    assert_eq!(first.tool_calls[0].arguments, serde_json::json!({"path": "a.rs"}));
    assert_eq!(ask(&model, "").expect("a reply").content, "Done.");
}

#[test]
fn json_is_a_script_too() {
    assert_eq!(
        ask(&script(r#"[{"content": "Hi"}]"#).expect("a valid script"), "").expect("a reply").content,
        "Hi"
    );
}

#[test]
fn an_exhausted_script_says_how_many_replies_it_had() {
    let model = ScriptedModel::from_replies(vec![ScriptedReply::default()]);
    ask(&model, "").expect("a reply");
    let error = ask(&model, "").expect_err("there is only one").to_string();
    assert_eq!(error, "scripted model: `script` has 1 replies, and a reply 2 is asked for");
}

#[test]
fn a_prompt_out_of_step_fails() {
    let reply = ScriptedReply { expect_contains: Some("diff".into()), ..ScriptedReply::default() };
    let model = ScriptedModel::from_replies(vec![reply]);
    let error = ask(&model, "hello").expect_err("the prompt holds no diff").to_string();
    assert_eq!(
        error,
        "scripted model: reply 1 of `script`: the prompt does not hold \"diff\":\nUser: hello\n"
    );
}

#[test]
fn an_unknown_key_is_an_error_that_names_it() {
    let error = script("- contents: Hi\n").err().expect("the key is wrong").to_string();
    assert!(error.contains("is not a script") && error.contains("contents"), "{error}");
}

#[test]
fn a_missing_script_is_an_error_that_names_it() {
    let error = ScriptedModel::from_file(Path::new("no/such.yaml")).err().expect("it is missing").to_string();
    assert!(error.starts_with("scripted model: cannot read `no/such.yaml`: "), "{error}");
}
