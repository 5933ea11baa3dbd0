//! `chaski plugin`: list, inspect and build plugins.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::table::{Table, bytes};
use super::{GlobalFlags, usage_error};
use crate::config::Config;
use crate::plugins::catalog;
use crate::plugins::error::PluginError;
use crate::plugins::host::{HostOptions, LoadedPlugin, PluginHost};

/// Arguments of `chaski plugin`.
#[derive(Debug, clap::Args)]
pub struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PluginCommand {
    /// List the plugins and their tools
    List,
    /// Say what a plugin asks for and what its tools are
    Inspect {
        /// Its id
        id: String,
    },
    /// Build a plugin from its source
    Build {
        /// A folder with a plugin.toml, or the id of a first-party plugin; all of those if absent
        plugin: Option<String>,
        /// Where to put it; among the installed plugins if absent
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

/// Does what the arguments say.
///
/// # Errors
/// What the command could not do.
pub async fn run(args: PluginArgs, config: &Config, global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    match args.command {
        PluginCommand::List => list(config, global).await?,
        PluginCommand::Inspect { id } => inspect(config, global, &id).await?,
        PluginCommand::Build { plugin, output } => build(config, plugin, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A plugin's error with its way out.
pub fn plugin_error(error: PluginError) -> anyhow::Error {
    let hint = error.hint();
    usage_error(error, hint)
}

fn host(config: &Config) -> anyhow::Result<PluginHost> {
    PluginHost::new(HostOptions {
        cache_dir: config.cache_dir.clone(),
        data_dir: config.data_dir.clone(),
        roots: Default::default(),
        output: Arc::new(|_, _| {}),
    })
    .map_err(plugin_error)
}

async fn list(config: &Config, global: &GlobalFlags) -> anyhow::Result<()> {
    let host = host(config)?;
    let installed = catalog::installed(&config.plugins_dir).map_err(plugin_error)?;
    let mut table = Table::new(["tool", "effect", "description"]);
    let mut all = Vec::new();
    for plugin in &installed {
        let loaded = host.load(&plugin.dir).await.map_err(plugin_error)?;
        for tool in &loaded.tools {
            let definition = tool.definition();
            let about = definition.description.split(['.', '\n']).next().unwrap_or_default();
            let effect = format!("{:?}", definition.effect).to_lowercase();
            table.row([definition.name.clone(), effect, about.to_owned()]);
        }
        all.push(described(&loaded));
    }
    if global.json {
        println!("{}", json!(all));
        return Ok(());
    }
    print!("{}", table.render());
    let ready: Vec<&str> = installed.iter().map(|plugin| plugin.id.as_str()).collect();
    let missing: Vec<String> =
        catalog::first_party().into_iter().filter(|id| !ready.contains(&id.as_str())).collect();
    if !missing.is_empty() {
        eprintln!("not built yet: {} (`chaski plugin build` builds them)", missing.join(", "));
    }
    Ok(())
}

async fn inspect(config: &Config, global: &GlobalFlags, id: &str) -> anyhow::Result<()> {
    let plugin =
        catalog::ensure(&config.plugins_dir, id, &|line| eprintln!("{line}")).await.map_err(plugin_error)?;
    let loaded = host(config)?.load(&plugin.dir).await.map_err(plugin_error)?;
    if global.json {
        println!("{}", described(&loaded));
        return Ok(());
    }
    let LoadedPlugin { manifest, digest, tools, .. } = &loaded;
    println!("{} {}: {}", manifest.id, manifest.version, manifest.description);
    println!("component  sha256 {digest}");
    let limits = &manifest.limits;
    println!(
        "limits     {} memory, {:?}, {} output, {} at a time",
        bytes(limits.memory as u64),
        limits.timeout,
        bytes(limits.output as u64),
        limits.concurrency
    );
    let permissions = &manifest.permissions;
    if permissions.fs.is_empty() && !permissions.random && !permissions.wall_clock {
        println!("asks for   nothing");
    }
    for folder in &permissions.fs {
        println!("asks for   {} at {}, {:?}", folder.host, folder.guest, folder.access);
    }
    for (wanted, what) in
        [(permissions.random, "random numbers"), (permissions.wall_clock, "the time of day")]
    {
        if wanted {
            println!("asks for   {what}");
        }
    }
    for tool in tools {
        let definition = tool.definition();
        println!("\n{} ({:?})\n  {}", definition.name, definition.effect, definition.description);
        println!("  {}", definition.input_schema);
    }
    Ok(())
}

fn described(loaded: &LoadedPlugin) -> Value {
    let manifest = &loaded.manifest;
    let folders: Vec<Value> = manifest
        .permissions
        .fs
        .iter()
        .map(
            |folder| json!({"host": folder.host.to_string(), "guest": folder.guest, "access": folder.access}),
        )
        .collect();
    let tools: Vec<Value> = loaded.tools.iter().map(|tool| json!(tool.definition())).collect();
    json!({
        "id": manifest.id, "version": manifest.version, "description": manifest.description,
        "sha256": loaded.digest, "tools": tools,
        "permissions": {"fs": folders, "random": manifest.permissions.random,
                        "wall_clock": manifest.permissions.wall_clock},
        "limits": {"memory_bytes": manifest.limits.memory, "timeout_seconds": manifest.limits.timeout.as_secs_f64(),
                   "output_bytes": manifest.limits.output, "concurrency": manifest.limits.concurrency},
    })
}

async fn build(config: &Config, plugin: Option<String>, output: Option<PathBuf>) -> anyhow::Result<()> {
    let sources: Vec<PathBuf> = match plugin {
        Some(name) if std::path::Path::new(&name).join("plugin.toml").is_file() => vec![name.into()],
        Some(id) => {
            let source = catalog::sources().map(|sources| sources.join(&id));
            match source.filter(|source| source.join("plugin.toml").is_file()) {
                Some(source) => vec![source],
                None => {
                    return Err(usage_error(
                        format!("`{id}` is neither a folder with a plugin.toml nor a first-party plugin"),
                        format!("first-party plugins are: {}", catalog::first_party().join(", ")),
                    ));
                }
            }
        }
        None => catalog::sources()
            .map(|sources| catalog::first_party().into_iter().map(|id| sources.join(id)).collect())
            .unwrap_or_default(),
    };
    for source in sources {
        let id = crate::plugins::manifest::Manifest::read(&source).map_err(plugin_error)?.id;
        let target = output.clone().unwrap_or_else(|| config.plugins_dir.join(&id));
        let built = crate::plugins::build::build(&source, &target, &|line| eprintln!("{line}"))
            .await
            .map_err(plugin_error)?;
        println!("{} {}", target.display(), if built { "built" } else { "up to date" });
    }
    Ok(())
}
