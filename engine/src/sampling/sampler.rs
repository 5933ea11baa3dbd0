//! Logits to one token id.

use std::collections::{BTreeSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::token_mask::TokenMask;
use crate::request::Sampling;

/// Tokens that the repetition penalty looks back on.
const PENALTY_WINDOW: usize = 64;

/// A token of a smaller share of the most likely one's probability is never drawn: even 128,000 of them would
/// weigh less than the rounding of an f32.
const NEVER: f32 = 1e-13;

/// Tokens among which top-p looks first. Sorting a whole vocabulary takes longer than a small model's step.
const TOP_FIRST: usize = 256;

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

    /// The next id, from `logits`, (vocabulary,): one that `mask` allows. `None` when nothing is allowed, or the
    /// logits are not numbers.
    pub fn sample(&mut self, logits: &[f32], mask: &TokenMask) -> Option<u32> {
        let penalized = self.settings.repetition_penalty != 1.0;
        if self.settings.temperature == 0.0 && !penalized {
            return most_likely(mask.choices(logits));
        }
        let mut candidates: Vec<(u32, f32)> = mask.choices(logits).collect();
        if penalized {
            self.penalize(&mut candidates);
        }
        if self.settings.temperature == 0.0 {
            return most_likely(candidates);
        }
        self.truncate(&mut candidates);
        self.draw(&candidates)
    }

    /// `candidates` are in the order of their ids.
    ///
    /// Source: "CTRL", section 4.1.
    fn penalize(&self, candidates: &mut [(u32, f32)]) {
        let penalty = self.settings.repetition_penalty;
        for id in self.recent.iter().copied().collect::<BTreeSet<_>>() {
            if let Ok(place) = candidates.binary_search_by_key(&id, |candidate| candidate.0) {
                let logit = &mut candidates[place].1;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Keeps what top-k, min-p and top-p leave, as shares of the most likely one's probability. Most likely
    /// first, ties by id, if there is a top-k or top-p.
    fn truncate(&self, candidates: &mut Vec<(u32, f32)>) {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.settings;
        if top_k > 0 {
            keep_most_likely(candidates, top_k);
        }
        let largest = candidates.iter().map(|&(_, logit)| logit).fold(f32::NEG_INFINITY, f32::max);
        for (_, weight) in candidates.iter_mut() {
            *weight = ((*weight - largest) / temperature).exp();
        }
        candidates.retain(|&(_, weight)| weight >= min_p.max(NEVER));
        if top_p < 1.0 {
            keep_share(candidates, top_p);
        }
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

/// The candidate of the highest logit, the first of equals.
fn most_likely(candidates: impl IntoIterator<Item = (u32, f32)>) -> Option<u32> {
    let best = candidates.into_iter().reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map(|best| best.0)
}

/// Keeps the first `count` candidates by likelihood, sorted: without sorting the others.
fn keep_most_likely(candidates: &mut Vec<(u32, f32)>, count: usize) {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, order);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(order);
}

/// Keeps the most likely candidates, sorted, that together have this share of all weight.
fn keep_share(candidates: &mut Vec<(u32, f32)>, share: f32) {
    let weight_of =
        |candidates: &[(u32, f32)]| -> f64 { candidates.iter().map(|&(_, weight)| f64::from(weight)).sum() };
    let wanted = weight_of(candidates) * f64::from(share);
    let mut sum = 0.0;
    let mut reaches = |&(_, weight): &(u32, f32)| {
        sum += f64::from(weight);
        sum >= wanted
    };
    // Few tokens hold most of the weight: look among some of them first.
    let mut some = candidates.clone();
    keep_most_likely(&mut some, TOP_FIRST);
    if let Some(last) = some.iter().position(&mut reaches) {
        some.truncate(last + 1);
        *candidates = some;
        return;
    }
    keep_most_likely(candidates, usize::MAX);
    let more = candidates.iter().skip(some.len()).position(reaches);
    candidates.truncate(more.map_or(candidates.len(), |last| some.len() + last + 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 3.0, 1.0, -2.0];

    fn all() -> TokenMask {
        TokenMask { words: vec![u32::MAX; 100] }
    }

    #[track_caller]
    fn check(settings: Sampling, possible: &[u32]) {
        let mut sampler = Sampler::new(settings);
        let drawn: Vec<u32> = (0..200).filter_map(|_| sampler.sample(&LOGITS, &all())).collect();
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
            (0..50).map(|_| sampler.sample(&LOGITS, &all())).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn a_mask_decides_alone() {
        let mask = TokenMask { words: vec![0b10000] };
        assert_eq!(Sampler::new(Sampling::default()).sample(&LOGITS, &mask), Some(4));
    }

    #[test]
    fn a_penalty_makes_way_for_others() {
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 2.0, ..Sampling::default() });
        sampler.note(1);
        assert_eq!(sampler.sample(&LOGITS, &all()), Some(2));
    }

    #[test]
    fn logits_that_are_no_numbers_give_nothing() {
        assert_eq!(Sampler::new(Sampling::default()).sample(&[f32::NAN; 4], &all()), None);
    }

    #[test]
    fn top_p_may_need_many_tokens() {
        let flat = [0.0; 1000];
        let mut sampler = Sampler::new(Sampling { top_p: 0.9, ..warm() });
        let drawn: Vec<u32> = (0..20_000).filter_map(|_| sampler.sample(&flat, &all())).collect();
        assert_eq!(drawn.iter().max(), Some(&899));
    }

    #[test]
    fn ids_past_the_mask_are_never_drawn() {
        let mask = TokenMask { words: vec![u32::MAX] };
        let mut sampler = Sampler::new(warm());
        assert!((0..200).all(|_| sampler.sample(&[0.0; 100], &mask).is_some_and(|id| id < 32)));
    }
}
