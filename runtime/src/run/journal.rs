//! The journal: every event of every run, in one SQLite database (WAL).
//!
//! It decides what has happened: an event is in a run if and only if [`Journal::append`] returned `Ok` for
//! it, and then it outlives the process and a power cut. Several processes may have the same journal open.
//!
//! Invariant: a run's events are numbered from 0 without a gap, the first is `RunStarted`, and nothing
//! follows `RunFinished`. The line of `runs list` is kept in the same transaction, so it never disagrees.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chaski_engine::Usage;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::{FinalState, RunEvent};

mod schema;

/// The database's name in the data directory.
const FILE_NAME: &str = "runs.sqlite";

/// Stands for the newest run where an id is asked for. It has an `L`, which no ULID has.
const LATEST: &str = "latest";

/// Arrays and objects inside each other that the reader takes: it stops at 127, and an event's own fields
/// need some of them.
const MAX_NESTING: usize = 100;

/// A run's id: a ULID, so ids sort by time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// The 26 characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(&self.0)
    }
}

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
    /// Events so far.
    pub events: u64,
    /// Model replies so far.
    pub turns: u64,
    /// Tokens of all replies.
    pub usage: Usage,
    /// Tool calls that were answered, by the model or by a workflow step.
    pub tool_calls: u64,
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
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// The file is a database, but no journal, or one of a later chaski.
    #[error("journal `{path}` has the format {found}, this chaski reads up to {known}")]
    Format {
        /// The database file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// The newest format version that this program knows.
        known: usize,
    },
    /// An event in the database is not one that this program wrote.
    #[error("journal `{path}`: event {sequence} of run {run} cannot be read: {reason}")]
    Event {
        /// The database file.
        path: PathBuf,
        /// Whose event.
        run: RunId,
        /// Which, from 0.
        sequence: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The run's first event is something else than its start, or it has already ended.
    #[error("run {run} {state}, so it cannot record `{event}`")]
    Order {
        /// Whose.
        run: RunId,
        /// Where the run is.
        state: &'static str,
        /// The event's name.
        event: String,
    },
    /// No run has this id, or this beginning of one.
    #[error("no run has the id `{0}`")]
    UnknownRun(String),
    /// Several runs have an id with this beginning.
    #[error("several runs have an id that begins with `{asked}`, among them {first} and {second}")]
    AmbiguousRun {
        /// The beginning.
        asked: String,
        /// One of them.
        first: RunId,
        /// Another.
        second: RunId,
    },
}

impl JournalError {
    /// What to do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Database { path, .. } | Self::Event { path, .. } => Some(format!(
                "nothing was deleted; move `{}` away, or name another `--data-dir`, to start a new journal",
                path.display()
            )),
            Self::Format { .. } => Some("use the chaski that wrote it, or another `--data-dir`".to_owned()),
            Self::UnknownRun(_) => {
                Some("`chaski runs list` shows the runs; `latest` is the newest".to_owned())
            }
            Self::AmbiguousRun { .. } => Some("write more of the id".to_owned()),
            Self::Order { .. } => None,
        }
    }
}

/// The database of all runs. One writer at a time; shared by reference.
pub struct Journal {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    connection: Connection,
    /// Ids of one process rise even within a millisecond.
    ids: ulid::Generator,
}

impl Journal {
    /// Opens or creates `runs.sqlite` in `data_dir`, readable by this user alone.
    ///
    /// # Errors
    /// [`JournalError::Format`] for a database of a later version or of another program,
    /// [`JournalError::Database`] for everything that SQLite or the file system refuses. An existing file is
    /// never replaced.
    pub fn open(data_dir: &Path) -> Result<Self, JournalError> {
        let path = data_dir.join(FILE_NAME);
        create_private(data_dir, &path)
            .map_err(|error| JournalError::Database { path: path.clone(), reason: error.to_string() })?;
        let connection = Connection::open(&path).map_err(|error| database_error(&path, &error))?;
        Self::over(connection, path)
    }

    /// A journal that ends with the process; for tests.
    pub fn in_memory() -> Result<Self, JournalError> {
        let path = PathBuf::from(":memory:");
        let connection = Connection::open_in_memory().map_err(|error| database_error(&path, &error))?;
        Self::over(connection, path)
    }

    fn over(mut connection: Connection, path: PathBuf) -> Result<Self, JournalError> {
        schema::prepare(&mut connection, &path)?;
        Ok(Self { path, inner: Mutex::new(Inner { connection, ids: ulid::Generator::new() }) })
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new run, not yet visible: its first event makes it so.
    pub fn new_run(&self) -> RunId {
        // The generator only fails after 2^80 ids in one millisecond; a random id is as good then.
        let id = self.lock().ids.generate().unwrap_or_else(|overflow| overflow.commit_overflow_random());
        RunId(id.to_string())
    }

    /// Adds `event` to `run`; durable when it returns.
    ///
    /// # Errors
    /// [`JournalError::Order`] when the run has not started or has ended, else [`JournalError::Database`];
    /// the run is then as it was.
    pub fn append(&self, run: &RunId, event: &RunEvent) -> Result<(), JournalError> {
        let now = Timestamp::now().as_millisecond();
        let body = event_body(event).map_err(|error| JournalError::Database {
            path: self.path.clone(),
            reason: format!("an event cannot be written as JSON: {error}"),
        })?;
        let state = self
            .write(|transaction| {
                let known: Option<(i64, Option<String>)> = transaction
                    .prepare_cached("SELECT events, state FROM runs WHERE id = ?1")?
                    .query_row([&run.0], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                let sequence = match (known, event) {
                    (None, RunEvent::RunStarted { name, model, .. }) => {
                        insert_run(transaction, run, name, model, now)?;
                        0
                    }
                    (None, _) => return Ok(Some("has not started")),
                    (Some((_, Some(_))), _) => return Ok(Some("has ended")),
                    (Some(_), RunEvent::RunStarted { .. }) => return Ok(Some("has started")),
                    (Some((events, None)), _) => events,
                };
                transaction
                    .prepare_cached("INSERT INTO events (run, sequence, time, body) VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![run.0, sequence, now, body])?;
                count_event(transaction, run, event, now)?;
                Ok(None)
            })
            .map_err(|error| database_error(&self.path, &error))?;
        match state {
            None => Ok(()),
            Some(state) => Err(JournalError::Order { run: run.clone(), state, event: event_name(&body) }),
        }
    }

    /// The newest `limit` runs, newest first.
    pub fn runs(&self, limit: usize) -> Result<Vec<RunSummary>, JournalError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let inner = self.lock();
        let read = || {
            inner
                .connection
                .prepare_cached(&format!("{SELECT_SUMMARY} ORDER BY started DESC, id DESC LIMIT ?1"))?
                .query_map([limit], summary)?
                .collect::<Result<Vec<_>, _>>()
        };
        read().map_err(|error| database_error(&self.path, &error))
    }

    /// The run whose id is or begins with `id`, or the newest for `latest`, and its events.
    ///
    /// # Errors
    /// [`JournalError::UnknownRun`] and [`JournalError::AmbiguousRun`] when that is not one run.
    pub fn run(&self, id: &str) -> Result<(RunSummary, Vec<JournalEntry>), JournalError> {
        let run = if id == LATEST {
            self.runs(1)?
                .pop()
                .map(|newest| newest.id)
                .ok_or_else(|| JournalError::UnknownRun(id.to_owned()))?
        } else {
            self.find(id)?
        };
        let mut inner = self.lock();
        let mut read = || {
            // One transaction, so that a run that goes on meanwhile cannot show more events than its summary.
            let snapshot = inner.connection.transaction()?;
            let summary =
                snapshot.query_row(&format!("{SELECT_SUMMARY} WHERE id = ?1"), [&run.0], summary)?;
            let rows = snapshot
                .prepare_cached("SELECT sequence, time, body FROM events WHERE run = ?1 ORDER BY sequence")?
                .query_map([&run.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<Vec<(i64, i64, String)>, _>>()?;
            Ok((summary, rows))
        };
        let (summary, rows) = read().map_err(|error| database_error(&self.path, &error))?;
        let entries = rows.into_iter().map(|row| self.entry(&run, row)).collect::<Result<_, _>>()?;
        Ok((summary, entries))
    }

    /// The one run whose id begins with `asked`, in either case.
    fn find(&self, asked: &str) -> Result<RunId, JournalError> {
        let unknown = || JournalError::UnknownRun(asked.to_owned());
        if asked.is_empty() || !asked.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(unknown());
        }
        let prefix = asked.to_ascii_uppercase();
        let inner = self.lock();
        let read = || {
            // Ids are digits and capitals, which all sort before `a`.
            inner
                .connection
                .prepare_cached("SELECT id FROM runs WHERE id >= ?1 AND id < ?1 || 'a' ORDER BY id LIMIT 2")?
                .query_map([&prefix], |row| row.get(0).map(RunId))?
                .collect::<Result<Vec<_>, _>>()
        };
        let mut found = read().map_err(|error| database_error(&self.path, &error))?.into_iter();
        match (found.next(), found.next()) {
            (None, _) => Err(unknown()),
            (Some(only), None) => Ok(only),
            (Some(first), Some(second)) => {
                Err(JournalError::AmbiguousRun { asked: asked.to_owned(), first, second })
            }
        }
    }

    fn entry(&self, run: &RunId, row: (i64, i64, String)) -> Result<JournalEntry, JournalError> {
        let (sequence, time, body) = row;
        let sequence = unsigned(sequence);
        let event = serde_json::from_str(&body).map_err(|error| JournalError::Event {
            path: self.path.clone(),
            run: run.clone(),
            sequence,
            reason: error.to_string(),
        })?;
        Ok(JournalEntry { sequence, time: rfc3339(time), event })
    }

    /// One write transaction. It takes the write lock at once: two writers wait for each other instead of
    /// finding out at commit that one read what the other changed.
    fn write<T>(
        &self,
        change: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut inner = self.lock();
        let transaction = inner.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let outcome = change(&transaction)?;
        transaction.commit()?;
        Ok(outcome)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held rolled its transaction back, so the connection is sound.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates the folder (0700) and the database file (0600) if they are not there. SQLite gives its side files
/// the mode of the database.
fn create_private(data_dir: &Path, path: &Path) -> std::io::Result<()> {
    crate::config::create_private(data_dir).map_err(std::io::Error::other)?;
    let mut file = fs::OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut file, 0o600);
    file.append(true).create(true).open(path).map(drop)
}

fn insert_run(
    transaction: &rusqlite::Transaction<'_>,
    run: &RunId,
    name: &str,
    model: &str,
    now: i64,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO runs (id, name, model, started, last) VALUES (?1, ?2, ?3, ?4, ?4)")?
        .execute(params![run.0, name, model, now])
        .map(drop)
}

/// Brings the run's line in `runs list` up to `event`.
fn count_event(
    transaction: &rusqlite::Transaction<'_>,
    run: &RunId,
    event: &RunEvent,
    now: i64,
) -> rusqlite::Result<()> {
    let (turns, usage) = match event {
        RunEvent::ModelReplied { usage, .. } => (1, *usage),
        _ => (0, Usage::default()),
    };
    let tool_calls = i64::from(matches!(event, RunEvent::ToolAnswered { .. }));
    let state = match event {
        RunEvent::RunFinished { state, .. } => Some(state_name(*state)),
        _ => None,
    };
    transaction
        .prepare_cached(
            "UPDATE runs SET events = events + 1, last = max(last, ?2), state = coalesce(?3, state),
                 turns = turns + ?4, tool_calls = tool_calls + ?5, prompt_tokens = prompt_tokens + ?6,
                 cached_tokens = cached_tokens + ?7, completion_tokens = completion_tokens + ?8
             WHERE id = ?1",
        )?
        .execute(params![
            run.0,
            now,
            state,
            turns,
            tool_calls,
            signed(usage.prompt_tokens),
            signed(usage.cached_tokens),
            signed(usage.completion_tokens),
        ])
        .map(drop)
}

const SELECT_SUMMARY: &str = "SELECT id, name, model, started, last, state, events, turns, tool_calls,
    prompt_tokens, cached_tokens, completion_tokens FROM runs";

fn summary(row: &Row<'_>) -> rusqlite::Result<RunSummary> {
    let (started, last): (i64, i64) = (row.get("started")?, row.get("last")?);
    let count = |column| row.get::<_, i64>(column).map(unsigned);
    let tokens = |column| count(column).map(|tokens| usize::try_from(tokens).unwrap_or(usize::MAX));
    Ok(RunSummary {
        id: RunId(row.get("id")?),
        name: row.get("name")?,
        model: row.get("model")?,
        started: rfc3339(started),
        state: row.get::<_, Option<String>>("state")?.as_deref().and_then(state_of),
        seconds: Timestamp::from_millisecond(last)
            .and_then(|last| Ok(last.duration_since(Timestamp::from_millisecond(started)?)))
            .map_or(0.0, |duration| duration.as_secs_f64()),
        events: count("events")?,
        turns: count("turns")?,
        usage: Usage {
            prompt_tokens: tokens("prompt_tokens")?,
            cached_tokens: tokens("cached_tokens")?,
            completion_tokens: tokens("completion_tokens")?,
        },
        tool_calls: count("tool_calls")?,
    })
}

/// The event as JSON that can be read back: what is nested too deep for the reader is kept as its text.
fn event_body(event: &RunEvent) -> serde_json::Result<String> {
    let body = serde_json::to_string(event)?;
    if nesting(&body) <= MAX_NESTING {
        return Ok(body);
    }
    let mut value = serde_json::to_value(event)?;
    fold_deep(&mut value, MAX_NESTING);
    serde_json::to_string(&value)
}

/// How deep arrays and objects are nested in serialised JSON.
fn nesting(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Replaces what lies deeper than `levels` by its JSON text.
fn fold_deep(value: &mut Value, levels: usize) {
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => *value = Value::String(value.to_string()),
        Value::Array(items) => items.iter_mut().for_each(|item| fold_deep(item, levels - 1)),
        Value::Object(fields) => fields.values_mut().for_each(|field| fold_deep(field, levels - 1)),
        _ => {}
    }
}

/// The event's name, as in its JSON.
fn event_name(body: &str) -> String {
    serde_json::from_str::<Value>(body)
        .ok()
        .and_then(|value| value["event"].as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// A state's name in the database: the same word as in an event's JSON.
fn state_name(state: FinalState) -> &'static str {
    match state {
        FinalState::Succeeded => "succeeded",
        FinalState::Failed => "failed",
        FinalState::Cancelled => "cancelled",
        FinalState::Skipped => "skipped",
    }
}

fn state_of(name: &str) -> Option<FinalState> {
    use FinalState::{Cancelled, Failed, Skipped, Succeeded};
    [Succeeded, Failed, Cancelled, Skipped].into_iter().find(|state| state_name(*state) == name)
}

fn rfc3339(milliseconds: i64) -> String {
    let time = Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn database_error(path: &Path, error: &rusqlite::Error) -> JournalError {
    JournalError::Database { path: path.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests;
