//! The journal's tables, and how a database of an earlier version gets them.
//!
//! Invariant: `user_version` is the number of migrations that ran, and they run in one transaction, so a
//! database is at one version or the other and never between.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::{JournalError, database_error};

/// Marks the file as a journal of ours: `chsk` in ASCII, in SQLite's `application_id`.
const APPLICATION_ID: i64 = 0x6368_736b;

/// How long a writer waits for another process. An append takes milliseconds, so this is never reached
/// unless a process hangs in its transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// What brings a database from version `index` to `index + 1`. Never edit one that was released: add one.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE runs (
        id TEXT NOT NULL PRIMARY KEY,
        name TEXT NOT NULL,
        model TEXT NOT NULL,
        started INTEGER NOT NULL,  -- milliseconds since 1970
        last INTEGER NOT NULL,     -- the newest event's time
        state TEXT,                -- NULL until the run has ended
        events INTEGER NOT NULL DEFAULT 0,
        turns INTEGER NOT NULL DEFAULT 0,
        tool_calls INTEGER NOT NULL DEFAULT 0,
        prompt_tokens INTEGER NOT NULL DEFAULT 0,
        cached_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX runs_by_start ON runs (started, id);
    CREATE TABLE events (
        run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        sequence INTEGER NOT NULL,
        time INTEGER NOT NULL,
        body TEXT NOT NULL,        -- the event as JSON
        PRIMARY KEY (run, sequence)
    ) STRICT;
"];

/// Makes `connection` ready for the journal: checks whose database it is, sets it up, migrates it.
pub(super) fn prepare(connection: &mut Connection, path: &Path) -> Result<(), JournalError> {
    let found = configure(connection).map_err(|error| database_error(path, &error))?;
    match found {
        Found::Journal(version) if version <= MIGRATIONS.len() => {}
        Found::Journal(version) => return Err(wrong_format(path, format!("version {version}"))),
        Found::Foreign => return Err(wrong_format(path, "of another program".to_owned())),
    }
    migrate(connection).map_err(|error| database_error(path, &error))
}

fn wrong_format(path: &Path, found: String) -> JournalError {
    JournalError::Format { path: path.to_owned(), found, known: MIGRATIONS.len() }
}

/// What kind of database a file is. An empty one is a journal of version 0.
enum Found {
    Journal(usize),
    Foreign,
}

/// Connection settings. Nothing is written to a database that is not ours.
fn configure(connection: &Connection) -> rusqlite::Result<Found> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let found = identify(connection)?;
    if matches!(found, Found::Foreign) {
        return Ok(found);
    }
    enter_wal(connection)?;
    // FULL syncs the log at each commit. NORMAL would keep a killed process's events but lose the last ones
    // in a power cut, and with them the proof that an effectful call was already made.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(found)
}

fn identify(connection: &Connection) -> rusqlite::Result<Found> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && pragma("application_id")? != APPLICATION_ID {
        return Ok(Found::Foreign);
    }
    Ok(Found::Journal(usize::try_from(pragma("user_version")?).unwrap_or(usize::MAX)))
}

/// Switches to WAL. Changing the mode needs the file for itself for a moment and SQLite does not wait for
/// that, so processes that start together try again until one of them has done it for all.
fn enter_wal(connection: &Connection) -> rusqlite::Result<()> {
    const PAUSE: Duration = Duration::from_millis(10);
    let mut attempts_left = BUSY_TIMEOUT.as_millis() / PAUSE.as_millis();
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0)) {
            // An in-memory database answers `memory` and stays what it is.
            Ok(_mode) => return Ok(()),
            Err(error) if is_busy(&error) && attempts_left > 0 => {
                attempts_left -= 1;
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    )
}

/// Runs the migrations that are missing. The version is read under the write lock, so that two processes
/// that start together do not both run one.
fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let version = |connection: &Connection| {
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
    };
    let missing = |version: i64| MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(usize::MAX));
    if missing(version(connection)?).next().is_none() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in missing(version(&transaction)?) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX))?;
    transaction.commit()
}
