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
use crate::config::Config;
use crate::models::store;
use crate::plugins::catalog;
use crate::plugins::host::{HostOptions, OutputObserver, PluginHost};
use crate::plugins::permissions::Roots;
use crate::tools::ToolRegistry;

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

/// The tools of `plugins`, built if they are missing, with the folders in `roots`. The host must outlive the
/// calls.
///
/// # Errors
/// When a plugin is unknown, cannot be built or cannot be loaded.
pub async fn tools(
    config: &Config,
    plugins: &[String],
    roots: &Roots,
    output: OutputObserver,
) -> anyhow::Result<(ToolRegistry, PluginHost)> {
    let host = PluginHost::new(HostOptions::of(config, roots.clone(), output)).map_err(plugin_error)?;
    let mut registry = ToolRegistry::default();
    let progress = |line: &str| eprintln!("{line}");
    let mut dirs = Vec::new();
    for id in plugins.iter().collect::<BTreeSet<_>>() {
        dirs.push(catalog::ensure(&config.plugins_dir, id, &progress).await.map_err(plugin_error)?.dir);
    }
    for loaded in host.load_all(&dirs).await.map_err(plugin_error)? {
        for tool in loaded.tools {
            registry.insert(tool);
        }
    }
    Ok((registry, host))
}
