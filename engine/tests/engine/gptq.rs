//! GPTQ checkpoints against a dequantiser written from the published layout.

use crate::folder::{Scheme, Tensor, TinyFolder, interleaved};
use crate::safetensors::rows;
use crate::tiny::Shape;
use chaski_engine::EngineError;
use chaski_engine::kernels::packed::Encoding;
use chaski_engine::model::{Checkpoint, Matrix};
use serde_json::json;

/// Wide enough for groups of 128, and not a multiple of 256.
fn shape() -> Shape {
    Shape {
        hidden: 384,
        feed_forward: 640,
        layers: 1,
        heads: 6,
        kv_heads: 2,
        vocabulary: 40,
        ..Shape::default()
    }
}

fn load(model: &TinyFolder) -> Result<Checkpoint, EngineError> {
    let folder = tempfile::tempdir().unwrap();
    model.write(folder.path());
    let checkpoint = Checkpoint::open(folder.path())?;
    checkpoint.check_tensors(&checkpoint.config()?)?;
    Ok(checkpoint)
}

/// Every matrix of the layer is what the formula says: exactly if symmetric, else up to the rounding of a minimum.
#[track_caller]
fn check(scheme: Scheme) {
    let model = TinyFolder::gptq(&shape(), &scheme);
    check_model(&model, &scheme)
}

#[track_caller]
fn check_model(model: &TinyFolder, scheme: &Scheme) {
    let checkpoint = load(model).unwrap();
    let matrices = [
        ("attn_q", "self_attn.q_proj", 384, 384),
        ("attn_k", "self_attn.k_proj", 128, 384),
        ("attn_v", "self_attn.v_proj", 128, 384),
        ("attn_output", "self_attn.o_proj", 384, 384),
        ("ffn_gate", "mlp.gate_proj", 640, 384),
        ("ffn_down", "mlp.down_proj", 384, 640),
    ];
    for (ours, theirs, outputs, inputs) in matrices {
        let mut expected = scheme.dequantise(model, &format!("model.layers.0.{theirs}"));
        if matches!(ours, "attn_q" | "attn_k") {
            expected = interleaved(&expected, 64, inputs);
        }
        let matrix = checkpoint.matrix(&format!("blk.0.{ours}"), outputs, inputs).unwrap();
        assert_eq!(matrix.permutation().is_some(), scheme.scattered && scheme.group > 0, "{scheme:?}");
        let Matrix::Packed(packed) = &matrix else { panic!("quants stay quants") };
        let encoding = if scheme.symmetric { Encoding::Four } else { Encoding::FourMin };
        assert_eq!(packed.encoding(), encoding);
        let largest = expected.iter().fold(0f32, |largest, weight| largest.max(weight.abs()));
        let within = if scheme.symmetric { 0.0 } else { largest / 8.0 / 256.0 };
        for (found, expected) in rows(&matrix).iter().zip(&expected) {
            assert!((found - expected).abs() <= within, "{scheme:?} `{ours}`: {found} is not {expected}");
        }
    }
}

#[test]
fn every_group_size_in_and_out_of_order() {
    for group in [32, 64, 128, -1] {
        for scattered in [false, true] {
            check(Scheme { group, scattered, ..Scheme::default() });
        }
    }
}

#[test]
fn files_without_an_order_of_inputs() {
    check(Scheme { g_idx: false, ..Scheme::default() });
    check(Scheme { g_idx: false, group: -1, ..Scheme::default() });
}

/// With static groups the inputs were quantised in another order, but groups are of neighbours.
#[test]
fn static_groups_need_no_order() {
    let scheme = Scheme { group: 64, ..Scheme::default() };
    let mut model = TinyFolder::gptq(&shape(), &scheme);
    model.config["quantization_config"]["desc_act"] = json!(true);
    model.config["quantization_config"]["static_groups"] = json!(true);
    check_model(&model, &scheme);
}

#[test]
fn both_versions_whatever_the_label_says() {
    for version in [1, 2] {
        for label in ["gptq", "gptq_v2"] {
            for symmetric in [true, false] {
                check(Scheme { version, label, symmetric, ..Scheme::default() });
                check(Scheme { version, label, symmetric, group: 128, scattered: true, ..Scheme::default() });
            }
        }
    }
}

#[test]
fn settings_may_lie_in_a_file_of_their_own_or_be_absent() {
    let scheme = Scheme::default();
    let mut model = TinyFolder::gptq(&shape(), &scheme);
    let settings = model.config.as_object_mut().unwrap().remove("quantization_config").unwrap();
    check_model(&model, &scheme);
    let folder = tempfile::tempdir().unwrap();
    model.write(folder.path());
    let mut wrong = settings;
    wrong["bits"] = json!(8);
    std::fs::write(folder.path().join("quantize_config.json"), wrong.to_string()).unwrap();
    let error = Checkpoint::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("GPTQ with 8 bits is not supported"), "{error}");
}

/// What loading says when the settings are changed.
#[track_caller]
fn refused(settings: serde_json::Value, expected: &str) {
    let mut model = TinyFolder::gptq(&shape(), &Scheme::default());
    let entries = model.config["quantization_config"].as_object_mut().unwrap();
    entries.extend(settings.as_object().unwrap().clone());
    says(&model, expected)
}

/// What opening, checking or reading all matrices says.
#[track_caller]
fn says(model: &TinyFolder, expected: &str) {
    let read = load(model).and_then(|checkpoint| {
        checkpoint.matrix("blk.0.attn_v", 128, 384)?;
        checkpoint.matrix("blk.0.ffn_down", 384, 640)
    });
    let error = read.err().expect("the model is bad").to_string();
    assert!(error.contains(expected), "`{error}` does not say `{expected}`");
}

#[test]
fn settings_that_are_not_supported_are_refused() {
    refused(json!({ "bits": 3 }), "GPTQ with 3 bits is not supported");
    refused(json!({ "bits": null }), "do not say how many `bits`");
    refused(json!({ "group_size": 48 }), "`group_size` is 48");
    refused(json!({ "group_size": 0 }), "`group_size` is 0");
    refused(json!({ "group_size": 64 }), "`model.layers.0.self_attn.q_proj.scales` has groups of 32 inputs");
    refused(json!({ "checkpoint_format": "marlin" }), "`checkpoint_format` is `marlin`");
    refused(json!({ "pack_dtype": "int16" }), "`pack_dtype` is `int16`");
    refused(json!({ "dynamic": { "-:.*down.*": {} } }), "other settings for some matrices");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let down = "model.layers.0.mlp.down_proj";
    let mut model = TinyFolder::gptq(&shape(), &Scheme::default());
    model.tensors.retain(|tensor| tensor.name != format!("{down}.scales"));
    model.tensor_mut(&format!("{down}.g_idx")).shape = vec![640, 1];
    says(&model, "tensor `model.layers.0.mlp.down_proj.scales` is missing");
    says(&model, "tensor `model.layers.0.mlp.down_proj.g_idx` has the shape [640, 1]");

    let change = |part: &str, change: &dyn Fn(&mut Tensor), expected: &str| {
        let mut model = TinyFolder::gptq(&shape(), &Scheme::default());
        change(model.tensor_mut(&format!("{down}.{part}")));
        says(&model, &format!("tensor `{down}.{part}` {expected}"));
    };
    change("qweight", &|tensor| tensor.dtype = "F32", "is stored as F32");
    change(
        "qzeros",
        &|tensor| tensor.shape.reverse(),
        "has the shape [48, 20], 4-bit GPTQ calls for [20, 48]",
    );
    change("scales", &|tensor| tensor.dtype = "I16", "is stored as I16");
}

#[test]
fn contents_that_make_no_sense_are_named() {
    let down = "model.layers.0.mlp.down_proj";
    let set = |part: &str, at: usize, bytes: &[u8], expected: &str| {
        let mut model = TinyFolder::gptq(&shape(), &Scheme::default());
        let tensor = model.tensor_mut(&format!("{down}.{part}"));
        tensor.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        says(&model, &format!("tensor `{down}.{part}`: {expected}"));
    };
    set("scales", 2, &half::f16::NAN.to_le_bytes(), "holds a number that is not a finite f16");
    set("g_idx", 8, &20u32.to_le_bytes(), "puts input 2 into group 20 of 20");
    set("g_idx", 8, &(-1i32).to_le_bytes(), "puts input 2 into group 4294967295 of 20");
    set("g_idx", 8, &5u32.to_le_bytes(), "puts 31 inputs into group 0, groups have 32");
}

#[test]
fn the_head_may_be_quantised_too() {
    let scheme = Scheme::default();
    let mut model = TinyFolder::gptq(&shape(), &scheme);
    let head = model.tensor("lm_head.weight").clone();
    model.tensors.retain(|tensor| tensor.name != "lm_head.weight");
    model.tensors.extend(scheme.quantise("lm_head", &head));
    let matrix = load(&model).unwrap().matrix("output", 40, 384).unwrap();
    assert_eq!(rows(&matrix), scheme.dequantise(&model, "lm_head"));
}
