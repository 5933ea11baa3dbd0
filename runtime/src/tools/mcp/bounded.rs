//! What a program sends, read only as far as it keeps within bounds.
//!
//! A message without an end and messages without an end both end the connection: the reader says why in
//! [`Broken`], and the calls that wait are told.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Bytes of one message.
pub(super) const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// Bytes that may come since anything was last asked of the program.
const MAX_UNASKED_BYTES: u64 = 64 << 20;

/// Why a connection ended, if our side ended it.
#[derive(Clone, Default)]
pub(super) struct Broken(Arc<Mutex<Option<String>>>);

impl Broken {
    /// The first reason stays.
    fn set(&self, reason: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
    }

    /// The reason, if there is one.
    pub(super) fn reason(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Bytes since something was last asked; shared with who asks.
#[derive(Clone, Default)]
pub(super) struct Unasked(Arc<AtomicU64>);

impl Unasked {
    /// Something is asked now.
    pub(super) fn ask(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// A stream of lines that fails when it goes out of bounds.
pub(super) struct Bounded<R> {
    inner: R,
    line: usize,
    unasked: Unasked,
    broken: Broken,
}

impl<R> Bounded<R> {
    /// `inner`, bounded.
    pub(super) fn new(inner: R, unasked: Unasked, broken: Broken) -> Self {
        Self { inner, line: 0, unasked, broken }
    }

    /// Counts `bytes`; the reason when they are too many.
    fn count(&mut self, bytes: &[u8]) -> Option<String> {
        let longest = bytes.split(|byte| *byte == b'\n').enumerate().fold(0, |longest, (index, part)| {
            self.line = if index == 0 { self.line + part.len() } else { part.len() };
            longest.max(self.line)
        });
        let unasked = self.unasked.0.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
        if longest > MAX_MESSAGE_BYTES {
            return Some(format!("it sent a message of more than {} MiB", MAX_MESSAGE_BYTES >> 20));
        }
        (unasked > MAX_UNASKED_BYTES)
            .then(|| format!("it sent more than {} MiB that nobody asked for", MAX_UNASKED_BYTES >> 20))
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Bounded<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let reason = self.count(&buffer.filled()[before..]);
        Poll::Ready(match reason {
            None => Ok(()),
            Some(reason) => {
                self.broken.set(reason.clone());
                Err(std::io::Error::other(reason))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Reads `text`; what broke, if anything did.
    async fn check(text: Vec<u8>) -> Option<String> {
        let broken = Broken::default();
        let mut reader = Bounded::new(text.as_slice(), Unasked::default(), broken.clone());
        let _ = reader.read_to_end(&mut Vec::new()).await;
        broken.reason()
    }

    #[tokio::test]
    async fn many_short_lines_are_fine() {
        assert_eq!(check("{}\n".repeat(MAX_MESSAGE_BYTES / 2).into_bytes()).await, None);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_cut_off() {
        let reason = check(vec![b'x'; MAX_MESSAGE_BYTES + 1]).await;
        assert_eq!(reason.as_deref(), Some("it sent a message of more than 8 MiB"));
    }

    #[tokio::test]
    async fn lines_without_an_end_are_cut_off() {
        let reason = check(b"{\"noise\":true}\n".repeat(MAX_UNASKED_BYTES as usize / 15 + 1)).await;
        assert_eq!(reason.as_deref(), Some("it sent more than 64 MiB that nobody asked for"));
    }
}
