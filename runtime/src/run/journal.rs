//! The journal: every event of every run, in one SQLite database (WAL).

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::event::{FinalState, RunEvent};

/// A run's id: a ULID, so ids sort by time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

/// One line of `runs list`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunSummary {
    /// Its id.
    pub id: RunId,
    /// The workflow's name, or `chat`.
    pub name: String,
    /// The model's name.
    pub model: String,
    /// RFC 3339.
    pub started: String,
    /// `None` while it runs, or when its process was killed.
    pub state: Option<FinalState>,
    /// Seconds from the first event to the last.
    pub seconds: f64,
}

/// An event with its time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JournalEntry {
    /// From 0, in order.
    pub sequence: u64,
    /// RFC 3339.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub event: RunEvent,
}

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// SQLite said no.
    #[error("journal `{path}`: {reason}")]
    Database {
        /// The database file.
        path: std::path::PathBuf,
        /// What it said.
        reason: String,
    },
    /// No run has this id, or this beginning of one, or several have.
    #[error("no single run has the id `{0}`")]
    UnknownRun(String),
}

/// The database of all runs. One writer at a time; shared by reference.
pub struct Journal {}

impl Journal {
    /// Opens or creates `runs.sqlite` in `data_dir`.
    pub fn open(_data_dir: &Path) -> Result<Self, JournalError> {
        unimplemented!()
    }

    /// A new run, not yet visible: its first event makes it so.
    pub fn new_run(&self) -> RunId {
        unimplemented!()
    }

    /// Adds `event` to `run`; durable when it returns.
    pub fn append(&self, _run: &RunId, _event: &RunEvent) -> Result<(), JournalError> {
        unimplemented!()
    }

    /// The newest `limit` runs, newest first.
    pub fn runs(&self, _limit: usize) -> Result<Vec<RunSummary>, JournalError> {
        unimplemented!()
    }

    /// The run whose id is or begins with `id`, and its events.
    pub fn run(&self, _id: &str) -> Result<(RunSummary, Vec<JournalEntry>), JournalError> {
        unimplemented!()
    }
}
