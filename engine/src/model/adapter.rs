//! LoRA adapters in PEFT's layout: small pairs of matrices that run beside the model's own.
//!
//! For a target matrix W an adapter adds `scale * B (A x)` to `W x`. It is never merged into W: W may be quantised,
//! and requests with different adapters share it.
//!
//! Source: "LoRA" (Hu et al., 2021); rank-stabilised scaling (Kalajdzievski, 2023); the layout as PEFT writes it
//! (`adapter_config.json`, `adapter_model.safetensors`).

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::checkpoint::listed;
use super::config::LlamaConfig;
use super::hf_config::read_object;
use super::safetensors::file::SafetensorsFile;
use super::safetensors::half_split_row;
use crate::error::EngineError;
use crate::kernels::float::FloatMatrix;
use crate::kernels::matrix::Matrix;

/// Ranks in use are 4 to 256.
const MAX_RANK: u64 = 4096;

/// A matrix of a layer that an adapter may stand beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `attn_q`
    Query,
    /// `attn_k`
    Key,
    /// `attn_v`
    Value,
    /// `attn_output`
    AttentionOutput,
    /// `ffn_gate`
    Gate,
    /// `ffn_up`
    Up,
    /// `ffn_down`
    Down,
}

impl Target {
    /// All of them, in the order of the forward pass.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::AttentionOutput, Self::Gate, Self::Up, Self::Down];

    /// What PEFT's `target_modules` calls it.
    pub fn module(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::AttentionOutput => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module with the block that it belongs to, as tensors are named.
    fn path(self) -> String {
        match self {
            Self::Query | Self::Key | Self::Value | Self::AttentionOutput => {
                format!("self_attn.{}", self.module())
            }
            Self::Gate | Self::Up | Self::Down => format!("mlp.{}", self.module()),
        }
    }

    /// Outputs and inputs of the model's own matrix.
    pub fn shape(self, config: &LlamaConfig) -> (usize, usize) {
        let LlamaConfig { hidden, feed_forward, num_heads, num_kv_heads, head_dim, .. } = *config;
        match self {
            Self::Query => (num_heads * head_dim, hidden),
            Self::Key | Self::Value => (num_kv_heads * head_dim, hidden),
            Self::AttentionOutput => (hidden, num_heads * head_dim),
            Self::Gate | Self::Up => (feed_forward, hidden),
            Self::Down => (hidden, feed_forward),
        }
    }
}

/// What stands beside one matrix.
pub struct LowRank {
    /// A: (rank, inputs).
    pub down: Matrix,
    /// B: (outputs, rank), its rows in the order of the model's own matrix.
    pub up: Matrix,
    /// What the product is multiplied by: `alpha / rank`, or `alpha / sqrt(rank)`.
    pub scale: f32,
}

/// An adapter for one model.
pub struct Adapter {
    path: PathBuf,
    pairs: BTreeMap<(usize, Target), LowRank>,
}

impl Adapter {
    /// Reads the adapter in `folder` for a model of `config`.
    ///
    /// # Errors
    /// [`EngineError::Read`] when a file cannot be read; [`EngineError::Model`] with every setting that is not
    /// supported, or every tensor that is missing, misshapen or not asked for.
    pub fn open(folder: &Path, config: &LlamaConfig) -> Result<Self, EngineError> {
        let settings = AdapterSettings::read(folder)?;
        let file = SafetensorsFile::open(&folder.join("adapter_model.safetensors"))?;
        let plan = plan(&file, &settings, config).map_err(|faults| file.unusable(listed(&faults)))?;
        let mut pairs = BTreeMap::new();
        for ((layer, target), names) in plan {
            pairs.insert((layer, target), read_pair(&file, &names, &settings, target, config)?);
        }
        Ok(Self { path: folder.to_owned(), pairs })
    }

    /// The folder that it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What stands beside `target` of `layer`, if anything.
    pub fn pair(&self, layer: usize, target: Target) -> Option<&LowRank> {
        self.pairs.get(&(layer, target))
    }

    /// Matrices that it stands beside.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether it stands beside none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Bytes of memory that its weights take.
    pub fn bytes(&self) -> usize {
        self.pairs.values().map(|pair| pair.down.bytes() + pair.up.bytes()).sum()
    }
}

/// What `adapter_config.json` says.
struct AdapterSettings {
    rank: usize,
    scale: f32,
    targets: Vec<Target>,
    /// `None` for all.
    layers: Option<Vec<usize>>,
}

impl AdapterSettings {
    fn read(folder: &Path) -> Result<Self, EngineError> {
        let path = folder.join("adapter_config.json");
        let json = read_object(&path)?.ok_or_else(|| EngineError::Read {
            path: path.clone(),
            reason: "it is missing; a LoRA adapter needs it".into(),
        })?;
        let mut faults = unsupported(&json);
        let rank = match json.get("r").and_then(Value::as_u64) {
            Some(rank) if (1..=MAX_RANK).contains(&rank) => rank as usize,
            _ => {
                faults.push(format!("`r` must be a number from 1 to {MAX_RANK}"));
                1
            }
        };
        let alpha = match json.get("lora_alpha").and_then(Value::as_f64) {
            Some(alpha) if alpha.is_finite() && alpha.abs() < 1e6 => alpha,
            _ => {
                faults.push("`lora_alpha` must be a number".into());
                0.0
            }
        };
        let stable = json.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        let divisor = if stable { (rank as f64).sqrt() } else { rank as f64 };
        let targets = targets(json.get("target_modules"), &mut faults);
        let layers = layers(json.get("layers_to_transform"), &mut faults);
        match faults.is_empty() {
            true => Ok(Self { rank, scale: (alpha / divisor) as f32, targets, layers }),
            false => Err(EngineError::Model { path, reason: listed(&faults) }),
        }
    }
}

/// Settings that change the arithmetic in a way that the engine does not compute, with the reason.
fn unsupported(json: &Map<String, Value>) -> Vec<String> {
    let mut faults = Vec::new();
    let text = |key: &str| json.get(key).and_then(Value::as_str);
    match text("peft_type") {
        Some("LORA") => {}
        other => {
            faults.push(format!("`peft_type` is {other:?}; only `LORA` can run beside quantised weights"))
        }
    }
    if let Some(bias) = text("bias").filter(|bias| *bias != "none") {
        faults.push(format!("`bias` is `{bias}`: trained biases would change the model's own matrices"));
    }
    if let Some(start) = text("init_lora_weights")
        && ["pissa", "olora", "corda", "loftq"].iter().any(|method| start.starts_with(method))
    {
        faults.push(format!("`init_lora_weights` is `{start}`, which changes the model's own weights"));
    }
    let set = |key: &str| match json.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(entries)) => !entries.is_empty(),
        Some(Value::Object(entries)) => !entries.is_empty(),
        Some(_) => true,
    };
    let reasons = [
        ("use_dora", "DoRA rescales the model's own weights, which may be quantised"),
        ("modules_to_save", "whole matrices of its own are a model, not an adapter"),
        ("use_qalora", "inputs cannot be pooled"),
        ("exclude_modules", "the targets must be named one by one"),
        ("lora_bias", "biases are not supported"),
        ("rank_pattern", "one rank for all matrices is supported"),
        ("alpha_pattern", "one alpha for all matrices is supported"),
        ("fan_in_fan_out", "transposed weights do not occur in Llama"),
        ("layer_replication", "layers cannot be repeated for one request"),
        ("trainable_token_indices", "the embedding is the model's own"),
        ("target_parameters", "only whole matrices can be targets"),
        ("alora_invocation_tokens", "activated LoRA is not supported"),
        ("megatron_config", "sharded adapters are not supported"),
    ];
    faults.extend(
        reasons.iter().filter(|(key, _)| set(key)).map(|(key, reason)| format!("`{key}` is set: {reason}")),
    );
    faults
}

/// `target_modules`: a list of names, or `all-linear`.
fn targets(modules: Option<&Value>, faults: &mut Vec<String>) -> Vec<Target> {
    let names: Vec<&str> = match modules {
        Some(Value::String(all)) if all == "all-linear" => return Target::ALL.to_vec(),
        Some(Value::Array(names)) if !names.is_empty() && names.iter().all(Value::is_string) => {
            names.iter().filter_map(Value::as_str).collect()
        }
        _ => {
            faults.push("`target_modules` must be a list of names or `all-linear`".into());
            return Vec::new();
        }
    };
    let mut targets = Vec::new();
    for name in names {
        match Target::ALL.iter().find(|target| target.module() == name || target.path() == name) {
            Some(target) => targets.push(*target),
            None => faults
                .push(format!("`target_modules` has `{name}`; matrices of attention and MLP can be targets")),
        }
    }
    targets
}

/// `layers_to_transform`: a layer, a list of them, or nothing for all.
fn layers(layers: Option<&Value>, faults: &mut Vec<String>) -> Option<Vec<usize>> {
    let layer = |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok());
    let found = match layers? {
        Value::Null => return None,
        Value::Array(layers) => layers.iter().map(layer).collect(),
        one => layer(one).map(|layer| vec![layer]),
    };
    if found.is_none() {
        faults.push("`layers_to_transform` must be a list of layers".into());
    }
    found
}

/// The names of A and B of one matrix.
type PairNames = [String; 2];

/// Which tensors belong to which matrix, once all are known to be there and to fit.
fn plan(
    file: &SafetensorsFile,
    settings: &AdapterSettings,
    config: &LlamaConfig,
) -> Result<BTreeMap<(usize, Target), PairNames>, Vec<String>> {
    let mut plan = BTreeMap::new();
    let mut faults = Vec::new();
    let chosen = |layer: &usize| settings.layers.as_ref().is_none_or(|layers| layers.contains(layer));
    for layer in (0..config.num_layers).filter(chosen) {
        for &target in &settings.targets {
            let base = format!("base_model.model.model.layers.{layer}.{}", target.path());
            let names = ["A", "B"].map(|side| format!("{base}.lora_{side}.weight"));
            let (outputs, inputs) = target.shape(config);
            let shapes = [[settings.rank, inputs], [outputs, settings.rank]];
            faults.extend(names.iter().zip(&shapes).filter_map(|(name, shape)| fault(file, name, shape)));
            plan.insert((layer, target), names);
        }
    }
    let used: HashSet<&String> = plan.values().flatten().collect();
    let others = file.tensors().keys().filter(|name| !used.contains(name));
    faults
        .extend(others.map(|name| format!("it has the tensor `{name}`, which its config does not call for")));
    if plan.is_empty() {
        faults.push("it has no matrix of the model's layers".into());
    }
    if faults.is_empty() { Ok(plan) } else { Err(faults) }
}

fn fault(file: &SafetensorsFile, name: &str, expected: &[usize; 2]) -> Option<String> {
    let Some(info) = file.tensors().get(name) else {
        return Some(format!("tensor `{name}` is missing"));
    };
    if info.shape != expected {
        Some(format!("tensor `{name}` has the shape {:?}, the model calls for {expected:?}", info.shape))
    } else if info.element.float().is_none() {
        Some(format!("tensor `{name}` is stored as {}, which is not supported", info.element.name))
    } else {
        None
    }
}

fn read_pair(
    file: &SafetensorsFile,
    [down, up]: &PairNames,
    settings: &AdapterSettings,
    target: Target,
    config: &LlamaConfig,
) -> Result<LowRank, EngineError> {
    let (outputs, inputs) = target.shape(config);
    let rotated = matches!(target, Target::Query | Target::Key);
    let order = |row: usize| if rotated { half_split_row(config.head_dim, row) } else { row };
    let kind = |name: &str| file.tensors()[name].element.float().expect("the plan has seen that it is one");
    let unusable = |name: &str, error: EngineError| file.unusable(format!("tensor `{name}`: {error}"));
    Ok(LowRank {
        down: FloatMatrix::from_rows(&file.bytes(down)?, kind(down), settings.rank, inputs)
            .map(Matrix::Float)
            .map_err(|error| unusable(down, error))?,
        up: FloatMatrix::from_reordered_rows(&file.bytes(up)?, kind(up), outputs, settings.rank, order)
            .map(Matrix::Float)
            .map_err(|error| unusable(up, error))?,
        scale: settings.scale,
    })
}
