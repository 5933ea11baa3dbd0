//! Bytes of tokens to text, as they come.
//!
//! Invariant: what was given out is a prefix of the whole text decoded at once.

/// Bytes of tokens to text, never half a character.
#[derive(Debug, Default)]
pub struct IncrementalDecoder {
    /// The beginning of a character: at most 3 bytes between two calls.
    pending: Vec<u8>,
}

impl IncrementalDecoder {
    /// Takes the bytes of one token and gives out the characters that are whole now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut taken = 0;
        while taken < self.pending.len() {
            match std::str::from_utf8(&self.pending[taken..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    taken = self.pending.len();
                }
                Err(error) => {
                    let valid = &self.pending[taken..taken + error.valid_up_to()];
                    text.push_str(std::str::from_utf8(valid).expect("valid up to here, says the decoder"));
                    taken += error.valid_up_to();
                    match error.error_len() {
                        Some(wrong) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            taken += wrong;
                        }
                        None => break,
                    }
                }
            }
        }
        self.pending.drain(..taken);
        text
    }

    /// Ends the text; what is not a whole character comes out as U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}
