//! `chaski runs`: look at past runs.

use std::process::ExitCode;

use serde_json::json;

use super::GlobalFlags;
use super::display::escape::escape_control;
use super::display::shown_time;
use super::run::journal_error;
use super::table::Table;
use crate::config::Config;
use crate::run::event::{Place, RunEvent};
use crate::run::journal::{Journal, JournalEntry, RunSummary};

/// Arguments of `chaski runs`.
#[derive(Debug, clap::Args)]
pub struct RunsArgs {
    #[command(subcommand)]
    command: RunsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum RunsCommand {
    /// List the newest runs
    List {
        /// How many
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Show what happened in a run
    Show {
        /// Its id, or the beginning of it
        id: String,
    },
}

/// Prints what the journal has.
///
/// # Errors
/// When the journal cannot be read, or no run has the id.
pub async fn run(args: RunsArgs, config: &Config, global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    let journal = Journal::open(&config.data_dir).map_err(journal_error)?;
    match args.command {
        RunsCommand::List { limit } => list(&journal.runs(limit).map_err(journal_error)?, global),
        RunsCommand::Show { id } => {
            let (summary, entries) = journal.run(&id).map_err(journal_error)?;
            show(&summary, &entries, global);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(runs: &[RunSummary], global: &GlobalFlags) {
    if global.json {
        println!("{}", json!(runs));
        return;
    }
    let mut table =
        Table::new(["run", "started", "state", "seconds", "turns", "tools", "tokens", "model", "name"]);
    for run in runs {
        table.row([
            run.id.as_str().to_owned(),
            run.started.clone(),
            state(run),
            format!("{:.1}", run.seconds),
            run.turns.to_string(),
            run.tool_calls.to_string(),
            run.usage.completion_tokens.to_string(),
            escape_control(&run.model),
            escape_control(&run.name),
        ]);
    }
    print!("{}", table.render());
}

fn state(run: &RunSummary) -> String {
    run.state.map_or_else(|| "unfinished".to_owned(), |state| state.to_string())
}

fn show(summary: &RunSummary, entries: &[JournalEntry], global: &GlobalFlags) {
    if global.json {
        println!("{}", json!({"run": summary, "events": entries}));
        return;
    }
    println!("run      {}", summary.id.as_str());
    println!("name     {}", escape_control(&summary.name));
    println!("model    {}", escape_control(&summary.model));
    println!("started  {}", summary.started);
    println!("state    {} after {:.1} s", state(summary), summary.seconds);
    println!(
        "tokens   {} read ({} from the cache), {} written, in {} turns with {} tool calls\n",
        summary.usage.prompt_tokens,
        summary.usage.cached_tokens,
        summary.usage.completion_tokens,
        summary.turns,
        summary.tool_calls
    );
    let start: Option<jiff::Timestamp> = entries.first().and_then(|entry| entry.time.parse().ok());
    for entry in entries {
        let now: Option<jiff::Timestamp> = entry.time.parse().ok();
        let seconds = match (start, now) {
            (Some(start), Some(now)) => (now.as_microsecond() - start.as_microsecond()) as f64 / 1e6,
            _ => 0.0,
        };
        println!("{seconds:>8.2}  {}", escape_control(&line(&entry.event)));
    }
}

fn line(event: &RunEvent) -> String {
    let at = |place: &Place| match place.item {
        Some(item) => format!("{}[{item}]", place.step),
        None => place.step.clone(),
    };
    match event {
        RunEvent::RunStarted { inputs, .. } => format!("run started with {inputs}"),
        RunEvent::StepStarted { step, items } => {
            format!("{step} started{}", items.map(|items| format!(", {items} items")).unwrap_or_default())
        }
        RunEvent::TurnStarted { place, turn } => format!("{} turn {turn}", at(place)),
        RunEvent::ModelReplied { place, content, tool_calls, finish, usage, timings, .. } => {
            let speed = usage.completion_tokens as f64 / timings.decode.as_secs_f64().max(1e-9);
            let what =
                if tool_calls.is_empty() { one_line(content) } else { format!("{} calls", tool_calls.len()) };
            format!(
                "{} reply: {} read, {} cached, {} written at {speed:.1} tokens/s, prefill {:.2} s, {finish:?}: {what}",
                at(place),
                usage.prompt_tokens,
                usage.cached_tokens,
                usage.completion_tokens,
                timings.prefill.as_secs_f64(),
            )
        }
        RunEvent::ToolCalled { place, call, decision, within } => {
            let decision = decision.as_ref().map(|decision| format!(" ({})", decision.why));
            format!(
                "{} → {} {}{}{}",
                at(place),
                call.name,
                one_line(&call.arguments.to_string()),
                within.as_ref().map(|outer| format!(" from {outer}")).unwrap_or_default(),
                decision.unwrap_or_default(),
            )
        }
        RunEvent::ToolDenied { place, call, decision, .. } => {
            let arguments = one_line(&call.arguments.to_string());
            format!("{} ✗ {} {arguments} denied: {}", at(place), call.name, decision.why)
        }
        RunEvent::CapabilityUsed { place, call_id, capability, what, refused } => {
            let refused = refused.as_ref().map(|why| format!(" refused: {why}")).unwrap_or_default();
            format!("{} {call_id} {capability} {what}{refused}", at(place))
        }
        RunEvent::ToolAnswered { place, tool, outcome, text, seconds, cached, .. } => {
            let how = shown_time(*seconds, *cached);
            format!("{} ← {tool} {outcome} {how}: {}", at(place), one_line(text))
        }
        RunEvent::Notice { place, message } => {
            format!(
                "{}note: {message}",
                place.as_ref().map(|place| format!("{} ", at(place))).unwrap_or_default()
            )
        }
        RunEvent::StepFinished { place, state, error, .. } => {
            let error = error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            format!("{} {state}{error}", at(place))
        }
        RunEvent::RunFinished { state, outputs, error } => {
            let error = error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            format!("run {state}{error} {}", one_line(&outputs.to_string()))
        }
    }
}

fn one_line(text: &str) -> String {
    const SHOWN: usize = 200;
    let line = text.replace('\n', " ⏎ ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
