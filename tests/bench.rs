//! `chaski bench` measures what it says it measures.

use serde_json::Value;

use crate::support::Chaski;

/// The report of a run in its smallest form.
fn report(arguments: &[&str]) -> Value {
    let smallest = ["--prompt", "40", "--tokens", "4", "--depth", "0,33", "--batch", "2", "--turns", "2"];
    let replies = ["--result-tokens", "40", "--reply-tokens", "4", "--repeat", "2"];
    let (code, output, errors) =
        Chaski::new().run(&[&["bench", "--json"], arguments, &smallest, &replies].concat());
    assert_eq!(code, 0, "{errors}");
    serde_json::from_str(&output).expect("JSON")
}

#[test]
fn every_measurement_gives_numbers() {
    let report = report(&[]);
    let results = report["results"].as_array().expect("a list");
    let names: Vec<&str> = results.iter().filter_map(|result| result["name"].as_str()).collect();
    assert_eq!(names, ["load", "prefill/40", "decode/4@0", "decode/4@33", "batch/4x2", "agent/2"]);
    for result in results {
        let number = |key: &str| result[key].as_f64().expect("a number");
        assert!(0.0 < number("least") && number("least") <= number("median"), "{result}");
        assert!(number("median") <= number("most") && number("most").is_finite(), "{result}");
        assert_eq!(result["samples"].as_array().map(Vec::len), Some(2), "{result}");
    }
    // The second turn finds what the first computed.
    let prompts = &results[5]["details"]["prompts"];
    assert!(prompts[0]["cached_tokens"].as_u64() > Some(0), "{prompts}");
    assert_eq!(report["model"]["name"], "smollm2-135m-instruct");
    assert!(report["machine"]["device"]["threads"].as_u64() > Some(0));
    assert!(report["settings"]["threads"].as_u64() > Some(0));
}

#[test]
fn one_measurement_may_be_asked_for() {
    let report = report(&["prefill", "--threads", "1"]);
    assert_eq!(report["results"].as_array().map(Vec::len), Some(1));
    assert_eq!(report["settings"]["threads"], 1);
}
