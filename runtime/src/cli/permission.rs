//! Asking whoever sits at the terminal whether a call may run.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio_util::sync::CancellationToken;

use super::display::escape::escape_control;
use super::usage_error;
use crate::config::Config;
use crate::tools::Effect;
use crate::tools::permission::{Answer, PatternError, Person, Policy, Question, Remembered, Rules};

/// Characters of the arguments that are shown; whoever wants to know more answers no.
const SHOWN_CHARACTERS: usize = 2_000;
/// How often a question that waits looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(100);

/// What decides about the calls of a run: the settings, `--allow`, what was answered before, and, with a
/// terminal, whoever sits there.
///
/// # Errors
/// When a pattern is none, or the remembered answers cannot be read.
pub fn policy(config: &Config, allow: &[String], interactive: bool) -> anyhow::Result<Policy> {
    let allow =
        allow.iter().map(|text| text.parse()).collect::<Result<_, PatternError>>().map_err(|error| {
            let hint = error.hint();
            usage_error(format!("`--allow`: {error}"), hint)
        })?;
    let folder = config.user_file.parent().unwrap_or(std::path::Path::new("."));
    let here = std::env::current_dir()?;
    let remembered = Remembered::open(folder, &here)
        .map_err(|error| usage_error(error, "mend it, or move it away to be asked again"))?;
    let policy = Policy::new(config.permissions.clone(), config.user_file.clone())
        .and("`--allow`", Rules { allow, ..Rules::default() })
        .remembering(Arc::new(remembered));
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    Ok(if interactive && terminal { policy.asking(Arc::new(Terminal)) } else { policy })
}

/// Whoever sits at the terminal.
struct Terminal;

impl Person for Terminal {
    fn ask<'a>(&'a self, question: &'a Question, cancel: &'a CancellationToken) -> BoxFuture<'a, Answer> {
        let (text, cancel) = (shown(question), cancel.clone());
        Box::pin(async move {
            let asked = tokio::task::spawn_blocking(move || ask(&text, &cancel)).await;
            asked.ok().and_then(Result::ok).unwrap_or(Answer::No)
        })
    }
}

fn ask(text: &str, cancel: &CancellationToken) -> std::io::Result<Answer> {
    let mut screen = std::io::stderr();
    write!(screen, "{text}")?;
    loop {
        write!(screen, "    allow it? [n]o, [o]nce, this [r]un, this [p]roject, [a]lways: ")?;
        screen.flush()?;
        let Some(line) = line(cancel)? else {
            writeln!(screen)?;
            return Ok(Answer::No);
        };
        match answer(&line) {
            Some(answer) => return Ok(answer),
            None => writeln!(screen, "    please answer n, o, r, p or a")?,
        }
    }
}

/// A line of the terminal; `None` when it was closed, or nobody waits for the answer any more.
fn line(cancel: &CancellationToken) -> std::io::Result<Option<String>> {
    let stdin = std::io::stdin();
    let wait = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
    while !cancel.is_cancelled() {
        if poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&wait))? > 0 {
            let mut line = String::new();
            return Ok((stdin.lock().read_line(&mut line)? > 0).then_some(line));
        }
    }
    Ok(None)
}

fn answer(line: &str) -> Option<Answer> {
    match line.trim().to_lowercase().as_str() {
        "" | "n" | "no" => Some(Answer::No),
        "o" | "once" | "y" | "yes" => Some(Answer::Once),
        "r" | "run" => Some(Answer::Run),
        "p" | "project" => Some(Answer::Project),
        "a" | "always" => Some(Answer::Always),
        _ => None,
    }
}

/// The question, in which no text of a model or a plugin can pass for chaski's own.
fn shown(question: &Question) -> String {
    let Question { tool, description, effect, arguments, reach, why } = question;
    let plugin = tool.split('.').next().unwrap_or_default();
    let effect = match effect {
        Effect::Pure => "leaves nothing behind",
        Effect::Idempotent => "may be repeated without harm",
        Effect::Effectful => "may change something outside",
    };
    let about = description.split(['.', '\n']).next().unwrap_or_default();
    let mut text = format!("\n    the model wants to call {tool} of the plugin {plugin}, which {effect}\n");
    text.push_str(&format!("      it says of itself: {}\n", one_line(about)));
    for (name, value) in arguments.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&format!("      {} = {}\n", one_line(name), one_line(&value)));
    }
    for line in reach {
        text.push_str(&format!("      it may touch: {}\n", one_line(line)));
    }
    text.push_str(&format!("      asked because {}\n", one_line(why)));
    text
}

fn one_line(text: &str) -> String {
    let text = escape_control(&text.replace('\n', "⏎"));
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => {
            format!("{} [... {} bytes more that are not shown ...]", &text[..end], text.len() - end)
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_question_shows_the_call_and_what_it_may_touch() {
        let question = Question {
            tool: "workspace.write".into(),
            description: "Writes a file. Then more.".into(),
            effect: Effect::Effectful,
            arguments: json!({"path": "src/a.rs", "text": "one\ntwo\u{1b}[2J", "append": true}),
            reach: vec!["reads and writes /home/me/project".into()],
            why: "each call may change something outside".into(),
        };
        insta::assert_snapshot!(shown(&question).replace("\n    ", "\n").trim_start(), @r"
        the model wants to call workspace.write of the plugin workspace, which may change something outside
          it says of itself: Writes a file
          path = src/a.rs
          text = one⏎two\u{1b}[2J
          append = true
          it may touch: reads and writes /home/me/project
          asked because each call may change something outside
        ");
    }

    #[test]
    fn an_answer_is_a_letter_or_a_word_and_nothing_means_no() {
        assert_eq!(answer("\n"), Some(Answer::No));
        assert_eq!(answer("Always\n"), Some(Answer::Always));
        assert_eq!(answer("p"), Some(Answer::Project));
        assert_eq!(answer("maybe"), None);
    }
}
