//! The vocabulary inside a GGUF file.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as HfTokenizer};

use super::TEXT_BEGINNINGS;
use super::vocabulary::{Entry, Vocabulary};

/// How Llama 3 cuts text into the pieces that BPE then works on, each alone.
const LLAMA_3_PIECES: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// `tokenizer.ggml.token_type` of a special token.
const CONTROL: i64 = 3;
/// `tokenizer.ggml.token_type` of a token that is matched in any text before BPE.
const USER_DEFINED: i64 = 4;

/// What a GGUF file says about its tokenizer.
pub(super) struct Parts {
    pub(super) bpe: HfTokenizer,
    pub(super) vocabulary: Vocabulary,
    pub(super) begin_of_text: Option<u32>,
    /// The ids that it names as ends of a text or turn.
    pub(super) ends: Vec<u32>,
}

/// Reads the tokenizer; an error says which key is wrong.
pub(super) fn read(metadata: &HashMap<String, Value>) -> Result<Parts, String> {
    match text(metadata, "tokenizer.ggml.model")? {
        Some("gpt2") => {}
        Some(other) => {
            return Err(format!(
                "`tokenizer.ggml.model` is `{other}`; only `gpt2` (byte-level BPE) is supported"
            ));
        }
        None => return Err("`tokenizer.ggml.model` is missing: the file holds no vocabulary".into()),
    }
    let kind = text(metadata, "tokenizer.ggml.pre")?.unwrap_or("default");
    let tokens = texts(metadata, "tokenizer.ggml.tokens")?;
    let merges = merges(metadata)?;
    let types = types(metadata, tokens.len())?;
    let named = |key: &str| id(metadata, key, tokens.len());
    let begin = named("tokenizer.ggml.bos_token_id")?;
    let mut ends = Vec::new();
    for key in ["eos", "eot", "eom"] {
        ends.extend(named(&format!("tokenizer.ggml.{key}_token_id"))?);
    }

    let mut vocab = Vocab::with_capacity(tokens.len());
    let mut matched = Vec::new();
    let mut entries = Vec::with_capacity(tokens.len());
    for (id, (token, kind)) in (0u32..).zip(tokens.into_iter().zip(types)) {
        // Some converters forget the type of the very tokens that they name as begin or end.
        if kind == CONTROL || Some(id) == begin || ends.contains(&id) {
            entries.push(Some(Entry::Special(token.to_owned())));
            continue;
        }
        if vocab.insert(token.to_owned(), id).is_some() {
            return Err(format!("`tokenizer.ggml.tokens` holds `{token}` twice"));
        }
        if kind == USER_DEFINED {
            matched.push(AddedToken::from(token, false).normalized(false));
            entries.push(Some(Entry::Raw(token.to_owned())));
        } else {
            entries.push(Some(Entry::Spelling(token.to_owned())));
        }
    }
    let vocabulary = Vocabulary::new(entries)?;
    let begin_of_text = match metadata.get("tokenizer.ggml.add_bos_token") {
        Some(Value::Bool(false)) => None,
        Some(Value::Bool(true)) => begin,
        Some(_) => return Err("`tokenizer.ggml.add_bos_token` is not a boolean".into()),
        None => begin
            .filter(|id| vocabulary.special_name(*id).is_some_and(|name| TEXT_BEGINNINGS.contains(&name))),
    };

    let (pieces, ignore_merges) = pieces(kind)?;
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(ignore_merges)
        .build()
        .map_err(|error| format!("`tokenizer.ggml.merges`: {error}"))?;
    let mut bpe = HfTokenizer::new(model);
    bpe.with_pre_tokenizer(Some(pieces));
    bpe.with_decoder(Some(ByteLevel::default()));
    bpe.add_tokens(matched).map_err(|error| error.to_string())?;
    Ok(Parts { bpe, vocabulary, begin_of_text, ends })
}

/// How text is cut before BPE, and whether a piece that is a token itself skips the merges.
fn pieces(kind: &str) -> Result<(PreTokenizerWrapper, bool), String> {
    let gpt_2 = ByteLevel::new(false, true, true);
    match kind {
        "llama-bpe" | "llama3" | "llama-v3" => {
            let pattern = SplitPattern::Regex(LLAMA_3_PIECES.into());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| format!("`tokenizer.ggml.pre`: {error}"))?;
            let steps = vec![split.into(), ByteLevel::new(false, true, false).into()];
            Ok((Sequence::new(steps).into(), true))
        }
        "smollm" => Ok((Sequence::new(vec![Digits::new(true).into(), gpt_2.into()]).into(), false)),
        "gpt-2" | "gpt2" | "default" => Ok((gpt_2.into(), false)),
        other => {
            Err(format!("`tokenizer.ggml.pre` is `{other}`; `llama-bpe`, `smollm` and `gpt-2` are supported"))
        }
    }
}

fn merges(metadata: &HashMap<String, Value>) -> Result<Merges, String> {
    let pair = |merge: &str| {
        let (left, right) =
            merge.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty())?;
        Some((left.to_owned(), right.to_owned()))
    };
    texts(metadata, "tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| {
            pair(merge).ok_or_else(|| format!("`tokenizer.ggml.merges` holds `{merge}`, not a pair"))
        })
        .collect()
}

/// The type of every token; a file without types has ordinary tokens only.
fn types(metadata: &HashMap<String, Value>, tokens: usize) -> Result<Vec<i64>, String> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(value) = metadata.get(KEY) else { return Ok(vec![1; tokens]) };
    let Value::Array(types) = value else { return Err(format!("`{KEY}` is not an array")) };
    if types.len() != tokens {
        return Err(format!("`{KEY}` has {} entries for {tokens} tokens", types.len()));
    }
    types
        .iter()
        .map(|value| integer(value).ok_or_else(|| format!("`{KEY}` holds something not a number")))
        .collect()
}

fn texts<'a>(metadata: &'a HashMap<String, Value>, key: &str) -> Result<Vec<&'a str>, String> {
    let Some(value) = metadata.get(key) else { return Err(format!("`{key}` is missing")) };
    let Value::Array(values) = value else { return Err(format!("`{key}` is not an array")) };
    let text = |value: &'a Value| match value {
        Value::String(text) => Ok(text.as_str()),
        _ => Err(format!("`{key}` holds something not a text")),
    };
    values.iter().map(text).collect()
}

fn text<'a>(metadata: &'a HashMap<String, Value>, key: &str) -> Result<Option<&'a str>, String> {
    match metadata.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{key}` is not a text")),
    }
}

/// A token id that the file names under `key`.
fn id(metadata: &HashMap<String, Value>, key: &str, tokens: usize) -> Result<Option<u32>, String> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let id = integer(value).and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < tokens);
    id.map(Some).ok_or_else(|| format!("`{key}` is {value:?}, not the id of one of the {tokens} tokens"))
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::U8(number) => Some(i64::from(*number)),
        Value::I8(number) => Some(i64::from(*number)),
        Value::U16(number) => Some(i64::from(*number)),
        Value::I16(number) => Some(i64::from(*number)),
        Value::U32(number) => Some(i64::from(*number)),
        Value::I32(number) => Some(i64::from(*number)),
        Value::U64(number) => i64::try_from(*number).ok(),
        Value::I64(number) => Some(*number),
        _ => None,
    }
}
