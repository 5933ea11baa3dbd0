//! A program that speaks MCP: started with a scrubbed environment in a process group of its own, and ended with
//! everything that it started.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Variables that every program gets: without them, few find their interpreter, their files or their letters.
const PASSED: [&str; 3] = ["PATH", "HOME", "LANG"];
/// How long a program may take to end after its input was closed.
const GRACE: Duration = Duration::from_secs(1);
/// Lines of its standard error that reach the log within [`LOG_SPAN`].
const LOGGED_LINES: usize = 20;
/// The time that [`LOGGED_LINES`] are counted over.
const LOG_SPAN: Duration = Duration::from_secs(10);
/// Bytes of one line of its standard error that are kept.
const LOGGED_BYTES: usize = 500;

/// A running program. Dropped, it is killed with everything in its group.
pub(super) struct Program {
    child: Child,
    /// The process group, which has the id of the program.
    group: Option<rustix::process::Pid>,
    last_words: LastWords,
}

/// The last line that a program wrote to its standard error.
#[derive(Clone, Default)]
pub(super) struct LastWords(Arc<Mutex<String>>);

impl LastWords {
    /// `; its last words: …`, or nothing.
    pub(super) fn shown(&self) -> String {
        let line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if line.is_empty() { String::new() } else { format!("; its last words: {line}") }
    }
}

impl Program {
    /// Starts `command`, which gets the variables named in `env` and no others but [`PASSED`].
    ///
    /// # Errors
    /// When a named variable is not set, or the program cannot be started; the message says which.
    pub(super) fn start(
        server: &str,
        command: &str,
        args: &[String],
        env: &[String],
    ) -> Result<(Self, ChildStdin, ChildStdout), String> {
        let mut program = Command::new(command);
        program.args(args).env_clear().envs(environment(env)?);
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        program.kill_on_drop(true).process_group(0);
        let mut child = program.spawn().map_err(|error| format!("`{command}`: {error}"))?;
        let group = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        let last_words = LastWords::default();
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        if let Some(stderr) = stderr {
            tokio::spawn(log(server.to_owned(), stderr, last_words.clone()));
        }
        match (stdin, stdout) {
            (Some(stdin), Some(stdout)) => Ok((Self { child, group, last_words }, stdin, stdout)),
            _ => Err(format!("`{command}` has no standard input and output")),
        }
    }

    /// What it wrote to its standard error last.
    pub(super) fn last_words(&self) -> LastWords {
        self.last_words.clone()
    }

    /// Waits a moment for it to end by itself, now that its input is closed, and kills what is left.
    pub(super) async fn end(&mut self) {
        // Whether it ended or not, what it started may still run.
        let _ = tokio::time::timeout(GRACE, self.child.wait()).await;
        self.kill();
    }

    fn kill(&mut self) {
        if let Some(group) = self.group.take() {
            // There is nobody to kill when all have ended already.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The variables that a program gets.
fn environment(named: &[String]) -> Result<HashMap<String, std::ffi::OsString>, String> {
    let mut variables = HashMap::new();
    for name in PASSED {
        if let Some(value) = std::env::var_os(name) {
            variables.insert(name.to_owned(), value);
        }
    }
    for name in named {
        let value = std::env::var_os(name).ok_or_else(|| format!("the variable `{name}` is not set"))?;
        variables.insert(name.clone(), value);
    }
    Ok(variables)
}

/// Passes standard error on to the log, no faster than a person can read it, and keeps its last line.
async fn log(server: String, stderr: impl AsyncRead + Unpin, last_words: LastWords) {
    let mut reader = BufReader::new(stderr);
    let mut rate = Rate::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without an end comes in pieces, each a line here.
        match (&mut reader).take(LOGGED_BYTES as u64).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text: String = text.trim_end().chars().filter(|letter| !letter.is_control()).collect();
        if text.is_empty() {
            continue;
        }
        match rate.allows(Instant::now()) {
            Allowed::Yes => tracing::info!(server, "{text}"),
            Allowed::Last => {
                tracing::warn!(server, "it writes too much to its standard error; not all is logged")
            }
            Allowed::No => {}
        }
        *last_words.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

/// Counts lines over a span of time.
#[derive(Default)]
struct Rate {
    began: Option<Instant>,
    lines: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Allowed {
    Yes,
    /// Not this one, and none until the span is over.
    Last,
    No,
}

impl Rate {
    fn allows(&mut self, now: Instant) -> Allowed {
        if self.began.is_none_or(|began| now.duration_since(began) >= LOG_SPAN) {
            *self = Self { began: Some(now), lines: 0 };
        }
        self.lines += 1;
        match self.lines {
            lines if lines <= LOGGED_LINES => Allowed::Yes,
            lines if lines == LOGGED_LINES + 1 => Allowed::Last,
            _ => Allowed::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_logged_again_when_the_span_is_over() {
        let (mut rate, start) = (Rate::default(), Instant::now());
        for _ in 0..LOGGED_LINES {
            assert_eq!(rate.allows(start), Allowed::Yes);
        }
        assert_eq!(rate.allows(start), Allowed::Last);
        assert_eq!(rate.allows(start), Allowed::No);
        assert_eq!(rate.allows(start + LOG_SPAN), Allowed::Yes);
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let error = environment(&["CHASKI_NO_SUCH_VARIABLE".into()]).expect_err("it is not set");
        assert_eq!(error, "the variable `CHASKI_NO_SUCH_VARIABLE` is not set");
    }

    #[test]
    fn only_what_is_named_is_passed_on() {
        let passed = environment(&[]).expect("nothing is named");
        assert!(passed.keys().all(|name| PASSED.contains(&name.as_str())), "{passed:?}");
    }
}
