//! The one way into a run's log: journal first, then the observer.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::calls::CallMemory;
use super::event::{LiveEvent, RunEvent};
use super::journal::{Journal, JournalError, RunId};

/// Someone who watches a run: a terminal, a JSON stream, a page. Must not block.
pub type Observer = Arc<dyn Fn(&LiveEvent) + Send + Sync>;

/// Records one run. Cloned into every step, agent and tool call of it.
#[derive(Clone)]
pub struct Recorder {
    run: RunId,
    journal: Arc<Journal>,
    observer: Observer,
    cancel: CancellationToken,
    memory: Arc<CallMemory>,
}

impl Recorder {
    /// A recorder for `run`; `cancel` ends everything in it.
    pub fn new(run: RunId, journal: Arc<Journal>, observer: Observer, cancel: CancellationToken) -> Self {
        Self { run, journal, observer, cancel, memory: Arc::default() }
    }

    /// The same recorder for a part of the run that `cancel` ends alone.
    pub fn with_cancel(&self, cancel: CancellationToken) -> Self {
        Self { cancel, ..self.clone() }
    }

    /// The run's id.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// Set when the run should end.
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// What this run remembers of its calls.
    pub fn memory(&self) -> &CallMemory {
        &self.memory
    }

    /// Writes `event` to the journal, then shows it. When this returns, the event outlives the process.
    pub fn record(&self, event: RunEvent) -> Result<(), JournalError> {
        self.journal.append(&self.run, &event)?;
        (self.observer)(&LiveEvent::Event(event));
        Ok(())
    }

    /// Shows something that is not kept.
    pub fn show(&self, live: LiveEvent) {
        (self.observer)(&live);
    }
}
