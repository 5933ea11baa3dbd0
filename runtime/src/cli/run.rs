//! `chaski run`: run a workflow and show it live.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::display::{TerminalDisplay, colour, json_observer, silent_observer, tool_output};
use super::permission::policy;
use super::{GlobalFlags, usage_error};
use crate::agent::model::ChatModel;
use crate::agent::skills::{self, SkillError};
use crate::agent::workplace::Workplace;
use crate::config::Config;
use crate::plugins::host::OutputObserver;
use crate::plugins::permissions::{Access, Root, Roots};
use crate::review::hunks_tool::HunksTool;
use crate::run::environment::{self, ToolProviders};
use crate::run::event::FinalState;
use crate::run::journal::{Journal, JournalError};
use crate::run::recorder::{Observer, Recorder};
use crate::suggest::closest;
use crate::tools::ToolRegistry;
use crate::tools::permission::Policy;
use crate::workflow::schema::{InputSpec, InputType};
use crate::workflow::{InvalidWorkflow, Plan, RunEnvironment, Workflow, check, execute};

/// Exit code of a run that was cancelled, as a shell reports an interrupt.
pub const CANCELLED: u8 = 130;

/// The root that is the project agents work on.
const WORKSPACE: &str = "workspace";

/// Arguments of `chaski run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The workflow file
    file: PathBuf,
    /// The value of an input; repeat for more
    #[arg(short, long = "input", value_name = "NAME=VALUE")]
    inputs: Vec<String>,
    /// A folder for plugins, in place of the workflow's
    #[arg(long = "root", value_name = "NAME=PATH")]
    roots: Vec<String>,
    /// Calls that need no question, like `workspace.write(path=src/**)`; repeat for more
    #[arg(long = "allow", value_name = "PATTERN")]
    allow: Vec<String>,
    /// Leave the project's AGENTS.md out of the agents' instructions
    #[arg(long)]
    no_agents_md: bool,
    /// The seed of every agent
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the workflow.
///
/// # Errors
/// When it cannot be started; a run that fails is shown, and exits with 1.
pub async fn run(args: RunArgs, config: &Config, global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    let workflow = Workflow::read(&args.file).map_err(invalid)?;
    let plan = check::check(&workflow, None).map_err(invalid)?;
    let inputs = inputs(&plan, &args.inputs)?;
    let roots = plan_roots(&plan, &args.roots)?;

    let display = TerminalDisplay::new(colour());
    let observer: Observer = match (global.json, global.quiet) {
        (true, _) => json_observer(),
        (false, true) => silent_observer(),
        (false, false) => display.observer(),
    };
    let policy = policy(config, &args.allow, !global.json)?;
    let (plan, tools, providers) =
        load_plan(&workflow, &plan, config, &roots, tool_output(&observer), policy).await?;
    let model = model_of(&plan, config, global).await?;
    let journal = Arc::new(Journal::open(&config.data_dir).map_err(journal_error)?);
    let cancel = cancel_on_interrupt();
    let recorder = Recorder::new(journal.new_run(), journal, observer, cancel);
    let workplace = workplace(&plan, &roots, config, !args.no_agents_md)?;
    let environment = RunEnvironment { tools, model, seed: args.seed, workplace };
    let outcome = execute(&plan, &inputs, &environment, &recorder).await.map_err(journal_error)?;
    providers.close().await;

    if !global.json {
        let sources: Vec<&Path> = roots.values().map(|root| root.path.as_path()).collect();
        display.finish(&outcome, recorder.run().as_str(), &sources);
    }
    Ok(match outcome.state {
        FinalState::Succeeded | FinalState::Skipped => ExitCode::SUCCESS,
        FinalState::Cancelled => ExitCode::from(CANCELLED),
        FinalState::Failed => {
            if let (false, Some(error)) = (global.json, &outcome.error) {
                eprintln!("error: {}", super::display::escape::escape_control(error));
            }
            ExitCode::from(super::report::FAILED)
        }
    })
}

/// The tools that `plan` names, with the folders in `roots` and `policy` in charge of their calls, and the plan checked once more now that they are
/// known: their names and arguments.
///
/// # Errors
/// When a plugin or an MCP server is not there, or the workflow uses it wrongly.
pub async fn load_plan(
    workflow: &Workflow,
    plan: &Plan,
    config: &Config,
    roots: &Roots,
    output: OutputObserver,
    policy: Policy,
) -> anyhow::Result<(Plan, ToolRegistry, ToolProviders)> {
    let (mut tools, providers) = environment::tools(config, &plan.plugins(), roots, output).await?;
    tools.set_policy(policy);
    tools.insert(Arc::new(HunksTool::new(plan.folder.clone())));
    let plan = check::check(workflow, Some(&tools)).map_err(invalid)?;
    Ok((plan, tools, providers))
}

/// The model of the plan's agents, if it has any: the flag's, the file's, or the settings'.
///
/// # Errors
/// When it cannot be fetched or loaded.
pub async fn model_of(
    plan: &Plan,
    config: &Config,
    global: &GlobalFlags,
) -> anyhow::Result<Option<Arc<dyn ChatModel>>> {
    if !plan.needs_model() {
        return Ok(None);
    }
    let asked = plan.workflow.spec.model.as_ref().map(|name| name.value.clone());
    let name = global.model.clone().or(asked).unwrap_or_else(|| config.model.clone());
    Ok(Some(environment::model(config, &name, !global.quiet).await?))
}

/// What the plan's agents find beside their tools; `agents_md`: a project's AGENTS.md, if the settings agree.
///
/// # Errors
/// When a skill is unknown or malformed.
pub fn workplace(plan: &Plan, roots: &Roots, config: &Config, agents_md: bool) -> anyhow::Result<Workplace> {
    let mut skills = BTreeMap::new();
    for (name, agent) in plan.workflow.spec.agents.iter() {
        let asked: Vec<String> = agent.skills.iter().map(|skill| skill.value.clone()).collect();
        let found = skills::named(&asked, &plan.folder, &config.skill_dirs).map_err(skill_error)?;
        skills.insert(name.value.clone(), found);
    }
    let project = project(roots, config, agents_md);
    Ok(Workplace { project, skills, tool_room: config.agents.tool_room })
}

/// The folder whose AGENTS.md agents are told.
pub fn project(roots: &Roots, config: &Config, agents_md: bool) -> Option<PathBuf> {
    let root = roots.get(WORKSPACE).filter(|_| agents_md && config.agents.agents_md);
    root.map(|root| root.path.clone())
}

/// A skill's error with its way out.
pub fn skill_error(error: SkillError) -> anyhow::Error {
    let hint = error.hint();
    usage_error(error, hint)
}

/// A token that the first interrupt sets; the second ends the process.
pub fn cancel_on_interrupt() -> CancellationToken {
    let cancel = CancellationToken::new();
    let set = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("\ncancelling; once more to stop at once");
            set.cancel();
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(i32::from(CANCELLED));
            }
        }
    });
    cancel
}

/// A faulty workflow with its way out.
pub fn invalid(error: InvalidWorkflow) -> anyhow::Error {
    let hint = error.hint();
    usage_error(error, hint)
}

/// A journal's error with its way out.
pub fn journal_error(error: JournalError) -> anyhow::Error {
    let hint = error.hint();
    usage_error(error, hint)
}

/// The inputs given, of the types declared, and the defaults of the others.
fn inputs(plan: &Plan, given: &[String]) -> anyhow::Result<Value> {
    let declared = &plan.workflow.spec.inputs;
    let mut values = Map::new();
    for pair in given {
        let Some((name, text)) = pair.split_once('=') else {
            return Err(usage_error(
                format!("`--input {pair}` is not of the form NAME=VALUE"),
                None::<String>,
            ));
        };
        let Some(input) = declared.get(name) else {
            let meant = closest(name, declared.keys()).map(|name| format!("did you mean `{name}`?"));
            let names: Vec<&str> = declared.keys().collect();
            let known = format!(
                "its inputs are: {}",
                if names.is_empty() { "none".into() } else { names.join(", ") }
            );
            return Err(usage_error(format!("the workflow has no input `{name}`"), meant.unwrap_or(known)));
        };
        values.insert(name.to_owned(), value(name, text, input)?);
    }
    for (name, input) in declared.iter() {
        if values.contains_key(&name.value) {
            continue;
        }
        match input.default.as_ref().and_then(|default| default.value.constant()) {
            Some(default) => values.insert(name.value.clone(), default),
            None => {
                let hint = format!("`--input {}=VALUE`", name.value);
                return Err(usage_error(format!("the input `{}` has no value", name.value), hint));
            }
        };
    }
    Ok(Value::Object(values))
}

fn value(name: &str, text: &str, input: &InputSpec) -> anyhow::Result<Value> {
    let value = match input.kind {
        InputType::String => Value::from(text),
        _ => serde_json::from_str(text).unwrap_or(Value::Null),
    };
    if !check::fits(input.kind, &value) {
        let kind = format!("{:?}", input.kind).to_lowercase();
        return Err(usage_error(
            format!("the input `{name}` is `{text}`, it must be of type {kind}"),
            None::<String>,
        ));
    }
    let allowed: Vec<Value> =
        input.allowed.iter().flatten().filter_map(|allowed| allowed.value.constant()).collect();
    if !allowed.is_empty() && !allowed.contains(&value) {
        let names: Vec<String> = allowed.iter().map(Value::to_string).collect();
        return Err(usage_error(
            format!("the input `{name}` is `{text}`"),
            format!("it may be {}", names.join(", ")),
        ));
    }
    Ok(value)
}

/// The workflow's folders, and those that `--root` puts in their place.
pub fn plan_roots(plan: &Plan, given: &[String]) -> anyhow::Result<Roots> {
    let mut roots = Roots::new();
    for (name, root) in plan.workflow.spec.roots.iter() {
        let path = plan.folder.join(&root.path.value);
        roots.insert(name.value.clone(), folder(&path, root.access)?);
    }
    for (name, path) in parse_roots(given)? {
        let access = roots.get(&name).map_or(Access::Read, |root| root.access);
        roots.insert(name, folder(&path, access)?);
    }
    Ok(roots)
}

/// `--root NAME=PATH` in parts.
pub fn parse_roots(given: &[String]) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let parse = |pair: &String| match pair.split_once('=') {
        Some((name, path)) if crate::plugins::manifest::is_name(name) => {
            Ok((name.to_owned(), PathBuf::from(path)))
        }
        _ => Err(usage_error(
            format!("`--root {pair}` is not of the form NAME=PATH"),
            "for example `--root workspace=.`",
        )),
    };
    given.iter().map(parse).collect()
}

/// The folders that `--root NAME=PATH` and its like give, with `access`.
///
/// # Errors
/// As [`parse_roots`] and [`folder`].
pub fn given_roots(given: &[String], access: Access) -> anyhow::Result<Roots> {
    let parsed = parse_roots(given)?.into_iter();
    parsed.map(|(name, path)| Ok((name, folder(&path, access)?))).collect()
}

/// A folder that plugins may reach.
pub fn folder(path: &Path, access: Access) -> anyhow::Result<Root> {
    match path.canonicalize() {
        Ok(path) if path.is_dir() => Ok(Root { path, access }),
        Ok(_) => Err(usage_error(format!("`{}` is not a folder", path.display()), None::<String>)),
        Err(error) => {
            Err(usage_error(format!("`{}` cannot be opened: {error}", path.display()), None::<String>))
        }
    }
}
