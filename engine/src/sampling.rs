//! Which token comes next: logits, minus what the grammar forbids, to one id.

pub mod grammar;
pub mod sampler;
