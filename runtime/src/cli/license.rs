//! `chaski license`: the licence of chaski, and the duties that come with a model.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::json;

use super::GlobalFlags;
use crate::config::Config;
use crate::models::licence::{self, Licence};
use crate::models::{catalog, store};

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
pub async fn run(args: LicenseArgs, config: &Config, global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    let name = args.model.unwrap_or_else(|| config.model.clone());
    let terms = terms(config, &name)?;
    if global.json {
        let licence = match terms {
            Terms::Known(licence) => Some(licence),
            Terms::Remote | Terms::Unknown => None,
        };
        let remote = matches!(terms, Terms::Remote);
        println!("{}", json!({"chaski": "Apache-2.0", "model": name, "remote": remote, "licence": licence}));
        return Ok(ExitCode::SUCCESS);
    }
    println!("chaski {}: Apache-2.0; see LICENSE and NOTICE in its sources.\n", env!("CARGO_PKG_VERSION"));
    match terms {
        Terms::Remote => println!("`{name}` is a remote model: its operator's terms apply."),
        Terms::Unknown => {
            println!(
                "`{name}` states no licence that chaski knows. Ask where it comes from before you use it."
            );
        }
        Terms::Known(licence) => print!("{}", describe(&name, licence)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whose terms apply to a model.
enum Terms {
    Remote,
    Known(&'static Licence),
    Unknown,
}

fn terms(config: &Config, name: &str) -> anyhow::Result<Terms> {
    if config.models.contains_key(name) {
        return Ok(Terms::Remote);
    }
    let found = match catalog::find(name) {
        Ok(model) => licence::family(&model.family),
        Err(unknown) => {
            // Not of the catalog: a path, whose file says more, or a slip.
            let Some(local) = store::local(config, name)? else { return Err(unknown.into()) };
            let summary = chaski_engine::inspect::inspect(&local.weights)?;
            licence::guess(summary.licence.as_deref(), summary.name.as_deref())
        }
    };
    Ok(found.map_or(Terms::Unknown, Terms::Known))
}

/// The duties as text.
fn describe(name: &str, licence: &Licence) -> String {
    let mut text = format!("{name}: {}\n  {}\n", licence.title, licence.url);
    let sections = [
        ("The line to show wherever a product uses it:", licence.built_with),
        ("The text of the file `Notice` to keep with every copy:", licence.notice),
        ("The names of derived models begin with:", licence.derived_name),
        ("Acceptable use policy:", licence.use_policy),
        ("Who needs a licence of their own:", licence.size_rule),
    ];
    for (title, body) in sections {
        if let Some(body) = body {
            text.push_str(&format!("\n{title}\n  {body}\n"));
        }
    }
    text.push_str("\nDuties when you pass it on, or offer a product or service that uses it:\n");
    for (index, duty) in licence.duties.iter().enumerate() {
        writeln!(text, "  {}. {duty}", index + 1).expect("writing to a string cannot fail");
    }
    text.push_str("\nThis is a reading by engineers, not legal advice.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_comes_with_its_line_notice_policy_and_the_true_size_rule() {
        let text = describe("llama-3-8b-instruct", licence::family("llama3").expect("known"));
        for part in [
            "wherever a product uses it:\n  Built with Meta Llama 3\n",
            "to keep with every copy:\n  Meta Llama 3 is licensed under the Meta Llama 3 Community License, Copyright",
            "derived models begin with:\n  Llama 3\n",
            "Acceptable use policy:\n  https://",
            "before 18 April 2024",
            "  1. Pass the licence text on",
        ] {
            assert!(text.contains(part), "`{part}` is missing in\n{text}");
        }
    }

    #[test]
    fn a_permissive_licence_is_short() {
        insta::assert_snapshot!(describe("smollm2", licence::family("apache-2.0").expect("known")), @r"
        smollm2: Apache License 2.0
          https://www.apache.org/licenses/LICENSE-2.0

        Duties when you pass it on, or offer a product or service that uses it:
          1. Pass the licence text and the model's own notices on with every copy.
          2. Say in changed files that you changed them.

        This is a reading by engineers, not legal advice.
        ");
    }
}
