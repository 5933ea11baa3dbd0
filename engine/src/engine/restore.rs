//! KV blocks between the cache and the store on disk.

use crate::kv_store::KvStore;
use crate::model::KvCache;
use crate::scheduler::Scheduler;
use crate::scheduler::block_hash::CacheKey;
use crate::scheduler::sequence::SequenceId;

/// Brings back what the store has of a prompt's beginning, so that its sequence finds it in the cache.
pub(super) fn restore(
    store: &mut KvStore,
    scheduler: &mut Scheduler,
    kv_cache: &mut KvCache,
    cache_key: CacheKey,
    prompt: &[u32],
) {
    let restored = scheduler.restore(cache_key, prompt, |hash, block| {
        let name = hash.bytes();
        if !store.contains(&name) {
            return false;
        }
        let Some(content) = store.load(&name) else { return false };
        let fits = kv_cache.write_block(block, &content);
        if !fits {
            tracing::warn!("a stored KV block is of another model; it is computed again");
        }
        fits
    });
    if restored > 0 {
        tracing::debug!(blocks = restored, "KV blocks came back from the disk");
    }
}

/// Keeps the full blocks that a sequence leaves behind.
pub(super) fn keep(store: &mut KvStore, scheduler: &Scheduler, kv_cache: &KvCache, id: SequenceId) {
    for (hash, block) in scheduler.full_blocks(id) {
        let name = hash.bytes();
        if store.contains(&name) {
            continue;
        }
        let Some(content) = kv_cache.read_block(block) else { return };
        store.save(name, content);
    }
}
