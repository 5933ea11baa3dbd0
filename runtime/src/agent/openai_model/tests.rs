use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers one request with `status` and `body`, and hands back what was asked.
async fn serve(status: &'static str, body: String) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).await.expect("reads");
            request.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&request);
            let length = text.to_lowercase().lines().find_map(|line| {
                line.strip_prefix("content-length: ").and_then(|length| length.parse::<usize>().ok())
            });
            if let (Some((_, body)), Some(length)) = (text.split_once("\r\n\r\n"), length)
                && body.len() >= length
            {
                break;
            }
        }
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            if status.starts_with("200") { "text/event-stream" } else { "application/json" },
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await.expect("writes");
        let text = String::from_utf8_lossy(&request).into_owned();
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    });
    (format!("http://{address}/v1"), asked)
}

fn events(chunks: &[Value]) -> String {
    let chunk = |delta: &Value| {
        let mut body =
            json!({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []});
        for (key, value) in delta.as_object().expect("an object") {
            body[key] = value.clone();
        }
        format!("data: {body}\n\n")
    };
    chunks.iter().map(chunk).collect::<String>() + "data: [DONE]\n\n"
}

fn request() -> GenerateRequest {
    let mut request = GenerateRequest::chat(vec![Message::user("Hi")], 10);
    request.tools.push(chaski_engine::ToolSpec {
        name: "workspace.read".into(),
        description: "Reads.".into(),
        parameters: json!({"type": "object"}),
    });
    request
}

async fn reply(base_url: String) -> (Result<ModelReply, ModelError>, Vec<ReplyDelta>) {
    let remote = RemoteModel {
        base_url,
        model: "m".into(),
        api_key_env: "CHASKI_TEST_NO_SUCH_KEY".into(),
        context: None,
    };
    let model = OpenAiModel::from_config("remote", &remote).expect("needs no key on this machine");
    let mut seen = Vec::new();
    let mut observe = |delta| seen.push(delta);
    let reply = model.reply(request(), &mut observe, &CancellationToken::new()).await;
    (reply, seen)
}

#[tokio::test]
async fn text_and_calls_are_put_together_from_their_pieces() {
    let call = |piece: Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": null}]});
    let (url, asked) = serve(
        "200 OK",
        events(&[
            json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "So"}, "finish_reason": null}]}),
            call(json!({"index": 0, "id": "a", "type": "function", "function": {"name": "workspace__read", "arguments": "{\"pa"}})),
            call(json!({"index": 0, "function": {"arguments": "th\": \"x\"}"}})),
            json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
            json!({"usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}),
        ]),
    )
    .await;
    let (reply, seen) = reply(url).await;
    let reply = reply.expect("a reply");
    let call = ToolCall { id: "a".into(), name: "workspace.read".into(), arguments: json!({"path": "x"}) };
    assert_eq!((reply.content.as_str(), &reply.tool_calls), ("So", &vec![call.clone()]));
    assert_eq!((reply.finish, reply.usage.completion_tokens), (FinishReason::ToolCalls, 7));
    assert_eq!(seen, [ReplyDelta::Text("So".into()), ReplyDelta::ToolCall(call)]);
    let asked: Value = serde_json::from_str(&asked.await.expect("served")).expect("JSON");
    assert_eq!(asked["tools"][0]["function"]["name"], "workspace__read");
}

#[tokio::test]
async fn arguments_that_are_no_json_stay_text() {
    let piece = json!({"index": 0, "id": "a", "type": "function", "function": {"name": "workspace__read", "arguments": "{oops"}});
    let (url, _asked) = serve(
        "200 OK",
        events(&[
            json!({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": "tool_calls"}]}),
        ]),
    )
    .await;
    let (reply, _) = reply(url).await;
    assert_eq!(reply.expect("a reply").tool_calls[0].arguments, json!("{oops"));
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_an_error() {
    let (url, _asked) = serve(
        "200 OK",
        events(&[json!({"choices": [{"index": 0, "delta": {"content": "So"}, "finish_reason": null}]})]),
    )
    .await;
    let (reply, _) = reply(url).await;
    let error = reply.expect_err("no end").to_string();
    assert!(error.contains("ended before the reply did"), "{error}");
}

#[tokio::test]
async fn what_the_endpoint_refuses_is_told() {
    let body = json!({"error": {"message": "no such model", "type": "invalid_request_error", "param": null, "code": null}});
    let (url, _asked) = serve("404 Not Found", body.to_string()).await;
    let (reply, _) = reply(url).await;
    let error = reply.expect_err("refused").to_string();
    assert!(error.starts_with("model `m` at `http://127.0.0.1"), "{error}");
}
