//! The numbers of a Llama-family architecture, read from a file's metadata.
//!
//! Invariant: every number that anything is allocated from has been checked here against what the tensors
//! in the file can hold, so a wild value is an error and not an allocation.

use candle_core::quantized::gguf_file::Value;

use super::gguf::GgufFile;
use super::rope::{RopeScaling, YarnScaling};
use crate::error::EngineError;
use crate::kernels::kv_block::KvFormat;

/// The numbers of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// `general.name`, if the file has one.
    pub name: Option<String>,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward block.
    pub feed_forward: usize,
    /// Transformer layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; each serves `num_heads / num_kv_heads` query heads.
    pub num_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Ids that the embedding table has rows for.
    pub vocabulary: usize,
    /// Tokens of context that the model was trained for.
    pub context: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Added to the mean square in every normalisation.
    pub norm_eps: f64,
    /// The output head is the embedding table: the file has no `output.weight`.
    pub tied_head: bool,
}

/// Far above any model of the family (126 layers, 16,384 wide, 128,256 ids); keeps products inside `usize`.
pub(super) const MAX_LAYERS: usize = 1024;
pub(super) const MAX_WIDTH: usize = 1 << 20;
pub(super) const MAX_CONTEXT: usize = 1 << 24;

impl LlamaConfig {
    /// Reads and checks the metadata of `file`; all faults are reported together.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, EngineError> {
        let mut reader = Reader { file, faults: Vec::new() };
        match reader.text("general.architecture").as_deref() {
            Some("llama") => {}
            Some(other) => {
                return Err(file.unusable(format!("its architecture is `{other}`, the engine runs `llama`")));
            }
            None => return Err(file.unusable("it does not name its architecture (`general.architecture`)")),
        }
        if reader.count("llama.expert_count").is_some_and(|experts| experts > 0) {
            return Err(file.unusable("it is a mixture of experts, the engine runs dense models"));
        }

        let hidden = reader.required("llama.embedding_length", MAX_WIDTH);
        let num_heads = reader.required("llama.attention.head_count", MAX_WIDTH);
        let num_kv_heads = reader.optional("llama.attention.head_count_kv", MAX_WIDTH).unwrap_or(num_heads);
        let head_dim =
            reader.optional("llama.attention.key_length", MAX_WIDTH).unwrap_or(hidden / num_heads.max(1));
        let config = Self {
            name: reader.text("general.name").filter(|name| !name.trim().is_empty()),
            hidden,
            feed_forward: reader.required("llama.feed_forward_length", MAX_WIDTH),
            num_layers: reader.required("llama.block_count", MAX_LAYERS),
            num_heads,
            num_kv_heads,
            head_dim,
            vocabulary: file.tensor_info("token_embd.weight").map_or(0, |(shape, _)| shape[0]),
            context: reader.required("llama.context_length", MAX_CONTEXT),
            rope_theta: reader.number("llama.rope.freq_base").unwrap_or(10_000.0),
            rope_scaling: reader.rope_scaling(),
            norm_eps: f64::from(reader.number("llama.attention.layer_norm_rms_epsilon").unwrap_or_else(
                || reader.fault("`llama.attention.layer_norm_rms_epsilon` is missing".into()),
            )),
            tied_head: file.tensor_info("output.weight").is_none(),
        };
        reader.check(&config);
        reader
            .faults
            .extend(config.contradictions("llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon"));
        match reader.faults.is_empty() {
            true => Ok(config),
            false => Err(file.unusable(reader.faults.join("; "))),
        }
    }

    /// Lets sequences have `tokens` tokens, which is more than the model was trained for, by stretching the
    /// rotary frequencies as `scaling` says. Returns a warning for whoever asked for it.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] when the model's context is as long already, `scaling` does not reach
    /// that far, or the model's frequencies are stretched in another way already.
    pub fn extend_context(&mut self, tokens: usize, scaling: RopeScaling) -> Result<String, EngineError> {
        let refuse = |reason: String| Err(EngineError::InvalidRequest(reason));
        let trained = self.context;
        if tokens <= trained || tokens > MAX_CONTEXT {
            return refuse(format!(
                "a context of {tokens} tokens needs no stretching or is too long: the model's own has {trained}, \
                 at most {MAX_CONTEXT} are possible"
            ));
        }
        if let Some(fault) = scaling.fault() {
            return refuse(fault);
        }
        if self.rope_scaling != RopeScaling::None {
            return refuse(format!(
                "the model's rotary frequencies are stretched already ({}); they cannot be stretched again",
                self.rope_scaling
            ));
        }
        let reach = match scaling {
            RopeScaling::None | RopeScaling::Divisors => {
                return refuse(format!("a context above {trained} tokens needs a rotary scaling"));
            }
            RopeScaling::Linear { factor }
            | RopeScaling::Ntk { factor }
            | RopeScaling::Llama3 { factor, .. }
            | RopeScaling::Yarn(YarnScaling { factor, .. }) => trained as f64 * f64::from(factor),
            RopeScaling::DynamicNtk { .. } => MAX_CONTEXT as f64,
        };
        if (tokens as f64) > reach.ceil() {
            return refuse(format!("{scaling} stretches {trained} tokens to {reach:.0}, not to {tokens}"));
        }
        self.context = tokens;
        let warning = format!(
            "a context of {tokens} tokens is above the {trained} that the model was trained for: its rotary \
             frequencies are stretched ({scaling}), and answers may be worse, short ones included"
        );
        self.rope_scaling = scaling;
        Ok(warning)
    }

    /// What the numbers contradict, whatever file they come from; the keys are for messages.
    pub(super) fn contradictions(&self, theta_key: &str, eps_key: &str) -> Vec<String> {
        let Self { num_heads, num_kv_heads, head_dim, rope_theta, norm_eps, .. } = *self;
        let mut faults = Vec::new();
        if num_heads > 0 && num_kv_heads > 0 && !num_heads.is_multiple_of(num_kv_heads) {
            faults.push(format!(
                "{num_heads} query heads cannot share {num_kv_heads} key and value heads evenly"
            ));
        }
        if num_heads > 0 && (head_dim == 0 || !head_dim.is_multiple_of(2)) {
            faults.push(format!("heads are {head_dim} wide, rotary embedding needs an even width"));
        }
        if !(rope_theta.is_finite() && rope_theta > 1.0) {
            faults.push(format!("`{theta_key}` is {rope_theta}"))
        }
        if !(norm_eps.is_finite() && (0.0..1.0).contains(&norm_eps)) {
            faults.push(format!("`{eps_key}` is {norm_eps}"))
        }
        faults.extend(self.rope_scaling.fault());
        faults
    }

    /// Bytes of keys and values that one token takes in a cache of `format`.
    pub fn kv_bytes_per_token(&self, format: KvFormat) -> usize {
        2 * self.num_layers * self.num_kv_heads * format.token_bytes(self.head_dim)
    }
}

struct Reader<'a> {
    file: &'a GgufFile,
    faults: Vec<String>,
}

impl Reader<'_> {
    /// What the numbers must have to do with each other.
    fn check(&mut self, config: &LlamaConfig) {
        for key in ["llama.rope.dimension_count", "llama.attention.value_length"] {
            if let Some(width) = self.optional(key, MAX_WIDTH)
                && width != config.head_dim
            {
                self.faults.push(format!(
                    "`{key}` is {width}, the heads are {} wide: not supported",
                    config.head_dim
                ));
            }
        }
    }

    fn rope_scaling(&mut self) -> RopeScaling {
        let factor = self.number("llama.rope.scaling.factor").or(self.number("llama.rope.scale_linear"));
        let kind = self.text("llama.rope.scaling.type");
        let plain = match self.file.tensor_info("rope_freqs.weight") {
            Some(_) => RopeScaling::Divisors,
            None => RopeScaling::None,
        };
        match (kind.as_deref(), factor) {
            (None | Some("none"), None) | (Some("none"), _) => plain,
            (Some("linear") | None, Some(1.0)) => plain,
            (Some("linear") | None, Some(factor)) => RopeScaling::Linear { factor },
            (Some("yarn"), Some(factor)) => {
                let original = "llama.rope.scaling.original_context_length";
                let yarn = YarnScaling::new(factor, self.required(original, MAX_CONTEXT));
                let number = |key: &str| self.number(&format!("llama.rope.scaling.{key}"));
                RopeScaling::Yarn(YarnScaling {
                    beta_fast: number("yarn_beta_fast").unwrap_or(yarn.beta_fast),
                    beta_slow: number("yarn_beta_slow").unwrap_or(yarn.beta_slow),
                    // ggml multiplies the paper's factor by this one.
                    attention_factor: yarn.attention_factor * number("attn_factor").unwrap_or(1.0),
                    ..yarn
                })
            }
            (kind, factor) => {
                self.faults.push(format!(
                    "rotary scaling `{}` with factor {factor:?} is not supported; `linear`, `yarn` and a \
                     `rope_freqs.weight` tensor are",
                    kind.unwrap_or("linear")
                ));
                RopeScaling::None
            }
        }
    }

    fn required(&mut self, key: &str, most: usize) -> usize {
        match self.optional(key, most) {
            Some(value) => value,
            None if self.file.metadata().contains_key(key) => 0, // reported by `optional`
            None => self.fault(format!("`{key}` is missing")),
        }
    }

    /// A count of 1 to `most`, if the file has the key.
    fn optional(&mut self, key: &str, most: usize) -> Option<usize> {
        let value = self.file.metadata().get(key)?;
        match unsigned(value) {
            Some(count) if count >= 1 && count <= most as u64 => Some(count as usize),
            _ => {
                let shown = match value {
                    Value::Array(_) => "an array".into(),
                    value => format!("{value:?}"),
                };
                let fault = format!("`{key}` is {shown}, it must be a number from 1 to {most}");
                if !self.faults.contains(&fault) {
                    self.faults.push(fault);
                }
                None
            }
        }
    }

    fn count(&self, key: &str) -> Option<u64> {
        self.file.metadata().get(key).and_then(unsigned)
    }

    fn number(&self, key: &str) -> Option<f32> {
        match self.file.metadata().get(key)? {
            Value::F32(number) => Some(*number),
            Value::F64(number) => Some(*number as f32),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.file.metadata().get(key)? {
            Value::String(text) => Some(text.clone()),
            _ => None,
        }
    }

    /// Notes a fault and stands in for the value, so that the next fault is found as well.
    fn fault<T: Default>(&mut self, fault: String) -> T {
        self.faults.push(fault);
        T::default()
    }
}

fn unsigned(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(number) => Some(number.into()),
        Value::U16(number) => Some(number.into()),
        Value::U32(number) => Some(number.into()),
        Value::U64(number) => Some(number),
        Value::I8(number) => number.try_into().ok(),
        Value::I16(number) => number.try_into().ok(),
        Value::I32(number) => number.try_into().ok(),
        Value::I64(number) => number.try_into().ok(),
        _ => None,
    }
}
