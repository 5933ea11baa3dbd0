//! Blocks kept for agents between their turns.
//!
//! A session's blocks stay in use after its turn ended, the partly filled last one included, so that the next
//! turn computes its new tokens only. They are a favour: when somebody needs the room, the session whose last
//! turn is longest ago gives up its blocks. Full ones can still be found by their hash then.

use super::BLOCK_TOKENS;
use super::block_hash::CacheKey;
use super::block_pool::{BlockId, BlockPool};
use crate::request::SessionId;

/// What a session's last turn computed.
#[derive(Clone, Debug)]
pub struct Pin {
    /// Whose.
    pub session: SessionId,
    /// Under which key.
    pub cache_key: CacheKey,
    /// The computed tokens.
    pub tokens: Vec<u32>,
    /// Where they are.
    pub block_table: Vec<BlockId>,
}

/// All pins, the one used longest ago first. Each holds a block, so the pool bounds them.
#[derive(Default)]
pub struct Sessions {
    pins: Vec<Pin>,
}

impl Sessions {
    /// Keeps `pin` for its session's next turn, instead of an earlier one.
    pub fn keep(&mut self, pin: Pin, pool: &mut BlockPool) {
        self.end(&pin.session, pool);
        self.pins.push(pin);
    }

    /// How many of the first tokens of `tokens` the session's last turn computed.
    pub fn matching(&self, session: &SessionId, cache_key: CacheKey, tokens: &[u32]) -> usize {
        self.pins.iter().find(|pin| pin.session == *session && pin.cache_key == cache_key).map_or(0, |pin| {
            pin.tokens.iter().zip(tokens).take_while(|(computed, known)| computed == known).count()
        })
    }

    /// Takes the session's pin, cut to its first `tokens` tokens.
    pub fn take(&mut self, session: &SessionId, tokens: usize, pool: &mut BlockPool) -> Option<Pin> {
        let index = self.pins.iter().position(|pin| pin.session == *session)?;
        let mut pin = self.pins.remove(index);
        let kept = tokens.div_ceil(BLOCK_TOKENS);
        pool.release_table(&pin.block_table[kept..]);
        pin.block_table.truncate(kept);
        pin.tokens.truncate(tokens);
        Some(pin)
    }

    /// Gives up the pin used longest ago. `false` when there is none.
    pub fn give_up_oldest(&mut self, pool: &mut BlockPool) -> bool {
        if self.pins.is_empty() {
            return false;
        }
        pool.release_table(&self.pins.remove(0).block_table);
        true
    }

    /// Gives up the session's pin.
    pub fn end(&mut self, session: &SessionId, pool: &mut BlockPool) {
        if let Some(index) = self.pins.iter().position(|pin| pin.session == *session) {
            pool.release_table(&self.pins.remove(index).block_table);
        }
    }

    /// Every block of every pin.
    #[cfg(test)]
    pub fn blocks(&self) -> impl Iterator<Item = &BlockId> {
        self.pins.iter().flat_map(|pin| &pin.block_table)
    }
}
