//! The events of one generation on their way to its reader.
//!
//! Sending never waits: what the channel has no room for stays here, and the generation is not computed until
//! the reader has caught up. A slow reader slows down nobody else.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::request::TokenEvent;

/// The events of one generation on their way to its reader.
pub(super) struct Outbox {
    events: mpsc::Sender<TokenEvent>,
    waiting: VecDeque<TokenEvent>,
}

impl Outbox {
    pub(super) fn new(events: mpsc::Sender<TokenEvent>) -> Self {
        Self { events, waiting: VecDeque::new() }
    }

    /// Sends `event`, after those that wait.
    pub(super) fn push(&mut self, event: TokenEvent) {
        self.waiting.push_back(event);
        self.flush();
    }

    /// Sends what the channel has room for.
    pub(super) fn flush(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(event)) => return self.waiting.push_front(event),
                Err(mpsc::error::TrySendError::Closed(_)) => self.waiting.clear(),
            }
        }
    }

    /// The reader has not caught up.
    pub(super) fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The reader went away.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// Waits until there is room, or the reader is gone.
    pub(super) async fn has_room(&self) {
        // The place is given back at once: this thread is the only sender.
        let _ = self.events.reserve().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(event: Option<TokenEvent>) -> String {
        match event {
            Some(TokenEvent::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_slow_reader_misses_nothing() {
        let (sender, mut receiver) = mpsc::channel(2);
        let mut outbox = Outbox::new(sender);
        for word in ["a", "b", "c", "d"] {
            outbox.push(TokenEvent::Text(word.into()));
        }
        assert!(outbox.is_behind());
        let mut read = String::new();
        for _ in 0..4 {
            read += &text(receiver.blocking_recv());
            outbox.flush();
        }
        assert_eq!(read, "abcd");
        assert!(!outbox.is_behind());
    }

    #[test]
    fn nothing_waits_for_a_reader_that_is_gone() {
        let (sender, receiver) = mpsc::channel(1);
        let mut outbox = Outbox::new(sender);
        outbox.push(TokenEvent::Text("a".into()));
        outbox.push(TokenEvent::Text("b".into()));
        drop(receiver);
        outbox.flush();
        assert!(!outbox.is_behind() && outbox.is_abandoned());
    }
}
