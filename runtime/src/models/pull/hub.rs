//! A file of a repository on the model hub, over HTTPS, resumed where it stopped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE};
use tokio::io::AsyncWriteExt;

use super::Fetched;

/// The hub, unless `HF_ENDPOINT` names a mirror.
const HUB: &str = "https://huggingface.co";
/// Times that a broken transfer is taken up again.
const ATTEMPTS: usize = 5;
/// Longest silence of a transfer.
const SILENCE: Duration = Duration::from_secs(60);

/// Where the hub is, and who asks.
pub(super) struct Endpoint {
    pub(super) base: String,
    pub(super) token: Option<String>,
}

impl Endpoint {
    pub(super) fn of_process() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        Self { base: variable("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned()), token: variable("HF_TOKEN") }
    }
}

/// Fetches `file` to a side file of `target`. What a broken transfer left there is used again.
pub(super) async fn fetch(
    endpoint: &Endpoint,
    repository: &str,
    revision: &str,
    file: &str,
    target: &Path,
    progress: bool,
) -> Result<Fetched, String> {
    let url = format!("{}/{repository}/resolve/{revision}/{file}", endpoint.base.trim_end_matches('/'));
    let what = format!("hub {repository}/{file}");
    let client = reqwest::Client::builder()
        .read_timeout(SILENCE)
        .user_agent(concat!("chaski/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| format!("{what}: {error}"))?;
    let partial = PathBuf::from(format!("{}.partial", target.display()));
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match transfer(&client, endpoint, &url, &partial, progress).await {
            Ok(digest) => {
                let file =
                    tempfile::TempPath::try_from_path(partial).map_err(|error| format!("{what}: {error}"))?;
                return Ok(Fetched { file, digest });
            }
            Err(Broken::ForGood(reason)) => return Err(format!("{what}: {reason}")),
            Err(Broken::ForNow(reason)) => last = reason,
        }
    }
    Err(format!("{what}: {last} (tried {ATTEMPTS} times; the next pull goes on where this one stopped)"))
}

enum Broken {
    ForNow(String),
    ForGood(String),
}

/// One transfer, from where `partial` ends. Returns the digest that the hub states.
async fn transfer(
    client: &reqwest::Client,
    endpoint: &Endpoint,
    url: &str,
    partial: &Path,
    progress: bool,
) -> Result<Option<String>, Broken> {
    let have = tokio::fs::metadata(partial).await.map_or(0, |found| found.len());
    let mut request = client.get(url);
    if let Some(token) = &endpoint.token {
        request = request.bearer_auth(token);
    }
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let response = request.send().await.map_err(|error| Broken::ForNow(without_url(error)))?;
    let stated = ["x-linked-etag", "etag"]
        .iter()
        .filter_map(|name| response.headers().get(*name)?.to_str().ok())
        .map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned())
        .find(|tag| tag.len() == 64 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let resumed = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
            if !range.is_some_and(|range| range.starts_with(&format!("bytes {have}-"))) {
                return Err(Broken::ForGood("it answered with another range than the one asked for".into()));
            }
            true
        }
        StatusCode::RANGE_NOT_SATISFIABLE => return Ok(stated), // it is all there
        status if status.is_success() => false,
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            let why = "accept the model's licence on the hub and set HF_TOKEN";
            return Err(Broken::ForGood(format!("{status}: {why}")));
        }
        status if status.is_server_error() => return Err(Broken::ForNow(status.to_string())),
        status => return Err(Broken::ForGood(status.to_string())),
    };
    let start = if resumed { have } else { 0 };
    let total = response.content_length().map(|length| length + start);
    let bar = bar(total, start, progress);
    let mut file = tokio::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .append(resumed)
        .truncate(!resumed)
        .open(partial)
        .await
        .map_err(|error| Broken::ForGood(format!("{}: {error}", partial.display())))?;
    let mut bytes = response.bytes_stream();
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|error| Broken::ForNow(without_url(error)))?;
        file.write_all(&chunk)
            .await
            .map_err(|error| Broken::ForGood(format!("{}: {error}", partial.display())))?;
        bar.inc(chunk.len() as u64);
    }
    file.flush().await.map_err(|error| Broken::ForGood(format!("{}: {error}", partial.display())))?;
    bar.finish_and_clear();
    Ok(stated)
}

fn bar(total: Option<u64>, start: u64, progress: bool) -> ProgressBar {
    let bar = match (progress, total) {
        (false, _) => ProgressBar::hidden(),
        (true, Some(total)) => ProgressBar::new(total),
        (true, None) => ProgressBar::new_spinner(),
    };
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_position(start);
    bar
}

/// Redirects lead to signed addresses, which do not belong into messages.
fn without_url(error: reqwest::Error) -> String {
    let error = error.without_url();
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}
