//! How much context and KV cache an engine gets, decided once when it loads.

use crate::config::EngineOptions;
use crate::error::EngineError;
use crate::scheduler::blocks_for;

/// Tokens beyond one full context: room for the prefixes of earlier requests.
const SPARE_TOKENS: usize = 4096;

/// With plenty of memory, one part in so many of what is free goes to the KV cache …
const PLENTY_SHARE: usize = 8;

/// … up to so many whole contexts.
const PLENTY_CONTEXTS: usize = 8;

/// How much context and KV cache an engine gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryPlan {
    /// Tokens of context of one request.
    pub(super) context: usize,
    /// KV blocks of all requests together.
    pub(super) num_blocks: usize,
}

impl MemoryPlan {
    /// The plan for a model trained for `trained` tokens, `kv_bytes_per_token` each, on a device where
    /// `available` bytes are free beside the weights; `None` when nobody knows.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] when the context asked for is more than the model's, or does not fit.
    pub(super) fn new(
        options: &EngineOptions,
        trained: usize,
        kv_bytes_per_token: usize,
        available: Option<usize>,
    ) -> Result<Self, EngineError> {
        let invalid = |reason: String| Err(EngineError::InvalidRequest(reason));
        let model = options.model.display();
        let fits = available.map_or(usize::MAX, |bytes| bytes / kv_bytes_per_token.max(1));
        let context = match options.context {
            Some(asked) if asked > trained => {
                return invalid(format!(
                    "a context of {asked} tokens was asked for, `{model}` was trained for {trained}"
                ));
            }
            Some(asked) if asked > fits && options.kv_tokens.is_none() => {
                return invalid(format!(
                    "a context of {asked} tokens was asked for, there is memory for the keys and values of {fits}"
                ));
            }
            Some(asked) => asked,
            // The model's own may be far more than anybody here needs.
            None if trained > fits && options.kv_tokens.is_none() => {
                tracing::warn!(
                    trained,
                    context = fits,
                    "there is not enough memory for the model's own context"
                );
                fits
            }
            None => trained,
        };
        if context < 2 {
            return invalid(format!("a context of {context} tokens holds no prompt and answer"));
        }
        let tokens = match options.kv_tokens {
            Some(asked) if asked < context => {
                return invalid(format!(
                    "a context of {context} tokens does not fit into a KV cache of {asked}"
                ));
            }
            Some(asked) => asked,
            None => {
                let plenty = (fits / PLENTY_SHARE).min(PLENTY_CONTEXTS * context);
                let plenty = if available.is_some() { plenty } else { 0 };
                plenty.max(context + SPARE_TOKENS).min(fits.max(context))
            }
        };
        Ok(Self { context, num_blocks: blocks_for(tokens) })
    }
}

/// Bytes that are free for the KV cache beside `weights` bytes of weights in main memory. `None` where that
/// cannot be known.
pub(super) fn available(weights: usize) -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    // A container may have less than its machine; without a limit the file says `max`.
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|limit| limit.trim().parse().ok()).unwrap_or(usize::MAX);
    Some((kib * 1024).min(limit).saturating_sub(weights))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::BLOCK_TOKENS;

    const MIB: usize = 1 << 20;

    /// A model trained for 8,192 tokens of 1 KiB each; context and blocks in tokens, or what the error says.
    #[track_caller]
    fn check(
        context: Option<usize>,
        kv_tokens: Option<usize>,
        available: Option<usize>,
        expected: Result<(usize, usize), &str>,
    ) {
        let options = EngineOptions { context, kv_tokens, ..EngineOptions::new("m.gguf") };
        let found = MemoryPlan::new(&options, 8192, 1024, available);
        let found = found.map(|plan| (plan.context, plan.num_blocks * BLOCK_TOKENS));
        match (found, expected) {
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => assert_eq!(found.ok(), expected.ok()),
        }
    }

    #[test]
    fn the_default_is_one_context_and_some_room() {
        check(None, None, None, Ok((8192, 8192 + 4096)));
        check(None, None, Some(64 * MIB), Ok((8192, 8192 + 4096)));
        check(Some(100), None, None, Ok((100, 4208)));
    }

    #[test]
    fn plenty_of_memory_is_used() {
        check(None, None, Some(256 * MIB), Ok((8192, 32 * 1024)));
        check(None, None, Some(1 << 40), Ok((8192, 8 * 8192)));
    }

    #[test]
    fn little_memory_shortens_the_models_own_context() {
        check(None, None, Some(10 * MIB), Ok((8192, 10 * 1024)));
        check(None, None, Some(4 * MIB), Ok((4096, 4096)));
        check(None, None, Some(1024), Err("holds no prompt and answer"));
    }

    #[test]
    fn a_context_that_was_asked_for_must_fit() {
        check(Some(4097), None, Some(4 * MIB), Err("memory for the keys and values of 4096"));
        check(Some(9000), None, None, Err("was trained for 8192"));
        check(Some(1), None, None, Err("holds no prompt and answer"));
    }

    #[test]
    fn a_cache_that_was_asked_for_must_hold_a_context() {
        check(Some(100), Some(100), None, Ok((100, 112)));
        check(None, Some(20_000), Some(MIB), Ok((8192, 20_000)));
        check(None, Some(4096), None, Err("does not fit into a KV cache of 4096"));
    }
}
