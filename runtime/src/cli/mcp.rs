//! `chaski mcp`: offer plugin tools and workflows to other programs, as an MCP server.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::permission::policy;
use super::run::{CANCELLED, given_roots, invalid, journal_error, load_plan, plan_roots};
use super::{GlobalFlags, failure, usage_error};
use crate::config::Config;
use crate::mcp_server::http::{Access, Key, PATH};
use crate::mcp_server::workflow_tool::WorkflowTool;
use crate::mcp_server::{Offer, http, stdio};
use crate::plugins::host::OutputObserver;
use crate::plugins::permissions::Access as FolderAccess;
use crate::run::environment::{self, ToolProviders};
use crate::run::event::{FinalState, RunEvent};
use crate::run::journal::Journal;
use crate::run::recorder::Recorder;
use crate::tools::permission::{Pattern, Rules};
use crate::tools::registry::plugins_of;
use crate::tools::{Tool, ToolRegistry};
use crate::workflow::{RunEnvironment, Workflow, check};

/// Bytes of a key below which guessing it is a matter of time.
const MIN_KEY_BYTES: usize = 16;

/// Arguments of `chaski mcp`.
#[derive(Debug, clap::Args)]
pub struct McpArgs {
    /// A plugin's tool (`workspace.read`) or all of a plugin (`workspace.*`) to offer; repeat for more
    #[arg(long = "tools", value_name = "PATTERN")]
    tools: Vec<String>,
    /// A workflow to offer as a tool of its name; repeat for more
    #[arg(long = "workflow", value_name = "FILE")]
    workflows: Vec<PathBuf>,
    /// Effectful calls that run, like `workspace-edit.write(path=docs/**)`; nobody can be asked. Repeat for more
    #[arg(long = "allow", value_name = "PATTERN")]
    allow: Vec<String>,
    /// A folder for plugins, read-only: `workspace=.`
    #[arg(long = "root", value_name = "NAME=PATH")]
    roots: Vec<String>,
    /// Serve over HTTP at this address, `127.0.0.1:8808`, instead of standard input and output
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// The variable that holds the key which clients over HTTP must show; needed beyond this machine
    #[arg(long, value_name = "VARIABLE", requires = "http")]
    key_env: Option<String>,
    /// A name of this machine that clients over HTTP use; repeat for more
    #[arg(long = "allow-host", value_name = "HOST", requires = "http")]
    hosts: Vec<String>,
}

/// Serves until the client leaves, or until it is interrupted.
///
/// # Errors
/// When nothing is offered, or what is offered cannot be loaded.
pub async fn run(args: McpArgs, config: &Config, global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    if args.tools.is_empty() && args.workflows.is_empty() {
        let hint =
            "name what clients may call: `--tools 'workspace.*' --root workspace=.`, or `--workflow FILE`";
        return Err(usage_error("nothing is offered", hint));
    }
    let key = args.key_env.as_deref().map(key).transpose()?;
    if let Some(address) = args.http.filter(|address| !is_local(address.ip()) && key.is_none()) {
        let hint = "name the variable that holds a key with `--key-env`, or serve at 127.0.0.1";
        return Err(usage_error(format!("`{address}` can be reached from other machines"), hint));
    }
    let journal = Arc::new(Journal::open(&config.data_dir).map_err(journal_error)?);
    let (registry, names, providers) = offered(&args, config, global, &journal).await?;
    let tools = registry.grant(&names).map_err(|error| {
        let hint = error.hint();
        usage_error(error, hint)
    })?;

    let cancel = CancellationToken::new();
    let recorder = Recorder::new(journal.new_run(), journal, Arc::new(|_| {}), cancel.clone());
    let inputs = json!({"tools": tools.names().collect::<Vec<_>>()});
    let started = RunEvent::RunStarted { name: "mcp".into(), source: None, model: "none".into(), inputs };
    recorder.record(started).map_err(journal_error)?;
    let offer = Offer::new(tools, recorder.clone());
    let interrupted = interrupt(cancel.clone())?;
    let served = match args.http {
        None => stdio::serve(offer, cancel.clone()).await,
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            let listener =
                listener.map_err(|error| usage_error(format!("`{address}`: {error}"), None::<String>))?;
            eprintln!("MCP at http://{}{PATH}", listener.local_addr()?);
            http::serve(offer, listener, Access { key, hosts: args.hosts }, cancel.clone()).await;
            Ok(())
        }
    };
    for provider in providers {
        provider.close().await;
    }
    let state = if served.is_ok() { FinalState::Succeeded } else { FinalState::Failed };
    let finished =
        RunEvent::RunFinished { state, outputs: Value::Null, error: served.as_ref().err().cloned() };
    recorder.record(finished).map_err(journal_error)?;
    if cancel.is_cancelled() && args.http.is_none() {
        // A thread waits for standard input, and would hold the process until the client writes again.
        std::process::exit(i32::from(CANCELLED));
    }
    drop(interrupted);
    served.map(|()| ExitCode::SUCCESS).map_err(|reason| failure(reason, None::<String>))
}

/// The tools that the arguments name, and their names in order.
async fn offered(
    args: &McpArgs,
    config: &Config,
    global: &GlobalFlags,
    journal: &Arc<Journal>,
) -> anyhow::Result<(ToolRegistry, Vec<String>, Vec<ToolProviders>)> {
    let roots = given_roots(&args.roots, FolderAccess::Read)?;
    let plugins = plugins_of(args.tools.iter().map(String::as_str));
    if let Some(server) = plugins.iter().find(|id| config.mcp.contains_key(*id)) {
        let hint = "clients can speak to it themselves; a workflow may use it";
        return Err(usage_error(format!("`{server}` is an MCP server, and only plugins are offered"), hint));
    }
    let silent: OutputObserver = Arc::new(|_, _| {});
    let (mut registry, providers) = environment::tools(config, &plugins, &roots, silent.clone()).await?;
    let mut names = args.tools.clone();
    let mut named = Vec::new();
    let mut all = vec![providers];
    for file in &args.workflows {
        let (tool, providers) = workflow_tool(file, args, config, global, journal, &silent).await?;
        let name = tool.definition().name.clone();
        if names.contains(&name) {
            return Err(usage_error(format!("two workflows have the name `{name}`"), None::<String>));
        }
        registry.insert(Arc::new(tool));
        named.push(Pattern::tool(&name));
        names.push(name);
        all.push(providers);
    }
    // Who offers a workflow wants it to run; what its steps may do is decided as in any run.
    let named = Rules { allow: named, ..Rules::default() };
    registry.set_policy(policy(config, &args.allow, false)?.and("`--workflow`", named));
    Ok((registry, names, all))
}

async fn workflow_tool(
    file: &Path,
    args: &McpArgs,
    config: &Config,
    global: &GlobalFlags,
    journal: &Arc<Journal>,
    output: &OutputObserver,
) -> anyhow::Result<(WorkflowTool, ToolProviders)> {
    let workflow = Workflow::read(file).map_err(invalid)?;
    let plan = check::check(&workflow, None).map_err(invalid)?;
    let roots = plan_roots(&plan, &args.roots)?;
    let policy = policy(config, &args.allow, false)?;
    let (plan, tools, providers) =
        load_plan(&workflow, &plan, config, &roots, output.clone(), policy).await?;
    let model = super::run::model_of(&plan, config, global).await?;
    let workplace = super::run::workplace(&plan, &roots, config, true)?;
    let environment = RunEnvironment { tools, model, seed: None, workplace };
    let tool = WorkflowTool::new(plan, environment, journal.clone());
    let tool = tool.map_err(|reason| usage_error(reason, format!("rename it in `{}`", file.display())))?;
    Ok((tool, providers))
}

/// The key in the variable `name`.
fn key(name: &str) -> anyhow::Result<Key> {
    let text = std::env::var(name).unwrap_or_default();
    if text.len() < MIN_KEY_BYTES {
        let message = format!("the variable `{name}` holds no key of at least {MIN_KEY_BYTES} bytes");
        return Err(usage_error(message, "for example `export KEY=$(openssl rand -hex 32)`"));
    }
    Ok(Key::new(&text))
}

fn is_local(address: IpAddr) -> bool {
    address.is_loopback()
}

/// Sets `cancel` at the first interrupt or request to end.
fn interrupt(cancel: CancellationToken) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut ended = signal(SignalKind::terminate())?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = ended.recv() => {}
        }
        cancel.cancel();
    }))
}
