//! Text to token ids and back.
//!
//! A vocabulary comes from a GGUF file or from a `tokenizer.json`; both end in the same byte-level BPE, so the
//! same text gives the same ids. Special tokens live beside it: they are reached by name only, through
//! [`Tokenizer::encode_prompt`], and have no bytes.
//!
//! Invariant: [`Tokenizer::encode`] never yields a special token, whatever the text holds.

mod decoder;
mod gguf;
mod vocabulary;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file;
use tokenizers::models::ModelWrapper;
use tokenizers::{DecoderWrapper, Tokenizer as HfTokenizer};

use crate::chat::template::PromptPiece;
use crate::error::EngineError;

pub use decoder::IncrementalDecoder;
use vocabulary::Vocabulary;

/// Special tokens that end a turn or a text in some family of models; those that a vocabulary has stop it.
///
/// A file often names only one of them: the first upload of Llama 3 Instruct named `<|end_of_text|>` alone, and
/// models that ended their turn with `<|eot_id|>` went on talking to themselves.
const TURN_ENDS: [&str; 6] =
    ["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|endoftext|>", "</s>"];

/// Special tokens that begin a text, in the order they are looked for when a file does not name one.
const TEXT_BEGINNINGS: [&str; 2] = ["<|begin_of_text|>", "<s>"];

/// Special tokens that a model writes to open a call rather than to lay out a conversation.
const CALL_MARKERS: [&str; 3] = ["<|python_tag|>", "<tool_call>", "</tool_call>"];

/// A byte-level BPE vocabulary with its special tokens.
pub struct Tokenizer {
    bpe: HfTokenizer,
    vocabulary: Vocabulary,
    begin_of_text: Option<u32>,
    stop_ids: Vec<u32>,
}

impl Tokenizer {
    /// The vocabulary inside a GGUF file. `path` is for messages.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`] when it is missing, damaged, or not byte-level BPE of a known kind.
    pub fn from_gguf(metadata: &HashMap<String, gguf_file::Value>, path: &Path) -> Result<Self, EngineError> {
        let parts = gguf::read(metadata)
            .map_err(|reason| EngineError::Tokenizer { path: path.to_path_buf(), reason })?;
        Ok(Self::assemble(parts.bpe, parts.vocabulary, parts.begin_of_text, &parts.ends))
    }

    /// A `tokenizer.json`.
    ///
    /// # Errors
    /// [`EngineError::Read`] when there is no such file, [`EngineError::Tokenizer`] when it is not byte-level BPE.
    pub fn from_file(path: &Path) -> Result<Self, EngineError> {
        let bytes = std::fs::read(path)
            .map_err(|error| EngineError::Read { path: path.to_path_buf(), reason: error.to_string() })?;
        let refuse = |reason: String| EngineError::Tokenizer { path: path.to_path_buf(), reason };
        let mut bpe = HfTokenizer::from_bytes(bytes).map_err(|error| refuse(error.to_string()))?;
        if !matches!(bpe.get_model(), ModelWrapper::BPE(_))
            || !matches!(bpe.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
        {
            return Err(refuse("only byte-level BPE is supported (Llama 3 and its kind)".into()));
        }
        // A file may ask for texts to be cut or filled to a length; a prompt is never cut silently.
        bpe.with_truncation(None).map_err(|error| refuse(error.to_string()))?;
        bpe.with_padding(None);
        bpe.set_encode_special_tokens(true);
        let vocabulary = Vocabulary::from_hf(&bpe).map_err(refuse)?;
        let begin_of_text = TEXT_BEGINNINGS.iter().find_map(|name| vocabulary.special(name));
        Ok(Self::assemble(bpe, vocabulary, begin_of_text, &[]))
    }

    /// `ends`: the ids that the file itself names as ends of a text or turn.
    fn assemble(bpe: HfTokenizer, vocabulary: Vocabulary, begin_of_text: Option<u32>, ends: &[u32]) -> Self {
        let family = TURN_ENDS.iter().filter_map(|name| vocabulary.special(name));
        let mut stop_ids: Vec<u32> = family.chain(ends.iter().copied()).collect();
        stop_ids.sort_unstable();
        stop_ids.dedup();
        Self { bpe, vocabulary, begin_of_text, stop_ids }
    }

    /// The same vocabulary, where `ids` end a turn too: what the files beside a `tokenizer.json` name.
    pub fn with_stop_ids(mut self, ids: &[u32]) -> Self {
        self.stop_ids.extend(ids);
        self.stop_ids.sort_unstable();
        self.stop_ids.dedup();
        self
    }

    /// Ids of plain text. No special token comes out, and none is added in front.
    ///
    /// A character that the vocabulary cannot spell (some small ones lack a few bytes) becomes U+FFFD rather
    /// than vanish.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let spelt: Cow<'_, str> = self.vocabulary.spellable(text);
        let encoding = self
            .bpe
            .encode_fast(spelt.as_ref(), false)
            .map_err(|error| EngineError::InvalidRequest(format!("text cannot be tokenized: {error}")))?;
        let ids = encoding.get_ids().to_vec();
        match ids.iter().find(|&&id| self.is_special(id)) {
            None => Ok(ids),
            Some(id) => Err(EngineError::InvalidRequest(format!(
                "text cannot be tokenized: the vocabulary spells part of it with special token {id}"
            ))),
        }
    }

    /// Ids of a rendered prompt. A model that wants a begin-of-text token gets exactly one, in front.
    ///
    /// # Errors
    /// [`EngineError::Template`] when a piece names a special token that the vocabulary does not have, or when
    /// begin-of-text comes again after the start.
    pub fn encode_prompt(&self, pieces: &[PromptPiece]) -> Result<Vec<u32>, EngineError> {
        let mut ids: Vec<u32> = self.begin_of_text.into_iter().collect();
        for (index, piece) in pieces.iter().enumerate() {
            match piece {
                PromptPiece::Text(text) => ids.extend(self.encode(text)?),
                PromptPiece::Special(name) => {
                    let id = self.special_id(name).ok_or_else(|| {
                        EngineError::Template(format!("`{name}` is not a special token of this vocabulary"))
                    })?;
                    match Some(id) == self.begin_of_text {
                        false => ids.push(id),
                        true if index == 0 => {}
                        true => {
                            return Err(EngineError::Template(format!(
                                "`{name}` may only open the prompt, once"
                            )));
                        }
                    }
                }
            }
        }
        Ok(ids)
    }

    /// The bytes that token `id` stands for; empty for a special token or an id outside the vocabulary.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.vocabulary.bytes(id)
    }

    /// Ids in the vocabulary, special ones included.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary.len()
    }

    /// The names of the special tokens, in the order of their ids.
    pub fn specials(&self) -> Vec<String> {
        self.vocabulary.specials().map(|(_, name)| name.to_owned()).collect()
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_name(id).is_some()
    }

    /// The name of special token `id`.
    pub fn special_name(&self, id: u32) -> Option<&str> {
        self.vocabulary.special_name(id)
    }

    /// The id of the special token `name`.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.vocabulary.special(name)
    }

    /// What a special token that marks a tool call reads as, for the tool-call parser; `None` for all others.
    pub fn call_marker(&self, id: u32) -> Option<&str> {
        self.special_name(id).filter(|name| CALL_MARKERS.contains(name))
    }

    /// The begin-of-text token, if the model wants one in front of plain text.
    pub fn begin_of_text(&self) -> Option<u32> {
        self.begin_of_text
    }

    /// The ids that end a turn: the union of what the file names and what the family is known to use.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }
}
