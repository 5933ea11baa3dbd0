//! Every id of a vocabulary: the bytes it stands for, or the name of a special token.
//!
//! Invariant: an id has bytes or a name, never both.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use tokenizers::Tokenizer as HfTokenizer;

/// Most ids a vocabulary may have; the largest known of this family has 128,256.
const MAX_VOCABULARY: usize = 1 << 20;

/// What one entry of a vocabulary is.
pub(super) enum Entry {
    /// Ordinary text in byte-level spelling: one character a byte.
    Spelling(String),
    /// Ordinary text as it is.
    Raw(String),
    /// A special token, by name.
    Special(String),
}

/// Every id of a vocabulary.
pub(super) struct Vocabulary {
    /// The bytes of all ordinary tokens, one after the other; `ends[id]` is where those of `id` end.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    names: BTreeMap<u32, String>,
    ids: HashMap<String, u32>,
    /// The bytes that no ordinary token stands for alone.
    missing: Option<Box<[bool; 256]>>,
}

impl Vocabulary {
    /// From what a `tokenizer.json` holds.
    pub(super) fn from_hf(bpe: &HfTokenizer) -> Result<Self, String> {
        let added = bpe.get_added_tokens_decoder();
        let vocab = bpe.get_vocab(true);
        let highest = vocab.values().chain(added.keys()).max().ok_or("the vocabulary is empty")?;
        let mut entries: Vec<Option<Entry>> = Vec::new();
        entries.resize_with((*highest as usize + 1).min(MAX_VOCABULARY + 1), || None);
        if entries.len() > MAX_VOCABULARY {
            return Err(format!("token id {highest} is above {MAX_VOCABULARY}"));
        }
        for (text, id) in vocab {
            entries[id as usize] = Some(Entry::Spelling(text));
        }
        for (id, token) in added {
            let kind = if token.special { Entry::Special } else { Entry::Raw };
            entries[id as usize] = Some(kind(token.content));
        }
        Self::new(entries)
    }

    /// One entry an id; an id without one stands for nothing.
    pub(super) fn new(entries: Vec<Option<Entry>>) -> Result<Self, String> {
        if entries.len() > MAX_VOCABULARY {
            return Err(format!("{} tokens, at most {MAX_VOCABULARY} are supported", entries.len()));
        }
        let alphabet = alphabet();
        let mut this = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(entries.len()),
            names: BTreeMap::new(),
            ids: HashMap::new(),
            missing: None,
        };
        let mut missing = Box::new([true; 256]);
        for (id, entry) in (0u32..).zip(entries) {
            let start = this.bytes.len();
            match entry {
                None => {}
                Some(Entry::Raw(text)) => this.bytes.extend_from_slice(text.as_bytes()),
                Some(Entry::Special(name)) => {
                    this.ids.insert(name.clone(), id);
                    this.names.insert(id, name);
                }
                Some(Entry::Spelling(text)) => {
                    for letter in text.chars() {
                        let byte = alphabet.get(&letter).ok_or_else(|| {
                            format!("token {id} is `{text}`, where `{letter}` stands for no byte")
                        })?;
                        this.bytes.push(*byte);
                    }
                }
            }
            if let [byte] = this.bytes[start..] {
                missing[usize::from(byte)] = false;
            }
            this.ends.push(u32::try_from(this.bytes.len()).map_err(|_| "the tokens have more than 4 GiB")?);
        }
        // UTF-8 uses neither 0xC0, 0xC1 nor 0xF5 to 0xFF, so a vocabulary may well lack these.
        let needed = (0..=255u8).filter(|byte| !matches!(byte, 0xC0 | 0xC1 | 0xF5..));
        this.missing = needed.into_iter().any(|byte| missing[usize::from(byte)]).then_some(missing);
        Ok(this)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start as usize..end as usize]
    }

    pub(super) fn special(&self, name: &str) -> Option<u32> {
        self.ids.get(name).copied()
    }

    pub(super) fn special_name(&self, id: u32) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    pub(super) fn specials(&self) -> impl Iterator<Item = (u32, &str)> {
        self.names.iter().map(|(id, name)| (*id, name.as_str()))
    }

    /// `text` with every character that has a missing byte replaced by U+FFFD.
    pub(super) fn spellable<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let Some(missing) = &self.missing else { return Cow::Borrowed(text) };
        if !text.bytes().any(|byte| missing[usize::from(byte)]) {
            return Cow::Borrowed(text);
        }
        let spelt = |letter: char| {
            let mut buffer = [0; 4];
            letter.encode_utf8(&mut buffer).bytes().all(|byte| !missing[usize::from(byte)])
        };
        Cow::Owned(text.chars().map(|letter| if spelt(letter) { letter } else { '\u{FFFD}' }).collect())
    }
}

/// The characters that spell bytes in byte-level vocabularies.
///
/// Printable Latin-1 stands for itself; the other bytes, in order, are U+0100, U+0101 and so on.
pub(super) fn alphabet() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 0x100u32..;
    (0..=255u8)
        .map(|byte| {
            let letter = match printable(byte) {
                true => char::from(byte),
                false => others.next().and_then(char::from_u32).expect("68 letters from U+0100 on"),
            };
            (letter, byte)
        })
        .collect()
}
