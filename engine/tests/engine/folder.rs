//! A tiny Llama as a folder of safetensors in Hugging Face's layout, plain or quantised as GPTQ does it.
//!
//! The writers here follow the published layouts and share no code with the readers.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use candle_transformers::models::llama;
use serde_json::{Value, json};

use crate::tiny::{Shape, TinyModel};

/// A tensor as a safetensors file holds it.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn f32(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.into(), dtype: "F32", shape: shape.to_vec(), bytes }
    }

    pub fn f16(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect();
        Self { name: name.into(), dtype: "F16", shape: shape.to_vec(), bytes }
    }

    pub fn bf16(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect();
        Self { name: name.into(), dtype: "BF16", shape: shape.to_vec(), bytes }
    }

    pub fn i32(name: &str, shape: &[usize], words: &[u32]) -> Self {
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Self { name: name.into(), dtype: "I32", shape: shape.to_vec(), bytes }
    }
}

/// The bytes of a safetensors file.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.bytes);
        let entry =
            json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()] });
        header.insert(tensor.name.clone(), entry);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A safetensors file with this header.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A folder's parts, to be changed before they are written.
pub struct TinyFolder {
    pub config: Value,
    pub tensors: Vec<Tensor>,
}

impl TinyFolder {
    /// The same weights as `TinyModel::new(shape)`.
    pub fn new(shape: &Shape) -> Self {
        let config = json!({
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": shape.hidden,
            "intermediate_size": shape.feed_forward,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "vocab_size": shape.vocabulary,
            "max_position_embeddings": shape.context,
            "rope_theta": 10000.0,
            "rope_scaling": null,
            "rms_norm_eps": f64::from(1e-5f32),
            "tie_word_embeddings": shape.tied,
            "eos_token_id": 2,
        });
        let head_dim = shape.hidden / shape.heads;
        let tensors = TinyModel::new(shape)
            .tensors
            .iter()
            .map(|(name, tensor)| {
                let values = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
                let mut values = values.to_vec1::<f32>().unwrap();
                let shape = tensor.shape().dims().to_vec();
                if name.contains("attn_q") || name.contains("attn_k") {
                    values = half_split(&values, head_dim, shape[1]);
                }
                Tensor::f32(&hf_name(name), &shape, &values)
            })
            .collect();
        Self { config, tensors }
    }

    /// The folder with every matrix of its layers quantised in groups of `group`.
    pub fn gptq(shape: &Shape, scheme: &Scheme) -> Self {
        let mut folder = Self::new(shape);
        let tensors = std::mem::take(&mut folder.tensors);
        for tensor in tensors {
            match tensor.name.strip_suffix("_proj.weight") {
                Some(base) => folder.tensors.extend(scheme.quantise(&format!("{base}_proj"), &tensor)),
                None => folder.tensors.push(tensor),
            }
        }
        folder.config["quantization_config"] = scheme.config();
        folder
    }

    /// What candle's own Llama makes of the files: the logits after the last of `ids`.
    pub fn stock_logits(&self, ids: &[u32]) -> Vec<f32> {
        let tensors = self.tensors.iter().map(|tensor| {
            let loaded = candle_core::Tensor::from_vec(floats(tensor), &tensor.shape[..], &Device::Cpu);
            (tensor.name.clone(), loaded.unwrap())
        });
        let config: llama::LlamaConfig = serde_json::from_value(self.config.clone()).unwrap();
        let config = config.into_config(false);
        let weights = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
        let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
        let stock = llama::Llama::load(weights, &config).unwrap();
        let ids = candle_core::Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        stock.forward(&ids, 0, &mut cache).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.iter().find(|tensor| tensor.name == name).unwrap()
    }

    pub fn tensor_mut(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub fn write(&self, folder: &Path) {
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        fs::write(folder.join("model.safetensors"), safetensors(&self.tensors)).unwrap();
    }

    /// In several files of a few tensors each, with an index.
    pub fn write_shards(&self, folder: &Path) {
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        let mut map = serde_json::Map::new();
        for (index, tensors) in self.tensors.chunks(5).enumerate() {
            let name = format!("model-{index:05}.safetensors");
            fs::write(folder.join(&name), safetensors(tensors)).unwrap();
            map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), json!(name))));
        }
        let index = json!({ "metadata": {}, "weight_map": map });
        fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
}

/// How matrices are quantised, and how that is written down.
#[derive(Clone, Debug)]
pub struct Scheme {
    /// -1 for one group.
    pub group: i64,
    /// Groups are of inputs that are not neighbours.
    pub scattered: bool,
    /// Whether there is a `g_idx` at all.
    pub g_idx: bool,
    pub symmetric: bool,
    /// What the tensors hold: zero points less one (1), or zero points (2).
    pub version: u32,
    /// What the config says.
    pub label: &'static str,
}

impl Default for Scheme {
    fn default() -> Self {
        Self { group: 32, scattered: false, g_idx: true, symmetric: true, version: 1, label: "gptq" }
    }
}

impl Scheme {
    pub fn config(&self) -> Value {
        json!({
            "quant_method": "gptq", "bits": 4, "group_size": self.group, "desc_act": self.scattered,
            "sym": self.symmetric, "checkpoint_format": self.label, "lm_head": false, "dynamic": {},
        })
    }

    /// The group of each input.
    fn groups(&self, inputs: usize) -> Vec<usize> {
        let group = if self.group < 0 { inputs } else { self.group as usize };
        // 7 has no common factor with any number of inputs used here.
        let place = |input: usize| if self.scattered { input * 7 % inputs } else { input };
        (0..inputs).map(|input| place(input) / group).collect()
    }

    /// Round to nearest, (outputs, inputs) in; `qweight`, `qzeros`, `scales` and perhaps `g_idx` out.
    pub fn quantise(&self, name: &str, tensor: &Tensor) -> Vec<Tensor> {
        let [outputs, inputs] = tensor.shape[..] else { panic!("a matrix") };
        let weights = floats(tensor);
        let group_of = self.groups(inputs);
        let groups = group_of.iter().max().unwrap() + 1;
        let mut scales = vec![0f32; groups * outputs];
        let mut zeros = vec![0u32; groups * outputs];
        for group in 0..groups {
            for output in 0..outputs {
                let members = (0..inputs).filter(|input| group_of[*input] == group);
                let values: Vec<f32> = members.map(|input| weights[output * inputs + input]).collect();
                let low = values.iter().copied().fold(0f32, f32::min);
                let high = values.iter().copied().fold(0f32, f32::max);
                let (scale, zero) = match self.symmetric {
                    true => (low.abs().max(high) / 7.0, 8),
                    false => {
                        ((high - low) / 15.0, (-low / ((high - low) / 15.0)).round().clamp(1.0, 15.0) as u32)
                    }
                };
                scales[group * outputs + output] = half::f16::from_f32(scale).to_f32();
                zeros[group * outputs + output] = zero;
            }
        }
        let mut qweight = vec![0u32; inputs / 8 * outputs];
        for input in 0..inputs {
            for output in 0..outputs {
                let at = group_of[input] * outputs + output;
                let quant = (weights[output * inputs + input] / scales[at]).round() + zeros[at] as f32;
                let quant = quant.clamp(0.0, 15.0) as u32;
                qweight[input / 8 * outputs + output] |= quant << (4 * (input % 8));
            }
        }
        let mut qzeros = vec![0u32; groups * (outputs / 8)];
        for (at, zero) in zeros.iter().enumerate() {
            let (group, output) = (at / outputs, at % outputs);
            let stored = if self.version == 1 { zero - 1 } else { *zero };
            qzeros[group * (outputs / 8) + output / 8] |= stored << (4 * (output % 8));
        }
        let group_of: Vec<u32> = group_of.iter().map(|group| *group as u32).collect();
        let mut tensors = vec![
            Tensor::i32(&format!("{name}.qweight"), &[inputs / 8, outputs], &qweight),
            Tensor::i32(&format!("{name}.qzeros"), &[groups, outputs / 8], &qzeros),
            Tensor::f16(&format!("{name}.scales"), &[groups, outputs], &scales),
        ];
        if self.g_idx {
            tensors.push(Tensor::i32(&format!("{name}.g_idx"), &[inputs], &group_of));
        }
        tensors
    }

    /// What the tensors of matrix `name` mean, (outputs, inputs), by the published formula
    /// `(q[k, n] - zero[g_idx[k], n]) * scale[g_idx[k], n]`.
    pub fn dequantise(&self, folder: &TinyFolder, name: &str) -> Vec<f32> {
        let words = |part: &str| -> Vec<u32> {
            let tensor = folder.tensor(&format!("{name}.{part}"));
            tensor.bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
        };
        let qweight = words("qweight");
        let qzeros = words("qzeros");
        let scales = floats(folder.tensor(&format!("{name}.scales")));
        let [packed, outputs] = folder.tensor(&format!("{name}.qweight")).shape[..] else {
            panic!("a matrix")
        };
        let inputs = packed * 8;
        let group_of = self.groups(inputs);
        let mut weights = vec![0.0; outputs * inputs];
        for output in 0..outputs {
            for input in 0..inputs {
                let group = group_of[input];
                let quant = (qweight[input / 8 * outputs + output] >> (4 * (input % 8))) & 15;
                let stored = (qzeros[group * (outputs / 8) + output / 8] >> (4 * (output % 8))) & 15;
                let zero = if self.version == 1 { stored + 1 } else { stored };
                let scale = scales[group * outputs + output];
                weights[output * inputs + input] = (quant as f32 - zero as f32) * scale;
            }
        }
        weights
    }
}

/// The values of a float tensor.
pub fn floats(tensor: &Tensor) -> Vec<f32> {
    match tensor.dtype {
        "F32" => tensor.bytes.chunks(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect(),
        "F16" => {
            let value = |value: &[u8]| half::f16::from_le_bytes(value.try_into().unwrap()).to_f32();
            tensor.bytes.chunks(2).map(value).collect()
        }
        other => panic!("{other}"),
    }
}

/// Rows as Hugging Face keeps them: a head's even rows, then its odd rows.
pub fn half_split(values: &[f32], head_dim: usize, columns: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = values.chunks(columns).collect();
    let heads = rows.chunks(head_dim);
    let ordered = heads.flat_map(|head| head.iter().step_by(2).chain(head.iter().skip(1).step_by(2)));
    ordered.flat_map(|row| row.iter().copied()).collect()
}

/// The opposite of [`half_split`].
pub fn interleaved(values: &[f32], head_dim: usize, columns: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = values.chunks(columns).collect();
    let heads = rows.chunks(head_dim);
    let ordered = heads.flat_map(|head| {
        let (first, second) = head.split_at(head_dim / 2);
        first.iter().zip(second).flat_map(|(first, second)| [*first, *second])
    });
    ordered.flat_map(|row| row.iter().copied()).collect()
}

/// GGUF's name of a tensor in Hugging Face's words.
pub fn hf_name(name: &str) -> String {
    [
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_output", "self_attn.o_proj"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("output", "lm_head"),
        ("blk", "model.layers"),
    ]
    .iter()
    .fold(name.to_owned(), |name, (gguf, hf)| {
        let whole = format!(".{name}");
        match whole.contains(&format!(".{gguf}.")) {
            true => whole.replacen(&format!(".{gguf}."), &format!(".{hf}."), 1)[1..].to_owned(),
            false => name,
        }
    })
}
