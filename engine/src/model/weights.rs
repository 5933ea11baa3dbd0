//! The weights of a Llama-family model, read from a file and checked against its config.
//!
//! On a CPU, formats with an integer encoding are repacked at load for our own kernels
//! ([`crate::kernels`]), which round the activations to 8 bits. Other formats stay as they are: a product with
//! few rows (decode) uses candle's kernels, one with many rows (prefill) expands the weight to f32 once.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};
use candle_transformers::quantized_nn::RmsNorm;

use super::config::LlamaConfig;
use super::gguf::GgufFile;
use crate::error::EngineError;
use crate::kernels::activations::QuantizedActivations;
use crate::kernels::cpu::InstructionSet;
use crate::kernels::matmul::matmul;
use crate::kernels::packed::{BLOCK_COLUMNS, Encoding, PackedMatrix};
use crate::kernels::threads::ThreadPool;

/// From this many rows on, expanding a weight to f32 costs less than it saves (measured on SmolLM2 Q4_1).
const EXPAND_ROWS: usize = 32;

/// A matrix of the model: (outputs, inputs).
pub struct Weight {
    product: Product,
    outputs: usize,
}

enum Product {
    /// Repacked for the integer kernels.
    Packed { matrix: PackedMatrix, compute: Compute },
    /// In the file's format, computed by candle.
    Candle {
        product: QMatMul,
        /// Set where expanding pays: on a CPU, for a format that is not f32 already.
        expandable: Option<Arc<QTensor>>,
    },
}

/// The threads of the integer kernels, and what they compute with. Shared by all weights of a model.
#[derive(Clone)]
pub struct Compute {
    set: InstructionSet,
    // One product at a time: the lock is never contended, because one engine step runs at a time.
    shared: Arc<Mutex<(ThreadPool, QuantizedActivations)>>,
}

impl Compute {
    /// Threads for every core.
    ///
    /// # Errors
    /// When `CHASKI_CPU` names kernels that this processor cannot run.
    pub fn new() -> Result<Self, String> {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let shared = Mutex::new((ThreadPool::new(threads), QuantizedActivations::default()));
        Ok(Self { set: InstructionSet::detect()?, shared: Arc::new(shared) })
    }
}

impl Weight {
    fn new(weight: Arc<QTensor>, device: &Device, compute: &Compute) -> candle_core::Result<Self> {
        let (outputs, inputs) = weight.shape().dims2()?;
        if device.is_cpu() && Encoding::of(weight.dtype()).is_some() && inputs.is_multiple_of(BLOCK_COLUMNS) {
            let matrix = PackedMatrix::from_gguf(&weight.data()?, weight.dtype(), outputs, inputs)
                .map_err(candle_core::Error::wrap)?;
            return Ok(Self { product: Product::Packed { matrix, compute: compute.clone() }, outputs });
        }
        let product = match weight.dtype() {
            // candle would expand these to f32 for good, which doubles the memory.
            GgmlDType::F16 | GgmlDType::BF16 if device.is_cpu() => QMatMul::QTensor(weight.clone()),
            _ => QMatMul::from_arc(weight.clone())?,
        };
        let expandable = (device.is_cpu() && weight.dtype() != GgmlDType::F32).then_some(weight);
        Ok(Self { product: Product::Candle { product, expandable }, outputs })
    }

    /// Width of the result.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `x`: (rows, inputs), contiguous; returns (rows, outputs).
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (rows, inputs) = x.dims2()?;
        match &self.product {
            Product::Packed { matrix, compute } => {
                let x = x.flatten_all()?.to_vec1::<f32>()?;
                let mut output = vec![0.0; rows * self.outputs];
                let mut shared = compute.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let (pool, activations) = &mut *shared;
                activations.quantize(&x, inputs);
                matmul(compute.set, pool, matrix, activations, &mut output);
                Tensor::from_vec(output, (rows, self.outputs), &Device::Cpu)
            }
            Product::Candle { expandable: Some(weight), .. } if rows >= EXPAND_ROWS => {
                x.matmul(&weight.dequantize(x.device())?.t()?)
            }
            Product::Candle { product, .. } => product.forward(x),
        }
    }
}

/// The token embedding; rows are expanded one by one, because a 128k vocabulary takes 2 GB in f32.
pub struct Embedding(Arc<QTensor>);

impl Embedding {
    /// Ids that have a row.
    pub fn rows(&self) -> usize {
        self.0.shape().dims()[0]
    }

    /// `ids`: (tokens,); returns (tokens, hidden), f32.
    pub fn forward(&self, ids: &Tensor) -> candle_core::Result<Tensor> {
        self.0.embedding(ids)
    }
}

/// The weights of one transformer layer.
pub struct LayerWeights {
    /// Before attention.
    pub attention_norm: RmsNorm,
    /// (num_heads * head_dim, hidden).
    pub query: Weight,
    /// (num_kv_heads * head_dim, hidden).
    pub key: Weight,
    /// (num_kv_heads * head_dim, hidden).
    pub value: Weight,
    /// (hidden, num_heads * head_dim).
    pub attention_output: Weight,
    /// Before the feed-forward block.
    pub feed_forward_norm: RmsNorm,
    /// (feed_forward, hidden).
    pub gate: Weight,
    /// (feed_forward, hidden).
    pub up: Weight,
    /// (hidden, feed_forward).
    pub down: Weight,
}

/// All weights of a model.
pub struct LlamaWeights {
    /// (vocabulary, hidden).
    pub embedding: Embedding,
    /// From the input to the output.
    pub layers: Vec<LayerWeights>,
    /// Before the output head.
    pub norm: RmsNorm,
    /// (vocabulary, hidden).
    pub head: Weight,
    /// Divisors of the rotary frequencies, if the file has them.
    pub rope_divisors: Option<Vec<f32>>,
}

impl LlamaWeights {
    /// Reads every tensor that `config` calls for.
    pub fn read(file: &GgufFile, config: &LlamaConfig, device: &Device) -> Result<Self, EngineError> {
        check_tensors(file, config)?;
        let compute = Compute::new().map_err(EngineError::InvalidRequest)?;
        let read = Reader { file, device, compute: &compute };
        let embedding = Arc::new(file.tensor("token_embd.weight", device)?);
        let head = match config.tied_head {
            true => embedding.clone(),
            false => Arc::new(file.tensor("output.weight", device)?),
        };
        Ok(Self {
            embedding: Embedding(embedding),
            layers: (0..config.num_layers)
                .map(|layer| read.layer(layer, config.norm_eps))
                .collect::<Result<_, _>>()?,
            norm: read.norm("output_norm.weight", config.norm_eps)?,
            head: Weight::new(head, device, &compute).map_err(|error| file.unusable(error.to_string()))?,
            rope_divisors: read.rope_divisors()?,
        })
    }
}

struct Reader<'a> {
    file: &'a GgufFile,
    device: &'a Device,
    compute: &'a Compute,
}

impl Reader<'_> {
    fn layer(&self, layer: usize, eps: f64) -> Result<LayerWeights, EngineError> {
        let weight = |name: &str| self.weight(&format!("blk.{layer}.{name}.weight"));
        let norm = |name: &str| self.norm(&format!("blk.{layer}.{name}.weight"), eps);
        Ok(LayerWeights {
            attention_norm: norm("attn_norm")?,
            query: weight("attn_q")?,
            key: weight("attn_k")?,
            value: weight("attn_v")?,
            attention_output: weight("attn_output")?,
            feed_forward_norm: norm("ffn_norm")?,
            gate: weight("ffn_gate")?,
            up: weight("ffn_up")?,
            down: weight("ffn_down")?,
        })
    }

    fn weight(&self, name: &str) -> Result<Weight, EngineError> {
        let tensor = Arc::new(self.file.tensor(name, self.device)?);
        Weight::new(tensor, self.device, self.compute)
            .map_err(|error| self.file.unusable(format!("tensor `{name}`: {error}")))
    }

    fn norm(&self, name: &str, eps: f64) -> Result<RmsNorm, EngineError> {
        RmsNorm::from_qtensor(self.file.tensor(name, self.device)?, eps)
            .map_err(|error| self.file.unusable(format!("tensor `{name}`: {error}")))
    }

    fn rope_divisors(&self) -> Result<Option<Vec<f32>>, EngineError> {
        if self.file.tensor_info(ROPE_DIVISORS).is_none() {
            return Ok(None);
        }
        let tensor = self.file.tensor(ROPE_DIVISORS, &Device::Cpu)?;
        let divisors = tensor.dequantize(&Device::Cpu).and_then(|divisors| divisors.to_vec1::<f32>());
        match divisors {
            Ok(divisors) if divisors.iter().all(|divisor| divisor.is_finite() && *divisor > 0.0) => {
                Ok(Some(divisors))
            }
            Ok(_) => Err(self
                .file
                .unusable(format!("tensor `{ROPE_DIVISORS}` has a divisor that is not positive"))),
            Err(error) => Err(self.file.unusable(format!("tensor `{ROPE_DIVISORS}`: {error}"))),
        }
    }
}

const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// Names every tensor that is missing, misshapen, or stored in a format that the engine does not compute with.
fn check_tensors(file: &GgufFile, config: &LlamaConfig) -> Result<(), EngineError> {
    let LlamaConfig { hidden, feed_forward, vocabulary, num_heads, num_kv_heads, head_dim, .. } = *config;
    let (queries, keys) = (num_heads * head_dim, num_kv_heads * head_dim);
    let mut expected: Vec<(String, Vec<usize>)> = vec![
        ("token_embd.weight".into(), vec![vocabulary, hidden]),
        ("output_norm.weight".into(), vec![hidden]),
    ];
    if !config.tied_head {
        expected.push(("output.weight".into(), vec![vocabulary, hidden]));
    }
    if file.tensor_info(ROPE_DIVISORS).is_some() {
        expected.push((ROPE_DIVISORS.into(), vec![head_dim / 2]));
    }
    for layer in 0..config.num_layers {
        let shapes: [(&str, &[usize]); 9] = [
            ("attn_norm", &[hidden]),
            ("attn_q", &[queries, hidden]),
            ("attn_k", &[keys, hidden]),
            ("attn_v", &[keys, hidden]),
            ("attn_output", &[hidden, queries]),
            ("ffn_norm", &[hidden]),
            ("ffn_gate", &[feed_forward, hidden]),
            ("ffn_up", &[feed_forward, hidden]),
            ("ffn_down", &[hidden, feed_forward]),
        ];
        expected.extend(shapes.map(|(name, shape)| (format!("blk.{layer}.{name}.weight"), shape.to_vec())));
    }

    let faults: Vec<String> = expected
        .iter()
        .filter_map(|(name, shape)| tensor_fault(file, name, shape))
        .chain(biases(file))
        .collect();
    if faults.is_empty() {
        return Ok(());
    }
    const SHOWN: usize = 12; // a file of another architecture has hundreds of faults
    let more = match faults.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    Err(file.unusable(format!("{}{more}", faults[..faults.len().min(SHOWN)].join("; "))))
}

fn tensor_fault(file: &GgufFile, name: &str, expected: &[usize]) -> Option<String> {
    let Some((shape, format)) = file.tensor_info(name) else {
        return Some(format!("tensor `{name}` is missing"));
    };
    let supported = matches!(
        format,
        GgmlDType::F32
            | GgmlDType::F16
            | GgmlDType::BF16
            | GgmlDType::Q4_0
            | GgmlDType::Q4_1
            | GgmlDType::Q5_0
            | GgmlDType::Q5_1
            | GgmlDType::Q8_0
            | GgmlDType::Q4K
            | GgmlDType::Q5K
            | GgmlDType::Q6K
    );
    if shape != expected {
        Some(format!("tensor `{name}` has the shape {shape:?}, the metadata calls for {expected:?}"))
    } else if !supported {
        Some(format!("tensor `{name}` is stored as {format:?}, which is not supported"))
    } else {
        None
    }
}

/// Bias tensors belong to relatives of Llama; ignoring them would give wrong answers without a word.
fn biases(file: &GgufFile) -> Vec<String> {
    let mut biases: Vec<_> =
        file.tensor_names().filter(|name| name.starts_with("blk.") && name.ends_with(".bias")).collect();
    biases.sort_unstable();
    biases
        .into_iter()
        .take(1)
        .map(|name| format!("it has biases (`{name}`), which Llama does not have"))
        .collect()
}
