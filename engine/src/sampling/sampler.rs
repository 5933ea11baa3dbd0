//! Logits to one token id.

use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::grammar::TokenMask;
use crate::request::Sampling;

/// Tokens that the repetition penalty looks back on.
const PENALTY_WINDOW: usize = 64;

/// Picks the tokens of one reply. The same sampling settings and logits give the same tokens.
pub struct Sampler {
    settings: Sampling,
    random: ChaCha8Rng,
    recent: VecDeque<u32>,
}

impl Sampler {
    /// A sampler with the settings' seed.
    pub fn new(settings: Sampling) -> Self {
        let random = ChaCha8Rng::seed_from_u64(settings.seed);
        Self { settings, random, recent: VecDeque::with_capacity(PENALTY_WINDOW + 1) }
    }

    /// Notes a token of the reply, sampled or forced.
    pub fn note(&mut self, id: u32) {
        self.recent.push_back(id);
        if self.recent.len() > PENALTY_WINDOW {
            self.recent.pop_front();
        }
    }

    /// The next id: one that `mask` allows and `banned` does not name. `None` when nothing is allowed, or the
    /// logits are not numbers.
    pub fn sample(
        &mut self,
        logits: &[f32],
        mask: Option<&TokenMask>,
        banned: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let allowed = |id: u32| mask.map_or_else(|| !banned(id), |mask| mask.allows(id));
        let mut candidates: Vec<(u32, f32)> = (0u32..)
            .zip(logits.iter().copied())
            .filter(|&(id, logit)| allowed(id) && logit.is_finite())
            .collect();
        self.penalize(&mut candidates);
        if self.settings.temperature == 0.0 {
            return candidates
                .into_iter()
                .reduce(|best, next| if next.1 > best.1 { next } else { best })
                .map(|best| best.0);
        }
        self.truncate(&mut candidates);
        self.draw(&candidates)
    }

    /// Source: "CTRL", section 4.1.
    fn penalize(&self, candidates: &mut [(u32, f32)]) {
        let penalty = self.settings.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        for (id, logit) in candidates {
            if self.recent.contains(id) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Keeps what top-k, min-p and top-p leave, as probabilities, most likely first, ties by id.
    fn truncate(&self, candidates: &mut Vec<(u32, f32)>) {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.settings;
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, order);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(order);
        let Some(&(_, largest)) = candidates.first() else { return };
        for (_, weight) in candidates.iter_mut() {
            *weight = ((*weight - largest) / temperature).exp();
        }
        candidates.retain(|&(_, weight)| weight >= min_p);
        let total: f32 = candidates.iter().map(|&(_, weight)| weight).sum();
        let mut sum = 0.0;
        let kept = candidates
            .iter()
            .position(|&(_, weight)| {
                sum += weight / total;
                sum >= top_p
            })
            .map_or(candidates.len(), |last| last + 1);
        candidates.truncate(kept);
    }

    fn draw(&mut self, candidates: &[(u32, f32)]) -> Option<u32> {
        let total: f64 = candidates.iter().map(|&(_, weight)| f64::from(weight)).sum();
        // 53 random bits: a number in [0, 1) that f64 holds exactly.
        let point = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
        let mut sum = 0.0;
        candidates
            .iter()
            .find(|&&(_, weight)| {
                sum += f64::from(weight);
                point < sum
            })
            .or(candidates.last())
            .map(|&(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 3.0, 1.0, -2.0];

    #[track_caller]
    fn check(settings: Sampling, possible: &[u32]) {
        let mut sampler = Sampler::new(settings);
        let drawn: Vec<u32> = (0..200).filter_map(|_| sampler.sample(&LOGITS, None, |_| false)).collect();
        assert!(drawn.len() == 200 && drawn.iter().all(|id| possible.contains(id)), "{drawn:?}");
        assert!(possible.iter().all(|id| drawn.contains(id)), "{drawn:?}");
    }

    fn warm() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        check(Sampling::default(), &[1]);
    }

    #[test]
    fn top_k_keeps_the_most_likely() {
        check(Sampling { top_k: 3, ..warm() }, &[1, 2, 3]);
    }

    #[test]
    fn top_p_keeps_what_reaches_the_share() {
        check(Sampling { top_p: 0.8, ..warm() }, &[1, 2]);
    }

    #[test]
    fn min_p_drops_the_unlikely() {
        check(Sampling { min_p: 0.1, ..warm() }, &[1, 2, 3]);
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens() {
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, temperature: 2.0, ..Sampling::default() });
            (0..50).map(|_| sampler.sample(&LOGITS, None, |_| false)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn a_mask_decides_alone() {
        let mask = TokenMask { words: vec![0b10000] };
        assert_eq!(Sampler::new(Sampling::default()).sample(&LOGITS, Some(&mask), |_| true), Some(4));
    }

    #[test]
    fn a_penalty_makes_way_for_others() {
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 2.0, ..Sampling::default() });
        sampler.note(1);
        assert_eq!(sampler.sample(&LOGITS, None, |_| false), Some(2));
    }

    #[test]
    fn logits_that_are_no_numbers_give_nothing() {
        assert_eq!(Sampler::new(Sampling::default()).sample(&[f32::NAN; 4], None, |_| false), None);
    }
}
