//! `chaski chat`: talk to a model on the terminal, with tools.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use chaski_engine::{Message, Role, Sampling, ToolChoice};
use rustyline::error::ReadlineError;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::display::escape::escape_control;
use super::display::{TerminalDisplay, colour, json_observer, tool_output};
use super::permission::policy;
use super::run::{CANCELLED, cancel_on_interrupt, given_roots, journal_error, project, skill_error};
use super::{GlobalFlags, usage_error};
use crate::agent::model::ChatModel;
use crate::agent::skills::discover;
use crate::agent::transcript::Transcript;
use crate::agent::turn::{Agent, AgentError, AgentLimits, work};
use crate::agent::workplace::Workplace;
use crate::config::Config;
use crate::plugins::permissions::{Access, Roots};
use crate::run::environment;
use crate::run::event::{FinalState, LiveEvent, Place, RunEvent};
use crate::run::journal::Journal;
use crate::run::recorder::{Observer, Recorder};
use crate::tools::registry::plugins_of;
use crate::whole_file;

/// Bytes of a message from standard input: a few times what the largest context holds.
const MAX_MESSAGE_BYTES: u64 = 4 * 1024 * 1024;

/// The name of the one agent of a chat.
const AGENT: &str = "chat";

const HELP: &str = "/help  this\n/tools  what the model may call\n/clear  forget the conversation\n/save FILE  write it as JSON\n/exit  leave";

/// Arguments of `chaski chat`.
#[derive(Debug, clap::Args)]
pub struct ChatArgs {
    /// One message; without it, a conversation on the terminal, or one message from standard input
    message: Option<String>,
    /// A tool (`workspace.read`) or all of a plugin (`workspace.*`) that the model may call; repeat for more
    #[arg(long = "tools", value_name = "PATTERN")]
    tools: Vec<String>,
    /// A folder for plugins, read-only: `workspace=.`
    #[arg(long = "root", value_name = "NAME=PATH")]
    roots: Vec<String>,
    /// A folder that plugins may write to, once you allow the call: `workspace=.`
    #[arg(long = "write-root", value_name = "NAME=PATH")]
    write_roots: Vec<String>,
    /// Calls that need no question, like `workspace.write(path=src/**)`; repeat for more
    #[arg(long = "allow", value_name = "PATTERN")]
    allow: Vec<String>,
    /// Standing instructions: text, or `@FILE`
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Leave the AGENTS.md of the root `workspace` out of the instructions
    #[arg(long)]
    no_agents_md: bool,
    /// Leave out the skills of the project and the user
    #[arg(long)]
    no_skills: bool,
    /// 0 picks the most likely token
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// A LoRA adapter of the configuration's `[engine.adapters]` to speak through
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// The seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Most tokens of one reply
    #[arg(long, default_value_t = 1024)]
    reply_tokens: usize,
}

/// Talks.
///
/// # Errors
/// When the model or a plugin cannot be loaded, or a message cannot be answered.
pub async fn run(args: ChatArgs, config: &Config, global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    let instructions = instructions(args.system.as_deref())?;
    let mut roots = given_roots(&args.roots, Access::Read)?;
    roots.extend(given_roots(&args.write_roots, Access::ReadWrite)?);
    let display = TerminalDisplay::new(colour());
    let observer: Observer =
        if global.json { json_observer() } else { chat_observer(&display, global.quiet) };
    let plugins = plugins_of(args.tools.iter().map(String::as_str));
    let (mut tools, providers) = environment::tools(config, &plugins, &roots, tool_output(&observer)).await?;
    tools.set_policy(policy(config, &args.allow, !global.json)?);
    let granted = tools.grant(&args.tools).map_err(|error| {
        let hint = error.hint();
        usage_error(error, hint)
    })?;
    let name = global.model.clone().unwrap_or_else(|| config.model.clone());
    let model = environment::model(config, &name, !global.quiet).await?;
    let journal = Arc::new(Journal::open(&config.data_dir).map_err(journal_error)?);
    let agent = Agent {
        name: AGENT.into(),
        instructions,
        tools: granted,
        tool_choice: ToolChoice::Auto,
        output: None,
        sampling: Sampling { temperature: args.temperature, seed: args.seed, ..Sampling::default() },
        adapter: args.adapter.clone(),
        limits: AgentLimits { reply_tokens: args.reply_tokens.max(1), ..AgentLimits::default() },
    };
    let (agent, notices) = workplace(&args, &roots, config)?.furnish(agent, None);
    let cancel = CancellationToken::new();
    let recorder = Recorder::new(journal.new_run(), journal, observer, cancel);
    let started = RunEvent::RunStarted { name: "chat".into(), source: None, model: name, inputs: json!({}) };
    recorder.record(started).map_err(journal_error)?;
    for message in notices {
        recorder.record(RunEvent::Notice { place: None, message }).map_err(journal_error)?;
    }
    let mut chat = Chat { agent, model, recorder, transcript: Transcript::default() };
    let interactive = args.message.is_none() && std::io::stdin().is_terminal();
    let result = match (args.message, interactive) {
        (Some(message), _) => chat.once(message, global).await,
        (None, false) => match message_from_stdin() {
            Ok(message) => chat.once(message, global).await,
            Err(error) => Err(error),
        },
        (None, true) => chat.converse(config).await,
    };
    let cancelled = |error: &anyhow::Error| matches!(error.downcast_ref(), Some(AgentError::Cancelled));
    let state = match &result {
        Ok(()) => FinalState::Succeeded,
        Err(error) if cancelled(error) => FinalState::Cancelled,
        Err(_) => FinalState::Failed,
    };
    let last = chat.transcript.messages.last().filter(|message| message.role == Role::Assistant);
    let outputs = json!({"answer": last.map(|message| message.content.clone())});
    let error = result.as_ref().err().map(ToString::to_string);
    chat.recorder.record(RunEvent::RunFinished { state, outputs, error }).map_err(journal_error)?;
    providers.close().await;
    match state {
        FinalState::Cancelled => Ok(ExitCode::from(CANCELLED)),
        _ => result.map(|()| ExitCode::SUCCESS),
    }
}

/// What the model finds beside its tools: the project's guidance, and every skill.
fn workplace(args: &ChatArgs, roots: &Roots, config: &Config) -> anyhow::Result<Workplace> {
    let skills =
        if args.no_skills { Vec::new() } else { discover(&config.skill_dirs).map_err(skill_error)? };
    Ok(Workplace {
        project: project(roots, config, !args.no_agents_md),
        skills: BTreeMap::from([(AGENT.to_owned(), skills)]),
        tool_room: config.agents.tool_room,
    })
}

/// The message that another program wrote.
fn message_from_stdin() -> anyhow::Result<String> {
    let mut message = Vec::new();
    std::io::stdin().take(MAX_MESSAGE_BYTES + 1).read_to_end(&mut message)?;
    if message.len() as u64 > MAX_MESSAGE_BYTES {
        let hint = "no context holds that much; send a part of it";
        return Err(usage_error(format!("the message has more than {MAX_MESSAGE_BYTES} bytes"), hint));
    }
    String::from_utf8(message).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        usage_error(
            format!("the message is not UTF-8 text: byte {at} belongs to no character"),
            None::<String>,
        )
    })
}

/// What the display shows of a chat: answers go to standard output, the rest to standard error.
fn chat_observer(display: &TerminalDisplay, quiet: bool) -> Observer {
    let rest = display.observer();
    Arc::new(move |live| match live {
        LiveEvent::Text { text, .. } => say(&escape_control(text)),
        LiveEvent::Event(RunEvent::ModelReplied { content, .. }) => {
            if !content.is_empty() && !content.ends_with('\n') {
                say("\n");
            }
            if !quiet {
                rest(live);
            }
        }
        LiveEvent::Event(RunEvent::RunStarted { .. } | RunEvent::TurnStarted { .. })
        | LiveEvent::Prefilled { .. } => {}
        other if !quiet => rest(other),
        _ => {}
    })
}

/// Standard output may be closed: the answer is in the journal, and whoever closed it does not want it.
fn say(text: &str) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

struct Chat {
    agent: Agent,
    model: Arc<dyn ChatModel>,
    recorder: Recorder,
    transcript: Transcript,
}

impl Chat {
    async fn once(&mut self, message: String, _global: &GlobalFlags) -> anyhow::Result<()> {
        if message.trim().is_empty() {
            return Err(usage_error("the message is empty", "`chaski chat \"What is BM25?\"`"));
        }
        let cancel = cancel_on_interrupt();
        Ok(self.answer(message, cancel).await?)
    }

    /// One message to its answer. `cancel` ends this answer alone.
    async fn answer(&mut self, message: String, cancel: CancellationToken) -> Result<(), AgentError> {
        self.transcript.messages.push(Message::user(message));
        let recorder = self.recorder.with_cancel(cancel);
        let place = Place { step: "chat".into(), item: None };
        let answer = work(&self.agent, &self.model, &mut self.transcript, &place, &recorder).await;
        if answer.is_err() {
            // Two messages of the user in a row would read as one, and many chat templates refuse them.
            self.transcript.messages.pop_if(|message| message.role == Role::User);
        }
        answer.map(|_answer| ())
    }

    async fn converse(&mut self, config: &Config) -> anyhow::Result<()> {
        let history = config.data_dir.join("chat-history");
        let mut editor = rustyline::DefaultEditor::new()?;
        // There is none before the first chat.
        let _ = editor.load_history(&history);
        eprintln!("{} · /help for commands, Ctrl-D to leave", self.model.name());
        loop {
            let line = match editor.readline("> ") {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(error.into()),
            };
            if line.trim().is_empty() {
                continue;
            }
            editor.add_history_entry(&line)?;
            match self.command(&line)? {
                Handled::Leave => break,
                Handled::Yes => continue,
                Handled::No => {}
            }
            let cancel = CancellationToken::new();
            let set = cancel.clone();
            let interrupts = tokio::spawn(async move {
                if tokio::signal::ctrl_c().await.is_ok() {
                    set.cancel();
                }
            });
            let answered = self.answer(line, cancel).await;
            interrupts.abort();
            if let Err(error) = answered {
                say("\n");
                super::report::print_error(&error.into());
            }
        }
        editor.save_history(&history)?;
        close_to_others(&history)?;
        Ok(())
    }

    fn command(&mut self, line: &str) -> anyhow::Result<Handled> {
        let (command, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match command {
            "/help" => println!("{HELP}"),
            "/exit" | "/quit" => return Ok(Handled::Leave),
            "/clear" => self.transcript.messages.clear(),
            "/tools" if self.agent.tools.is_empty() => println!("none; grant some with --tools"),
            "/tools" => self.agent.tools.names().for_each(|name| println!("{name}")),
            "/save" if rest.trim().is_empty() => println!("/save FILE"),
            "/save" => {
                let file = PathBuf::from(rest.trim());
                match save(&file, &self.transcript.messages) {
                    Ok(()) => println!("{}", file.display()),
                    Err(error) => println!("`{}` cannot be written: {error}", file.display()),
                }
            }
            unknown if unknown.starts_with('/') => println!("`{unknown}` is not a command; /help shows them"),
            _ => return Ok(Handled::No),
        }
        Ok(Handled::Yes)
    }
}

enum Handled {
    Yes,
    No,
    Leave,
}

/// Writes the conversation: the whole file or nothing.
fn save(file: &Path, messages: &[Message]) -> std::io::Result<()> {
    whole_file::replace(file, |side| Ok(serde_json::to_writer_pretty(side, messages)?))
}

fn instructions(system: Option<&str>) -> anyhow::Result<String> {
    match system.and_then(|text| text.strip_prefix('@')) {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| usage_error(format!("`{file}` cannot be read: {error}"), None::<String>)),
        None => Ok(system.unwrap_or_default().to_owned()),
    }
}

/// What was typed may be private.
fn close_to_others(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}
