//! What a run needs at hand, however it is started: a model, and tools.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use chaski_engine::Engine;

use crate::agent::engine_model::EngineModel;
use crate::agent::model::ChatModel;
use crate::agent::openai_model::OpenAiModel;
use crate::agent::scripted_model::ScriptedModel;
use crate::cli::plugin::plugin_error;
use crate::cli::usage_error;
use crate::config::Config;
use crate::models::store;
use crate::plugins::catalog;
use crate::plugins::host::{HostOptions, OutputObserver, PluginHost};
use crate::plugins::permissions::Roots;
use crate::tools::ToolRegistry;
use crate::tools::mcp::{McpError, McpServers};
use crate::workflow::HOST_TOOLS;

/// What a model name of a script begins with.
const SCRIPT: &str = "script:";

/// The model `name`: a remote one of the configuration, `script:FILE`, or a local one, fetched if it is missing.
///
/// # Errors
/// When it is unknown, cannot be fetched, or cannot be loaded.
pub async fn model(config: &Config, name: &str, progress: bool) -> anyhow::Result<Arc<dyn ChatModel>> {
    if let Some(file) = name.strip_prefix(SCRIPT) {
        return Ok(Arc::new(ScriptedModel::from_file(Path::new(file))?));
    }
    if let Some(remote) = config.models.get(name) {
        return Ok(Arc::new(OpenAiModel::from_config(name, remote)?));
    }
    let local = store::ensure(config, name, progress).await?;
    let options = config.engine.options(&local.weights, &config.cache_dir);
    let engine = tokio::task::spawn_blocking(move || Engine::load(options)).await??;
    for note in engine.info().notes.iter().filter(|_| progress) {
        eprintln!("note: {note}");
    }
    Ok(Arc::new(EngineModel { name: local.name, engine: Arc::new(engine) }))
}

/// Where a run's tools come from. It must outlive their calls.
pub struct ToolProviders {
    _plugins: PluginHost,
    servers: McpServers,
}

impl ToolProviders {
    /// Takes leave of the MCP servers, which gives them the time to end by themselves.
    pub async fn close(self) {
        self.servers.close().await;
    }
}

/// The tools of `plugins`, built if they are missing, with the folders in `roots`; a name that the settings give
/// to an MCP server stands for that server, which is started.
///
/// # Errors
/// When a plugin is unknown, cannot be built or cannot be loaded, or an MCP server does not start.
pub async fn tools(
    config: &Config,
    plugins: &[String],
    roots: &Roots,
    output: OutputObserver,
) -> anyhow::Result<(ToolRegistry, ToolProviders)> {
    let host = PluginHost::new(HostOptions::of(config, roots.clone(), output)).map_err(plugin_error)?;
    let mut registry = ToolRegistry::default();
    let progress = |line: &str| eprintln!("{line}");
    let asked: BTreeSet<&String> = plugins.iter().collect();
    let (servers, plugins): (Vec<_>, Vec<_>) = asked.into_iter().partition(|id| config.mcp.contains_key(*id));
    let mut dirs = Vec::new();
    for id in plugins {
        dirs.push(catalog::ensure(&config.plugins_dir, id, &progress).await.map_err(plugin_error)?.dir);
    }
    for loaded in host.load_all(&dirs).await.map_err(plugin_error)? {
        for tool in loaded.tools {
            registry.insert(tool);
        }
    }
    let servers = mcp_tools(config, &servers, &mut registry).await.map_err(mcp_error)?;
    Ok((registry, ToolProviders { _plugins: host, servers }))
}

/// Starts the MCP servers `names` and adds their tools.
async fn mcp_tools(
    config: &Config,
    names: &[&String],
    registry: &mut ToolRegistry,
) -> Result<McpServers, McpError> {
    for name in names {
        let taken = |what: &str| McpError::NameTaken { server: name.to_string(), what: what.to_owned() };
        if HOST_TOOLS.contains(&name.as_str()) {
            return Err(taken("chaski's own"));
        }
        if catalog::is_known(&config.plugins_dir, name) {
            return Err(taken("a plugin"));
        }
    }
    let settings: Vec<_> = names.iter().map(|name| (name.as_str(), &config.mcp[*name])).collect();
    let servers = McpServers::start(&settings).await?;
    for server in servers.iter() {
        for tool in server.tools() {
            registry.insert(tool);
        }
        for (name, reason) in server.unusable() {
            tracing::warn!(tool = name, reason, "a tool of an MCP server cannot be used");
            registry.insert_unusable(name, reason);
        }
    }
    Ok(servers)
}

/// An MCP server's error with its way out.
fn mcp_error(error: McpError) -> anyhow::Error {
    let hint = error.hint();
    usage_error(error, hint)
}
