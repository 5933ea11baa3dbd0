//! Guesses the next tokens of a sequence from what it has said before.
//!
//! Agents repeat themselves: a file that was read comes back in a patch, a name in the next call. Where the
//! last few tokens have come before, what followed them then is a good guess. Guesses cost nothing in quality:
//! each is kept only if it is the very token that would have been sampled.

use std::collections::HashMap;

use crate::request::Speculation;

/// Tokens that must have come before. Two repeat by chance too often, four miss the first repeats of a name.
const CONTEXT: usize = 3;

/// Most tokens guessed at once: a step with more rows costs noticeably more even where weights are read once.
const MOST_DRAFTS: usize = 8;

/// Below this share of right guesses, guessing costs more than it saves.
const LEAST_ACCEPTANCE: f32 = 0.3;

/// The weight of the newest guess in the moving average.
const NEWEST: f32 = 0.2;

/// After so many tokens without guesses it is worth another try.
const PAUSE: usize = 64;

/// Guesses the next tokens of one sequence.
pub struct Drafter {
    tokens: Vec<u32>,
    /// What follows the last place of these tokens: the index of the next one.
    followers: HashMap<[u32; CONTEXT], usize>,
    /// The moving average of the share of right guesses.
    acceptance: f32,
    since_last: usize,
    counts: Speculation,
}

impl Drafter {
    /// A drafter for a sequence that begins with `prompt`.
    pub fn new(prompt: &[u32]) -> Self {
        let mut drafter = Self {
            tokens: Vec::with_capacity(prompt.len()),
            followers: HashMap::with_capacity(prompt.len()),
            acceptance: 1.0,
            since_last: 0,
            counts: Speculation::default(),
        };
        for &token in prompt {
            drafter.note(token);
        }
        drafter
    }

    /// Notes the next token of the sequence.
    pub fn note(&mut self, token: u32) {
        // Only now something follows the tokens before it.
        if let Some(context) = self.tokens.last_chunk::<CONTEXT>() {
            self.followers.insert(*context, self.tokens.len());
        }
        self.tokens.push(token);
        self.since_last += 1;
    }

    /// A guess at the next tokens; the more tokens before them agree, the longer. Often empty.
    pub fn guess(&self) -> &[u32] {
        if self.acceptance < LEAST_ACCEPTANCE && self.since_last < PAUSE {
            return &[];
        }
        let Some(&start) = self.tokens.last_chunk().and_then(|context| self.followers.get(context)) else {
            return &[];
        };
        let earlier = self.tokens[..start].iter().rev();
        let agreeing = earlier.zip(self.tokens.iter().rev()).take(MOST_DRAFTS).take_while(|(a, b)| a == b);
        let end = (start + agreeing.count()).min(self.tokens.len());
        &self.tokens[start..end]
    }

    /// Notes how many of the last `drafted` guesses were right.
    pub fn learn(&mut self, drafted: usize, accepted: usize) {
        if drafted > 0 {
            self.since_last = 0;
            self.counts.drafted_tokens += drafted;
            self.counts.accepted_tokens += accepted;
            self.acceptance += NEWEST * (accepted as f32 / drafted as f32 - self.acceptance);
        }
    }

    /// Tokens guessed so far, and how many of them were right.
    pub fn counts(&self) -> Speculation {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tokens: &[u32], expected: &[u32]) {
        assert_eq!(Drafter::new(tokens).guess(), expected);
    }

    #[test]
    fn what_never_came_before_is_not_guessed() {
        check(&[], &[]);
        check(&[1, 2, 3, 4, 5, 6], &[]);
        check(&[1, 2, 9, 1, 2], &[]);
    }

    #[test]
    fn what_came_before_is_guessed() {
        check(&[1, 2, 3, 4, 5, 6, 1, 2, 3], &[4, 5, 6]);
    }

    #[test]
    fn the_last_time_counts() {
        check(&[1, 2, 3, 4, 0, 1, 2, 3, 5, 0, 1, 2, 3], &[5, 0, 1, 2]);
    }

    #[test]
    fn a_longer_agreement_gives_a_longer_guess() {
        check(&[9, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 1, 2, 3], &[4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_repeating_token_repeats_to_the_end_of_what_is_known() {
        check(&[7, 7, 7, 7, 7], &[7]);
    }

    #[test]
    fn wrong_guesses_stop_guessing_for_a_while() {
        let mut drafter = Drafter::new(&[1, 2, 3, 4, 1, 2, 3]);
        for _ in 0..6 {
            assert!(!drafter.guess().is_empty());
            drafter.learn(3, 0);
        }
        assert!(drafter.guess().is_empty());
        for _ in 0..PAUSE / 4 {
            for token in [4, 1, 2, 3] {
                drafter.note(token);
            }
        }
        assert!(!drafter.guess().is_empty());
    }
}
