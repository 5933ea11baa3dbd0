//! What a user sees when something goes wrong: what, where, and the way out.
//!
//! ```text
//! error: workflow `review.yaml` is not valid
//!   step `collect` (line 7): no loaded plugin exports the tool `git.dif`
//! hint: did you mean `git.diff`?
//! ```

use std::fmt;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use chaski_engine::EngineError;
use tracing_subscriber::EnvFilter;

use super::GlobalFlags;
use crate::agent::model::ModelError;
use crate::agent::turn::AgentError;
use crate::config::ConfigError;
use crate::models::pull::PullError;
use crate::plugins::host::PluginError;
use crate::review::diff::DiffError;
use crate::run::journal::JournalError;
use crate::workflow::InvalidWorkflow;

/// Exit code of a failed run or of a command with findings.
pub const FAILED: u8 = 1;

/// Exit code of a wrong command line, file or setting.
pub const USAGE: u8 = 2;

/// An error with a way out and an exit code.
#[derive(Debug)]
pub struct CliError {
    /// What was asked and what was found; further lines are details.
    pub message: String,
    /// The way out, on a line of its own.
    pub hint: Option<String>,
    /// [`FAILED`] or [`USAGE`].
    pub code: u8,
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

/// A way out, if there is one: made from text or from an optional text.
#[derive(Debug, Default)]
pub struct Hint(Option<String>);

impl From<Option<String>> for Hint {
    fn from(hint: Option<String>) -> Self {
        Self(hint)
    }
}

impl From<Option<&str>> for Hint {
    fn from(hint: Option<&str>) -> Self {
        Self(hint.map(str::to_owned))
    }
}

impl From<String> for Hint {
    fn from(hint: String) -> Self {
        Self(Some(hint))
    }
}

impl From<&str> for Hint {
    fn from(hint: &str) -> Self {
        Self(Some(hint.to_owned()))
    }
}

/// The user can mend it: wrong command line, file or setting. Exit code 2.
pub fn usage_error(message: impl fmt::Display, hint: impl Into<Hint>) -> anyhow::Error {
    CliError { message: message.to_string(), hint: hint.into().0, code: USAGE }.into()
}

/// It was asked rightly and did not work. Exit code 1.
pub fn failure(message: impl fmt::Display, hint: impl Into<Hint>) -> anyhow::Error {
    CliError { message: message.to_string(), hint: hint.into().0, code: FAILED }.into()
}

/// Prints `error` to standard error and says how the process ends.
pub fn print_error(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS; // whoever read our output has seen enough
    }
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    eprint!("{}", describe(error, colour));
    ExitCode::from(exit_code(error))
}

/// The error as text: `error: …`, indented details and causes, `hint: …`.
pub fn describe(error: &anyhow::Error, colour: bool) -> String {
    let (red, cyan, plain) = if colour { ("\x1b[1;31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
    let message = printable(&error.to_string());
    let mut text = format!("{red}error:{plain} {message}\n");
    let mut said = message;
    for cause in error.chain().skip(1) {
        let cause = printable(&cause.to_string());
        if !said.contains(&cause) {
            text.push_str(&format!("  {}\n", cause.replace('\n', "\n  ")));
        }
        said = cause;
    }
    if let Some(hint) = error.chain().find_map(hint_of) {
        text.push_str(&format!("{cyan}hint:{plain} {}\n", printable(&hint)));
    }
    text
}

/// Error text may quote files and servers: control characters would reach the terminal as commands.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// The way out that a known error offers.
fn hint_of(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    known(error)?.0
}

/// The way out and the exit code of an error that this crate or the engine defines; `None` for a foreign one.
fn known(error: &(dyn std::error::Error + 'static)) -> Option<(Option<String>, u8)> {
    if let Some(error) = error.downcast_ref::<CliError>() {
        return Some((error.hint.clone(), error.code));
    }
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return Some((error.hint(), USAGE));
    }
    if let Some(error) = error.downcast_ref::<InvalidWorkflow>() {
        return Some((error.hint(), USAGE));
    }
    if let Some(error) = error.downcast_ref::<PullError>() {
        return Some((error.hint(), if error.is_usage() { USAGE } else { FAILED }));
    }
    if let Some(error) = error.downcast_ref::<PluginError>() {
        return Some((error.hint(), USAGE));
    }
    if let Some(error) = error.downcast_ref::<JournalError>() {
        return Some((error.hint(), USAGE));
    }
    if let Some(error) = error.downcast_ref::<DiffError>() {
        return Some((error.hint(), USAGE));
    }
    if let Some(error) = error.downcast_ref::<AgentError>() {
        return Some((error.hint(), FAILED));
    }
    if let Some(error) = error.downcast_ref::<ModelError>() {
        return Some((error.hint(), FAILED));
    }
    let error = error.downcast_ref::<EngineError>()?;
    let of_a_file =
        matches!(error, EngineError::Read { .. } | EngineError::Model { .. } | EngineError::Tokenizer { .. });
    Some((error.hint(), if of_a_file { USAGE } else { FAILED }))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(|cause| Some(known(cause)?.1)).unwrap_or(FAILED)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Makes a panic one line that says how to report it, and a closed standard output no panic at all.
pub fn hook_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let message = (payload.downcast_ref::<&str>().copied())
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        // `println!` panics when the reader of a pipe has gone.
        if message.starts_with("failed printing to stdout") && message.contains("Broken pipe") {
            std::process::exit(0);
        }
        let place = panic.location().map_or_else(|| "unknown place".to_owned(), ToString::to_string);
        eprintln!(
            "chaski {} has a bug: {} ({place}); please report this line and what you did",
            env!("CARGO_PKG_VERSION"),
            printable(message)
        );
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            eprintln!("{}", std::backtrace::Backtrace::force_capture());
        }
    }));
}

/// Sends the log to standard error: `RUST_LOG` decides, else `-q` and `-v`.
pub fn start_logging(global: &GlobalFlags) {
    let default = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "warn,chaski=info,chaski_engine=info",
        (false, 2) => "info,chaski=debug,chaski_engine=debug",
        (false, _) => "debug,chaski=trace,chaski_engine=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .with_target(false)
        // It would be printed, which panics when the reader of our standard error has gone.
        .log_internal_errors(false)
        .compact()
        .try_init();
    // A second subscriber only appears in tests, where the first one serves as well.
    drop(started);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_error_shows_what_where_and_the_way_out() {
        let error = usage_error(
            "workflow `a.yaml` is not valid\n  line 7: no tool `git.dif`",
            "did you mean `git.diff`?",
        );
        insta::assert_snapshot!(describe(&error, false), @r"
        error: workflow `a.yaml` is not valid
          line 7: no tool `git.dif`
        hint: did you mean `git.diff`?
        ");
        assert_eq!(exit_code(&error), USAGE);
    }

    #[test]
    fn causes_are_indented_below_and_keep_their_hint() {
        let cause = EngineError::Overloaded { waiting: 64 };
        let error = anyhow::Error::new(cause).context("step `look` failed");
        insta::assert_snapshot!(describe(&error, false), @r"
        error: step `look` failed
          64 requests wait for the engine already
        hint: try again when a request has finished
        ");
        assert_eq!(exit_code(&error), FAILED);
    }

    #[test]
    fn a_library_error_needs_no_wrapping() {
        let error = anyhow::Error::new(ConfigError::UnknownKey {
            path: "c.toml".into(),
            line: 1,
            key: "modle".into(),
            suggestion: Some("model".into()),
            known: Vec::new(),
        });
        assert!(describe(&error, false).ends_with("hint: did you mean `model`?\n"));
        assert_eq!(exit_code(&error), USAGE);
    }

    #[test]
    fn terminal_commands_in_quoted_text_stay_text() {
        let error = failure("the server said \x1b[2J", None::<String>);
        assert!(!describe(&error, false).contains('\x1b'));
    }

    #[test]
    fn a_reader_that_left_is_no_error() {
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(is_broken_pipe(&error));
    }
}
