use serde_json::json;

use super::*;

/// The rotary scaling and the context of a model trained with 8,192 tokens, or its faults.
fn rope(rules: Value) -> Result<(RopeScaling, usize), String> {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 100, "max_position_embeddings": 8192, "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
    });
    config.as_object_mut().expect("an object").extend(rules.as_object().expect("an object").clone());
    let mut reader = Reader { json: config.as_object().expect("an object"), faults: Vec::new() };
    let llama = reader.llama();
    match reader.faults.is_empty() {
        true => Ok((llama.rope_scaling, llama.context)),
        false => Err(reader.faults.join("; ")),
    }
}

#[track_caller]
fn check(rules: Value, expected: RopeScaling, context: usize) {
    assert_eq!(rope(json!({ "rope_scaling": rules })), Ok((expected, context)));
}

#[track_caller]
fn refused(rules: Value, expected: &str) {
    let faults = rope(json!({ "rope_scaling": rules })).expect_err(expected);
    assert!(faults.contains(expected), "`{faults}` does not say `{expected}`");
}

#[test]
fn no_scaling() {
    check(Value::Null, RopeScaling::None, 8192);
    check(json!({ "rope_type": "default" }), RopeScaling::None, 8192);
    check(json!({ "type": "linear", "factor": 1.0 }), RopeScaling::None, 8192);
}

#[test]
fn the_kind_stands_under_an_older_or_a_newer_key() {
    check(json!({ "type": "linear", "factor": 2.0 }), RopeScaling::Linear { factor: 2.0 }, 8192);
    check(json!({ "rope_type": "linear", "factor": 2 }), RopeScaling::Linear { factor: 2.0 }, 8192);
}

#[test]
fn newest_files_keep_the_base_with_the_scaling() {
    let rules = json!({ "rope_theta": 123.0, "rope_type": "linear", "factor": 4.0 });
    let found = rope(json!({ "rope_theta": null, "rope_parameters": rules }));
    assert_eq!(found, Ok((RopeScaling::Linear { factor: 4.0 }, 8192)));
    let config = json!({ "rope_parameters": { "rope_theta": 123.0 } });
    let mut reader = Reader { json: config.as_object().expect("an object"), faults: Vec::new() };
    assert_eq!(reader.rope(8192), (123.0, RopeScaling::None));
}

#[test]
fn dynamic_scaling_reaches_as_far_as_its_factor() {
    let expected = RopeScaling::DynamicNtk { factor: 4.0, original_context: 8192 };
    check(json!({ "type": "dynamic", "factor": 4.0 }), expected, 32_768);
}

#[test]
fn yarn_reads_every_number() {
    check(json!({ "type": "yarn", "factor": 4.0 }), RopeScaling::Yarn(YarnScaling::new(4.0, 8192)), 32_768);
    let yarn = YarnScaling {
        beta_fast: 16.0,
        beta_slow: 2.0,
        attention_factor: 1.5,
        truncate: false,
        ..YarnScaling::new(8.0, 4096)
    };
    let rules = json!({
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096, "beta_fast": 16,
        "beta_slow": 2, "attention_factor": 1.5, "truncate": false,
    });
    check(rules, RopeScaling::Yarn(yarn), 32_768);
}

#[test]
fn yarn_may_give_its_attention_factor_as_two_scales() {
    let rules = json!({ "rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.5 });
    let Ok((RopeScaling::Yarn(yarn), _)) = rope(json!({ "rope_scaling": rules })) else { panic!("YaRN") };
    let expected = (0.1 * 40f64.ln() + 1.0) / (0.05 * 40f64.ln() + 1.0);
    assert!((f64::from(yarn.attention_factor) - expected).abs() < 1e-6);
}

#[test]
fn llama3_reads_every_number() {
    let rules = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 4.0,
        original_context: 8192,
    };
    check(rules, expected, 8192);
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    refused(json!({ "type": "longrope", "factor": 4.0 }), "rotary scaling `longrope` is not supported");
    refused(json!({ "type": "yarn" }), "rotary scaling `yarn` has no `factor`");
    refused(json!({ "type": "yarn", "factor": 0.5 }), "has numbers that make no sense");
    refused(json!({ "type": "dynamic", "factor": 1e30 }), "has numbers that make no sense");
    refused(
        json!({ "rope_type": "llama3", "factor": 8.0 }),
        "rotary scaling `llama3` has no `low_freq_factor`",
    );
    refused(
        json!({ "type": "yarn", "factor": 2.0, "original_max_position_embeddings": -1 }),
        "`original_max_position_embeddings` must be a number",
    );
}
