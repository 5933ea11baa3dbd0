//! Requests of plugins: to granted origins alone, over addresses that were checked.
//!
//! A name is resolved once, its addresses are checked, and the connection goes to one of those very addresses:
//! a name that stands for something else a moment later gains nothing. Redirects are followed here, one by one,
//! each checked like the first request. Secrets are put into headers here, and taken out of answers again.

mod address;
mod secret;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode, Url};

use super::contract::chaski::plugin::http::{Error, Request, Response};
use super::error::PluginError;
use super::origin::Origin;
use super::permissions::{Effective, HttpAccess};
use crate::tools::Audit;
use address::is_public;
use secret::Secrets;

/// Headers that the host sets itself: a guest that could set them would send its request elsewhere, or two for
/// one.
pub const HOSTS_OWN_HEADERS: [&str; 13] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "accept-encoding",
];

/// Requests of one call, refused ones included; redirects do not count.
pub(super) const MAX_REQUESTS: usize = 32;
/// Most time for one request, redirects included.
const MAX_TIME: Duration = Duration::from_secs(30);
/// Most bytes of one answer's body.
const MAX_BODY: usize = 4 << 20;
/// Most bytes of one answer's headers, and of a request's.
const MAX_HEADERS: usize = 64 << 10;
/// Redirects of one request, as many as browsers' stricter siblings follow.
const MAX_REDIRECTS: usize = 5;

/// What sends one plugin's requests.
pub(super) struct HttpHost {
    plugin: String,
    client: reqwest::Client,
    access: Vec<HttpAccess>,
    secrets: Secrets,
}

impl HttpHost {
    /// The sender of `plugin`'s requests, if it was granted any.
    pub(super) fn new(plugin: &str, effective: &Effective) -> Result<Option<Self>, PluginError> {
        if effective.http.is_empty() {
            return Ok(None);
        }
        let fault = |reason: String| PluginError::Grant { plugin: plugin.to_owned(), reason };
        let secrets = Secrets::read(&effective.secrets).map_err(fault)?;
        let private = effective.http.iter().filter(|access| access.private);
        let private = private.map(|access| access.origin.host().to_owned()).collect();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(CheckedResolver { private }))
            // A connection that is kept belongs to an address that was checked for another call.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("chaski/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| fault(format!("requests cannot be sent here: {error}")))?;
        Ok(Some(Self { plugin: plugin.to_owned(), client, access: effective.http.clone(), secrets }))
    }

    /// Sends one request, redirects included, until `deadline` at most; `audit` sees each hop.
    pub(super) async fn send(
        &self,
        request: Request,
        deadline: Instant,
        audit: &(dyn Fn(Audit) + Send + Sync),
    ) -> Result<Response, Error> {
        let asked = request.timeout_ms.map_or(MAX_TIME, |most| Duration::from_millis(most.into()));
        let deadline = deadline.min(Instant::now() + asked.min(MAX_TIME));
        match tokio::time::timeout_at(deadline.into(), self.follow(request, audit)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout),
        }
    }

    async fn follow(
        &self,
        request: Request,
        audit: &(dyn Fn(Audit) + Send + Sync),
    ) -> Result<Response, Error> {
        let invalid = |reason: String| Error::Invalid(reason);
        let most = request.max_bytes.map_or(MAX_BODY, |most| (most as usize).min(MAX_BODY));
        let mut url = Url::parse(&request.url).map_err(|error| invalid(format!("the URL: {error}")))?;
        let mut method = request.method.to_ascii_uppercase();
        let mut headers = headers(&request.headers).map_err(invalid)?;
        let mut body = request.body;
        for _ in 0..=MAX_REDIRECTS {
            url.set_fragment(None);
            let shown = shown(&method, &url);
            let origin = match self.check(&url, &method) {
                Ok(origin) => origin,
                Err(reason) => {
                    audit(Audit { capability: "http", what: shown, refused: Some(reason.clone()) });
                    return Err(Error::Denied(reason));
                }
            };
            let mut sent = headers.clone();
            let added = self.secrets.add(&origin, &mut sent);
            let what = match added.is_empty() {
                true => shown,
                false => format!("{shown} with {}", added.join(", ")),
            };
            let verb = Method::from_bytes(method.as_bytes()).map_err(|error| invalid(error.to_string()))?;
            let outgoing = self.client.request(verb, url.clone()).headers(sent);
            let outgoing = match &body {
                Some(bytes) => outgoing.body(bytes.clone()),
                None => outgoing,
            };
            let response = match outgoing.send().await {
                Ok(response) => response,
                Err(error) => {
                    let error = self.failure(&error);
                    let refused = match &error {
                        Error::Denied(reason) => Some(reason.clone()),
                        _ => None,
                    };
                    audit(Audit { capability: "http", what, refused });
                    return Err(error);
                }
            };
            audit(Audit { capability: "http", what, refused: None });
            let Some(next) = next_url(&url, &response) else {
                return self.answer(url, response, most).await;
            };
            if becomes_a_get(response.status(), &method) {
                (method, body) = ("GET".to_owned(), None);
            }
            if Origin::of(&next).ok() != Some(origin) {
                // What was meant for one origin is not shown to the next.
                for name in ["authorization", "cookie"] {
                    headers.remove(name);
                }
            }
            url = next;
        }
        Err(Error::Failed(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// The granted origin of `url`, or why a request there is not sent.
    fn check(&self, url: &Url, method: &str) -> Result<Origin, String> {
        let plugin = &self.plugin;
        let origin = Origin::of(url).map_err(|reason| format!("the URL cannot be requested: {reason}"))?;
        let Some(access) = self.access.iter().find(|access| access.origin == origin) else {
            return Err(format!(
                "`{plugin}` was not granted requests to {origin}; the operator can grant them if its manifest \
                 asks for them: `chaski plugin grant {plugin} http={origin}`"
            ));
        };
        if !access.methods.iter().any(|known| known == method) {
            let methods = access.methods.join(", ");
            return Err(format!(
                "the manifest of `{plugin}` asks for {methods} at {origin}, not for {method}"
            ));
        }
        Ok(origin)
    }

    /// Why no answer came, in words without the request's secrets.
    fn failure(&self, error: &reqwest::Error) -> Error {
        let mut causes =
            std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source());
        if let Some(refused) = causes.clone().find_map(|cause| cause.downcast_ref::<PrivateAddress>()) {
            return Error::Denied(refused.to_string());
        }
        if error.is_timeout() {
            return Error::Timeout;
        }
        let root = causes.by_ref().last().map(ToString::to_string).unwrap_or_default();
        Error::Failed(self.secrets.redacted_text(&root))
    }

    async fn answer(
        &self,
        url: Url,
        mut response: reqwest::Response,
        most: usize,
    ) -> Result<Response, Error> {
        let status = response.status().as_u16();
        let mut headers = Vec::new();
        let mut bytes = 0;
        for (name, value) in response.headers() {
            bytes += name.as_str().len() + value.len();
            if bytes > MAX_HEADERS {
                return Err(Error::Failed(format!(
                    "the answer has more than {MAX_HEADERS} bytes of headers"
                )));
            }
            let value = String::from_utf8_lossy(&self.secrets.redacted(value.as_bytes())).into_owned();
            headers.push((name.as_str().to_owned(), value));
        }
        // More than is passed on: a secret that lies across the cut would not be found in its half.
        let read = most + self.secrets.longest();
        let mut body = Vec::new();
        while body.len() <= read {
            match response.chunk().await.map_err(|error| self.failure(&error))? {
                Some(chunk) => body.extend_from_slice(&chunk),
                None => break,
            }
        }
        let mut body = self.secrets.redacted(&body);
        let truncated = body.len() > most;
        body.truncate(most);
        let url = self.secrets.redacted_text(url.as_str());
        Ok(Response { status, url, headers, body, truncated })
    }
}

/// A request in a line of a log: without its query, which may hold anything.
fn shown(method: &str, url: &Url) -> String {
    let origin = url.origin().ascii_serialization();
    let more = if url.query().is_some() { "?…" } else { "" };
    format!("{method} {origin}{}{more}", url.path())
}

/// A guest's headers, without those that are the host's.
fn headers(given: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let bytes: usize = given.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_HEADERS {
        return Err(format!("the headers have {bytes} bytes, the most is {MAX_HEADERS}"));
    }
    for (name, value) in given {
        let shown = name.escape_debug();
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{shown}` is no header"))?;
        if HOSTS_OWN_HEADERS.contains(&name.as_str()) {
            return Err(format!("the header `{name}` is set by the host"));
        }
        let value = HeaderValue::from_str(value)
            .map_err(|_| format!("the header `{name}` has a value that is none"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Where the answer sends the request on, if it does.
fn next_url(url: &Url, response: &reqwest::Response) -> Option<Url> {
    use StatusCode as Status;
    let redirects = [
        Status::MOVED_PERMANENTLY,
        Status::FOUND,
        Status::SEE_OTHER,
        Status::TEMPORARY_REDIRECT,
        Status::PERMANENT_REDIRECT,
    ];
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    redirects.contains(&response.status()).then(|| url.join(location).ok()).flatten()
}

fn becomes_a_get(status: StatusCode, method: &str) -> bool {
    match status {
        StatusCode::SEE_OTHER => method != "HEAD",
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => method == "POST",
        _ => false,
    }
}

/// Resolves names to addresses that may be connected to.
struct CheckedResolver {
    /// Hosts whose grant says that they may be private.
    private: BTreeSet<String>,
}

/// A name that stands for an address that was not granted.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{host}` stands for {address}, which is no public address; the operator can say that this is meant: grant \
     the origin with `+private`"
)]
struct PrivateAddress {
    host: String,
    address: std::net::IpAddr,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().trim_end_matches('.').to_owned();
        let private = self.private.contains(&host);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let refused = found.iter().map(SocketAddr::ip).find(|address| !private && !is_public(*address));
            match refused {
                Some(address) => Err(PrivateAddress { host, address }.into()),
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `localhost` is resolved where `private` may be private.
    fn resolves(private: &[&str]) -> Result<usize, String> {
        let resolver = CheckedResolver { private: private.iter().map(|&host| host.to_owned()).collect() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let name = "localhost".parse().expect("a name");
        let found = runtime.block_on(resolver.resolve(name));
        found.map(Iterator::count).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_for_a_private_address_needs_a_word_in_the_grant() {
        let refused = resolves(&["elsewhere"]).expect_err("it stands for this machine");
        assert!(refused.contains("`localhost` stands for") && refused.contains("+private"), "{refused}");
        assert!(resolves(&["localhost"]).expect("it was named") > 0);
    }

    #[test]
    fn a_log_does_not_hold_what_a_query_holds() {
        let url = "https://a.example/path?key=secret#part".parse().expect("a URL");
        assert_eq!(shown("GET", &url), "GET https://a.example/path?…");
    }
}
