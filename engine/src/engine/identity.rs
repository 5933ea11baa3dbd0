//! What the KV blocks of an engine belong to, so that no block is ever used for another model.

use std::path::Path;
use std::time::UNIX_EPOCH;

use crate::config::EngineOptions;
use crate::model::LlamaConfig;
use crate::scheduler::block_hash::CacheKey;

/// The key of the model alone, and then those of the model with each adapter.
///
/// They hold across restarts, as long as the files are the same: path, length and time of last change.
pub(super) fn cache_keys(options: &EngineOptions, config: &LlamaConfig) -> Vec<CacheKey> {
    // The rotary setting is in the config; what an extended context does to the angles depends on its length.
    let model = format!("{} {config:?} {}", file_identity(&options.model), options.kv_format.layout());
    let with = |adapter: &str| CacheKey::of(&[&model, adapter]);
    let adapters = options.adapters.iter().map(|adapter| with(&file_identity(&adapter.folder)));
    std::iter::once(with("")).chain(adapters).collect()
}

/// The path with the lengths and times of the files in it.
fn file_identity(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut files = vec![path.clone()];
    if let Ok(folder) = std::fs::read_dir(&path) {
        files.extend(folder.filter_map(Result::ok).map(|entry| entry.path()));
        files.sort();
    }
    let mut identity = path.display().to_string();
    for file in files.iter().filter_map(|file| std::fs::metadata(file).ok()).filter(|file| file.is_file()) {
        let changed = file.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        identity += &format!(" {}:{}", file.len(), changed.unwrap_or_default().as_nanos());
    }
    identity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_another_model() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let before = file_identity(file.path());
        assert_eq!(file_identity(file.path()), before);
        std::fs::write(file.path(), "more").expect("writes");
        assert_ne!(file_identity(file.path()), before);
    }

    #[test]
    fn a_folder_is_all_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a"), "1").expect("writes");
        let before = file_identity(folder.path());
        std::fs::write(folder.path().join("b"), "1").expect("writes");
        assert_ne!(file_identity(folder.path()), before);
    }
}
