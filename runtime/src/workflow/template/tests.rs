use serde_json::json;

use super::*;

fn scope() -> Scope {
    let mut scope = Scope::new(&json!({ "base": "main", "count": 3, "deep": { "a": [1, 2] } }), "01RUN");
    scope.add_step("hunks", &json!([{ "text": "x", "lines": [4, 7] }]), FinalState::Succeeded);
    scope.add_step("look", &json!([{ "findings": [1, 2] }, null, { "findings": [3] }]), FinalState::Failed);
    scope.with_item(
        1,
        &json!({ "path": "src/a.rs", "lines": [4, 7], "none": null, "big": u64::MAX, "f": 0.5 }),
    )
}

use crate::run::event::FinalState;

#[track_caller]
fn check(text: &str, expected: Value) {
    assert_eq!(Templates::default().value(text, &scope()).unwrap(), expected, "{text}");
}

#[track_caller]
fn check_error(text: &str) -> String {
    let error = Templates::default().value(text, &scope()).unwrap_err();
    match error.hint {
        Some(hint) => format!("{}\nhint: {hint}", error.message),
        None => error.message,
    }
}

#[test]
fn one_expression_keeps_its_type() {
    check("{{ inputs.count }}", json!(3));
    check("{{ item.lines }}", json!([4, 7]));
    check(
        "{{ item }}",
        json!({ "path": "src/a.rs", "lines": [4, 7], "none": null, "big": u64::MAX, "f": 0.5 }),
    );
    check("{{ steps.look.output | length > 2 }}", json!(true));
    check("{{ [item.path] }}", json!(["src/a.rs"]));
    check("{{ {'a': inputs.count} }}", json!({ "a": 3 }));
    check("  {{- inputs.count -}}\n", json!(3));
    check("{{ index }}", json!(1));
    check("{{ run.id }}", json!("01RUN"));
    check("{{ steps.look.state }}", json!("failed"));
}

#[test]
fn other_text_becomes_text_with_values_as_json() {
    check("{{ inputs.count }}{{ inputs.count }}", json!("33"));
    check("lines {{ item.lines }} of {{ item.path }}", json!("lines [4,7] of src/a.rs"));
    check("{{ item.none }}!", json!("null!"));
    check("{% for line in item.lines %}{{ line }};{% endfor %}", json!("4;7;"));
}

#[test]
fn text_without_expressions_is_never_touched() {
    check("print(1)\n", json!("print(1)\n"));
    check("a } b { c", json!("a } b { c"));
    check("{{ inputs.base }}\n\n.\n", json!("main\n\n.\n"));
}

#[test]
fn what_is_filled_in_is_not_evaluated_again() {
    let scope = Scope::new(&json!({ "evil": "{{ run.id }} <b>" }), "01RUN");
    let templates = Templates::default();
    assert_eq!(templates.value("{{ inputs.evil }}.", &scope).unwrap(), json!("{{ run.id }} <b>."));
    assert_eq!(templates.value("{{ inputs.evil }}", &scope).unwrap(), json!("{{ run.id }} <b>"));
}

#[test]
fn lists_of_outputs_can_be_flattened() {
    check("{{ steps.look.output | compact | map(attribute='findings') | flatten }}", json!([1, 2, 3]));
    check("{{ [[1], none, [2, 3]] | flatten }}", json!([1, 2, 3]));
    check("{{ '[1, {\"a\": 2}]' | from_json }}", json!([1, { "a": 2 }]));
}

#[test]
fn a_name_without_a_value_is_an_error_that_names_it() {
    insta::assert_snapshot!(check_error("{{ inputs.bse }}"), @r"
    `inputs.bse` has no value: there is no `bse`
    hint: did you mean `base`?
    ");
    insta::assert_snapshot!(check_error("{{ item.pth.x }}"), @r"
    `item.pth.x` has no value: there is no `pth`
    hint: did you mean `path`?
    ");
    insta::assert_snapshot!(check_error("Look at {{ item.pth }} now"), @r"
    `item.pth` has no value: there is no `pth`
    hint: did you mean `path`?
    ");
    insta::assert_snapshot!(check_error("{{ steps.hunks.output[3] }}"), @r"
    `steps.hunks.output[3]` has no value
    hint: give it a value with `| default(...)`, or test it with `is defined`
    ");
    insta::assert_snapshot!(check_error("{{ 1 + nothing }}"), @"expression `1 + nothing` has no value: tried to use + operator on unsupported types number and undefined");
}

#[test]
fn an_expression_that_does_not_parse_is_an_error_that_shows_it() {
    insta::assert_snapshot!(check_error("{{ inputs. }}"), @"expression `{{ inputs. }}` does not parse: unexpected end of variable block, expected identifier or integer");
    insta::assert_snapshot!(check_error("a {% for x in %} b"), @"expression `a {% for x in %} b` does not parse: unexpected end of block");
    insta::assert_snapshot!(check_error("{{ inputs.count + item.lines }}"), @"expression `inputs.count + item.lines` has no value: tried to use + operator on unsupported types number and sequence");
}

#[test]
fn work_and_output_are_bounded() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    insta::assert_snapshot!(check_error(endless), @r"
    the template takes too much work
    hint: a loop in it is too long
    ");
    let huge = "{% for a in range(9999) %}{{ 'xxxxxxxxxx' * 9999 }}{% endfor %}";
    insta::assert_snapshot!(check_error(huge), @"the text would be longer than 8388608 bytes");
}

#[test]
fn names_are_found_without_a_run() {
    let names = Templates::default()
        .names("{{ steps.look.output }} {% for x in item.lines %}{{ x.y }}{{ range(2) }}{% endfor %}");
    assert_eq!(names.unwrap().into_iter().collect::<Vec<_>>(), ["item.lines", "steps.look.output"]);
}

#[test]
fn an_unknown_filter_is_found_without_a_run() {
    let error = Templates::default().names("{{ item | tojso }}").unwrap_err();
    assert_eq!(error.message, "there is no filter `tojso`");
    assert_eq!(error.hint.as_deref(), Some("did you mean `tojson`?"));
}

#[test]
fn data_is_filled_in_at_every_depth() {
    let yaml = "{ a: '{{ item.lines }}', b: [1, '{{ index }}'], c: { enum: '{{ [item.path] }}' }, d: text }";
    let data: At<Data> = serde_saphyr::from_str(yaml).unwrap();
    let filled = Templates::default().data(&data, &scope()).unwrap();
    assert_eq!(filled, json!({ "a": [4, 7], "b": [1, 1], "c": { "enum": ["src/a.rs"] }, "d": "text" }));
}

#[test]
fn an_error_in_data_has_the_place_of_its_field() {
    let data: At<Data> = serde_saphyr::from_str("a: 1\nb:\n  - '{{ nope }}'\n").unwrap();
    let error = Templates::default().data(&data, &scope()).unwrap_err();
    assert_eq!(error.position, Position { line: 3, column: 5 });
}
