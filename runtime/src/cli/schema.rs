//! `chaski schema`: the JSON Schema of a file format, for editors.

use std::process::ExitCode;

use super::GlobalFlags;
use crate::config::Config;
use crate::run::event::RunEvent;
use crate::workflow::schema::WorkflowSpec;

/// Arguments of `chaski schema`.
#[derive(Debug, clap::Args)]
pub struct SchemaArgs {
    /// Of what
    #[arg(value_enum)]
    what: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// Workflow files
    Workflow,
    /// The events of a run, as `run --json` prints them
    Event,
}

/// Prints the schema.
///
/// # Errors
/// When standard output is closed.
pub async fn run(args: SchemaArgs, _config: &Config, _global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    let schema = match args.what {
        Format::Workflow => schemars::schema_for!(WorkflowSpec),
        Format::Event => schemars::schema_for!(RunEvent),
    };
    println!("{}", serde_json::to_string_pretty(&schema)?);
    Ok(ExitCode::SUCCESS)
}
