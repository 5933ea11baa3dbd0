//! Which token comes next: logits, minus what the grammar forbids, to one id; and guesses at it.

pub mod token_mask;
pub mod grammar;
pub mod sampler;
pub mod drafter;
