//! GPTQ's 4-bit matrices, repacked without loss of a quant or a scale.
//!
//! A matrix of K inputs and N outputs is four tensors: `qweight`, (K / 8, N), eight inputs to a word, lowest bits
//! first; `scales`, (groups, N); `qzeros`, (groups, N / 8), eight outputs to a word; and `g_idx`, (K,), the group of
//! each input. A weight is `(quant - zero) * scale`.
//!
//! Two things in the files are not to be trusted. *Which zero is stored*: version 1 stores the zero point less
//! one, version 2 the zero point, and labels are often wrong; [`GptqLinear::zero_format`] finds it from the
//! tensors. *Whether inputs are in order*: only `g_idx` says it. If groups are scattered, inputs are sorted by
//! group and the matrix says in which order ([`PackedMatrix::permutation`]).
//!
//! Source: GPTQ (Frantar et al., 2022); the layout as in AutoGPTQ and vLLM's `gptq.py`, the versions as in
//! GPTQModel's "Packing Formats and Compatibility".

use half::f16;
use serde_json::{Map, Value};

use super::safetensors::file::TensorInfo;
use crate::kernels::float::FloatKind;
use crate::kernels::packed::{BLOCK_COLUMNS, Block, Encoding, PackedMatrix};

/// Quants in a 32-bit word.
const WORD_QUANTS: usize = 8;

/// Which zero points a file stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroFormat {
    /// The zero point less one: 15 means 16.
    V1,
    /// The zero point.
    V2,
}

/// What a `quantize_config.json`, or the `quantization_config` of a `config.json`, says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GptqSettings {
    /// Inputs that share a scale; `None` when all of a matrix do, or the file does not say.
    pub group_size: Option<usize>,
    /// What the label says of the zero points.
    pub zeros: ZeroFormat,
    /// Whether all zero points are 8, as far as the settings say: for estimates only.
    pub symmetric: bool,
    /// Whether groups are of scattered inputs, as far as the settings say: for estimates only.
    pub scattered: bool,
}

impl GptqSettings {
    /// Reads the settings.
    ///
    /// # Errors
    /// Every setting that the engine does not compute with.
    pub fn read(json: &Map<String, Value>) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let text = |key: &str| json.get(key).and_then(Value::as_str);
        if let Some(method) = text("quant_method").filter(|method| *method != "gptq") {
            return Err(vec![format!(
                "it is quantised by `{method}`; of these methods the engine reads `gptq`"
            )]);
        }
        match json.get("bits").and_then(Value::as_u64) {
            Some(4) => {}
            Some(bits) => faults.push(format!("GPTQ with {bits} bits is not supported, 4 bits are")),
            None => faults.push("the GPTQ settings do not say how many `bits` there are".into()),
        }
        let group_size = match json.get("group_size").map(Value::as_i64) {
            None | Some(Some(-1)) => None,
            Some(Some(size)) if size > 0 && size % BLOCK_COLUMNS as i64 == 0 && size <= 1 << 20 => {
                Some(size as usize)
            }
            Some(_) => {
                faults.push(format!(
                    "GPTQ's `group_size` is {}, it must be -1 or a multiple of {BLOCK_COLUMNS}",
                    json["group_size"]
                ));
                None
            }
        };
        let format = text("checkpoint_format").or_else(|| text("format")).unwrap_or("gptq");
        let zeros = if format == "gptq_v2" { ZeroFormat::V2 } else { ZeroFormat::V1 };
        if !matches!(format, "gptq" | "gptq_v2") {
            faults.push(format!(
                "GPTQ's `checkpoint_format` is `{format}`; `gptq` and `gptq_v2` are supported"
            ));
        }
        if let Some(packing) = text("pack_dtype").filter(|packing| *packing != "int32") {
            faults.push(format!("GPTQ's `pack_dtype` is `{packing}`, `int32` is supported"));
        }
        if json.get("dynamic").and_then(Value::as_object).is_some_and(|rules| !rules.is_empty()) {
            faults.push("GPTQ with other settings for some matrices (`dynamic`) is not supported".into());
        }
        let flag = |key: &str, default| json.get(key).and_then(Value::as_bool).unwrap_or(default);
        let (symmetric, scattered) = (flag("sym", true), flag("desc_act", false));
        if faults.is_empty() { Ok(Self { group_size, zeros, symmetric, scattered }) } else { Err(faults) }
    }
}

/// The sizes of one matrix, which its tensors agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GptqShape {
    /// Outputs: a multiple of 8.
    pub rows: usize,
    /// Inputs: a multiple of 32.
    pub columns: usize,
    /// Inputs that share a scale: a multiple of 32 that divides the inputs.
    pub group: usize,
}

impl GptqShape {
    /// Holds the tensors of a matrix of `rows` outputs and `columns` inputs against each other and the settings.
    ///
    /// # Errors
    /// `(tensor, fault)` for everything that does not fit; an empty fault means that the tensor is missing.
    pub fn check<'a>(
        rows: usize,
        columns: usize,
        settings: Option<&GptqSettings>,
        tensor: impl Fn(&'static str) -> Option<&'a TensorInfo>,
    ) -> Result<Self, Vec<(&'static str, String)>> {
        let mut faults = Vec::new();
        if !rows.is_multiple_of(WORD_QUANTS) || !columns.is_multiple_of(BLOCK_COLUMNS) || columns == 0 {
            let fault =
                format!("belongs to {rows} outputs of {columns} inputs: multiples of 8 and 32 are supported");
            return Err(vec![("qweight", fault)]);
        }
        let groups = tensor("scales").and_then(|info| info.shape.first().copied()).unwrap_or(0);
        let mut expect = |part: &'static str, shape: &[usize], integers: bool, required: bool| {
            let Some(info) = tensor(part) else {
                if required {
                    faults.push((part, String::new()));
                }
                return;
            };
            let fits = if integers { info.element.name == "I32" } else { info.element.float().is_some() };
            if info.shape != shape {
                faults
                    .push((part, format!("has the shape {:?}, 4-bit GPTQ calls for {shape:?}", info.shape)));
            } else if !fits {
                faults.push((part, format!("is stored as {}, which is not supported", info.element.name)));
            }
        };
        expect("qweight", &[columns / WORD_QUANTS, rows], true, true);
        expect("scales", &[groups, rows], false, true);
        expect("qzeros", &[groups, rows / WORD_QUANTS], true, true);
        expect("g_idx", &[columns], true, false);
        if !faults.is_empty() {
            return Err(faults);
        }
        let group = columns.checked_div(groups).unwrap_or(0);
        if group * groups != columns || !group.is_multiple_of(BLOCK_COLUMNS) {
            let fault = format!("has {groups} groups, which {columns} inputs cannot fill in multiples of 32");
            return Err(vec![("scales", fault)]);
        }
        match settings.and_then(|settings| settings.group_size) {
            Some(size) if size.min(columns) != group => {
                let fault = format!("has groups of {group} inputs, the settings say {size}");
                Err(vec![("scales", fault)])
            }
            _ => Ok(Self { rows, columns, group }),
        }
    }

    fn groups(&self) -> usize {
        self.columns / self.group
    }
}

/// What is wrong with the contents of one tensor.
#[derive(Debug)]
pub struct GptqFault {
    /// `qweight`, `scales`, `qzeros` or `g_idx`.
    pub part: &'static str,
    /// What is wrong.
    pub reason: String,
}

fn fault<T>(part: &'static str, reason: impl Into<String>) -> Result<T, GptqFault> {
    Err(GptqFault { part, reason: reason.into() })
}

/// One matrix as the file has it.
pub struct GptqLinear {
    shape: GptqShape,
    /// (columns / 8, rows).
    qweight: Vec<u32>,
    /// (groups, rows / 8).
    qzeros: Vec<u32>,
    /// (groups, rows).
    scales: Vec<f16>,
    /// Stored column j is input `order[j]`; `None` when inputs are in order.
    order: Option<Vec<u32>>,
}

impl GptqLinear {
    /// Takes the little-endian bytes of the tensors; `shape` is what [`GptqShape::check`] found.
    ///
    /// # Errors
    /// When the bytes have other lengths, a scale is not a finite f16, or `g_idx` does not fill every group.
    pub fn new(
        shape: GptqShape,
        qweight: &[u8],
        qzeros: &[u8],
        (scales, kind): (&[u8], FloatKind),
        g_idx: Option<&[u8]>,
    ) -> Result<Self, GptqFault> {
        let GptqShape { rows, columns, .. } = shape;
        let groups = shape.groups();
        let linear = Self {
            shape,
            qweight: words("qweight", qweight, columns / WORD_QUANTS * rows)?,
            qzeros: words("qzeros", qzeros, groups * (rows / WORD_QUANTS))?,
            scales: exact_scales(scales, kind, groups * rows)?,
            order: None,
        };
        let order = match g_idx {
            Some(g_idx) => input_order(&words("g_idx", g_idx, columns)?, shape)?,
            None => None,
        };
        Ok(Self { order, ..linear })
    }

    /// Which zero points the tensors hold, whatever the label says.
    ///
    /// Symmetric matrices have the zero point 8 everywhere, which version 1 stores as 7. For others, the mean of
    /// `quant - stored` decides: the weights of a layer average to nearly nothing against a step of the
    /// quantisation, so it is near 0 in version 2 and near 1 in version 1. Where it is neither, the label
    /// stands.
    pub fn zero_format(&self, label: ZeroFormat) -> ZeroFormat {
        if self.qzeros.iter().all(|word| *word == 0x7777_7777) {
            return ZeroFormat::V1;
        }
        if self.qzeros.iter().all(|word| *word == 0x8888_8888) {
            return ZeroFormat::V2;
        }
        let sum = |words: &[u32]| words.iter().map(|word| u64::from(nibble_sum(*word))).sum::<u64>() as f64;
        let zeros = sum(&self.qzeros) * self.shape.group as f64;
        let offset = (sum(&self.qweight) - zeros) / (self.shape.rows * self.shape.columns) as f64;
        if offset.abs() < 0.25 {
            ZeroFormat::V2
        } else if (offset - 1.0).abs() < 0.25 {
            ZeroFormat::V1
        } else {
            label
        }
    }

    /// Bytes of memory that a matrix takes once it is packed, as far as `settings` tell.
    pub fn packed_bytes(settings: Option<&GptqSettings>, rows: usize, columns: usize) -> usize {
        let symmetric = settings.is_none_or(|settings| settings.symmetric);
        let order = if settings.is_some_and(|settings| settings.scattered) { 4 * columns } else { 0 };
        let encoding = if symmetric { Encoding::Four } else { Encoding::FourMin };
        PackedMatrix::bytes_of(encoding, rows, columns) + order
    }

    /// Repacks the matrix; its row `row` is the file's output `source(row)`.
    ///
    /// Quants and scales are kept as they are. Where every zero point is 8, so are the zero points; otherwise
    /// `zero * scale` becomes a minimum in f16, which is off by at most 1/256 of a step of the quantisation.
    ///
    /// # Errors
    /// When a minimum is beyond f16.
    pub fn pack(
        &self,
        zeros: ZeroFormat,
        source: impl Fn(usize) -> usize + Sync,
    ) -> Result<PackedMatrix, GptqFault> {
        let GptqShape { rows, columns, group } = self.shape;
        let symmetric = match zeros {
            ZeroFormat::V1 => self.qzeros.iter().all(|word| *word == 0x7777_7777),
            ZeroFormat::V2 => self.qzeros.iter().all(|word| *word == 0x8888_8888),
        };
        let min = |group: usize, row: usize| {
            f16::from_f32(-self.zero(zeros, group, row) * self.scales[group * rows + row].to_f32())
        };
        let all = || (0..self.shape.groups()).flat_map(|group| (0..rows).map(move |row| (group, row)));
        if !symmetric && let Some((group, row)) = all().find(|&(group, row)| !min(group, row).is_finite()) {
            return fault("scales", format!("the scale of group {group}, output {row} is too large"));
        }
        let block = |row: usize, block: usize| {
            let (row, group) = (source(row), block * BLOCK_COLUMNS / group);
            Block {
                quants: self.quants(row, block),
                scales: [self.scales[group * rows + row]; 2],
                min: if symmetric { f16::ZERO } else { min(group, row) },
            }
        };
        let encoding = if symmetric { Encoding::Four } else { Encoding::FourMin };
        let packed = PackedMatrix::from_blocks(encoding, rows, columns, block);
        let ordered = packed.and_then(|packed| match &self.order {
            Some(order) => packed.with_permutation(order.clone()),
            None => Ok(packed),
        });
        ordered.or_else(|error| fault("qweight", error.to_string()))
    }

    /// The quants of output `row` for the stored columns `32 * block ..`.
    fn quants(&self, row: usize, block: usize) -> [u8; BLOCK_COLUMNS] {
        let word = |index: usize| self.qweight[index * self.shape.rows + row];
        let first = block * BLOCK_COLUMNS;
        match &self.order {
            Some(order) => std::array::from_fn(|column| {
                let input = order[first + column] as usize;
                nibble(word(input / WORD_QUANTS), input % WORD_QUANTS)
            }),
            None => {
                let words: [u32; BLOCK_COLUMNS / WORD_QUANTS] =
                    std::array::from_fn(|index| word(first / WORD_QUANTS + index));
                std::array::from_fn(|column| nibble(words[column / WORD_QUANTS], column % WORD_QUANTS))
            }
        }
    }

    fn zero(&self, zeros: ZeroFormat, group: usize, row: usize) -> f32 {
        let word = self.qzeros[group * (self.shape.rows / WORD_QUANTS) + row / WORD_QUANTS];
        let stored = f32::from(nibble(word, row % WORD_QUANTS));
        match zeros {
            ZeroFormat::V1 => stored + 1.0, // not wrapped: 15 means 16
            ZeroFormat::V2 => stored,
        }
    }
}

/// The order that brings the inputs of a group together, or `None` when they are so already.
fn input_order(g_idx: &[u32], shape: GptqShape) -> Result<Option<Vec<u32>>, GptqFault> {
    let mut counts = vec![0; shape.groups()];
    for (input, &group) in g_idx.iter().enumerate() {
        match counts.get_mut(group as usize) {
            Some(count) => *count += 1,
            None => {
                let groups = counts.len();
                return fault("g_idx", format!("puts input {input} into group {group} of {groups}"));
            }
        }
    }
    if let Some((group, count)) = counts.iter().enumerate().find(|(_, count)| **count != shape.group) {
        let expected = shape.group;
        return fault("g_idx", format!("puts {count} inputs into group {group}, groups have {expected}"));
    }
    if g_idx.is_sorted() {
        return Ok(None);
    }
    let mut order: Vec<u32> = (0..g_idx.len() as u32).collect();
    order.sort_by_key(|&input| g_idx[input as usize]);
    Ok(Some(order))
}

fn words(part: &'static str, bytes: &[u8], count: usize) -> Result<Vec<u32>, GptqFault> {
    match bytes.as_chunks::<4>() {
        (words, []) if words.len() == count => {
            Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
        }
        _ => fault(part, format!("{} bytes instead of {count} words", bytes.len())),
    }
}

/// Scales as f16; those of another format must be one.
fn exact_scales(bytes: &[u8], kind: FloatKind, count: usize) -> Result<Vec<f16>, GptqFault> {
    if bytes.len() != count * kind.size() {
        return fault("scales", format!("{} bytes instead of {count} {kind:?}", bytes.len()));
    }
    let exact = |bytes: &[u8]| {
        let value = kind.value(bytes);
        let scale = f16::from_f32(value);
        (scale.is_finite() && scale.to_f32() == value).then_some(scale)
    };
    let scales: Option<Vec<f16>> = bytes.chunks_exact(kind.size()).map(exact).collect();
    scales.map_or_else(|| fault("scales", "holds a number that is not a finite f16"), Ok)
}

fn nibble(word: u32, index: usize) -> u8 {
    (word >> (4 * index)) as u8 & 15
}

fn nibble_sum(word: u32) -> u32 {
    let pairs = (word & 0x0F0F_0F0F) + ((word >> 4) & 0x0F0F_0F0F);
    pairs.to_le_bytes().iter().map(|byte| u32::from(*byte)).sum()
}

#[cfg(test)]
mod tests;
