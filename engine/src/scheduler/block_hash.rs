//! Names for what a full KV block holds.
//!
//! A block's keys and values depend on its own tokens, on all tokens before them, and on the model that
//! computed them. Its hash is chained over exactly these, so that equal hashes mean equal content. It is 128
//! bits of SHA-256: stable over processes and machines, and nobody can make two prompts collide.

use sha2::{Digest, Sha256};

use super::BLOCK_TOKENS;

/// What besides the tokens decides the content of a KV block: the model, its RoPE setting, an adapter. Blocks
/// of different keys are never shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 16]);

impl CacheKey {
    /// The key of these parts, in this order.
    pub fn of(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // With its length, so that two parts cannot be mistaken for one.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        Self(half(hash))
    }
}

/// What a full block holds, all tokens before it included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash([u8; 16]);

impl BlockHash {
    /// The hash itself.
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }
}

/// The hashes of a sequence's full blocks, in order.
#[derive(Clone, Debug)]
pub struct HashChain {
    last: [u8; 16],
    hashes: Vec<BlockHash>,
}

impl HashChain {
    /// The chain of a sequence without tokens.
    pub fn new(key: CacheKey) -> Self {
        Self { last: key.0, hashes: Vec::new() }
    }

    /// Takes note of all of a sequence's tokens; those of earlier calls must not have changed.
    pub fn extend(&mut self, tokens: &[u32]) {
        for block in tokens.chunks_exact(BLOCK_TOKENS).skip(self.hashes.len()) {
            let mut hash = Sha256::new_with_prefix(self.last);
            for token in block {
                hash.update(token.to_le_bytes());
            }
            self.last = half(hash);
            self.hashes.push(BlockHash(self.last));
        }
    }

    /// The hashes so far; number `i` is that of the tokens up to `(i + 1) * BLOCK_TOKENS`.
    pub fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }
}

fn half(hash: Sha256) -> [u8; 16] {
    let digest: [u8; 32] = hash.finalize().into();
    *digest.first_chunk().expect("a digest has 32 bytes")
}
