//! Many clients, over streamable HTTP at `/mcp`. Every request stands for itself, in both eras.
//!
//! A browser is never a client: a request with an `Origin` is refused, and so is one whose `Host` is not a name
//! of ours, because a page could otherwise reach a server on its reader's machine.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::Offer;

/// Where the protocol is spoken.
pub const PATH: &str = "/mcp";
/// Connections at one time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// Time that a client has to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one message of a client.
const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// Wait after an accept that failed: most often, this process has too many files open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client must show.
pub struct Key {
    digest: [u8; 32],
}

impl Key {
    /// The key `text`.
    pub fn new(text: &str) -> Self {
        Self { digest: Sha256::digest(text.as_bytes()).into() }
    }

    /// Whether `shown` is this key. Digests are compared in full, so that the time tells nothing of where they
    /// differ.
    fn is(&self, shown: &str) -> bool {
        let shown: [u8; 32] = Sha256::digest(shown.as_bytes()).into();
        let different = self.digest.iter().zip(&shown).fold(0, |different, (a, b)| different | (a ^ b));
        std::hint::black_box(different) == 0
    }
}

/// Who may be a client.
pub struct Access {
    /// The key that a client must show, if any.
    pub key: Option<Key>,
    /// Names, besides those of this machine for itself, that a request's `Host` may have.
    pub hosts: Vec<String>,
}

type Body = BoxBody<Bytes, Infallible>;
type Service = StreamableHttpService<Offer, NeverSessionManager>;

/// Serves what comes to `listener` until `cancel` is set.
pub async fn serve(offer: Offer, listener: TcpListener, access: Access, cancel: CancellationToken) {
    let own: Option<SocketAddr> = listener.local_addr().ok();
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]
        .into_iter()
        .chain(own.map(|address| address.ip().to_string()))
        .chain(access.hosts);
    let config = StreamableHttpServerConfig::default()
        .with_allowed_hosts(hosts)
        .enforce_origin_validation()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(MAX_MESSAGE_BYTES)
        .with_cancellation_token(cancel.child_token());
    let service: Service = StreamableHttpService::new(
        move || Ok(offer.clone()),
        Arc::new(NeverSessionManager::default()),
        config,
    );
    let key = Arc::new(access.key);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (service, key, cancel) = (service.clone(), key.clone(), cancel.clone());
        tokio::spawn(async move {
            let _place = place;
            let respond = service_fn(move |request| {
                let (service, key) = (service.clone(), key.clone());
                async move { Ok::<_, Infallible>(respond(&service, key.as_ref().as_ref(), request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), respond);
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended badly");
                },
                () = cancel.cancelled() => {}
            }
        });
    }
}

async fn respond(service: &Service, key: Option<&Key>, request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() != PATH {
        return plain(StatusCode::NOT_FOUND, "MCP is spoken at /mcp");
    }
    if let Some(key) = key {
        let shown = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.split_once(' '));
        let shown = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if !shown.is_some_and(|(_, shown)| key.is(shown.trim())) {
            let mut refusal = plain(StatusCode::UNAUTHORIZED, "a key is needed: `Authorization: Bearer KEY`");
            refusal.headers_mut().insert(WWW_AUTHENTICATE, hyper::header::HeaderValue::from_static("Bearer"));
            return refusal;
        }
    }
    service.handle(request).await
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_itself_and_nothing_else() {
        let key = Key::new("secret");
        assert!(key.is("secret"));
        for other in ["", "secre", "secret ", "Secret", "secretsecret"] {
            assert!(!key.is(other), "{other}");
        }
    }
}
