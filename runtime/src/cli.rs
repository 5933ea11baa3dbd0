//! The command line: one file a command.
//!
//! Data goes to standard output, everything else to standard error, so that output can be piped.
//! Exit codes: 0 done, 1 findings or a failed run, 2 usage or configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;

pub mod report;
pub mod table;
pub mod model;
pub mod license;
pub mod doctor;
pub mod bench;
pub mod plugin;
pub mod permission;
pub mod run;
pub mod validate;
pub mod schema;
pub mod runs;
pub mod chat;
pub mod mcp;
pub mod display;

pub use report::{CliError, Hint, failure, usage_error};

/// Agents that run next to the model: workflows, sandboxed tools, an engine in the same process.
#[derive(Debug, Parser)]
#[command(name = "chaski", version, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Exit codes: 0 done, 1 findings or a failed run, 2 usage or configuration.")]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalFlags,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GlobalFlags {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// The model: a name from the catalog or the configuration, or a path to a .gguf file
    #[arg(long, global = true, value_name = "NAME")]
    pub model: Option<String>,
    /// Tokens of context of a local model; above the model's own they are stretched, which costs quality
    #[arg(long, global = true, value_name = "TOKENS")]
    pub context: Option<usize>,
    /// Where models, plugins and the journal are kept
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print errors and results only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Log more to standard error; twice for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a workflow
    Run(run::RunArgs),
    /// Talk to a model, with tools
    Chat(chat::ChatArgs),
    /// Offer plugin tools and workflows to other programs, as an MCP server
    Mcp(mcp::McpArgs),
    /// Check a workflow without running it
    Validate(validate::ValidateArgs),
    /// Print the JSON schema of a file format
    Schema(schema::SchemaArgs),
    /// Look at past runs
    Runs(runs::RunsArgs),
    /// Fetch, list, inspect and remove models
    Model(model::ModelArgs),
    /// List, inspect and build plugins
    Plugin(plugin::PluginArgs),
    /// Say what this machine can do, and what is missing
    Doctor(doctor::DoctorArgs),
    /// Measure how fast a model runs on this machine
    Bench(bench::BenchArgs),
    /// Print the licence of chaski and the duties that come with a model
    License(license::LicenseArgs),
}

/// The whole process: read the command line, do what it says, report.
pub fn main() -> ExitCode {
    report::hook_panics();
    let cli = Cli::parse();
    report::start_logging(&cli.global);
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli)));
    outcome.unwrap_or_else(|error| report::print_error(&error))
}

/// Does what the command line says.
///
/// # Errors
/// What the command could not do; [`report::print_error`] shows it.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = &cli.global;
    let config = &Config::load(global)?;
    match cli.command {
        Command::Run(args) => run::run(args, config, global).await,
        Command::Chat(args) => chat::run(args, config, global).await,
        Command::Mcp(args) => mcp::run(args, config, global).await,
        Command::Validate(args) => validate::run(args, config, global).await,
        Command::Schema(args) => schema::run(args, config, global).await,
        Command::Runs(args) => runs::run(args, config, global).await,
        Command::Model(args) => model::run(args, config, global).await,
        Command::Plugin(args) => plugin::run(args, config, global).await,
        Command::Doctor(args) => doctor::run(args, config, global).await,
        Command::Bench(args) => bench::run(args, config, global).await,
        Command::License(args) => license::run(args, config, global).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_may_follow_the_command() {
        let cli = Cli::try_parse_from(["chaski", "model", "list", "--json", "-vv"]).expect("valid");
        assert!(cli.global.json);
        assert_eq!(cli.global.verbose, 2);
    }

    #[test]
    fn quiet_and_verbose_exclude_each_other() {
        assert!(Cli::try_parse_from(["chaski", "doctor", "-q", "-v"]).is_err());
    }
}
