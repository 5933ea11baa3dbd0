//! The JSON files beside a checkpoint in Hugging Face's layout: `config.json` and its neighbours.
//!
//! Nothing is guessed: a number that the forward pass needs and the file does not have is a fault, and so is
//! every setting that would change the arithmetic in a way that the engine does not compute.
//!
//! Source: transformers' `LlamaConfig` (names and defaults) and `modeling_rope_utils.py` (`rope_scaling`; newer
//! files say `rope_parameters`).

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::checkpoint::listed;
use super::config::{LlamaConfig, MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH};
use super::gptq::GptqSettings;
use super::rope::{RopeScaling, YarnScaling};
use crate::error::EngineError;

/// A `tokenizer_config.json` with Llama 3's 256 special tokens has 50 KB; an index of a 70B model 100 KB.
const MAX_JSON: u64 = 16 << 20;

/// What the JSON files of a folder say.
#[derive(Clone, Debug)]
pub struct HfConfig {
    /// The numbers of the architecture.
    pub llama: LlamaConfig,
    /// Ids that end a turn or text: what `config.json`, `generation_config.json` and `tokenizer_config.json`
    /// name, together. Files often name only one of several.
    pub end_ids: Vec<u32>,
    /// The end token that `tokenizer_config.json` gives by name.
    pub end_name: Option<String>,
    /// The chat template (Jinja), from `chat_template.jinja` or `tokenizer_config.json`.
    pub chat_template: Option<String>,
    /// How the matrices are quantised, if they are.
    pub quantization: Option<GptqSettings>,
    /// The licence in the files' own words, if they say.
    pub licence: Option<String>,
}

impl HfConfig {
    /// Reads the files in `folder`. Only `config.json` must be there.
    ///
    /// # Errors
    /// [`EngineError::Read`] when a file cannot be read, [`EngineError::Model`] with everything that is missing,
    /// impossible or not supported.
    pub fn read(folder: &Path) -> Result<Self, EngineError> {
        let path = folder.join("config.json");
        let json = read_object(&path)?.ok_or_else(|| EngineError::Read {
            path: path.clone(),
            reason: "it is missing; a folder of safetensors needs it".into(),
        })?;
        let generation = read_object(&folder.join("generation_config.json"))?.unwrap_or_default();
        let tokenizer = read_object(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        let quantize = read_object(&folder.join("quantize_config.json"))?;
        let template = read_text(&folder.join("chat_template.jinja"))?;

        let mut reader = Reader { json: &json, faults: Vec::new() };
        let llama = reader.llama();
        let quantization = match (quantize.as_ref(), json.get("quantization_config")) {
            (Some(own), _) => reader.quantization(own),
            (None, Some(Value::Object(inside))) => reader.quantization(inside),
            (None, _) => None,
        };
        let end_name = token_name(tokenizer.get("eos_token"));
        let mut end_ids = reader.ids("config.json", &json);
        end_ids.extend(reader.ids("generation_config.json", &generation));
        end_ids.extend(end_name.as_deref().and_then(|name| added_id(&tokenizer, name)));
        end_ids.sort_unstable();
        end_ids.dedup();
        if let Some(id) = end_ids.iter().find(|id| llama.vocabulary > 0 && **id as usize >= llama.vocabulary)
        {
            reader.faults.push(format!("end token {id} is outside the vocabulary of {}", llama.vocabulary));
        }
        match reader.faults.is_empty() {
            true => Ok(Self {
                llama,
                end_ids,
                end_name,
                chat_template: template.or_else(|| chat_template(&tokenizer)),
                quantization,
                licence: json.get("license").and_then(Value::as_str).map(str::to_owned),
            }),
            false => Err(EngineError::Model { path, reason: listed(&reader.faults) }),
        }
    }
}

struct Reader<'a> {
    json: &'a Map<String, Value>,
    faults: Vec<String>,
}

impl Reader<'_> {
    fn llama(&mut self) -> LlamaConfig {
        self.only("model_type", &["llama"], true);
        if let Some(Value::Array(names)) = self.json.get("architectures")
            && !names.iter().any(|name| name == "LlamaForCausalLM")
        {
            self.faults.push(format!("`architectures` is {names:?}, the engine runs `LlamaForCausalLM`"));
        }
        self.only("hidden_act", &["silu", "swish"], false);
        for key in ["attention_bias", "mlp_bias"] {
            if self.json.get(key).is_some_and(|value| *value == Value::Bool(true)) {
                self.faults.push(format!("`{key}` is true: biases are not supported"));
            }
        }
        if self.json.get("partial_rotary_factor").is_some_and(|value| value.as_f64() != Some(1.0)) {
            self.faults
                .push("`partial_rotary_factor` is not 1: rotating a part of a head is not supported".into());
        }

        let hidden = self.required("hidden_size", MAX_WIDTH);
        let num_heads = self.required("num_attention_heads", MAX_WIDTH);
        let trained = self.required("max_position_embeddings", MAX_CONTEXT);
        let (rope_theta, rope_scaling) = self.rope(trained);
        let config = LlamaConfig {
            name: self.text("_name_or_path").filter(|name| !name.trim().is_empty()).map(str::to_owned),
            hidden,
            feed_forward: self.required("intermediate_size", MAX_WIDTH),
            num_layers: self.required("num_hidden_layers", MAX_LAYERS),
            num_heads,
            num_kv_heads: self.optional("num_key_value_heads", MAX_WIDTH).unwrap_or(num_heads),
            head_dim: self.optional("head_dim", MAX_WIDTH).unwrap_or(hidden / num_heads.max(1)),
            vocabulary: self.required("vocab_size", MAX_WIDTH),
            context: context(trained, &rope_scaling),
            rope_theta,
            rope_scaling,
            norm_eps: self.number(self.json, "rms_norm_eps").unwrap_or_else(|| {
                self.faults.push("`rms_norm_eps` is missing".into());
                0.0
            }),
            tied_head: self.json.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
        };
        self.faults.extend(config.contradictions("rope_theta", "rms_norm_eps"));
        config
    }

    /// The base of the rotary frequencies, and how they are stretched.
    fn rope(&mut self, trained: usize) -> (f32, RopeScaling) {
        let rules = [self.json.get("rope_parameters"), self.json.get("rope_scaling")];
        let rules = rules.into_iter().flatten().find_map(Value::as_object);
        let theta = self.number(self.json, "rope_theta").or_else(|| self.number(rules?, "rope_theta"));
        let scaling = rules.map_or(RopeScaling::None, |rules| self.rope_scaling(rules, trained));
        (theta.unwrap_or(10_000.0) as f32, scaling)
    }

    fn rope_scaling(&mut self, rules: &Map<String, Value>, trained: usize) -> RopeScaling {
        let kind = rules.get("rope_type").or_else(|| rules.get("type"));
        let kind = kind.and_then(Value::as_str).unwrap_or("default");
        let number = |key: &str| rules.get(key).and_then(Value::as_f64).map(|number| number as f32);
        let factor = match (number("factor"), kind) {
            (Some(factor), _) => factor,
            (None, "default" | "mrope") => 1.0,
            (None, _) => {
                self.faults.push(format!("rotary scaling `{kind}` has no `factor`"));
                return RopeScaling::None;
            }
        };
        let original = match rules.get("original_max_position_embeddings").map(Value::as_u64) {
            None => trained,
            Some(Some(tokens)) if (1..=MAX_CONTEXT as u64).contains(&tokens) => tokens as usize,
            Some(_) => {
                self.faults.push(format!(
                    "`original_max_position_embeddings` must be a number from 1 to {MAX_CONTEXT}"
                ));
                trained
            }
        };
        match kind {
            "default" => RopeScaling::None,
            "linear" if factor == 1.0 => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor },
            "dynamic" => RopeScaling::DynamicNtk { factor, original_context: original },
            "yarn" => {
                let paper = YarnScaling::new(factor, original);
                let given = |key: &str| number(key).filter(|number| *number != 0.0);
                let ratio = |mscale, all| {
                    YarnScaling::attention(factor, mscale) / YarnScaling::attention(factor, all)
                };
                let mscales = given("mscale").zip(given("mscale_all_dim"));
                RopeScaling::Yarn(YarnScaling {
                    beta_fast: number("beta_fast").unwrap_or(paper.beta_fast),
                    beta_slow: number("beta_slow").unwrap_or(paper.beta_slow),
                    attention_factor: number("attention_factor")
                        .or(mscales.map(|(mscale, all)| ratio(mscale, all)))
                        .unwrap_or(paper.attention_factor),
                    truncate: rules.get("truncate").and_then(Value::as_bool).unwrap_or(true),
                    ..paper
                })
            }
            "llama3" => {
                let mut needed = |key: &str| {
                    number(key).unwrap_or_else(|| {
                        self.faults.push(format!("rotary scaling `llama3` has no `{key}`"));
                        f32::NAN
                    })
                };
                RopeScaling::Llama3 {
                    factor,
                    low_frequency_factor: needed("low_freq_factor"),
                    high_frequency_factor: needed("high_freq_factor"),
                    original_context: original,
                }
            }
            other => {
                self.faults.push(format!(
                    "rotary scaling `{other}` is not supported; `linear`, `dynamic`, `yarn` and `llama3` are"
                ));
                RopeScaling::None
            }
        }
    }

    fn quantization(&mut self, json: &Map<String, Value>) -> Option<GptqSettings> {
        match GptqSettings::read(json) {
            Ok(settings) => Some(settings),
            Err(faults) => {
                self.faults.extend(faults);
                None
            }
        }
    }

    /// `eos_token_id` of `json`: an id, a list of ids, or nothing.
    fn ids(&mut self, file: &str, json: &Map<String, Value>) -> Vec<u32> {
        let value = json.get("eos_token_id").unwrap_or(&Value::Null);
        let ids = match value {
            Value::Null => Vec::new(),
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => vec![id(one)],
        };
        if ids.contains(&None) {
            self.faults.push(format!("`eos_token_id` of `{file}` is not a token id or a list of them"));
        }
        ids.into_iter().flatten().collect()
    }

    /// The text at `key` must be one of `known`.
    fn only(&mut self, key: &str, known: &[&str], required: bool) {
        match self.json.get(key) {
            Some(Value::String(text)) if known.contains(&text.as_str()) => {}
            None if !required => {}
            None => self.faults.push(format!("`{key}` is missing")),
            Some(other) => {
                self.faults.push(format!("`{key}` is {}, the engine runs `{}`", short(other), known[0]))
            }
        }
    }

    fn required(&mut self, key: &str, most: usize) -> usize {
        match self.json.get(key) {
            None | Some(Value::Null) => {
                self.faults.push(format!("`{key}` is missing"));
                0
            }
            Some(_) => self.optional(key, most).unwrap_or(0),
        }
    }

    /// A count of 1 to `most`, if the file has the key.
    fn optional(&mut self, key: &str, most: usize) -> Option<usize> {
        match self.json.get(key)? {
            Value::Null => None,
            value => match value.as_u64() {
                Some(count) if count >= 1 && count <= most as u64 => Some(count as usize),
                _ => {
                    self.faults
                        .push(format!("`{key}` is {}, it must be a number from 1 to {most}", short(value)));
                    None
                }
            },
        }
    }

    fn number(&self, json: &Map<String, Value>, key: &str) -> Option<f64> {
        json.get(key).and_then(Value::as_f64)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.json.get(key).and_then(Value::as_str)
    }
}

/// Tokens of context that the files mean to offer: rules that start from an original length reach `factor`
/// times as far, whether or not `max_position_embeddings` says so.
fn context(trained: usize, scaling: &RopeScaling) -> usize {
    match scaling {
        RopeScaling::DynamicNtk { factor, original_context }
        | RopeScaling::Yarn(YarnScaling { factor, original_context, .. }) => {
            // A factor that makes no sense is a fault of its own; the cast saturates.
            let reached = (*original_context as f64 * f64::from(*factor)) as usize;
            trained.max(reached.min(MAX_CONTEXT))
        }
        _ => trained,
    }
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// A token given as text or as an object with its `content`.
fn token_name(token: Option<&Value>) -> Option<String> {
    match token? {
        Value::String(name) => Some(name.clone()),
        Value::Object(token) => token.get("content")?.as_str().map(str::to_owned),
        _ => None,
    }
}

/// The id of the added token `name`.
fn added_id(tokenizer: &Map<String, Value>, name: &str) -> Option<u32> {
    let added = tokenizer.get("added_tokens_decoder")?.as_object()?;
    let (id, _) =
        added.iter().find(|(_, token)| token.get("content").is_some_and(|content| content == name))?;
    id.parse().ok()
}

/// `chat_template`: a text, or a list of named ones, of which `default` is for plain chats.
fn chat_template(tokenizer: &Map<String, Value>) -> Option<String> {
    match tokenizer.get("chat_template")? {
        Value::String(template) => Some(template.clone()),
        Value::Array(named) => {
            let default =
                named.iter().find(|entry| entry.get("name").is_some_and(|name| name == "default"))?;
            default.get("template")?.as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// A value for a message, cut to a line.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}

/// The text of the file at `path`, or `None` when there is no such file.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, EngineError> {
    let unreadable = |reason: String| EngineError::Read { path: path.to_owned(), reason };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let mut text = String::new();
    let read = file.take(MAX_JSON + 1).read_to_string(&mut text);
    read.map_err(|error| unreadable(error.to_string()))?;
    match text.len() as u64 > MAX_JSON {
        true => Err(unreadable(format!("it has more than {MAX_JSON} bytes"))),
        false => Ok(Some(text)),
    }
}

/// The JSON object in the file at `path`, or `None` when there is no such file.
pub(super) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, EngineError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let unusable = |reason: String| EngineError::Model { path: path.to_owned(), reason };
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(unusable("it is not a JSON object".into())),
        Err(error) => Err(unusable(format!("it is not JSON: {error}"))),
    }
}

#[cfg(test)]
mod tests;
