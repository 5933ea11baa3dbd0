//! The first-party plugins that change files, read documents and read pages, through the real binary.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::Chaski;

/// A workflow with one call, whose answer is its output.
fn workflow(chaski: &Chaski, tool: &str, arguments: Value, roots: &str) -> String {
    let text = format!(
        "version: 1\nname: one-call\n{roots}steps:\n  - id: it\n    tool: {tool}\n    with: {arguments}\n\
         outputs: {{ it: \"{{{{ steps.it.output }}}}\" }}\n"
    );
    chaski.file("one-call.yaml", text)
}

#[test]
fn a_patch_is_applied_only_with_leave_and_a_folder_to_write_to() {
    let chaski = Chaski::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.txt");
    std::fs::write(&file, "one\ntwo\n").expect("writes");
    let patch = "--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n--- /dev/null\n+++ b/b.txt\n@@ -0,0 +1 @@\n+new\n";
    let with = |access: &str| {
        let roots =
            format!("roots: {{ workspace: {{ path: {}, access: {access} }} }}\n", folder.path().display());
        workflow(&chaski, "workspace-edit.apply_patch", json!({"patch": patch}), &roots)
    };
    let untouched = || {
        assert_eq!(std::fs::read_to_string(&file).expect("reads"), "one\ntwo\n");
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1);
    };

    let (code, _, errors) = chaski.run(&["run", &with("read-write")]);
    assert!(code == 1 && errors.contains("was denied") && errors.contains("--allow"), "{errors}");
    untouched();
    let (code, _, errors) = chaski.run(&["run", &with("read"), "--allow", "workspace-edit.*"]);
    assert!(code == 1 && errors.contains("Nothing was changed"), "{errors}");
    untouched();
    let (code, output, errors) = chaski.run(&["run", &with("read-write"), "--allow", "workspace-edit.*"]);
    assert_eq!(code, 0, "{errors}");
    assert!(format!("{output}{errors}").contains("b.txt: created, 1 lines"), "{output}{errors}");
    assert_eq!(std::fs::read_to_string(&file).expect("reads"), "one\n2\n");
    assert_eq!(std::fs::read_to_string(folder.path().join("b.txt")).expect("reads"), "new\n");
}

#[test]
fn a_document_becomes_text_with_its_place() {
    let chaski = Chaski::new();
    let page = "<!doctype html><script>x()</script><h1>Title</h1><p>Some <b>words</b>.";
    chaski.file("docs/page.html", page);
    let folder = chaski.data.path().join("docs");
    let root = format!("documents={}", folder.display());
    let arguments = json!({"path": "page.html"}).to_string();
    let call = ["plugin", "call", "doc-parser.parse", &arguments, "--root", &root, "--json"];
    let (code, output, errors) = chaski.run(&call);
    assert_eq!(code, 0, "{errors}");
    let answer: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!(answer["text"], "# Title\n\nSome **words**.\n");
    assert_eq!(answer["json"]["format"], "html");
    assert_eq!(
        answer["json"]["parts"][0],
        json!({"page": 1, "start": 0, "text": "# Title\n\nSome **words**."})
    );

    chaski.file("docs/bad.pdf", "%PDF-1.7\nnonsense");
    let call = ["plugin", "call", "doc-parser.parse", r#"{"path": "bad.pdf"}"#, "--root", &root];
    let (code, _, errors) = chaski.run(&call);
    assert!(code == 1 && errors.contains("`bad.pdf` cannot be parsed: as a PDF"), "{errors}");
}

#[test]
fn a_page_is_read_only_from_a_host_that_was_granted() {
    let chaski = Chaski::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let origin = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let body = "<html><body><h1>Hello</h1><p>page";
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n";
            let _ = write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len());
        }
    });
    let arguments = json!({"url": format!("{origin}/x")}).to_string();
    let call = ["plugin", "call", "http-fetch.fetch", &arguments];
    let (code, _, errors) = chaski.run(&call);
    assert!(code == 1 && errors.contains("chaski plugin grant http-fetch http="), "{errors}");
    // A name that stands for this machine has to be granted as such.
    let (code, _, errors) = chaski.run(&["plugin", "grant", "http-fetch", &format!("http={origin}+private")]);
    assert_eq!(code, 0, "{errors}");
    let (code, output, errors) = chaski.run(&call);
    assert_eq!((code, output), (0, format!("[200 {origin}/x]\n# Hello\n\npage\n")), "{errors}");
}
