//! `plugins.lock`, beside the installed plugins: what each of them was when it was installed.
//!
//! Invariant: a plugin whose component, manifest or tool list is another than its pin says does not load. A pin
//! changes when somebody installs or updates the plugin, or chaski builds its own, and never by loading.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::error::PluginError;
use super::manifest::{self, Manifest};
use crate::digest::sha256_hex;
use crate::tools::ToolDefinition;
use crate::whole_file;

/// The file's name, in the folder of the installed plugins.
pub const FILE_NAME: &str = "plugins.lock";

const HEAD: &str =
    "# What the installed plugins are. Written by `chaski plugin add`, `update` and `build`.\n\n";

/// What a plugin was when it was installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Its version, for people.
    pub version: String,
    /// SHA-256 of its component.
    pub component: String,
    /// SHA-256 of its manifest.
    pub manifest: String,
    /// SHA-256 over its tools; absent until they were listed for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<String>,
    /// Where it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
}

/// Every pin, by the plugin's id.
pub type Pins = BTreeMap<String, Pin>;

impl Pin {
    /// The pin of what lies in `dir`; its tools are not known yet.
    ///
    /// # Errors
    /// When the manifest or the component cannot be read.
    pub fn of(dir: &Path) -> Result<Self, PluginError> {
        let found = Manifest::read(dir)?;
        let component = digest(dir.join(&found.component))?;
        Self::with_component(dir, &found, component)
    }

    /// The same, for a component whose digest is known.
    pub(super) fn with_component(
        dir: &Path,
        found: &Manifest,
        component: String,
    ) -> Result<Self, PluginError> {
        let manifest = digest(dir.join(manifest::FILE_NAME))?;
        Ok(Self { version: found.version.clone(), component, manifest, tools: None, source: None })
    }

    /// Refuses `found` where it is another than this pin says.
    pub(super) fn check(&self, plugin: &str, found: &Self) -> Result<(), PluginError> {
        let parts = [
            ("component", Some(&self.component), Some(&found.component)),
            ("manifest", Some(&self.manifest), Some(&found.manifest)),
            ("tool list", self.tools.as_ref(), found.tools.as_ref()),
        ];
        for (what, pinned, found) in parts {
            if let (Some(pinned), Some(found)) = (pinned, found)
                && pinned != found
            {
                return Err(PluginError::Changed {
                    plugin: plugin.to_owned(),
                    what,
                    pinned: pinned.clone(),
                    found: found.clone(),
                });
            }
        }
        Ok(())
    }
}

fn digest(file: PathBuf) -> Result<String, PluginError> {
    let bytes = std::fs::read(&file);
    bytes
        .map(|bytes| sha256_hex(&bytes))
        .map_err(|error| PluginError::Unreadable { file, reason: error.to_string() })
}

/// A digest over everything that a model or the host is told about `tools`.
pub(super) fn tools_digest<'a>(tools: impl Iterator<Item = &'a ToolDefinition>) -> String {
    let mut lines: Vec<String> = tools.map(|tool| serde_json::json!(tool).to_string()).collect();
    lines.sort();
    sha256_hex(lines.join("\n").as_bytes())
}

/// The pins in `file`; none where there is no file.
///
/// # Errors
/// [`PluginError::Storage`] when it cannot be read or is not what this program wrote.
pub fn read(file: &Path) -> Result<Pins, PluginError> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Pins::new()),
        Err(error) => return Err(fault(file, error.to_string())),
    };
    toml::from_str(&text).map_err(|error| fault(file, format!("is no lock file: {}", error.message())))
}

/// Changes the pins in `file`: all of it is written anew, or it stays as it was.
///
/// # Errors
/// [`PluginError::Storage`].
pub fn change(file: &Path, change: impl FnOnce(&mut Pins)) -> Result<(), PluginError> {
    let fault_of = |error: std::io::Error| fault(file, error.to_string());
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(fault_of)?;
    // Another process may install something at the same time.
    let lock = std::fs::File::create(folder.join(".plugins.lock.writing")).map_err(fault_of)?;
    lock.lock().map_err(fault_of)?;
    let before = read(file)?;
    let mut pins = before.clone();
    change(&mut pins);
    if pins == before {
        return Ok(());
    }
    let text = toml::to_string(&pins).map_err(|error| fault(file, error.to_string()))?;
    let write = |side: &mut NamedTempFile| {
        side.write_all(HEAD.as_bytes())?;
        side.write_all(text.as_bytes())
    };
    whole_file::replace(file, write).map_err(fault_of)
}

/// Pins what lies in `dir`, keeping the tool list of a component that is the same as before.
///
/// # Errors
/// When it cannot be read, or the file cannot be written.
pub fn pin(file: &Path, id: &str, dir: &Path) -> Result<(), PluginError> {
    let mut found = Pin::of(dir)?;
    change(file, |pins| {
        if let Some(known) = pins.get(id) {
            found.source = known.source.clone();
            found.tools = known.tools.clone().filter(|_| known.component == found.component);
        }
        pins.insert(id.to_owned(), found);
    })
}

/// Pins what chaski built in `dir`, unless it is pinned as it is.
///
/// Another process may have built it and not come to pin it yet, so the build's own record counts. A component
/// that is another than its build left is not pinned by this: it does not load.
///
/// # Errors
/// As [`pin`].
pub fn pin_build(file: &Path, id: &str, dir: &Path) -> Result<(), PluginError> {
    let pinned = read(file)?.remove(id).map(|pin| pin.component);
    let built = super::build::built_component(dir);
    if pinned.is_some() && pinned == built {
        return Ok(());
    }
    match (pinned, built) {
        (Some(_), Some(built)) if Pin::of(dir)?.component != built => Ok(()),
        _ => pin(file, id, dir),
    }
}

fn fault(file: &Path, reason: String) -> PluginError {
    PluginError::Storage {
        path: file.to_owned(),
        reason,
        hint: Some("move it away and install the plugins again: `chaski plugin add DIR`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(component: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let manifest = "[plugin]\nid = \"p\"\nversion = \"1\"\ncomponent = \"c.wasm\"\ndescription = \"d\"\n";
        std::fs::write(folder.path().join("plugin.toml"), manifest).expect("writes");
        std::fs::write(folder.path().join("c.wasm"), component).expect("writes");
        folder
    }

    #[test]
    fn a_changed_component_is_told_with_both_digests() {
        let (before, after) = (folder("one"), folder("two"));
        let pinned = Pin::of(before.path()).expect("it is whole");
        pinned.check("p", &pinned).expect("nothing changed");
        let error = pinned.check("p", &Pin::of(after.path()).expect("it is whole")).expect_err("it changed");
        let text = error.to_string();
        assert!(text.contains(&sha256_hex(b"one")) && text.contains(&sha256_hex(b"two")), "{text}");
        assert!(error.hint().is_some_and(|hint| hint.contains("chaski plugin update p")));
    }

    #[test]
    fn a_tool_list_that_was_never_seen_is_not_a_changed_one() {
        let folder = folder("one");
        let pinned = Pin::of(folder.path()).expect("it is whole");
        let listed = Pin { tools: Some("a".into()), ..pinned.clone() };
        pinned.check("p", &listed).expect("it is the first list");
        let other = Pin { tools: Some("b".into()), ..pinned };
        assert!(listed.check("p", &other).expect_err("another list").to_string().contains("tool list"));
    }

    #[test]
    fn pins_are_read_as_they_were_written_and_a_new_component_forgets_its_tools() {
        let (home, plugin) = (tempfile::tempdir().expect("a folder"), folder("one"));
        let file = home.path().join(FILE_NAME);
        pin(&file, "p", plugin.path()).expect("it is writable");
        change(&file, |pins| pins.get_mut("p").expect("pinned").tools = Some("t".into())).expect("writable");
        pin(&file, "p", plugin.path()).expect("it is writable");
        assert_eq!(read(&file).expect("readable")["p"].tools.as_deref(), Some("t"));
        std::fs::write(plugin.path().join("c.wasm"), "two").expect("writes");
        pin(&file, "p", plugin.path()).expect("it is writable");
        assert_eq!(read(&file).expect("readable")["p"].tools, None);
        change(&file, |pins| drop(pins.remove("p"))).expect("it is writable");
        assert_eq!(read(&file).expect("readable"), Pins::new());
    }

    #[test]
    fn a_build_that_nobody_pinned_yet_is_pinned_and_a_swapped_component_is_not() {
        let (home, plugin) = (tempfile::tempdir().expect("a folder"), folder("one"));
        let file = home.path().join(FILE_NAME);
        let pinned = || read(&file).expect("readable")["p"].component.clone();
        let record = |component: &[u8]| {
            let text = format!("{{\"sources\": \"s\", \"component\": \"{}\"}}", sha256_hex(component));
            std::fs::write(plugin.path().join("build.json"), text).expect("writes");
        };
        record(b"one");
        pin_build(&file, "p", plugin.path()).expect("writable");
        // Somebody swaps the component: the pin stays.
        std::fs::write(plugin.path().join("c.wasm"), "two").expect("writes");
        pin_build(&file, "p", plugin.path()).expect("writable");
        assert_eq!(pinned(), sha256_hex(b"one"));
        // Another process has built it again.
        record(b"two");
        pin_build(&file, "p", plugin.path()).expect("writable");
        assert_eq!(pinned(), sha256_hex(b"two"));
    }

    #[test]
    fn a_lock_file_that_is_none_is_an_error() {
        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join(FILE_NAME);
        std::fs::write(&file, "p = 3").expect("writes");
        assert!(read(&file).expect_err("no pin").to_string().contains("is no lock file"));
    }
}
