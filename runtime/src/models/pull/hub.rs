//! A file of a repository on the model hub, over HTTPS, resumed where it stopped.
//!
//! The hub is asked first what it would send: size and digest name the side file, so that a transfer only
//! goes on where the same bytes were begun, and a file that is not the catalog's is refused before it is
//! fetched.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, LOCATION, RANGE};
use reqwest::{Client, StatusCode, Url, redirect};
use tokio::io::AsyncWriteExt;

use super::{Failure, Fetched, bar, file_name, side_file};
use crate::models::catalog::CatalogModel;
use crate::models::room;

/// The hub, unless `HF_ENDPOINT` names a mirror.
const HUB: &str = "https://huggingface.co";
/// Times in a row that a transfer may break without a new byte.
const ATTEMPTS: u32 = 5;
/// Wait before the first new attempt; each further one doubles it.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest time to reach a server.
const CONNECT: Duration = Duration::from_secs(20);
/// Longest silence of a transfer.
const SILENCE: Duration = Duration::from_secs(60);
/// Redirects within the hub itself, for a renamed repository.
const MAX_REDIRECTS: usize = 5;

/// A file on the hub.
pub(super) struct Place<'a> {
    pub(super) repository: &'a str,
    pub(super) revision: &'a str,
    pub(super) file: &'a str,
}

/// Where the hub is, who asks, and what it left on this machine before.
#[derive(Clone, Debug)]
pub(super) struct Hub {
    pub(super) base: Url,
    /// Goes to `base` only, never to the servers that it leads to.
    pub(super) token: Option<String>,
    /// The folder in which other programs keep files of the hub.
    pub(super) cache: Option<PathBuf>,
    pub(super) offline: bool,
    pub(super) pause: Duration,
}

impl Hub {
    /// As `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` say.
    pub(super) fn of_process() -> Result<Self, String> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let home = variable("HF_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(etcetera::home_dir().ok()?.join(".cache").join("huggingface")));
        let token_file =
            variable("HF_TOKEN_PATH").map(PathBuf::from).or(home.as_ref().map(|home| home.join("token")));
        let token = variable("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file?).ok());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned());
        let mut base = Url::parse(&endpoint).map_err(|error| format!("HF_ENDPOINT `{endpoint}`: {error}"))?;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path())); // a base without it would lose its last part in a join
        }
        let local = base.host_str().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"));
        if base.scheme() != "https" && !(base.scheme() == "http" && local) {
            return Err(format!("HF_ENDPOINT `{endpoint}` must begin with https://"));
        }
        Ok(Self {
            base,
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            cache: home.map(|home| home.join("hub")),
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| value != "0"),
            pause: PAUSE,
        })
    }

    /// A client that stays on TLS if the hub does.
    fn client(&self, follow: redirect::Policy) -> Result<Client, String> {
        Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .https_only(self.base.scheme() == "https")
            .redirect(follow)
            .user_agent(concat!("chaski/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.to_string())
    }
}

/// Fetches the file of `model` to a side file of `target`.
pub(super) async fn fetch(
    hub: &Hub,
    place: &Place<'_>,
    model: &CatalogModel,
    target: &Path,
    progress: bool,
) -> Result<Fetched, Failure> {
    let what = format!("hub {}/{}", place.repository, place.file);
    let source = |reason: String| Failure::Source(format!("{what}: {reason}"));
    if let Some((cached, digest)) = cached(hub, place)
        && (digest.is_none() || model.sha256.is_none() || digest == model.sha256)
    {
        return copy_cached(&cached, digest, target).await;
    }
    if hub.offline {
        return Err(source("HF_HUB_OFFLINE is set, and the file is not in the hub's cache".into()));
    }
    let offer = persist(hub, || ask(hub, place)).await.map_err(|broken| broken.or_failure(&source))?;
    if let (Some(expected), Some(offered)) = (&model.sha256, &offer.digest)
        && expected != offered
    {
        return Err(source(format!("it offers a file with sha256 {offered}, expected was {expected}")));
    }
    let partial = partial(target, &offer);
    forget_others(target, &partial);
    let size = offer.size.unwrap_or(model.size);
    room::check(&partial, size.saturating_sub(length(&partial)))?;
    let client = hub.client(redirect::Policy::limited(MAX_REDIRECTS)).map_err(source)?;
    // A signed address of another server needs no token, and must not see it.
    let token = hub.token.as_ref().filter(|_| offer.url.origin() == hub.base.origin());
    let transfer =
        Transfer { client, url: offer.url, token, partial: &partial, total: offer.size, most: size * 2 };
    persist(hub, || transfer.run(progress)).await.map_err(|broken| broken.or_failure(&source))?;
    let file = tempfile::TempPath::try_from_path(partial).map_err(|error| source(error.to_string()))?;
    Ok(Fetched { file, digest: offer.digest })
}

/// Does `work` again while it breaks in a way that may pass: [`ATTEMPTS`] times in a row without progress.
async fn persist<T, F>(hub: &Hub, mut work: impl FnMut() -> F) -> Result<T, Broken>
where
    F: Future<Output = Result<T, Broken>>,
{
    let mut failed = 0;
    loop {
        let (reason, moved) = match work().await {
            Err(Broken::ForNow { reason, moved }) => (reason, moved),
            other => return other,
        };
        failed = if moved { 1 } else { failed + 1 };
        if failed >= ATTEMPTS {
            let reason =
                format!("{reason} (tried {ATTEMPTS} times; the next pull goes on where this one stopped)");
            return Err(Broken::ForGood(reason));
        }
        tracing::info!("{reason}; trying again");
        tokio::time::sleep(hub.pause * 2_u32.pow(failed - 1)).await;
    }
}

/// Why something did not work.
enum Broken {
    /// It may work in a moment; `moved` says that it got further than before.
    ForNow {
        reason: String,
        moved: bool,
    },
    ForGood(String),
    Final(super::PullError),
}

impl Broken {
    fn now(reason: impl Into<String>) -> Self {
        Self::ForNow { reason: reason.into(), moved: false }
    }

    fn or_failure(self, source: &impl Fn(String) -> Failure) -> Failure {
        match self {
            Self::ForNow { reason, .. } | Self::ForGood(reason) => source(reason),
            Self::Final(error) => Failure::Final(error),
        }
    }
}

/// What the hub would send.
struct Offer {
    url: Url,
    size: Option<u64>,
    /// SHA-256, as the hub states it.
    digest: Option<String>,
}

/// Asks for the file's head. Redirects are followed within the hub only, since the headers that state size
/// and digest are on the answer that leads away from it.
async fn ask(hub: &Hub, place: &Place<'_>) -> Result<Offer, Broken> {
    let client = hub.client(redirect::Policy::none()).map_err(Broken::ForGood)?;
    let path = format!("{}/resolve/{}/{}", place.repository, place.revision, place.file);
    let mut url = hub.base.join(&path).map_err(|error| Broken::ForGood(error.to_string()))?;
    for _ in 0..=MAX_REDIRECTS {
        let mut request = client.head(url.clone());
        if let Some(token) = &hub.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.map_err(|error| Broken::now(without_url(error)))?;
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(refusal(status));
        }
        let headers = response.headers();
        let (size, digest) = (size(headers, status), digest(headers));
        let Some(next) = headers.get(LOCATION).filter(|_| status.is_redirection()) else {
            return Ok(Offer { url, size, digest });
        };
        let next = next.to_str().ok().and_then(|next| url.join(next).ok());
        let next = next.ok_or_else(|| Broken::ForGood("it leads to an address that is none".into()))?;
        if next.origin() != hub.base.origin() {
            return Ok(Offer { url: next, size, digest });
        }
        url = next;
    }
    Err(Broken::ForGood(format!("it led around more than {MAX_REDIRECTS} times")))
}

fn size(headers: &HeaderMap, status: StatusCode) -> Option<u64> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.parse().ok();
    number("x-linked-size").or_else(|| number(CONTENT_LENGTH.as_str()).filter(|_| status.is_success()))
}

fn digest(headers: &HeaderMap) -> Option<String> {
    ["x-linked-etag", ETAG.as_str()]
        .iter()
        .filter_map(|name| headers.get(*name)?.to_str().ok())
        .map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_lowercase())
        .find(|tag| is_digest(tag))
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn refusal(status: StatusCode) -> Broken {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Broken::ForGood(format!("{status}: accept the model's licence on the hub and set HF_TOKEN"))
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Broken::now(status.to_string()),
        status if status.is_server_error() => Broken::now(status.to_string()),
        status => Broken::ForGood(status.to_string()),
    }
}

/// One file on its way.
struct Transfer<'a> {
    client: Client,
    url: Url,
    token: Option<&'a String>,
    partial: &'a Path,
    /// Bytes of the whole file, if the hub said so.
    total: Option<u64>,
    /// Bytes after which a file of unknown size is given up.
    most: u64,
}

impl Transfer<'_> {
    /// Goes on from where the side file ends, until the whole file is there.
    async fn run(&self, progress: bool) -> Result<(), Broken> {
        let have = length(self.partial);
        if have > 0 && self.total == Some(have) {
            return Ok(());
        }
        let mut request = self.client.get(self.url.clone());
        if let Some(token) = self.token {
            request = request.bearer_auth(token);
        }
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let response = request.send().await.map_err(|error| Broken::now(without_url(error)))?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
                if !range.is_some_and(|range| range.starts_with(&format!("bytes {have}-"))) {
                    return Err(Broken::ForGood(
                        "it answered with another range than the one asked for".into(),
                    ));
                }
                have
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                // What we have is longer than the file: it is of no use.
                let _ = std::fs::remove_file(self.partial);
                return Err(Broken::now("it has fewer bytes than were here already"));
            }
            status if status.is_success() => 0,
            status => return Err(refusal(status)),
        };
        self.receive(response, start, progress).await
    }

    /// Writes the answer to the side file from byte `start`.
    async fn receive(&self, response: reqwest::Response, start: u64, progress: bool) -> Result<(), Broken> {
        let total = self.total.or(response.content_length().map(|length| length + start));
        let unwritable = |written: u64, error: std::io::Error| {
            let rest = total.unwrap_or(self.most).saturating_sub(written);
            Broken::Final(room::write_error(self.partial, rest, &error))
        };
        let bar = bar("fetching", total, progress);
        bar.set_position(start);
        let mut options = tokio::fs::OpenOptions::new();
        options.create(true).write(true).append(start > 0).truncate(start == 0);
        let mut file = options.open(self.partial).await.map_err(|error| unwritable(start, error))?;
        let mut written = start;
        let mut bytes = response.bytes_stream();
        let broken = loop {
            let chunk = match bytes.next().await {
                None => break None,
                Some(Err(error)) => break Some(without_url(error)),
                Some(Ok(chunk)) => chunk,
            };
            if written + chunk.len() as u64 > total.unwrap_or(self.most) {
                drop(file);
                let _ = std::fs::remove_file(self.partial);
                return Err(Broken::ForGood("it sends more bytes than it announced".into()));
            }
            file.write_all(&chunk).await.map_err(|error| unwritable(written, error))?;
            written += chunk.len() as u64;
            bar.inc(chunk.len() as u64);
        };
        file.flush().await.map_err(|error| unwritable(written, error))?;
        bar.finish_and_clear();
        match broken {
            None if total.is_none_or(|total| written == total) => Ok(()),
            None => Err(Broken::ForNow { reason: "it ended too early".into(), moved: written > start }),
            Some(reason) => Err(Broken::ForNow { reason, moved: written > start }),
        }
    }
}

/// Where the bytes of `offer` are collected: the digest is in the name, so that bytes of another file, or of
/// one that cannot be told apart, are never continued.
fn partial(target: &Path, offer: &Offer) -> PathBuf {
    let which = offer.digest.as_deref().map_or("unknown", |digest| &digest[..16]);
    PathBuf::from(format!("{}.{which}.partial", target.display()))
}

/// Removes what broken transfers of other files left at `target`, and bytes of unknown origin.
fn forget_others(target: &Path, kept: &Path) {
    for path in partials(target) {
        if path != kept || file_name(&path).ends_with(".unknown.partial") {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What broken transfers left beside `target`.
pub fn partials(target: &Path) -> Vec<PathBuf> {
    let prefix = format!("{}.", file_name(target));
    let entries = target.parent().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| file_name(path).starts_with(&prefix) && file_name(path).ends_with(".partial"))
        .collect()
}

/// The file in the hub's own cache, if another program has fetched it, and the digest that it has there.
fn cached(hub: &Hub, place: &Place<'_>) -> Option<(PathBuf, Option<String>)> {
    let folder = hub.cache.as_ref()?.join(format!("models--{}", place.repository.replace('/', "--")));
    // A branch is a file that holds its commit.
    let commit = std::fs::read_to_string(folder.join("refs").join(place.revision))
        .map_or_else(|_| place.revision.to_owned(), |commit| commit.trim().to_owned());
    let file = Some(folder.join("snapshots").join(commit).join(place.file)).filter(|file| file.is_file())?;
    // The cache names its files by their digest and links to them.
    let digest =
        std::fs::canonicalize(&file).ok().map(|file| file_name(&file)).filter(|name| is_digest(name));
    Some((file, digest))
}

async fn copy_cached(cached: &Path, digest: Option<String>, target: &Path) -> Result<Fetched, Failure> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let size = length(cached);
    room::check(folder, size)?;
    let side = side_file(folder)?;
    tokio::fs::copy(cached, side.path()).await.map_err(|error| room::write_error(folder, size, &error))?;
    Ok(Fetched { file: side.into_temp_path(), digest })
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

/// Redirects lead to signed addresses, which do not belong into messages.
fn without_url(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
