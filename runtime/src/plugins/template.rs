//! New plugins: a project in each language that builds, tests and runs as it is.
//!
//! The projects lie in `plugins/template`, are part of this program, and are called `my-plugin` there.

use std::path::Path;

use super::error::PluginError;
use super::manifest::is_name;

/// The name that a template's files carry.
const PLACEHOLDER: &str = "my-plugin";

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// The smallest and fastest components
    Rust,
    /// The whole standard library of CPython 3.14
    Python,
    /// QuickJS: no packages of Node, small components
    Js,
}

/// Paths in the new project, and what they hold.
type Files = &'static [(&'static str, &'static str)];

macro_rules! files {
    ($language:literal: $($name:literal $(as $target:literal)?),+ $(,)?) => {
        &[$((
            files!(@target $name $($target)?),
            include_str!(concat!("../../../plugins/template/", $language, "/", $name)),
        )),+]
    };
    (@target $name:literal $target:literal) => { $target };
    (@target $name:literal) => { $name };
}

const RUST: Files = files!("rust":
    "plugin.toml", "Cargo.toml", "src/lib.rs", "src/describe.rs", "cases/odd.json", "cases/no-numbers.json",
    "README.md", "gitignore" as ".gitignore",
);
const PYTHON: Files = files!("python":
    "plugin.toml", "app.py", "describe.py", "test_describe.py", "cases/odd.json", "cases/no-numbers.json",
    "README.md", "gitignore" as ".gitignore",
);
const JS: Files = files!("js":
    "plugin.toml", "package.json", "app.js", "describe.js", "describe.test.js", "cases/odd.json",
    "cases/no-numbers.json", "README.md", "gitignore" as ".gitignore",
);
/// The contract, which every project holds a copy of: it builds wherever it lies.
const CONTRACT: (&str, &str) = ("wit/plugin.wit", include_str!("../../../plugins/wit/plugin.wit"));

/// Writes a new project into the folder `dir`, whose name becomes the plugin's id. It is whole or not there.
///
/// # Errors
/// When the name is none for a plugin, something lies there already, or the disk refuses.
pub fn create(dir: &Path, language: Language) -> Result<(), PluginError> {
    let fault = |reason: String| PluginError::Invalid(format!("`{}` was not made: {reason}", dir.display()));
    let id = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !is_name(id) {
        return Err(fault(format!("a plugin's id is `[a-z][a-z0-9-]{{0,63}}`, not `{id}`")));
    }
    if super::catalog::first_party().iter().any(|known| known == id) {
        return Err(fault(format!("`{id}` is the name of a plugin of chaski's own")));
    }
    if dir.symlink_metadata().is_ok() {
        return Err(fault("something of that name is there already".into()));
    }
    let files = match language {
        Language::Rust => RUST,
        Language::Python => PYTHON,
        Language::Js => JS,
    };
    let write = || -> std::io::Result<()> {
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let side = tempfile::Builder::new().prefix(".new-").tempdir_in(parent)?;
        let project = side.path().join(id);
        for (path, text) in files.iter().chain([&CONTRACT]) {
            let path = project.join(path);
            std::fs::create_dir_all(path.parent().expect("every file lies in the project"))?;
            std::fs::write(path, text.replace(PLACEHOLDER, id))?;
        }
        std::fs::rename(&project, dir)
    };
    write().map_err(|error| fault(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::case::Case;
    use crate::plugins::manifest::Manifest;

    #[test]
    fn a_new_project_carries_its_name_and_its_cases_are_valid() {
        for language in [Language::Rust, Language::Python, Language::Js] {
            let folder = tempfile::tempdir().expect("a folder");
            let dir = folder.path().join("word-count");
            create(&dir, language).expect("made");
            assert_eq!(Manifest::read(&dir).expect("a manifest").id, "word-count");
            assert_eq!(Case::read_all(&dir).expect("cases").len(), 2);
            for path in walk(&dir) {
                let text = std::fs::read_to_string(&path).expect("text");
                assert!(!text.contains(PLACEHOLDER), "{}", path.display());
            }
            assert!(dir.join(".gitignore").is_file() && dir.join("wit/plugin.wit").is_file());
        }
    }

    fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(dir).expect("lists").map(|entry| entry.expect("an entry").path());
        entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn what_is_there_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("notes");
        std::fs::create_dir(&dir).expect("made");
        let error = create(&dir, Language::Js).expect_err("refused").to_string();
        assert!(error.contains("is there already"), "{error}");
        assert_eq!(std::fs::read_dir(&dir).expect("lists").count(), 0);
    }

    #[test]
    fn a_name_that_is_none_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["Notes", "1st", "a_b", "js-runner"] {
            create(&folder.path().join(name), Language::Js).expect_err(name);
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 0);
    }
}
