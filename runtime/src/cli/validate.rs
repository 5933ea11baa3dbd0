//! `chaski validate`: check workflows without running them, offline.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;

use super::GlobalFlags;
use super::plugin::plugin_error;
use super::report::USAGE;
use crate::config::Config;
use crate::plugins::catalog;
use crate::plugins::host::{HostOptions, PluginHost};
use crate::review::hunks_tool::HunksTool;
use crate::tools::ToolRegistry;
use crate::workflow::{InvalidWorkflow, Workflow, check};

/// Arguments of `chaski validate`.
#[derive(Debug, clap::Args)]
pub struct ValidateArgs {
    /// The workflow files
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Checks every file and prints what is wrong.
///
/// # Errors
/// When an installed plugin cannot be loaded.
pub async fn run(args: ValidateArgs, config: &Config, global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    let (tools, ready, _host) = installed_tools(config).await?;
    let mut valid = true;
    for file in &args.files {
        let checked = Workflow::read(file).and_then(|workflow| {
            let plan = check::check(&workflow, None)?;
            let missing: Vec<String> = plan.plugins().into_iter().filter(|id| !ready.contains(id)).collect();
            // Tools are checked only when all plugins are there: a missing one is not the workflow's fault. An MCP
            // server is started by a run alone: checking is offline.
            if missing.is_empty() {
                check::check(&workflow, Some(&tools))?;
            }
            Ok(missing)
        });
        valid &= checked.is_ok();
        report(file, checked, global);
    }
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::from(USAGE) })
}

fn report(file: &std::path::Path, checked: Result<Vec<String>, InvalidWorkflow>, global: &GlobalFlags) {
    match (checked, global.json) {
        (Ok(missing), true) => {
            println!("{}", json!({"file": file, "valid": true, "unchecked_plugins": missing}))
        }
        (Err(error), true) => {
            let faults: Vec<_> = error
                .faults
                .iter()
                .map(|fault| {
                    json!({"part": fault.part, "line": fault.position.line, "column": fault.position.column,
                           "message": fault.message, "hint": fault.hint})
                })
                .collect();
            println!("{}", json!({"file": file, "valid": false, "faults": faults}));
        }
        (Ok(missing), false) => {
            println!("{}: valid", file.display());
            if !missing.is_empty() {
                eprintln!(
                    "tools of {} are not checked: MCP servers, or plugins not built yet (`chaski plugin build`)",
                    missing.join(", ")
                );
            }
        }
        (Err(error), false) => {
            let hint = error.hint();
            super::report::print_error(&super::usage_error(error, hint));
        }
    }
}

/// The tools of the plugins that are installed already; nothing is built.
async fn installed_tools(config: &Config) -> anyhow::Result<(ToolRegistry, Vec<String>, PluginHost)> {
    let options = HostOptions::of(config, Default::default(), Arc::new(|_, _| {}));
    let host = PluginHost::new(options).map_err(plugin_error)?;
    let mut tools = ToolRegistry::default();
    tools.insert(Arc::new(HunksTool::new(PathBuf::from("."))));
    let mut ready = Vec::new();
    for plugin in catalog::installed(&config.plugins_dir).map_err(plugin_error)? {
        for tool in host.load(&plugin.dir).await.map_err(plugin_error)?.tools {
            tools.insert(tool);
        }
        ready.push(plugin.id);
    }
    Ok((tools, ready, host))
}
