//! Requests of plugins.

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
