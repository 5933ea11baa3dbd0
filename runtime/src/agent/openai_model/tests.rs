use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use chaski_engine::{FinishReason, ToolCall};

use super::*;

/// One answer of the server in a test.
struct Answer {
    status: &'static str,
    headers: &'static str,
    body: String,
    /// The connection ends before the body that the head promises.
    dropped: bool,
}

fn stream_of(chunks: &[Value]) -> Answer {
    let headers = "content-type: text/event-stream\r\n";
    Answer { status: "200 OK", headers, body: events(chunks), dropped: false }
}

fn error_of(status: &'static str, headers: &'static str, body: impl ToString) -> Answer {
    Answer { status, headers, body: body.to_string(), dropped: false }
}

/// Gives one answer per connection, and hands back the bodies that were sent.
async fn serve(answers: Vec<Answer>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked = tokio::spawn(async move {
        let mut bodies = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            bodies.push(read_body(&mut stream).await);
            let promised = answer.body.len() + usize::from(answer.dropped);
            let head = format!(
                "HTTP/1.1 {}\r\n{}content-length: {promised}\r\nconnection: close\r\n\r\n",
                answer.status, answer.headers
            );
            stream.write_all((head + &answer.body).as_bytes()).await.expect("writes");
        }
        bodies
    });
    (format!("http://{address}/v1"), asked)
}

async fn read_body(stream: &mut tokio::net::TcpStream) -> String {
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
            return body.to_owned();
        }
    }
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

fn remote(base_url: &str, api_key_env: &str) -> RemoteModel {
    RemoteModel {
        base_url: base_url.into(),
        model: "m".into(),
        api_key_env: api_key_env.into(),
        context: None,
    }
}

fn model(base_url: &str) -> OpenAiModel {
    let remote = remote(base_url, "CHASKI_TEST_NO_SUCH_KEY");
    OpenAiModel::from_config("remote", &remote).expect("needs no key on this machine")
}

/// Asks a server that gives `answers`; tells the reply, what was seen of it, and what the server was sent.
async fn ask(
    request: GenerateRequest,
    answers: Vec<Answer>,
) -> (Result<ModelReply, ModelError>, Vec<ReplyDelta>, Vec<String>) {
    let (url, asked) = serve(answers).await;
    let mut seen = Vec::new();
    let mut observe = |delta| seen.push(delta);
    let reply = model(&url).reply(request, &mut observe, &CancellationToken::new()).await;
    (reply, seen, asked.await.expect("served"))
}

/// A chunk with `delta`, which ends the reply for `finish`.
fn delta(delta: Value, finish: Option<&str>) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
}

fn piece(piece: Value, finish: Option<&str>) -> Value {
    delta(json!({"tool_calls": [piece]}), finish)
}

fn call(id: &str, arguments: Value) -> ToolCall {
    ToolCall { id: id.into(), name: "workspace.read".into(), arguments }
}

/// The calls that come of these pieces of a stream.
#[track_caller]
fn check_calls(pieces: &[Value], expected: &[ToolCall], cut_call: Option<&str>) {
    let mut reply = Growing::new(Instant::now());
    for chunk in pieces {
        let mut whole =
            json!({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []});
        whole["choices"] = chunk["choices"].clone();
        let chunk = serde_json::from_value(whole).expect("a chunk of the protocol");
        reply.add(chunk, &mut |_| ()).expect("a valid stream");
    }
    let reply = reply.whole(&["workspace.read"], 1).expect("a whole reply");
    assert_eq!((reply.tool_calls.as_slice(), reply.cut_call.as_deref()), (expected, cut_call));
}

#[tokio::test]
async fn text_and_calls_are_put_together_from_their_pieces() {
    let begin = json!({"index": 0, "id": "a", "type": "function", "function": {"name": "workspace__read", "arguments": "{\"pa"}});
    let answer = stream_of(&[
        delta(json!({"role": "assistant", "content": "So"}), None),
        piece(begin, None),
        piece(json!({"index": 0, "function": {"arguments": "th\": \"x\"}"}}), None),
        delta(json!({}), Some("tool_calls")),
        json!({"usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}}),
    ]);
    let (reply, seen, asked) = ask(request(), vec![answer]).await;
    let reply = reply.expect("a reply");
    let call = call("a", json!({"path": "x"}));
    assert_eq!((reply.content.as_str(), &reply.tool_calls), ("So", &vec![call.clone()]));
    assert_eq!((reply.finish, reply.usage.completion_tokens), (FinishReason::ToolCalls, 7));
    assert_eq!(seen, [ReplyDelta::Text("So".into()), ReplyDelta::ToolCall(call)]);
    let asked: Value = serde_json::from_str(&asked[0]).expect("JSON");
    assert_eq!(asked["tools"][0]["function"]["name"], "workspace__read");
    assert_eq!((&asked["max_tokens"], &asked["max_completion_tokens"]), (&json!(10), &Value::Null));
}

#[test]
fn arguments_that_are_no_json_stay_text() {
    let oops = json!({"index": 0, "id": "a", "function": {"name": "workspace__read", "arguments": "{oops"}});
    check_calls(&[piece(oops, Some("tool_calls"))], &[call("a", json!("{oops"))], None);
}

#[test]
fn calls_that_share_an_index_are_told_apart_by_id() {
    let whole =
        |id: &str| json!({"index": 0, "id": id, "function": {"name": "workspace__read", "arguments": "{}"}});
    let pieces = [piece(whole("a"), None), piece(whole("b"), Some("tool_calls"))];
    check_calls(&pieces, &[call("a", json!({})), call("b", json!({}))], None);
}

#[test]
fn an_id_that_every_piece_repeats_is_one_id() {
    let part = |text: &str| json!({"index": 0, "id": "a", "function": {"name": "workspace__read", "arguments": text}});
    let pieces = [piece(part("{\"n\": "), None), piece(part("1}"), Some("tool_calls"))];
    check_calls(&pieces, &[call("a", json!({"n": 1}))], None);
}

#[test]
fn only_a_call_in_the_middle_of_its_arguments_is_cut() {
    let part = |index: u32, id: &str, text: &str| json!({"index": index, "id": id, "function": {"name": "workspace__read", "arguments": text}});
    let pieces = [piece(part(0, "a", "{}"), None), piece(part(1, "b", "{\"n"), Some("length"))];
    check_calls(&pieces, &[call("a", json!({}))], Some("workspace.read {\"n"));
    check_calls(&[piece(part(0, "a", "{}"), Some("length"))], &[call("a", json!({}))], None);
}

#[tokio::test]
async fn a_schema_is_sent_as_the_response_format() {
    let schema = json!({"type": "object"});
    let request = GenerateRequest { output: OutputFormat::JsonSchema(schema.clone()), ..request() };
    let (reply, _, asked) =
        ask(request, vec![stream_of(&[delta(json!({"content": "{}"}), Some("stop"))])]).await;
    assert_eq!(reply.expect("a reply").content, "{}");
    let asked: Value = serde_json::from_str(&asked[0]).expect("JSON");
    assert_eq!(asked["response_format"]["json_schema"]["schema"], schema);
    assert_eq!(asked["response_format"]["json_schema"]["strict"], json!(true));
}

#[tokio::test]
async fn a_busy_endpoint_is_asked_again() {
    let body = json!({"error": {"message": "slow down", "type": "rate_limit", "param": null, "code": null}});
    let busy = || error_of("429 Too Many Requests", "retry-after: 0\r\n", &body);
    let failing = error_of("503 Service Unavailable", "retry-after: 0\r\n", "starting");
    let answer = stream_of(&[delta(json!({"content": "So"}), Some("stop"))]);
    let (reply, _, asked) = ask(request(), vec![busy(), failing, answer]).await;
    assert_eq!((reply.expect("a reply").content.as_str(), asked.len()), ("So", 3));
}

/// What is told when a server answers so.
async fn check_error(answer: Answer, expected: &str) {
    let (reply, _, _) = ask(request(), vec![answer]).await;
    let error = reply.expect_err("no reply").to_string();
    let told = error.split_once("/v1`: ").expect("it names the endpoint").1;
    assert!(error.starts_with("model `m` at `http://127.0.0.1") && told.starts_with(expected), "{error}");
    assert!(error.len() < 700, "{} bytes", error.len());
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_an_error() {
    check_error(stream_of(&[delta(json!({"content": "So"}), None)]), "the stream ended before the reply did")
        .await;
}

#[tokio::test]
async fn a_connection_that_is_dropped_is_an_error() {
    let half = stream_of(&[delta(json!({"content": "So"}), None)]);
    let body = half.body.replace("data: [DONE]\n\n", "");
    check_error(Answer { body, dropped: true, ..half }, "stream failed").await;
}

#[tokio::test]
async fn what_the_endpoint_refuses_is_told() {
    let body = json!({"error": {"message": "no such model", "type": "x", "param": null, "code": null}});
    check_error(error_of("404 Not Found", "", body), "404 Not Found: no such model").await;
}

#[tokio::test]
async fn a_page_instead_of_an_answer_is_cut() {
    let page = "<html>".repeat(1_000);
    check_error(error_of("404 Not Found", "", page), "an answer that is not of the protocol: <html>").await;
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    check_error(error_of("302 Found", "location: http://127.0.0.1:9/\r\n", ""), "").await;
}

#[tokio::test]
async fn a_content_filter_is_an_error() {
    check_error(stream_of(&[delta(json!({}), Some("content_filter"))]), "its content filter ended").await;
}

/// The error of a request that must not be sent.
#[track_caller]
fn check_refused(request: &GenerateRequest, expected: &str) {
    let error = model("http://127.0.0.1:9/v1").request(request).expect_err("it cannot be sent").to_string();
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn what_the_protocol_cannot_say_is_refused() {
    let with = |sampling| GenerateRequest { sampling, ..request() };
    let top_k = Sampling { top_k: 4, ..Sampling::default() };
    check_refused(&with(top_k), "the OpenAI protocol has no sampling field `top_k`");
    let regex = GenerateRequest { output: OutputFormat::Regex("a".into()), ..request() };
    check_refused(&regex, "a remote model cannot be bound to a regular expression or grammar");
}

#[test]
fn tools_that_would_share_a_name_are_refused() {
    let mut request = request();
    request
        .tools
        .push(chaski_engine::ToolSpec { name: "workspace__read".into(), ..request.tools[0].clone() });
    check_refused(&request, "two tools would have the name of `workspace__read` there");
}

#[test]
fn a_key_that_is_not_set_is_an_error_elsewhere() {
    let remote = remote("https://me:secret@example.org/v1", "CHASKI_TEST_NO_SUCH_KEY");
    let error = OpenAiModel::from_config("remote", &remote).err().expect("no key").to_string();
    assert_eq!(
        error,
        "model `m` at `https://example.org/v1`: the variable `CHASKI_TEST_NO_SUCH_KEY`, which should hold the \
         key, is not set"
    );
}

#[test]
fn the_host_of_an_url_is_found() {
    assert_eq!(host("https://api.openai.com/v1"), "api.openai.com");
    assert_eq!(host("https://a@openai.com:443"), "openai.com");
    assert_eq!(host("https://evil.example/openai.com"), "evil.example");
}
