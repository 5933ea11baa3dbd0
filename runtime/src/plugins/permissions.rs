//! What a plugin may touch: effective = manifest ∩ grant ∩ ceiling.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a folder may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Files can be listed and read.
    #[default]
    Read,
    /// Files can also be created, changed and removed.
    ReadWrite,
}

/// A folder that the operator offers to plugins under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The folder, absolute.
    pub path: PathBuf,
    /// The most that any plugin gets there.
    pub access: Access,
}

/// The folders of one run, by name. A plugin reaches a root only if its manifest asks for that name.
pub type Roots = BTreeMap<String, Root>;
