//! `chaski license`: the licence of chaski, and the duties that come with a model.

use std::process::ExitCode;

use super::GlobalFlags;
use crate::config::Config;
use crate::models::{catalog, licence, store};

/// Arguments of `chaski license`.
#[derive(Debug, clap::Args)]
pub struct LicenseArgs {
    /// A model; the configured one if absent
    model: Option<String>,
}

/// Prints the licences.
///
/// # Errors
/// When the model is unknown.
pub async fn run(args: LicenseArgs, config: &Config, _global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    let name = args.model.unwrap_or_else(|| config.model.clone());
    println!("chaski {}: Apache-2.0; see LICENSE and NOTICE in its sources.\n", env!("CARGO_PKG_VERSION"));
    if config.models.contains_key(&name) {
        println!("`{name}` is a remote model: its operator's terms apply.");
        return Ok(ExitCode::SUCCESS);
    }
    let family = match catalog::find(&name) {
        Ok(model) => licence::family(&model.family),
        Err(unknown) => match store::local(config, &name) {
            Ok(Some(local)) => {
                let summary = chaski_engine::inspect::inspect(&local.weights)?;
                licence::guess(summary.licence.as_deref(), summary.name.as_deref())
            }
            _ => return Err(unknown.into()),
        },
    };
    let Some(licence) = family else {
        println!("`{name}` states no licence that chaski knows. Ask where it comes from before you use it.");
        return Ok(ExitCode::SUCCESS);
    };
    println!("{name}: {}\n{}", licence.title, licence.url);
    if let Some(built_with) = licence.built_with {
        println!("{built_with}");
    }
    println!();
    for duty in licence.duties {
        println!("- {duty}");
    }
    for line in [licence.size_rule, licence.derived_name, licence.notice].into_iter().flatten() {
        println!("- {line}");
    }
    if let Some(policy) = licence.use_policy {
        println!("- Acceptable use: {policy}");
    }
    println!("\nThis is a reading by engineers, not legal advice.");
    Ok(ExitCode::SUCCESS)
}
