//! Text to token ids and back.
//!
//! Invariant: [`Tokenizer::encode`] never yields a special token, whatever the text holds.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file;

use crate::chat::template::PromptPiece;
use crate::error::EngineError;

/// A byte-level BPE vocabulary with its special tokens.
pub struct Tokenizer {}

impl Tokenizer {
    /// The vocabulary inside a GGUF file. `path` is for messages.
    pub fn from_gguf(_metadata: &HashMap<String, gguf_file::Value>, _path: &Path) -> Result<Self, EngineError> {
        unimplemented!()
    }

    /// A `tokenizer.json`.
    pub fn from_file(_path: &Path) -> Result<Self, EngineError> {
        unimplemented!()
    }

    /// Ids of plain text. No special token comes out, and none is added in front.
    pub fn encode(&self, _text: &str) -> Result<Vec<u32>, EngineError> {
        unimplemented!()
    }

    /// Ids of a rendered prompt.
    pub fn encode_prompt(&self, _pieces: &[PromptPiece]) -> Result<Vec<u32>, EngineError> {
        unimplemented!()
    }

    /// The bytes that token `id` stands for; empty for a special token or an id outside the vocabulary.
    pub fn bytes(&self, _id: u32) -> &[u8] {
        unimplemented!()
    }

    /// Ids in the vocabulary, special ones included.
    pub fn vocabulary(&self) -> usize {
        unimplemented!()
    }

    /// The names of the special tokens.
    pub fn specials(&self) -> Vec<String> {
        unimplemented!()
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, _id: u32) -> bool {
        unimplemented!()
    }

    /// The begin-of-text token, if the model wants one in front of plain text.
    pub fn begin_of_text(&self) -> Option<u32> {
        unimplemented!()
    }

    /// The ids that end a turn: the union of what the file names and what the family is known to use.
    pub fn stop_ids(&self) -> &[u32] {
        unimplemented!()
    }
}

/// Bytes of tokens to text, never half a character.
#[derive(Debug, Default)]
pub struct IncrementalDecoder {}

impl IncrementalDecoder {
    /// Takes the bytes of one token and gives out the characters that are whole now.
    pub fn push(&mut self, _bytes: &[u8]) -> String {
        unimplemented!()
    }

    /// Ends the text; what is not a whole character comes out as U+FFFD.
    pub fn finish(self) -> String {
        unimplemented!()
    }
}
