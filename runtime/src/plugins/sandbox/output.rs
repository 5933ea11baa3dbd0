//! What a running call writes: kept within bounds, its beginning and its end.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes kept of each stream of a call: what it emits, its standard output, its standard error.
pub(super) const KEPT_BYTES: usize = 16 << 10;

/// Half for the beginning, which says what a program does, half for the end, which says where it stopped.
const HALF: usize = KEPT_BYTES / 2;

/// Bytes one WASI write may bring; the guest writes the rest in the next.
const WRITE_PERMIT: usize = 64 << 10;

/// The first and the last bytes of a stream, and how many were between them.
#[derive(Debug, Default)]
pub(super) struct KeptText {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: usize,
}

impl KeptText {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(HALF - self.head.len()));
        self.head.extend_from_slice(head);
        // Of a piece longer than the tail, only its end can stay.
        let last = &rest[rest.len().saturating_sub(HALF)..];
        self.dropped += rest.len() - last.len();
        let excess = (self.tail.len() + last.len()).saturating_sub(HALF);
        self.tail.drain(..excess);
        self.dropped += excess;
        self.tail.extend(last);
    }

    /// The text, with what is missing said where it is missing.
    pub(super) fn text(&self) -> String {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        if self.dropped == 0 {
            let whole = [self.head.as_slice(), &tail].concat();
            return String::from_utf8_lossy(&whole).into_owned();
        }
        format!(
            "{}\n[... {} bytes left out ...]\n{}",
            String::from_utf8_lossy(&self.head),
            self.dropped,
            String::from_utf8_lossy(&tail),
        )
    }
}

/// A guest's standard output or error: takes everything, keeps a bounded part, never blocks or fails.
///
/// A full pipe would do as a bound too, but a guest that prints too much would then die of it.
#[derive(Clone, Default)]
pub(super) struct Pipe(Arc<Mutex<KeptText>>);

impl Pipe {
    pub(super) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).text()
    }

    fn push(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

impl IsTerminal for Pipe {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Pipe {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Pipe {
    async fn ready(&mut self) {}
}

impl OutputStream for Pipe {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_PERMIT)
    }
}

impl tokio::io::AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[&str], expected: &str) {
        let mut kept = KeptText::default();
        pieces.iter().for_each(|piece| kept.push(piece.as_bytes()));
        assert_eq!(kept.text(), expected);
    }

    #[test]
    fn short_text_stays_whole() {
        check(&["step 1\n", "step 2\n"], "step 1\nstep 2\n");
    }

    #[test]
    fn text_up_to_the_bound_stays_whole() {
        check(
            &[&"a".repeat(HALF + 1), &"b".repeat(HALF - 1)],
            &("a".repeat(HALF + 1) + &"b".repeat(HALF - 1)),
        );
    }

    #[test]
    fn of_a_flood_the_beginning_and_the_end_stay() {
        let expected = format!("{}\n[... 10 bytes left out ...]\n{}", "a".repeat(HALF), "c".repeat(HALF));
        check(&[&"a".repeat(HALF), &"b".repeat(10), &"c".repeat(HALF)], &expected);
        check(&[&("a".repeat(HALF) + &"b".repeat(10) + &"c".repeat(HALF))], &expected);
    }
}
