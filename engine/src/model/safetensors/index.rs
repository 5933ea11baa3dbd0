//! Which files of a folder hold the weights.
//!
//! An index comes from the network: it may only name files beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use crate::error::EngineError;
use crate::model::checkpoint::listed;
use crate::model::hf_config::read_object;

/// A 405B model has 191 files.
const MAX_FILES: usize = 4096;

/// The weight files of a folder.
pub(super) struct WeightFiles {
    /// Their names, sorted.
    pub(super) names: Vec<String>,
    /// The file that each tensor is in, as the index has it; empty without an index.
    pub(super) places: BTreeMap<String, String>,
}

impl WeightFiles {
    /// `model.safetensors`, the files that `model.safetensors.index.json` names, or the only one there is.
    pub(super) fn find(folder: &Path) -> Result<Self, EngineError> {
        let whole = "model.safetensors";
        if folder.join(whole).is_file() {
            return Ok(Self { names: vec![whole.into()], places: BTreeMap::new() });
        }
        let path = folder.join("model.safetensors.index.json");
        let unusable = |reason: String| EngineError::Model { path: path.clone(), reason };
        let Some(index) = read_object(&path)? else {
            return Ok(Self { names: vec![only_file(folder)?], places: BTreeMap::new() });
        };
        let map = index.get("weight_map").and_then(|map| map.as_object());
        let map = map.ok_or_else(|| unusable("it has no `weight_map`".into()))?;
        let mut places = BTreeMap::new();
        for (tensor, file) in map {
            let name = file.as_str().filter(|name| is_plain_name(name)).ok_or_else(|| {
                unusable(format!(
                    "the file of tensor `{tensor}` is {file}, it must be a name in the same folder"
                ))
            })?;
            places.insert(tensor.clone(), name.to_owned());
        }
        let names: BTreeSet<String> = places.values().cloned().collect();
        if names.is_empty() || names.len() > MAX_FILES {
            return Err(unusable(format!("it names {} files, 1 to {MAX_FILES} are possible", names.len())));
        }
        let absent: Vec<String> = names
            .iter()
            .filter(|name| !folder.join(name).is_file())
            .map(|name| format!("the file `{name}` is missing"))
            .collect();
        match absent.is_empty() {
            true => Ok(Self { names: names.into_iter().collect(), places }),
            false => Err(unusable(listed(&absent))),
        }
    }
}

/// The only safetensors file of a folder: old quantisers named it after its settings.
fn only_file(folder: &Path) -> Result<String, EngineError> {
    let unreadable =
        |error: std::io::Error| EngineError::Read { path: folder.to_owned(), reason: error.to_string() };
    let mut found = Vec::new();
    for entry in folder.read_dir().map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") && !name.starts_with("adapter_") {
            found.push(name);
        }
    }
    match &found[..] {
        [only] => Ok(only.clone()),
        _ => Err(EngineError::Read {
            path: folder.to_owned(),
            reason: format!(
                "it has neither `model.safetensors` nor `model.safetensors.index.json`, but {} other \
                 safetensors files",
                found.len()
            ),
        }),
    }
}

/// Whether `name` is a file name and nothing else: an index comes from the network.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
        && !name.contains('\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_in_the_same_folder_are_files() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        for name in ["", ".", "..", "../x", "/x", "a/b", "a/", "a\\b"] {
            assert!(!is_plain_name(name), "{name}");
        }
    }
}
