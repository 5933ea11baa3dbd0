//! Whose turn it is: calls beyond what the machine can run wait, in order, for a bounded time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Calls that may wait in one host. More means that somebody asks faster than anything could answer.
const MAX_WAITING: usize = 256;
/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The turns of one host.
pub(super) struct Queue {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A call's right to run, given back when it is dropped.
pub(super) struct Turn {
    _plugin: OwnedSemaphorePermit,
    _host: OwnedSemaphorePermit,
}

/// Why a call did not get its turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoTurn {
    TooManyWaiting,
    WaitedTooLong(Duration),
    Cancelled,
}

impl Queue {
    /// A queue that lets `calls` run at one time.
    pub(super) fn new(calls: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(calls)), waiting: AtomicUsize::new(0) }
    }

    /// Waits for one of the `plugin`'s turns and one of the host's, until `deadline` at most.
    pub(super) async fn turn(
        &self,
        plugin: &Arc<Semaphore>,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<Turn, NoTurn> {
        let started = Instant::now();
        let _place = Place::take(&self.waiting).ok_or(NoTurn::TooManyWaiting)?;
        let both = async {
            // The plugin's first: a call that waits for its plugin must not hold back the others.
            let of_plugin = plugin.clone().acquire_owned().await;
            let of_host = self.turns.clone().acquire_owned().await;
            (of_plugin, of_host)
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(NoTurn::Cancelled),
            permits = both => match permits {
                (Ok(plugin), Ok(host)) => Ok(Turn { _plugin: plugin, _host: host }),
                _ => unreachable!("no one closes these semaphores"),
            },
            () = tokio::time::sleep_until(deadline.min(started + MAX_WAIT).into()) => {
                Err(NoTurn::WaitedTooLong(started.elapsed()))
            }
        }
    }
}

/// A place among those who wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let more = |count: usize| (count < MAX_WAITING).then_some(count + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[tokio::test]
    async fn a_turn_that_is_given_back_can_be_taken_again() {
        let (queue, plugin) = (Queue::new(1), Arc::new(Semaphore::new(1)));
        let cancel = CancellationToken::new();
        drop(queue.turn(&plugin, soon(), &cancel).await.ok().unwrap());
        assert!(queue.turn(&plugin, soon(), &cancel).await.is_ok());
    }

    #[tokio::test]
    async fn a_plugin_that_is_busy_does_not_hold_up_another() {
        let (queue, busy, other) = (Queue::new(2), Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
        let cancel = CancellationToken::new();
        let _running = queue.turn(&busy, soon(), &cancel).await.ok().unwrap();
        assert!(matches!(queue.turn(&busy, soon(), &cancel).await, Err(NoTurn::WaitedTooLong(_))));
        assert!(queue.turn(&other, soon(), &cancel).await.is_ok());
    }

    #[tokio::test]
    async fn a_cancelled_call_does_not_wait() {
        let (queue, plugin) = (Queue::new(1), Arc::new(Semaphore::new(0)));
        let cancel = CancellationToken::new();
        cancel.cancel();
        let turn = queue.turn(&plugin, Instant::now() + MAX_WAIT, &cancel).await;
        assert!(matches!(turn, Err(NoTurn::Cancelled)));
    }

    #[tokio::test]
    async fn a_queue_that_is_full_refuses_at_once() {
        let (queue, plugin) = (Queue::new(1), Arc::new(Semaphore::new(1)));
        queue.waiting.store(MAX_WAITING, Ordering::Relaxed);
        let turn = queue.turn(&plugin, soon(), &CancellationToken::new()).await;
        assert!(matches!(turn, Err(NoTurn::TooManyWaiting)));
    }
}
