//! One connection to an MCP server: opened in either era of the protocol, asked, closed.
//!
//! The newer era (2026-07-28, no handshake) is tried first; a server that does not know it gets the handshake of
//! the older one (2025-11-25 and before). Nothing is offered in return: no files, no model, no questions to a
//! person.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientCapabilities, ClientConfig, Implementation, JsonObject,
    PaginatedRequestParams, ProtocolVersion, Tool as Offered,
};
use rmcp::service::{ClientInitializeError, NotificationContext, RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ClientLifecycleMode, RoleClient, serve_client_with_lifecycle};

use super::bounded::{Bounded, Broken, MAX_MESSAGE_BYTES, Unasked};
use super::error::McpError;
use super::process::{LastWords, Program};
use super::settings::{McpEndpoint, McpSettings};

/// Tools of one server, and the pages that they come in.
const MAX_TOOLS: usize = 512;
const MAX_PAGES: usize = 64;
/// Time to reach a server over HTTP; an answer may take longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that closing a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Characters of a server's own error message that are shown.
const SHOWN_CHARACTERS: usize = 400;

/// A server that answers.
pub(super) struct Connection {
    service: RunningService<RoleClient, Client>,
    program: Option<Program>,
    unasked: Unasked,
    broken: Broken,
    changes: Arc<AtomicU64>,
}

/// What a server may ask of us: nothing. It may say that its tools have changed.
struct Client {
    changes: Arc<AtomicU64>,
}

impl ClientHandler for Client {
    fn get_info(&self) -> ClientConfig {
        let implementation = Implementation::new("chaski", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), implementation)
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

/// How a call came to nothing.
pub(super) enum CallFault {
    /// The server refuses it; the connection is fine.
    Refused(String),
    /// The connection is of no more use.
    Gone(String),
}

impl Connection {
    /// Opens the connection to `server` and asks what it offers, all within its `start_timeout`.
    ///
    /// # Errors
    /// [`McpError::Start`] and [`McpError::Silent`], with the program's last words.
    pub(super) async fn open(server: &str, settings: &McpSettings) -> Result<(Self, Vec<Offered>), McpError> {
        let start = |reason: String| McpError::Start { server: server.to_owned(), reason };
        let (unasked, broken) = (Unasked::default(), Broken::default());
        let changes = Arc::new(AtomicU64::new(0));
        let client = Client { changes: changes.clone() };
        let mut last_words = LastWords::default();
        let opening = async {
            let (service, program) = match &settings.endpoint {
                McpEndpoint::Program { command, args, env } => {
                    let (program, stdin, stdout) =
                        Program::start(server, command, args, env).map_err(Fault::Other)?;
                    last_words = program.last_words();
                    let stdout = Bounded::new(stdout, unasked.clone(), broken.clone());
                    let transport = AsyncRwTransport::new_client(stdout, stdin)
                        .with_max_line_length(MAX_MESSAGE_BYTES + 1);
                    (serve_client_with_lifecycle(client, transport, either_era()).await?, Some(program))
                }
                McpEndpoint::Http { url, key_env } => {
                    let transport = http(url, key_env.as_deref()).map_err(Fault::Other)?;
                    (serve_client_with_lifecycle(client, transport, either_era()).await?, None)
                }
            };
            let connection =
                Self { service, program, unasked: unasked.clone(), broken: broken.clone(), changes };
            let tools = connection.tools().await.map_err(Fault::Other)?;
            Ok::<_, Fault>((connection, tools))
        };
        let opened = tokio::time::timeout(settings.start_timeout, opening).await;
        let said = last_words.shown();
        match opened {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(fault)) => {
                let reason = broken.reason().unwrap_or_else(|| fault.shown());
                Err(start(format!("{reason}{said}")))
            }
            Err(_elapsed) => Err(McpError::Silent {
                server: server.to_owned(),
                waited: settings.start_timeout,
                last_words: said,
            }),
        }
    }

    /// What the server offers now.
    ///
    /// # Errors
    /// A sentence about what went wrong.
    pub(super) async fn tools(&self) -> Result<Vec<Offered>, String> {
        let mut tools = Vec::new();
        let mut cursor = None;
        for _ in 0..MAX_PAGES {
            self.unasked.ask();
            let mut page = PaginatedRequestParams::default();
            page.cursor = cursor;
            let listed = self.service.list_tools(Some(page)).await.map_err(|error| self.shown(&error))?;
            tools.extend(listed.tools);
            if tools.len() > MAX_TOOLS {
                return Err(format!("it offers more than {MAX_TOOLS} tools"));
            }
            match listed.next_cursor {
                None => return Ok(tools),
                next => cursor = next,
            }
        }
        Err(format!("its list of tools has more than {MAX_PAGES} pages"))
    }

    /// Calls the tool that the server knows as `name`. Dropped, the server is told that nobody waits any more.
    pub(super) async fn call(
        &self,
        name: &str,
        arguments: JsonObject,
    ) -> Result<CallToolResponse, CallFault> {
        self.unasked.ask();
        let call = CallToolRequestParams::new(name.to_owned()).with_arguments(arguments);
        self.service.call_tool_once(call).await.map_err(|error| match &error {
            ServiceError::McpError(_) | ServiceError::UnexpectedResponse => {
                CallFault::Refused(self.shown(&error))
            }
            _ => CallFault::Gone(self.shown(&error)),
        })
    }

    /// Whether another call has a chance.
    pub(super) fn is_open(&self) -> bool {
        !self.service.is_closed() && !self.service.is_transport_closed() && self.broken.reason().is_none()
    }

    /// How often the server said that its tools have changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Takes leave: closes the program's input, waits a moment, and kills what is left.
    pub(super) async fn close(mut self) {
        // Whatever does not end in time is dropped, which ends it.
        let _ = self.service.close_with_timeout(CLOSE_TIMEOUT).await;
        if let Some(program) = &mut self.program {
            program.end().await;
        }
    }

    fn shown(&self, error: &ServiceError) -> String {
        match error {
            ServiceError::McpError(error) => cut(&error.message),
            ServiceError::TransportClosed | ServiceError::TransportSend(_) => {
                self.broken.reason().unwrap_or_else(|| match &self.program {
                    Some(_) => "it has ended".into(),
                    None => cut(&error.to_string()),
                })
            }
            ServiceError::UnexpectedResponse => "its answer is not what the protocol asks for".into(),
            other => cut(&other.to_string()),
        }
    }
}

/// Why a connection did not come about.
enum Fault {
    Protocol(Box<ClientInitializeError>),
    Other(String),
}

impl From<ClientInitializeError> for Fault {
    fn from(error: ClientInitializeError) -> Self {
        Self::Protocol(Box::new(error))
    }
}

impl Fault {
    fn shown(&self) -> String {
        match self {
            Self::Other(reason) => reason.clone(),
            Self::Protocol(error) => match error.as_ref() {
                ClientInitializeError::ConnectionClosed(_) => "it ended before it answered".into(),
                ClientInitializeError::LegacyFallbackFailed { fallback, .. } => cut(&fallback.to_string()),
                other => cut(&other.to_string()),
            },
        }
    }
}

fn either_era() -> ClientLifecycleMode {
    ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        legacy_version: Some(ProtocolVersion::V_2025_11_25),
    }
}

fn http(url: &str, key_env: Option<&str>) -> Result<StreamableHttpClientTransport<reqwest::Client>, String> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none()) // a key must not go where the user did not send it
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| error.to_string())?;
    let mut config = StreamableHttpClientTransportConfig::with_uri(url)
        .max_sse_event_size(MAX_MESSAGE_BYTES)
        .max_json_response_size(MAX_MESSAGE_BYTES);
    if let Some(name) = key_env {
        let key = std::env::var(name).map_err(|_| format!("the variable `{name}` is not set"))?;
        config = config.auth_header(key);
    }
    Ok(StreamableHttpClientTransport::with_client(client, config))
}

/// What a server says, kept to a line that can be shown.
fn cut(text: &str) -> String {
    let line: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    match line.char_indices().nth(SHOWN_CHARACTERS) {
        None => line,
        Some((end, _)) => format!("{} [...]", &line[..end]),
    }
}
