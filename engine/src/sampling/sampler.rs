//! Logits to one token id.
