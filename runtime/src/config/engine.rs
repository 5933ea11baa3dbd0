//! The `[engine]` table: how the model in this process is run.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use chaski_engine::EngineOptions;
use chaski_engine::config::{AdapterFolder, KvFormat, KvStoreOptions, RopeStretch};

/// How the model in this process is run. What is not set is left to the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineSettings {
    /// Tokens of context; above the model's own they are stretched.
    pub context: Option<usize>,
    /// How, if not by YaRN.
    pub rope_scaling: Option<RopeStretch>,
    /// Threads that compute.
    pub threads: Option<NonZeroUsize>,
    /// Tokens of all requests together that the KV cache holds.
    pub kv_tokens: Option<usize>,
    /// What keys and values are kept as.
    pub kv_format: Option<KvFormat>,
    /// Bytes of KV blocks kept on disk; nothing is kept unless this is set, because they tell what was asked.
    pub kv_disk: Option<u64>,
    /// Whether to guess at tokens.
    pub speculate: Option<bool>,
    /// LoRA adapters by the name that requests use.
    pub adapters: BTreeMap<String, PathBuf>,
}

impl EngineSettings {
    /// The options for the model in `weights`; `cache_dir` is where KV blocks are kept.
    pub fn options(&self, weights: &Path, cache_dir: &Path) -> EngineOptions {
        let mut options = EngineOptions::new(weights);
        options.context = self.context;
        options.rope_scaling = Some(self.rope_scaling.unwrap_or(RopeStretch::Yarn));
        options.threads = self.threads;
        options.kv_tokens = self.kv_tokens;
        options.kv_format = self.kv_format.unwrap_or(options.kv_format);
        options.kv_store =
            self.kv_disk.map(|most_bytes| KvStoreOptions { folder: cache_dir.join("kv"), most_bytes });
        options.speculate = self.speculate.unwrap_or(options.speculate);
        let adapters = self.adapters.iter();
        options.adapters = adapters
            .map(|(name, folder)| AdapterFolder { name: name.clone(), folder: folder.clone() })
            .collect();
        options
    }
}
