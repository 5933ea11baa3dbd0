//! `chaski plugin grant` and `revoke`: the tables `[plugins.ID]` of the user's settings.

use std::io::Write;
use std::path::Path;

use toml_edit::{Array, DocumentMut, Item, Table, value};

use super::plugin_error;
use crate::cli::usage_error;
use crate::config::file::{FileSettings, Scope};
use crate::config::{Config, create_private};
use crate::plugins::catalog;
use crate::plugins::grant::{CAPABILITIES, Grant};
use crate::plugins::manifest::{Manifest, is_name};
use crate::whole_file;

/// Whether something is given or taken.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Change {
    Grant,
    Revoke,
}

/// Gives `items` (`http=https://api.example.com`) to plugin `id`, or takes them; `revoke` without any takes all.
pub(super) fn change(config: &Config, id: &str, items: &[String], change: Change) -> anyhow::Result<()> {
    if !is_name(id) {
        return Err(usage_error(format!("`{id}` is no plugin's id"), None::<String>));
    }
    let mut granted = config.grants.get(id).cloned().unwrap_or_default();
    let mut parsed = Vec::new();
    for item in items {
        let (capability, text) = split(item)?;
        let mut one = Grant::default();
        one.add(capability, text)
            .map_err(|reason| usage_error(format!("`{capability}` {reason}"), None::<String>))?;
        // As it is written, whatever way it was typed.
        let text = one.texts(capability).pop().unwrap_or_default();
        parsed.push((capability.to_owned(), text));
    }
    if change == Change::Grant && parsed.is_empty() {
        return Err(usage_error("nothing is named to grant", "for example `http=https://api.example.com`"));
    }
    let before = std::fs::read_to_string(&config.user_file).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(String::new()),
        _ => Err(error),
    })?;
    let mut document: DocumentMut = before.parse()?;
    if change == Change::Revoke && parsed.is_empty() {
        for capability in CAPABILITIES {
            parsed.extend(granted.texts(capability).into_iter().map(|text| (capability.to_owned(), text)));
        }
    }
    for (capability, text) in &parsed {
        let mut texts = granted.texts(capability);
        let known = texts.iter().position(|known| known == text);
        match (change, known) {
            (Change::Grant, Some(_)) => {}
            (Change::Grant, None) => texts.push(text.clone()),
            (Change::Revoke, Some(at)) => drop(texts.remove(at)),
            (Change::Revoke, None) => {
                let has = granted.texts(capability).join(", ");
                let has = if has.is_empty() { "nothing".to_owned() } else { has };
                return Err(usage_error(
                    format!("`{id}` was not granted {capability}={text}"),
                    format!("it was granted {has}"),
                ));
            }
        }
        set(&mut document, id, capability, &texts)?;
        granted = regranted(&granted, capability, &texts);
    }
    write(&config.user_file, &document.to_string())?;
    println!("{}", config.user_file.display());
    warn(config, id, &parsed, change)
}

fn split(item: &str) -> anyhow::Result<(&str, &str)> {
    let pair = item.split_once('=').filter(|(capability, _)| CAPABILITIES.contains(capability));
    pair.ok_or_else(|| {
        usage_error(
            format!("`{item}` is not of the form CAPABILITY=WHAT"),
            format!("a capability is one of {}; folders are granted with --root", CAPABILITIES.join(", ")),
        )
    })
}

/// `granted`, with `texts` for `capability`.
fn regranted(granted: &Grant, capability: &str, texts: &[String]) -> Grant {
    let mut next = Grant::default();
    for known in CAPABILITIES {
        let of_known = granted.texts(known);
        for text in if known == capability { texts } else { &of_known } {
            next.add(known, text).expect("it was granted, or parsed, before");
        }
    }
    next
}

fn set(document: &mut DocumentMut, id: &str, capability: &str, texts: &[String]) -> anyhow::Result<()> {
    let not_table = || usage_error("`plugins` in the settings is no table", None::<String>);
    let plugins = document.entry("plugins").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let plugins = plugins.as_table_like_mut().ok_or_else(not_table)?;
    let table = plugins.entry(id).or_insert_with(|| Item::Table(Table::new()));
    let table = table.as_table_like_mut().ok_or_else(not_table)?;
    if texts.is_empty() {
        table.remove(capability);
    } else {
        table.insert(capability, value(texts.iter().collect::<Array>()));
    }
    if table.is_empty() {
        plugins.remove(id);
    }
    Ok(())
}

/// Writes the settings: the whole file, checked first, or nothing.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    create_private(file.parent().unwrap_or(Path::new(".")))?;
    whole_file::replace(file, |side| {
        side.write_all(text.as_bytes())?;
        FileSettings::read(side.path(), Scope::User, file)?;
        if let Ok(metadata) = std::fs::metadata(file) {
            side.as_file().set_permissions(metadata.permissions())?;
        }
        Ok(())
    })
}

/// Says what a grant does not do: a plugin gets no more than its manifest asks for.
fn warn(config: &Config, id: &str, granted: &[(String, String)], change: Change) -> anyhow::Result<()> {
    let installed = config.plugins_dir.join(id);
    let source = catalog::sources().map(|sources| sources.join(id));
    let dir = [Some(installed), source].into_iter().flatten().find(|dir| dir.join("plugin.toml").is_file());
    let Some(dir) = dir else {
        eprintln!("note: no plugin `{id}` is installed yet");
        return Ok(());
    };
    let manifest = Manifest::read(&dir).map_err(plugin_error)?;
    for (capability, text) in granted.iter().filter(|_| change == Change::Grant) {
        let mut one = Grant::default();
        one.add(capability, text).expect("it was parsed before");
        let nothing = crate::plugins::permissions::Effective::default().with_grant(&manifest, &one);
        let effective = !nothing.http.is_empty()
            || !nothing.env.is_empty()
            || !nothing.secrets.is_empty()
            || !nothing.tools.asked.is_empty() && !nothing.tools.granted.is_empty();
        if !effective {
            eprintln!(
                "note: the manifest of `{id}` does not ask for {capability}={text}, so it gets nothing by it"
            );
        }
    }
    Ok(())
}
