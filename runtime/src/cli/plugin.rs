//! `chaski plugin`: what is installed, what it asks for, what it was granted.

mod author;
mod grant;
mod install;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::display::escape::escape_control;
use super::table::{Table, bytes};
use super::{GlobalFlags, usage_error};
use crate::config::Config;
use crate::plugins::error::PluginError;
use crate::plugins::grant::CAPABILITIES;
use crate::plugins::host::{HostOptions, LoadedPlugin, OutputObserver, PluginHost};
use crate::plugins::manifest::{FolderSource, Permissions};
use crate::plugins::permissions::{Access, Roots};
use crate::plugins::{catalog, lock};

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
    /// Install a plugin: a built one, or one with sources, which is built
    Add {
        /// The folder with its plugin.toml
        dir: PathBuf,
    },
    /// Put what a plugin is now in the place of what was installed
    Update {
        /// Its id
        id: String,
        /// The folder that it comes from; where it came from before if absent
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
    },
    /// Remove a plugin
    Remove {
        /// Its id
        id: String,
        /// Remove its private data too
        #[arg(long)]
        data: bool,
    },
    /// Grant a plugin something that it asks for
    #[command(after_help = "http=https://api.example.com  requests to that origin\n\
                            http=http://intranet+private  the same where the name may stand for a private address\n\
                            env=LANG                      an environment variable\n\
                            secrets=token:API_TOKEN@https://api.example.com  a secret in $API_TOKEN, for that origin\n\
                            tools=workspace.*             calls of other tools")]
    Grant {
        /// Its id
        id: String,
        /// What, as CAPABILITY=WHAT
        #[arg(required = true)]
        items: Vec<String>,
    },
    /// Take a grant back, or all of them
    Revoke {
        /// Its id
        id: String,
        /// What, as CAPABILITY=WHAT; everything if absent
        items: Vec<String>,
    },
    /// Write a new plugin: a project that builds, tests and runs
    New(author::NewArgs),
    /// Build a plugin and hold its answers to the cases recorded in its folder
    Test(author::TestArgs),
    /// Call a tool of an installed plugin
    Call(author::CallArgs),
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
        PluginCommand::Add { dir } => install::add(config, &dir).await?,
        PluginCommand::Update { id, from } => install::update(config, &id, from).await?,
        PluginCommand::Remove { id, data } => install::remove(config, &id, data)?,
        PluginCommand::Grant { id, items } => grant::change(config, &id, &items, grant::Change::Grant)?,
        PluginCommand::Revoke { id, items } => grant::change(config, &id, &items, grant::Change::Revoke)?,
        PluginCommand::New(args) => author::new(&args)?,
        PluginCommand::Test(args) => return author::test(args, config, global).await,
        PluginCommand::Call(args) => return author::call(args, config, global).await,
        PluginCommand::Build { plugin, output } => build(config, plugin, output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A plugin's error with its way out.
pub fn plugin_error(error: PluginError) -> anyhow::Error {
    let hint = error.hint();
    usage_error(error, hint)
}

fn host(config: &Config, roots: Roots, output: OutputObserver) -> anyhow::Result<PluginHost> {
    PluginHost::new(HostOptions::of(config, roots, output)).map_err(plugin_error)
}

/// A host that loads a plugin whatever it is: to look at it before it is pinned.
fn host_without_pins(config: &Config) -> anyhow::Result<PluginHost> {
    let options = HostOptions::of(config, Default::default(), Arc::new(|_, _| {}));
    PluginHost::new(HostOptions { lock: None, ..options }).map_err(plugin_error)
}

async fn list(config: &Config, global: &GlobalFlags) -> anyhow::Result<()> {
    let host = host(config, Roots::new(), Arc::new(|_, _| {}))?;
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
    let loaded =
        host(config, Roots::new(), Arc::new(|_, _| {}))?.load(&plugin.dir).await.map_err(plugin_error)?;
    if global.json {
        println!("{}", described(&loaded));
    } else {
        print_plugin(config, &loaded);
    }
    Ok(())
}

/// What a plugin is: its tools, what it asks for, what it was granted, and what comes of both.
fn print_plugin(config: &Config, loaded: &LoadedPlugin) {
    let LoadedPlugin { manifest, digest, tools, effective, .. } = loaded;
    println!("{} {}: {}", manifest.id, manifest.version, escape_control(&manifest.description));
    println!("component  sha256 {digest}");
    let limits = &manifest.limits;
    println!(
        "limits     {} memory, {:?}, {} output, {} at a time",
        bytes(limits.memory as u64),
        limits.timeout,
        bytes(limits.output as u64),
        limits.concurrency
    );
    let grant = config.grants.get(&manifest.id).cloned().unwrap_or_default();
    let granted = CAPABILITIES.iter().flat_map(|capability| {
        grant.texts(capability).into_iter().map(move |text| format!("{capability}={text}"))
    });
    let mut effective = effective.lines();
    effective.extend(manifest.permissions.fs.iter().filter_map(|folder| match &folder.host {
        FolderSource::Root(name) => Some(format!("a folder that a run offers as `--root {name}=PATH`")),
        FolderSource::Private(_) => None,
    }));
    print_list("asks for", asked(&manifest.permissions));
    print_list("granted", granted.collect());
    print_list("effective", effective);
    for tool in tools {
        let definition = tool.definition();
        let effect = format!("{:?}", definition.effect).to_lowercase();
        println!("\n{} ({effect})\n  {}", definition.name, escape_control(&definition.description));
        println!("  {}", escape_control(&definition.input_schema.to_string()));
    }
}

fn print_list(what: &str, items: Vec<String>) {
    if items.is_empty() {
        println!("{what:<9}  nothing");
    }
    for item in items {
        println!("{what:<9}  {}", escape_control(&item));
    }
}

/// What a manifest asks for, a line each.
fn asked(permissions: &Permissions) -> Vec<String> {
    let mut lines = Vec::new();
    for folder in &permissions.fs {
        let does = if folder.access == Access::Read { "reading" } else { "reading and writing" };
        lines.push(format!("{does} {} at {}", folder.host, folder.guest));
    }
    lines.extend(permissions.http.iter().map(|request| format!("requests: {request}")));
    lines.extend(permissions.env.iter().map(|name| format!("the variable {name}")));
    lines.extend(permissions.secrets.iter().map(|secret| format!("the secret {secret}")));
    lines.extend(permissions.tools.iter().map(|pattern| format!("calls of {pattern}")));
    for (wanted, what) in
        [(permissions.random, "random numbers"), (permissions.wall_clock, "the time of day")]
    {
        if wanted {
            lines.push(what.to_owned());
        }
    }
    lines
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
                        "wall_clock": manifest.permissions.wall_clock,
                        "http": lines(&manifest.permissions.http), "env": manifest.permissions.env,
                        "secrets": lines(&manifest.permissions.secrets), "tools": manifest.permissions.tools},
        "effective": loaded.effective.lines(),
        "limits": {"memory_bytes": manifest.limits.memory, "timeout_seconds": manifest.limits.timeout.as_secs_f64(),
                   "output_bytes": manifest.limits.output, "concurrency": manifest.limits.concurrency},
    })
}

fn lines<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
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
        if output.is_none() {
            lock::pin_build(&config.plugins_dir.join(lock::FILE_NAME), &id, &target).map_err(plugin_error)?;
        }
        println!("{} {}", target.display(), if built { "built" } else { "up to date" });
    }
    Ok(())
}
