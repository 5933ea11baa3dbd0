//! One client, on standard input and output. Standard output carries nothing but the protocol.

use rmcp::service::{ServerInitializeError, serve_server_with_ct};
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio_util::sync::CancellationToken;

use super::Offer;

/// Bytes of one message of a client.
const MAX_MESSAGE_BYTES: usize = 8 << 20;

/// Serves until the client closes our input, or `cancel` is set.
///
/// # Errors
/// What is wrong with the client's first messages.
pub async fn serve(offer: Offer, cancel: CancellationToken) -> Result<(), String> {
    let transport = AsyncRwTransport::new_server(tokio::io::stdin(), tokio::io::stdout())
        .with_max_line_length(MAX_MESSAGE_BYTES);
    match serve_server_with_ct(offer, transport, cancel).await {
        Ok(service) => {
            // It ends with its client, however that ends.
            let _ = service.waiting().await;
            Ok(())
        }
        Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
