//! A folder in Hugging Face's layout: safetensors files, one or several, and the JSON files beside them.
//!
//! A matrix is either a float tensor or GPTQ's four ([`super::gptq`]). Tensors are asked for by GGUF's names; the
//! rows of q and k, which these files keep in two halves, come out interleaved as in a GGUF file.

pub mod file;
mod index;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Once;

use super::checkpoint::{ExpectedTensor, Matrix, listed};
use super::gptq::{GptqLinear, GptqShape, ZeroFormat};
use super::hf_config::HfConfig;
use crate::error::EngineError;
use crate::kernels::float::FloatMatrix;
use file::{SafetensorsFile, TensorInfo};
use index::WeightFiles;

/// The opened files of a folder.
pub struct SafetensorsFolder {
    path: PathBuf,
    config: HfConfig,
    files: Vec<SafetensorsFile>,
    /// The file that a tensor lies in, by its name there.
    places: HashMap<String, usize>,
    mislabelled: Once,
}

impl SafetensorsFolder {
    /// Opens and checks `folder`: `config.json`, and `model.safetensors`, the files that
    /// `model.safetensors.index.json` names, or the only safetensors file there is.
    ///
    /// # Errors
    /// [`EngineError::Read`] or [`EngineError::Model`], which names every missing file at once.
    pub fn open(folder: &Path) -> Result<Self, EngineError> {
        let config = HfConfig::read(folder)?;
        let found = WeightFiles::find(folder)?;
        let mut files = Vec::new();
        let mut places = HashMap::new();
        for name in &found.names {
            let file = SafetensorsFile::open(&folder.join(name))?;
            for tensor in file.tensors().keys() {
                if places.insert(tensor.clone(), files.len()).is_some() {
                    return Err(file.unusable(format!("tensor `{tensor}` is in another file as well")));
                }
            }
            files.push(file);
        }
        let elsewhere = |tensor: &str, file: &str| {
            places.get(tensor).is_none_or(|place: &usize| !files[*place].path().ends_with(file))
        };
        let absent: Vec<String> = found
            .places
            .iter()
            .filter(|(tensor, file)| elsewhere(tensor, file))
            .map(|(tensor, file)| format!("tensor `{tensor}` is not in `{file}`, where the index has it"))
            .collect();
        let this = Self { path: folder.to_owned(), config, files, places, mislabelled: Once::new() };
        if absent.is_empty() { Ok(this) } else { Err(this.unusable(listed(&absent))) }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the JSON files say.
    pub fn config(&self) -> &HfConfig {
        &self.config
    }

    /// All tensors, by the files' own names, in no order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.files.iter().flat_map(|file| file.tensors().iter()).map(|(name, info)| (name.as_str(), info))
    }

    /// Whether there is a tensor or GPTQ matrix `name` (GGUF's name).
    pub(super) fn has(&self, name: &str) -> bool {
        let name = theirs(name);
        self.info(&format!("{name}.weight")).is_some() || self.info(&format!("{name}.qweight")).is_some()
    }

    /// Everything that stands against reading `expected`.
    pub(super) fn tensor_faults(&self, expected: &ExpectedTensor) -> Vec<String> {
        let name = theirs(&expected.name);
        match expected.shape[..] {
            [rows, columns] if self.info(&format!("{name}.qweight")).is_some() => {
                self.gptq_shape(&name, rows, columns).err().unwrap_or_default()
            }
            _ => self.float_fault(&format!("{name}.weight"), &expected.shape).into_iter().collect(),
        }
    }

    /// Tensors that Llama does not have. Ignoring them would give wrong answers without a word; biases that are
    /// all zero, which old quantisers write, and tables of frequencies do no harm.
    pub(super) fn unexpected(&self, expected: &[ExpectedTensor]) -> Result<Vec<String>, EngineError> {
        let known: Vec<String> = expected.iter().map(|tensor| theirs(&tensor.name)).collect();
        let known: std::collections::HashSet<&str> = known.iter().map(String::as_str).collect();
        let mut faults = Vec::new();
        for (name, info) in self.tensors() {
            let (base, part) = name.rsplit_once('.').unwrap_or((name, ""));
            match part {
                "weight" | "qweight" | "qzeros" | "scales" | "g_idx" if known.contains(base) => {}
                "weight" if base == "lm_head" => {} // a copy of the embedding table, by its config
                "inv_freq" => {}
                "bias" if known.contains(base) && self.is_zero(name, info)? => {}
                "bias" => faults.push(format!("it has biases (`{name}`), which Llama does not have")),
                _ => faults.push(format!("it has the tensor `{name}`, which its config does not call for")),
            }
        }
        faults.sort_unstable();
        Ok(faults)
    }

    /// A tensor of one dimension as f32.
    pub(super) fn vector(&self, name: &str) -> Result<Vec<f32>, EngineError> {
        let name = format!("{}.weight", theirs(name));
        let (file, info) = self.place(&name)?;
        let (1, Some(kind)) = (info.shape.len(), info.element.float()) else {
            return Err(file.unusable(format!(
                "tensor `{name}` is {} of shape {:?}, not a vector of floats",
                info.element.name, info.shape
            )));
        };
        let bytes = file.bytes(&name)?;
        Ok(bytes.chunks_exact(kind.size()).map(|value| kind.value(value)).collect())
    }

    /// The matrix `name`, (`rows`, `columns`), repacked.
    pub(super) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, EngineError> {
        let head_dim = self.config.llama.head_dim;
        let interleaved = name.ends_with(".attn_q") || name.ends_with(".attn_k");
        let order = |row: usize| if interleaved { half_split_row(head_dim, row) } else { row };
        if interleaved && !rows.is_multiple_of(head_dim) {
            return Err(self.unusable(format!("`{name}` has {rows} rows, heads have {head_dim}")));
        }
        let name = theirs(name);
        if self.info(&format!("{name}.qweight")).is_some() {
            return self.gptq_matrix(&name, rows, columns, order);
        }
        let weight = format!("{name}.weight");
        let (file, info) = self.place(&weight)?;
        if let Some(fault) = self.float_fault(&weight, &[rows, columns]) {
            return Err(file.unusable(fault));
        }
        let kind = info.element.float().expect("float_fault has seen that it is one");
        FloatMatrix::from_reordered_rows(&file.bytes(&weight)?, kind, rows, columns, order)
            .map(Matrix::Float)
            .map_err(|error| file.unusable(format!("tensor `{weight}`: {error}")))
    }

    /// Bytes of memory that [`Self::matrix`] takes; 0 when there is no such matrix.
    pub(super) fn loaded_bytes(&self, name: &str, rows: usize, columns: usize) -> usize {
        let name = theirs(name);
        if self.info(&format!("{name}.qweight")).is_some() {
            return GptqLinear::packed_bytes(self.config.quantization.as_ref(), rows, columns);
        }
        let kind = self.info(&format!("{name}.weight")).and_then(|info| info.element.float());
        kind.map_or(0, |kind| FloatMatrix::bytes_of(kind, rows, columns))
    }

    fn gptq_matrix(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
        order: impl Fn(usize) -> usize + Sync,
    ) -> Result<Matrix, EngineError> {
        let (file, _) = self.place(&format!("{name}.qweight"))?;
        let shape = self.gptq_shape(name, rows, columns).map_err(|faults| file.unusable(listed(&faults)))?;
        let bytes = |part: &str| {
            let tensor = format!("{name}.{part}");
            self.place(&tensor).and_then(|(file, _)| file.bytes(&tensor))
        };
        let in_order =
            if self.info(&format!("{name}.g_idx")).is_some() { Some(bytes("g_idx")?) } else { None };
        let scales = (bytes("scales")?, self.place(&format!("{name}.scales"))?.1.element);
        let scale_kind = scales.1.float().expect("gptq_shape has seen that scales are floats");
        let label = self.config.quantization.as_ref().map_or(ZeroFormat::V1, |settings| settings.zeros);
        let packed = GptqLinear::new(
            shape,
            &bytes("qweight")?,
            &bytes("qzeros")?,
            (&scales.0, scale_kind),
            in_order.as_deref(),
        )
        .and_then(|linear| {
            let zeros = linear.zero_format(label);
            if zeros != label {
                self.mislabelled.call_once(|| {
                    tracing::warn!(
                        path = %self.path.display(), tensor = name, labelled = ?label, found = ?zeros,
                        "GPTQ zero points are not what the label says; going by the tensors"
                    );
                });
            }
            linear.pack(zeros, order)
        });
        packed
            .map(Matrix::Packed)
            .map_err(|fault| file.unusable(format!("tensor `{name}.{}`: {}", fault.part, fault.reason)))
    }

    /// The shape of the GPTQ matrix `name`, or everything that is wrong with its tensors.
    fn gptq_shape(&self, name: &str, rows: usize, columns: usize) -> Result<GptqShape, Vec<String>> {
        let tensor = |part: &str| self.info(&format!("{name}.{part}"));
        let settings = self.config.quantization.as_ref();
        GptqShape::check(rows, columns, settings, tensor).map_err(|faults| {
            let named = |(part, fault): (&str, String)| match fault.is_empty() {
                true => format!("tensor `{name}.{part}` is missing"),
                false => format!("tensor `{name}.{part}` {fault}"),
            };
            faults.into_iter().map(named).collect()
        })
    }

    fn float_fault(&self, name: &str, expected: &[usize]) -> Option<String> {
        let Some(info) = self.info(name) else {
            return Some(format!("tensor `{name}` is missing"));
        };
        if info.shape != expected {
            Some(format!("tensor `{name}` has the shape {:?}, the config calls for {expected:?}", info.shape))
        } else if info.element.float().is_none() {
            Some(format!("tensor `{name}` is stored as {}, which is not supported", info.element.name))
        } else {
            None
        }
    }

    fn is_zero(&self, name: &str, info: &TensorInfo) -> Result<bool, EngineError> {
        let (file, _) = self.place(name)?;
        let Some(kind) = info.element.float() else { return Ok(false) };
        Ok(file.bytes(name)?.chunks_exact(kind.size()).all(|value| kind.value(value) == 0.0))
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.files[*self.places.get(name)?].tensors().get(name)
    }

    fn place(&self, name: &str) -> Result<(&SafetensorsFile, &TensorInfo), EngineError> {
        let found = self.places.get(name).map(|&index| &self.files[index]);
        found
            .and_then(|file| Some((file, file.tensors().get(name)?)))
            .ok_or_else(|| self.unusable(format!("tensor `{name}` is missing")))
    }

    /// [`EngineError::Model`] about this folder.
    pub(super) fn unusable(&self, reason: String) -> EngineError {
        EngineError::Model { path: self.path.clone(), reason }
    }
}

/// The name in these files of what GGUF calls `name`; both without what stands behind the last dot.
fn theirs(name: &str) -> String {
    let layer = |rest: &str| -> Option<String> {
        let (layer, part) = rest.split_once('.')?;
        let part = match part {
            "attn_norm" => "input_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "ffn_norm" => "post_attention_layernorm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            _ => return None,
        };
        Some(format!("model.layers.{layer}.{part}"))
    };
    match name {
        "token_embd" => "model.embed_tokens".into(),
        "output_norm" => "model.norm".into(),
        "output" => "lm_head".into(),
        _ => name.strip_prefix("blk.").and_then(layer).unwrap_or_else(|| name.into()),
    }
}

/// Where interleaved row `row` of q or k stands when a head keeps the first halves of all pairs, then the second.
pub(super) fn half_split_row(head_dim: usize, row: usize) -> usize {
    let (head, inside) = (row / head_dim, row % head_dim);
    head * head_dim + inside % 2 * (head_dim / 2) + inside / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interleaved_rows_come_from_two_halves() {
        let rows: Vec<usize> = (0..12).map(|row| half_split_row(6, row)).collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    #[test]
    fn names_are_translated() {
        assert_eq!(theirs("blk.12.attn_output"), "model.layers.12.self_attn.o_proj");
        assert_eq!(theirs("token_embd"), "model.embed_tokens");
        assert_eq!(theirs("rope_freqs"), "rope_freqs");
    }
}
