//! Which tokens may come next, one bit an id.

use crate::tokenizer::Tokenizer;

/// The tokens that may come next, one bit an id. Ids past its end may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    /// Bit `id % 32` of word `id / 32`.
    pub words: Vec<u32>,
}

impl TokenMask {
    /// Every token that a reply without a grammar may hold: special ones only if they end a turn or mark calls,
    /// because no other was trained to be said here.
    pub fn sayable(tokenizer: &Tokenizer) -> Self {
        let mut words = vec![0; tokenizer.vocabulary().div_ceil(32)];
        for id in 0..tokenizer.vocabulary() as u32 {
            let sayable = !tokenizer.is_special(id)
                || tokenizer.stop_ids().contains(&id)
                || tokenizer.call_marker(id).is_some();
            words[id as usize / 32] |= u32::from(sayable) << (id % 32);
        }
        Self { words }
    }

    /// Whether `id` is allowed.
    pub fn allows(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// The allowed ids and their logits, in order. Logits that are no numbers are left out.
    pub fn choices<'a>(&'a self, logits: &'a [f32]) -> impl Iterator<Item = (u32, f32)> + 'a {
        let words = (0u32..).step_by(32).zip(&self.words).zip(logits.chunks(32));
        words.filter(|((_, word), _)| **word != 0).flat_map(|((first, word), logits)| {
            (0u32..)
                .zip(logits)
                .filter(move |(bit, logit)| word >> bit & 1 == 1 && logit.is_finite())
                .map(move |(bit, logit)| (first + bit, *logit))
        })
    }
}
