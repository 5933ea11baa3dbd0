//! What a journal keeps, and what it refuses.

use std::sync::Arc;
use std::time::Duration;

use chaski_engine::{FinishReason, Timings, ToolCall};
use serde_json::json;

use super::*;
use crate::run::event::Place;
use crate::tools::ToolOutcome;

fn started(name: &str) -> RunEvent {
    RunEvent::RunStarted { name: name.into(), source: None, model: "tiny".into(), inputs: json!({"n": 1}) }
}

fn replied(completion_tokens: usize) -> RunEvent {
    RunEvent::ModelReplied {
        place: Place { step: "look".into(), item: Some(2) },
        turn: 1,
        content: "nul \0, escape \u{1b}[2J, emoji 🦙, separator \u{2028}".into(),
        tool_calls: vec![ToolCall {
            id: "call_0".into(),
            name: "workspace.read".into(),
            arguments: json!({"path": "a\0b"}),
        }],
        cut_call: Some("{\"na".into()),
        finish: FinishReason::ToolCalls,
        usage: Usage { prompt_tokens: 10, cached_tokens: 4, completion_tokens },
        timings: Timings { decode: Duration::from_millis(1500), ..Timings::default() },
    }
}

fn answered(json: Option<Value>) -> RunEvent {
    RunEvent::ToolAnswered {
        place: Place::default(),
        call_id: "call_0".into(),
        tool: "workspace.read".into(),
        outcome: ToolOutcome::Ok,
        text: "text".into(),
        json,
        truncated: false,
        seconds: 0.25,
        cached: false,
    }
}

fn finished(state: FinalState) -> RunEvent {
    RunEvent::RunFinished { state, outputs: json!({"findings": []}), error: None }
}

fn note(message: &str) -> RunEvent {
    RunEvent::Notice { place: None, message: message.into() }
}

/// Records `events` as a new run and gives back what the journal then holds of it.
#[track_caller]
fn record(journal: &Journal, events: &[RunEvent]) -> (RunSummary, Vec<JournalEntry>) {
    let run = journal.new_run();
    for event in events {
        journal.append(&run, event).unwrap();
    }
    journal.run(run.as_str()).unwrap()
}

/// The error's text without the folder of the test.
#[track_caller]
fn error_text(result: Result<Journal, JournalError>, folder: &Path) -> String {
    let error = result.err().expect("the journal does not open");
    error.to_string().replace(&folder.display().to_string(), "DATA")
}

#[test]
fn events_come_back_as_they_were_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let events =
        [started("review"), replied(7), answered(Some(json!([1, null, "x"]))), finished(FinalState::Failed)];
    let run = record(&Journal::open(folder.path()).unwrap(), &events).0.id;

    let (_, entries) = Journal::open(folder.path()).unwrap().run(run.as_str()).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(entries.into_iter().map(|entry| entry.event).collect::<Vec<_>>(), events);
}

#[test]
fn the_summary_adds_up_the_run() {
    let journal = Journal::in_memory().unwrap();
    let events = [started("review"), replied(7), answered(None), replied(5), finished(FinalState::Succeeded)];
    let (summary, _) = record(&journal, &events);
    assert_eq!(
        (summary.name.as_str(), summary.model.as_str(), summary.state, summary.events),
        ("review", "tiny", Some(FinalState::Succeeded), 5)
    );
    assert_eq!((summary.turns, summary.tool_calls), (2, 1));
    assert_eq!(summary.usage, Usage { prompt_tokens: 20, cached_tokens: 8, completion_tokens: 12 });
    assert!((0.0..5.0).contains(&summary.seconds) && summary.started.ends_with('Z'), "{summary:?}");
}

#[test]
fn a_run_without_an_end_has_no_state() {
    let journal = Journal::in_memory().unwrap();
    assert_eq!(record(&journal, &[started("killed"), note("half way")]).0.state, None);
}

#[test]
fn a_run_is_not_visible_before_its_first_event() {
    let journal = Journal::in_memory().unwrap();
    let run = journal.new_run();
    assert_eq!(journal.runs(10).unwrap(), []);
    assert!(matches!(journal.run(run.as_str()), Err(JournalError::UnknownRun(_))));
}

#[test]
fn runs_are_listed_newest_first_up_to_the_limit() {
    let journal = Journal::in_memory().unwrap();
    for name in ["a", "b", "c"] {
        record(&journal, &[started(name)]);
    }
    let names = |limit| journal.runs(limit).unwrap().into_iter().map(|run| run.name).collect::<Vec<_>>();
    assert_eq!(names(2), ["c", "b"]);
    assert_eq!(names(usize::MAX), ["c", "b", "a"]);
    assert_eq!(journal.run("latest").unwrap().0.name, "c");
}

#[test]
fn a_run_begins_with_its_start_and_ends_with_its_end() {
    let journal = Journal::in_memory().unwrap();
    let run = journal.new_run();
    let refusal = |event: &RunEvent| journal.append(&run, event).unwrap_err().to_string();
    assert_eq!(refusal(&note("x")), format!("run {run} has not started, so it cannot record `notice`"));
    journal.append(&run, &started("a")).unwrap();
    assert_eq!(refusal(&started("a")), format!("run {run} has started, so it cannot record `run_started`"));
    journal.append(&run, &finished(FinalState::Cancelled)).unwrap();
    assert_eq!(refusal(&note("x")), format!("run {run} has ended, so it cannot record `notice`"));
    assert_eq!(journal.run(run.as_str()).unwrap().1.len(), 2);
}

#[test]
fn the_beginning_of_an_id_in_either_case_finds_its_run() {
    let journal = Journal::in_memory().unwrap();
    let run = record(&journal, &[started("a")]).0.id;
    let found = |id: &str| journal.run(id).map(|(summary, _)| summary.id);
    assert_eq!(found(&run.as_str()[..8]).unwrap(), run);
    assert_eq!(found(&run.as_str().to_lowercase()).unwrap(), run);
    for unknown in ["", "%", "0' OR 1", "ZZZ", &format!("{run}0")] {
        assert!(matches!(found(unknown), Err(JournalError::UnknownRun(_))), "{unknown}");
    }
    record(&journal, &[started("b")]);
    assert!(matches!(found(&run.as_str()[..1]), Err(JournalError::AmbiguousRun { .. })));
    assert_eq!(found(run.as_str()).unwrap(), run);
}

#[test]
fn hostile_and_huge_text_is_kept_whole() {
    let journal = Journal::in_memory().unwrap();
    let huge = "\0\u{7f}\"\\'; DROP TABLE runs; --\u{202e}".repeat(100_000);
    let (summary, entries) = record(&journal, &[started(&huge), note(&huge)]);
    assert!(summary.name == huge && entries[1].event == note(&huge));
}

#[test]
fn what_is_nested_too_deep_to_read_back_is_kept_as_text() {
    let mut deep = json!("heart");
    for _ in 0..126 {
        deep = json!([deep]);
    }
    let journal = Journal::in_memory().unwrap();
    let (_, entries) = record(&journal, &[started("a"), answered(Some(deep))]);
    let kept = serde_json::to_string(&entries[1].event).unwrap();
    assert!(kept.contains("\\\"heart\\\"") && kept.contains("\"[[["), "{kept}");
}

#[test]
fn writers_of_several_connections_wait_for_each_other() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let folder = folder.clone();
            std::thread::spawn(move || {
                // Each opens for itself, so the first start, with its migration, is a race too.
                let journal = Journal::open(folder.path()).unwrap();
                let run = journal.new_run();
                journal.append(&run, &started("a")).unwrap();
                (0..20).for_each(|number| journal.append(&run, &note(&number.to_string())).unwrap());
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let runs = Journal::open(folder.path()).unwrap().runs(10).unwrap();
    assert_eq!(runs.iter().map(|run| run.events).collect::<Vec<_>>(), [21; 4]);
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("new/data");
    let journal = Journal::open(&data_dir).unwrap();
    record(&journal, &[started("a")]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data_dir), 0o700);
    assert_eq!(mode(&data_dir.join("runs.sqlite")), 0o600);
    assert_eq!(mode(&data_dir.join("runs.sqlite-wal")), 0o600);
}

#[test]
fn a_file_that_is_no_database_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    fs::write(&path, "not a database, but somebody's notes").unwrap();
    assert_eq!(
        error_text(Journal::open(folder.path()), folder.path()),
        "journal `DATA/runs.sqlite`: file is not a database"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "not a database, but somebody's notes");
}

#[test]
fn a_database_cut_in_the_middle_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    record(&Journal::open(folder.path()).unwrap(), &[started("a"), note(&"x".repeat(100_000))]);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let read = Journal::open(folder.path()).and_then(|journal| journal.run("latest"));
    assert!(matches!(read, Err(JournalError::Database { .. })), "{read:?}");
}

#[test]
fn a_database_of_a_later_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::open(folder.path()).unwrap();
    journal.lock().connection.pragma_update(None, "user_version", 99).unwrap();
    drop(journal);
    assert_eq!(
        error_text(Journal::open(folder.path()), folder.path()),
        "journal `DATA/runs.sqlite` has the format version 99, this chaski reads up to 1"
    );
}

#[test]
fn a_database_of_another_program_is_refused_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE notes (text)").unwrap();
    let before = fs::read(&path).unwrap();
    assert!(matches!(Journal::open(folder.path()), Err(JournalError::Format { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn an_event_that_nobody_wrote_is_an_error_naming_it() {
    let journal = Journal::in_memory().unwrap();
    let run = record(&journal, &[started("a"), note("b")]).0.id;
    journal.lock().connection.execute("UPDATE events SET body = '{}' WHERE sequence = 1", []).unwrap();
    let error = journal.run(run.as_str()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "journal `:memory:`: event 1 of run {run} cannot be read: missing field `event` at line 1 column 2"
        )
    );
}
