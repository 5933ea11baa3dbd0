//! A run on the terminal while it happens, and as a stream of JSON.
//!
//! Everything goes to standard error in whole lines, so that it can be read in a log as well; only results go
//! to standard output. Text of models and tools is never sent to the terminal as it is ([`escape`]).

pub mod escape;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::plugins::host::OutputObserver;
use crate::run::event::{FinalState, LiveEvent, Place, RunEvent};
use crate::run::recorder::Observer;
use crate::workflow::RunOutcome;
use escape::escape_control;

/// Characters of arguments and results that are shown of a tool call.
const SHOWN_CHARACTERS: usize = 160;
/// Findings printed at the end; `--json` and `runs show` have all.
const SHOWN_FINDINGS: usize = 50;

/// Whether standard error takes colours.
pub fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Shows a run on standard error as it happens.
#[derive(Clone)]
pub struct TerminalDisplay {
    colour: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Text of a reply has begun a line that is not ended.
    open_line: bool,
    tokens: usize,
    decode_seconds: f64,
    turns: usize,
    tool_calls: usize,
}

impl TerminalDisplay {
    /// A display with or without colours.
    pub fn new(colour: bool) -> Self {
        Self { colour, state: Arc::default() }
    }

    /// What a recorder calls.
    pub fn observer(&self) -> Observer {
        let display = self.clone();
        Arc::new(move |live| display.show(live))
    }

    fn show(&self, live: &LiveEvent) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match live {
            LiveEvent::Text { text, .. } => {
                if !state.open_line {
                    eprint!("    ");
                }
                eprint!("{}", self.dim(&escape_control(text).replace('\n', "\n    ")));
                state.open_line = true;
                let _ = std::io::stderr().flush();
            }
            LiveEvent::Prefilled { prompt_tokens, cached_tokens, .. } => {
                self.line(
                    &mut state,
                    &self.dim(&format!("    read {prompt_tokens} tokens, {cached_tokens} of them known")),
                );
            }
            LiveEvent::ToolOutput { text, .. } => {
                for line in text.lines() {
                    self.line(&mut state, &self.dim(&format!("      │ {}", escape_control(line))));
                }
            }
            LiveEvent::Event(event) => self.event(&mut state, event),
        }
    }

    fn event(&self, state: &mut State, event: &RunEvent) {
        match event {
            RunEvent::RunStarted { name, model, .. } => {
                self.line(
                    state,
                    &self.bold(&format!("{} with {}", escape_control(name), escape_control(model))),
                );
            }
            RunEvent::StepStarted { step, items } => {
                let items = items.map(|items| format!(", {items} items")).unwrap_or_default();
                self.line(state, &self.bold(&format!("step {step}{items}")));
            }
            RunEvent::TurnStarted { place, turn } => {
                self.line(state, &format!("  {} turn {turn}", shown_place(place)));
            }
            RunEvent::ModelReplied { usage, timings, cut_call, .. } => {
                state.turns += 1;
                state.tokens += usage.completion_tokens;
                state.decode_seconds += timings.decode.as_secs_f64();
                let speed = speed(usage.completion_tokens, timings.decode.as_secs_f64(), ", ");
                let line = format!("    {} tokens{speed}", usage.completion_tokens);
                self.line(state, &self.dim(&line));
                if cut_call.is_some() {
                    self.line(state, "    a tool call was cut by the token limit and not run");
                }
            }
            RunEvent::ToolCalled { call, .. } => {
                let line = format!("    → {} {}", call.name, shorten(&call.arguments.to_string()));
                self.line(state, &escape_control(&line));
            }
            RunEvent::ToolDenied { call, decision, .. } => {
                let line = format!("    ✗ {} denied: {}", call.name, decision.why);
                self.line(state, &escape_control(&line));
            }
            RunEvent::CapabilityUsed { capability, what, refused, .. } => {
                let refused = refused.as_ref().map(|why| format!(" refused: {why}")).unwrap_or_default();
                self.line(state, &escape_control(&format!("      {capability} {what}{refused}")));
            }
            RunEvent::ToolAnswered { outcome, text, seconds, cached, .. } => {
                state.tool_calls += 1;
                let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
                let how = shown_time(*seconds, *cached);
                let line = format!("    ← {outcome} {how}: {}", shorten(first.trim()));
                self.line(state, &escape_control(&line));
            }
            RunEvent::Notice { message, .. } => {
                self.line(state, &format!("    note: {}", escape_control(message)))
            }
            RunEvent::StepFinished { place, state: ended, error, .. } => match ended {
                FinalState::Succeeded if place.item.is_none() => {
                    self.line(state, &format!("  {} done", shown_place(place)))
                }
                FinalState::Succeeded => {}
                other => {
                    let reason = error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
                    let line = format!("  {} {other}{reason}", shown_place(place));
                    self.line(state, &escape_control(&line));
                }
            },
            RunEvent::RunFinished { .. } => {}
        }
    }

    fn line(&self, state: &mut State, line: &str) {
        if std::mem::take(&mut state.open_line) {
            eprintln!();
        }
        eprintln!("{line}");
    }

    fn dim(&self, text: &str) -> String {
        if self.colour { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints the results on standard output, and the totals and the run's id on standard error.
    ///
    /// Findings, which are objects with `path`, `line` and `message` in a list of the outputs, become a line
    /// each, `path:line: severity: message`, with the source line below if a file below `sources` has it.
    pub fn finish(&self, outcome: &RunOutcome, run: &str, sources: &[&Path]) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if std::mem::take(&mut state.open_line) {
            eprintln!();
        }
        let (findings, others) = split_findings(&outcome.outputs);
        for finding in findings.iter().take(SHOWN_FINDINGS) {
            println!("{}", escape_control(&finding_line(finding)));
            if let Some(line) = source_line(finding, sources) {
                println!("    {}", escape_control(line.trim_end()));
            }
        }
        if findings.len() > SHOWN_FINDINGS {
            println!("... and {} more", findings.len() - SHOWN_FINDINGS);
        }
        for (name, value) in others {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            println!("{}", escape_control(&format!("{name}: {text}")));
        }
        let speed = speed(state.tokens, state.decode_seconds, " at ");
        let State { turns, tool_calls, tokens, .. } = *state;
        let ended = outcome.state;
        eprintln!(
            "{ended}: {} findings, {turns} turns, {tool_calls} tool calls, {tokens} tokens{speed}",
            findings.len()
        );
        eprintln!("run {run} (`chaski runs show {run}`)");
    }
}

/// Tells `observer` what a plugin puts out while one of its calls runs.
pub fn tool_output(observer: &Observer) -> OutputObserver {
    let live = observer.clone();
    Arc::new(move |tool: &str, text: &str| {
        live(&LiveEvent::ToolOutput {
            place: Place::default(),
            tool: tool.to_owned(),
            text: text.to_owned(),
        });
    })
}

/// One JSON object a line on standard output for every event.
pub fn json_observer() -> Observer {
    Arc::new(|live| {
        if let LiveEvent::Event(event) = live
            && let Ok(line) = serde_json::to_string(event)
        {
            println!("{line}");
        }
    })
}

/// An observer that shows nothing.
pub fn silent_observer() -> Observer {
    Arc::new(|_| {})
}

/// Tokens per second behind `lead`; nothing where no time was measured, as with a script.
fn speed(tokens: usize, seconds: f64, lead: &str) -> String {
    if seconds > 0.0 { format!("{lead}{:.1} tokens/s", tokens as f64 / seconds) } else { String::new() }
}

/// How long a call took, or that it was not run again.
pub fn shown_time(seconds: f64, cached: bool) -> String {
    if cached { "from the cache".to_owned() } else { format!("in {:.1} ms", seconds * 1000.0) }
}

fn shown_place(place: &Place) -> String {
    match place.item {
        Some(item) => format!("{}[{item}]", place.step),
        None => place.step.clone(),
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The findings among a run's outputs, and the outputs that are none.
fn split_findings(outputs: &Value) -> (Vec<&Value>, Vec<(&String, &Value)>) {
    let is_finding =
        |value: &Value| value["path"].is_string() && value["line"].is_u64() && value["message"].is_string();
    let mut findings = Vec::new();
    let mut others = Vec::new();
    for (name, value) in outputs.as_object().into_iter().flatten() {
        match value.as_array() {
            Some(items) if items.iter().all(is_finding) => findings.extend(items),
            _ => others.push((name, value)),
        }
    }
    (findings, others)
}

fn finding_line(finding: &Value) -> String {
    let text = |key: &str| finding[key].as_str().unwrap_or_default();
    let severity = finding["severity"].as_str().map(|severity| format!(" {severity}:")).unwrap_or_default();
    format!("{}:{}:{severity} {}", text("path"), finding["line"], text("message"))
}

/// The line of source that a finding is about.
fn source_line(finding: &Value, sources: &[&Path]) -> Option<String> {
    let path = Path::new(finding["path"].as_str()?);
    // The path comes from a diff: it must not lead out of the sources.
    if !path.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
        return None;
    }
    let number = finding["line"].as_u64()?;
    let text = sources.iter().find_map(|source| std::fs::read_to_string(source.join(path)).ok())?;
    text.lines().nth(usize::try_from(number).ok()?.checked_sub(1)?).map(|line| format!("{number} | {line}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn findings_are_told_from_other_outputs() {
        let finding = json!({"path": "a.rs", "line": 3, "severity": "bug", "message": "off by one"});
        let outputs = json!({"findings": [finding], "summary": "one", "numbers": [1, 2]});
        let (findings, others) = split_findings(&outputs);
        assert_eq!(finding_line(findings[0]), "a.rs:3: bug: off by one");
        assert_eq!(others.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["summary", "numbers"]);
    }

    #[test]
    fn a_path_that_leads_out_shows_no_line() {
        let finding = json!({"path": "../../etc/passwd", "line": 1, "message": ""});
        assert_eq!(source_line(&finding, &[Path::new("/tmp")]), None);
    }
}
