//! What a workflow file may say, and what its author is told otherwise.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::json;

use super::*;
use crate::tools::{CallContext, Effect, Tool, ToolDefinition, ToolResult};

/// A tool that only lends its name and schema.
struct Named(ToolDefinition);

impl Tool for Named {
    fn definition(&self) -> &ToolDefinition {
        &self.0
    }

    fn call<'a>(&'a self, _arguments: Value, _context: CallContext) -> BoxFuture<'a, ToolResult> {
        unreachable!("a check runs no tool")
    }
}

fn tools() -> ToolRegistry {
    let mut registry = ToolRegistry::default();
    for name in ["git.diff", "git.log", "git.push", "workspace.read"] {
        registry.insert(Arc::new(Named(ToolDefinition {
            name: name.into(),
            description: "For tests.".into(),
            input_schema: json!({
                "type": "object",
                "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}},
                "required": ["path"],
                "additionalProperties": false,
            }),
            output_schema: None,
            effect: if name == "git.push" { Effect::Effectful } else { Effect::Pure },
        })));
    }
    registry
}

/// What is wrong with `yaml`, which begins after the workflow's version and name.
fn faults(yaml: &str, tools: Option<&ToolRegistry>) -> Result<Plan, InvalidWorkflow> {
    let text = format!("version: 1\nname: test\n{yaml}\n");
    super::check(&Workflow::parse(Path::new("test.yaml"), text)?, tools)
}

/// The faults of `yaml`, each followed by its hint; none when it is valid.
#[track_caller]
fn check(yaml: &str, expected: &[&str]) {
    let found = faults(yaml, Some(&tools())).err().map_or(Vec::new(), |error| error.faults);
    let found: Vec<String> =
        found.into_iter().flat_map(|fault| [Some(fault.message), fault.hint]).flatten().collect();
    assert_eq!(found, expected);
}

/// What a person reads about `yaml`.
#[track_caller]
fn shown(yaml: &str) -> String {
    let error = faults(yaml, Some(&tools())).expect_err("it is not valid");
    let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("{error}{hint}")
}

#[test]
fn a_workflow_without_faults_becomes_a_plan_with_its_order() {
    let yaml = "
agents: { reviewer: { instructions: 'Be brief.', tools: [workspace.*] } }
steps:
  - { id: a, tool: git.diff, with: { path: x } }
  - { id: b, tool: git.log, needs: [], with: { path: x } }
  - { id: c, agent: reviewer, needs: [a, b], prompt: '{{ steps.a.output }} {{ steps.b.output }}' }
outputs: { all: '{{ steps.c.output }}' }";
    let plan = faults(yaml, Some(&tools())).expect("it is valid");
    assert_eq!(plan.needs, [vec![], vec![], vec![0, 1]]);
    assert_eq!(plan.shapes, [Shape::Text, Shape::Text, Shape::Text]);
    assert_eq!(plan.instructions["reviewer"], "Be brief.");
    assert_eq!(plan.plugins(), ["git", "workspace"]);
    assert!(plan.needs_model());
}

#[test]
fn a_tool_that_no_plugin_exports_is_shown_with_its_place_and_the_closest_name() {
    insta::assert_snapshot!(shown("steps:\n  - id: collect\n    tool: git.dif\n    with: { path: x }"), @r"
    workflow `test.yaml` is not valid
      step `collect` (line 5, column 11): no loaded plugin exports the tool `git.dif`
        5 |     tool: git.dif
          |           ^
    hint: did you mean `git.diff`? `chaski plugin list` shows every tool
    ");
}

#[test]
fn an_unknown_key_is_shown_with_its_place_and_the_closest_key() {
    insta::assert_snapshot!(shown("steps:\n  - id: look\n    forech: [1, 2]"), @r"
    workflow `test.yaml` is not valid
      line 5, column 5: unknown key `forech`
        5 |     forech: [1, 2]
          |     ^
    hint: did you mean `foreach`?
    ");
}

#[test]
fn a_step_that_has_not_ended_is_shown_with_its_place() {
    let yaml = "
steps:
  - { id: first, tool: git.diff, with: { path: '{{ steps.second.output }}' } }
  - { id: second, tool: git.log, with: { path: x } }";
    insta::assert_snapshot!(shown(yaml), @r"
    workflow `test.yaml` is not valid
      step `first` (line 5, column 48): the step `second` has not ended by then
        5 |   - { id: first, tool: git.diff, with: { path: '{{ steps.second.output }}' } }
          |                                                ^
    hint: a step sees those that it waits for
    ");
}

#[test]
fn every_fault_is_shown_at_once_in_the_order_of_the_file() {
    let yaml = "
inputs:
  base: { type: integer, default: main }
agents:
  reviewer: { instructions: { file: nope.md } }
steps:
  - id: look
    agent: reviwer
    prompt: '{{ inputs.bse }}'
    parallel: 65
outputs:
  all: '{{ steps.lok.output }}'";
    insta::assert_snapshot!(shown(yaml), @r"
    workflow `test.yaml` is not valid
      input `base` (line 5, column 35): the value is not of its type, `integer`
        5 |   base: { type: integer, default: main }
          |                                   ^
      agent `reviewer` (line 7, column 37): `./nope.md` cannot be read: No such file or directory (os error 2)
        7 |   reviewer: { instructions: { file: nope.md } }
          |                                     ^
      step `look` (line 10, column 12): there is no agent `reviwer`
        10 |     agent: reviwer
           |            ^
        hint: did you mean `reviewer`?
      step `look` (line 11, column 13): there is no input `bse`
        11 |     prompt: '{{ inputs.bse }}'
           |             ^
        hint: did you mean `inputs.base`?
      step `look` (line 12, column 15): `parallel` is 65, it must be from 1 to 64
        12 |     parallel: 65
           |               ^
      step `look` (line 12, column 15): `parallel` means nothing without `foreach`
        12 |     parallel: 65
           |               ^
      output `all` (line 14, column 8): there is no step `lok`
        14 |   all: '{{ steps.lok.output }}'
           |        ^
        hint: did you mean `steps.look`?
    ");
}

#[test]
fn keys_of_a_later_version_are_refused() {
    check("steps: [{ id: a, approve: true }]", &["`approve` is not supported yet"]);
    check("on: { schedule: daily }\nsteps: []", &["`on` is not supported yet"]);
}

#[test]
fn a_workflow_needs_steps() {
    check("steps: []", &["the workflow has no steps"]);
}

#[test]
fn a_step_has_either_an_agent_or_a_tool() {
    let agents = "agents: { a: {} }\nsteps:";
    check("steps: [{ id: a }]", &["it has neither an `agent` nor a `tool`"]);
    check(
        &format!("{agents} [{{ id: a, agent: a, tool: git.log, prompt: x }}]"),
        &["it has both an `agent` and a `tool`; make two steps of it"],
    );
    check(&format!("{agents} [{{ id: a, agent: a }}]"), &["an agent needs a `prompt`"]);
    check(
        &format!("{agents} [{{ id: a, agent: a, prompt: x, with: {{ path: x }} }}]"),
        &["`with` goes with a `tool`; an agent takes a `prompt`"],
    );
    check(
        "steps: [{ id: a, tool: git.log, prompt: x, output: { schema: { type: object } }, with: { path: x } }]",
        &[
            "`prompt` goes with an `agent`; a tool takes arguments in `with`",
            "`output` goes with an `agent`; a tool has its own output",
        ],
    );
}

#[test]
fn a_step_has_an_id_of_its_own() {
    check(
        "steps: [{ id: a, tool: git.log, with: { path: x } }, { id: a, tool: git.log, with: { path: x } }]",
        &["another step has this id already"],
    );
    check(
        "steps: [{ id: a b, tool: git.log, with: { path: x } }]",
        &["a step's id has letters, digits and `_`, and begins with a letter"],
    );
    check(
        "steps: [{ id: a-b, tool: git.log, with: { path: x } }]",
        &["a step's id has letters, digits and `_`, and begins with a letter"],
    );
}

#[test]
fn steps_wait_only_for_steps_that_exist_and_never_in_a_circle() {
    let step = |id: &str, needs: &str| {
        format!("{{ id: {id}, needs: [{needs}], tool: git.log, with: {{ path: x }} }}")
    };
    check(
        &format!("steps: [{}, {}]", step("look", ""), step("sum", "lok")),
        &["there is no step `lok`", "did you mean `look`?"],
    );
    let circle = "it waits for itself, by way of its `needs`";
    check(&format!("steps: [{}]", step("a", "a")), &[circle]);
    // `d` waits for the circle without being in it.
    let steps = [step("a", "c"), step("b", "a"), step("c", "b"), step("d", "c")];
    check(&format!("steps: [{}]", steps.join(", ")), &[circle; 3]);
}

#[test]
fn an_expression_uses_only_names_that_are_known_by_then() {
    let agents = "inputs: { base: {} }\nagents: { a: {} }\nsteps:";
    let prompt = |prompt: &str| format!("{agents} [{{ id: a, agent: a, prompt: '{prompt}' }}]");
    check(&prompt("{{ inputs.bas }}"), &["there is no input `bas`", "did you mean `inputs.base`?"]);
    check(&prompt("{{ inputs.x }}"), &["there is no input `x`", "declare it under `inputs`"]);
    check(&prompt("{{ steps.x.output }}"), &["there is no step `x`", "a step sees those that it waits for"]);
    check(
        &prompt("{{ steps.a.output }}"),
        &["the step `a` has not ended by then", "a step sees those that it waits for"],
    );
    check(&prompt("{{ input.base }}"), &["`input` is not known here", "did you mean `inputs`?"]);
    check(&prompt("{{ run.id }} {{ inputs.base }}"), &[]);
}

#[test]
fn item_and_index_are_known_inside_of_foreach_only() {
    check(
        "steps: [{ id: a, tool: git.log, with: { path: '{{ item }}' } }]",
        &["`item` is not known here", "known are `inputs`, `run`, `steps`"],
    );
    check(
        "steps: [{ id: a, foreach: [x], tool: git.log, with: { path: '{{ item }}', lines: '{{ index }}' } }]",
        &[],
    );
    check(
        "steps: [{ id: a, foreach: '{{ item }}', tool: git.log, with: { path: x } }]",
        &["`item` is not known here", "known are `inputs`, `run`, `steps`"],
    );
    check(
        "agents: { a: { instructions: '{{ steps.a.output }}' } }\nsteps: [{ id: a, agent: a, prompt: x }]",
        &["`steps` is not known here", "known are `inputs`, `run`"],
    );
}

#[test]
fn a_step_that_declares_needs_does_not_see_the_one_before_it() {
    check(
        "
steps:
  - { id: a, tool: git.diff, with: { path: x } }
  - { id: b, needs: [], tool: git.log, with: { path: '{{ steps.a.output }}' } }",
        &["the step `a` has not ended by then", "a step sees those that it waits for"],
    );
}

#[test]
fn an_agent_is_declared_and_its_files_are_there() {
    check(
        "agents: { reviewer: {} }\nsteps: [{ id: a, agent: reviewr, prompt: x }]",
        &["there is no agent `reviewr`", "did you mean `reviewer`?"],
    );
    check(
        "agents: { a: { instructions: { file: nope.md } } }\nsteps: [{ id: a, agent: a, prompt: x }]",
        &["`./nope.md` cannot be read: No such file or directory (os error 2)"],
    );
    check(
        "agents: { a: { limits: { turns: 0, reply_tokens: 0 } } }\nsteps: [{ id: a, agent: a, prompt: x }]",
        &["`turns` is 0, it must be at least 1", "`reply_tokens` is 0, it must be at least 1"],
    );
}

#[test]
fn instructions_come_from_a_file_next_to_the_workflow() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("a.md"), "Read {{ inputs.base }}.").expect("it is writable");
    let yaml = "
version: 1
name: test
inputs: { base: {} }
agents: { a: { instructions: { file: a.md } } }
steps: [{ id: a, agent: a, prompt: x }]";
    let workflow = Workflow::parse(&folder.path().join("test.yaml"), yaml).expect("it can be read");
    let plan = super::check(&workflow, None).expect("it is valid");
    assert_eq!(plan.instructions["a"], "Read {{ inputs.base }}.");
}

#[test]
fn an_output_schema_is_a_json_schema() {
    let step = |schema: &str| {
        format!(
            "agents: {{ a: {{}} }}\nsteps: [{{ id: a, agent: a, prompt: x, output: {{ schema: {schema} }} }}]"
        )
    };
    check(&step("{ type: object, properties: { line: { enum: '{{ [1, 2] }}' } } }"), &[]);
    check(&step("nope.json"), &["`./nope.json` cannot be read: No such file or directory (os error 2)"]);
    check(
        &step("{ type: objekt }"),
        &[
            r#"the schema is no JSON Schema: "objekt" is not valid under any of the schemas listed in the 'anyOf' keyword"#,
        ],
    );
    check(
        &step("{ enum: '{{ item }}' }"),
        &["`item` is not known here", "known are `inputs`, `run`, `steps`"],
    );
}

#[test]
fn tools_are_named_by_plugin_and_tool() {
    let agent = |tool: &str| {
        format!("agents: {{ a: {{ tools: [{tool}] }} }}\nsteps: [{{ id: a, agent: a, prompt: x }}]")
    };
    check(&agent("git.*"), &[]);
    check(
        &agent("gti.*"),
        &["no loaded plugin exports the tool `gti.*`", "`chaski plugin list` shows every tool"],
    );
    check(
        &agent("read"),
        &["`read` is not a tool's name", "tools are named `plugin.tool`, or `plugin.*` for all of a plugin"],
    );
}

#[test]
fn a_step_calls_one_tool_rather_than_a_pattern() {
    check(
        "steps: [{ id: a, tool: git.*, with: { path: x } }]",
        &[
            "a step calls one tool, and `git.*` stands for all of a plugin",
            "name the tool, as in `plugin.tool`",
        ],
    );
}

#[test]
fn without_the_tools_at_hand_their_names_are_not_judged() {
    assert!(faults("steps: [{ id: a, tool: git.dif, with: { pth: x } }]", None).is_ok());
}

#[test]
fn arguments_are_those_that_the_tool_has() {
    let step = |with: &str| format!("steps: [{{ id: a, tool: git.log, with: {{ {with} }} }}]");
    check(&step("path: x, lines: 3"), &[]);
    check(&step("path: x, line: 3"), &["the tool `git.log` has no argument `line`", "did you mean `lines`?"]);
    check(
        &step("path: x, depth: 3"),
        &["the tool `git.log` has no argument `depth`", "its arguments are `path`, `lines`"],
    );
    check(&step("lines: 3"), &["the tool `git.log` needs the argument `path`"]);
    check("steps: [{ id: a, tool: git.log }]", &["the tool `git.log` needs the argument `path`"]);
}

#[test]
fn inputs_have_values_of_their_type() {
    let input = |spec: &str| {
        format!("inputs: {{ a: {{ {spec} }} }}\nsteps: [{{ id: a, tool: git.log, with: {{ path: x }} }}]")
    };
    check(&input("type: integer, default: 3"), &[]);
    check(&input("type: number, default: 3"), &[]);
    check(&input("default: a, enum: [a, b]"), &[]);
    check(&input("type: integer, default: main"), &["the value is not of its type, `integer`"]);
    check(&input("type: boolean, default: 'true'"), &["the value is not of its type, `boolean`"]);
    check(&input("default: 3"), &["the value is not of its type, `string`"]);
    check(&input("type: integer, enum: [1, two]"), &["the value is not of its type, `integer`"]);
    check(&input("default: '{{ run.id }}'"), &["the value is not of its type, `string`"]);
    check(&input("default: c, enum: [a, b]"), &["the default is not among the values of its `enum`"]);
}

#[test]
fn repetition_and_parallelism_are_bounded() {
    let step = |more: &str| format!("steps: [{{ id: a, tool: git.log, with: {{ path: x }}, {more} }}]");
    check(&step("foreach: [1], parallel: 64"), &[]);
    check(&step("foreach: [1], parallel: 65"), &["`parallel` is 65, it must be from 1 to 64"]);
    check(&step("foreach: [1], parallel: 0"), &["`parallel` is 0, it must be from 1 to 64"]);
    check(&step("parallel: 2"), &["`parallel` means nothing without `foreach`"]);
    check(&step("retry: { max: 10 }"), &[]);
    check(&step("retry: { max: 11 }"), &["`max` is 11, it must be from 1 to 10"]);
    check(&step("retry: { max: 0 }"), &["`max` is 0, it must be from 1 to 10"]);
}

#[test]
fn roots_are_folders_with_plain_names() {
    let root =
        |root: &str| format!("roots: {{ {root} }}\nsteps: [{{ id: a, tool: git.log, with: {{ path: x }} }}]");
    check(&root("here: { path: . }"), &[]);
    check(&root("here: { path: nope }"), &["`./nope` is not a folder"]);
    check(&root("He/re: { path: . }"), &["a root's name has lower-case letters, digits and `-`"]);
}

#[test]
fn an_expression_that_cannot_work_is_found_without_a_run() {
    let step = |path: &str| format!("steps: [{{ id: a, tool: git.log, with: {{ path: \"{path}\" }} }}]");
    check(&step("{{ run.id | lowr }}"), &["there is no filter `lowr`", "did you mean `lower`?"]);
}

#[test]
fn a_step_has_an_output_and_a_state() {
    let step = |text: &str| {
        format!(
            "steps: [{{ id: a, tool: git.log, with: {{ path: x }} }}, \
             {{ id: b, tool: git.log, with: {{ path: '{text}' }} }}]"
        )
    };
    check(&step("{{ steps.a.output.x }} {{ steps.a.state }} {{ steps.a }}"), &[]);
    check(
        &step("{{ steps.a.outptu.x }}"),
        &["a step has `output` and `state`, and no `outptu`", "did you mean `output`?"],
    );
    check(&step("{{ run.name }}"), &["a run has an `id`, and no `name`", "write `run.id`"]);
}

#[test]
fn constant_arguments_fit_the_schema_of_the_tool() {
    let step = |with: &str| format!("steps: [{{ id: a, tool: git.log, with: {{ {with} }} }}]");
    check(&step("path: x, lines: '{{ 1 }}'"), &[]);
    check(&step("path: x, lines: many"), &[r#"`lines`: "many" is not of type "integer""#]);
}

#[test]
fn sampling_has_its_ranges() {
    let agent = |sampling: &str| {
        format!(
            "agents: {{ a: {{ sampling: {{ {sampling} }} }} }}\nsteps: [{{ id: a, agent: a, prompt: x }}]"
        )
    };
    check(&agent("temperature: 0.7, top_p: 1, min_p: 0, repetition_penalty: 1.1, top_k: 0, seed: 3"), &[]);
    check(&agent("temperature: -1"), &["`temperature` is -1, it must be at least 0"]);
    check(&agent("top_p: 0"), &["`top_p` is 0, it must be above 0 and at most 1"]);
    check(&agent("min_p: 1"), &["`min_p` is 1, it must be at least 0 and below 1"]);
    check(
        "sampling: { repetition_penalty: 0 }\nsteps: [{ id: a, tool: git.log, with: { path: x } }]",
        &["`repetition_penalty` is 0, it must be above 0"],
    );
}

#[test]
fn a_call_that_changes_something_is_not_repeated() {
    check(
        "steps: [{ id: a, tool: git.push, with: { path: x }, retry: { max: 1 } }]",
        &[
            "`git.push` may change something each time it is called",
            "a call that failed may have worked: leave `retry` out",
        ],
    );
}

#[test]
fn a_fault_in_a_block_of_text_shows_its_own_line() {
    let yaml = "
agents: { a: {} }
steps:
  - id: a
    agent: a
    prompt: |
      First line.
      {{ run. }}
";
    insta::assert_snapshot!(shown(yaml), @r"
    workflow `test.yaml` is not valid
      step `a` (line 10, column 7): expression `{{ run. }}` does not parse: unexpected end of variable block, expected identifier or integer
        10 |       {{ run. }}
           |       ^
    ");
}
