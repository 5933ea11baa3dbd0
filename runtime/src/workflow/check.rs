//! Everything about a workflow that can be found wrong without running it, all at once.
//!
//! Needs no model, no network and no plugin. With the tools at hand, their names and arguments are checked too.

mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::fault::{Fault, InvalidWorkflow};
use super::plan::{Plan, Shape};
use super::read::{MAX_FILE_BYTES, Workflow};
use super::schema::{At, Data, InputSpec, InputType, Instructions, PermissionsSpec, Position, WorkflowStep};
use super::template::{Templates, is_template};
use crate::agent::skills::Skill;
use crate::suggest::closest;
use crate::tools::ToolRegistry;
use crate::tools::permission::Pattern;

/// Most items of one step that run at the same time.
const MAX_PARALLEL: usize = 64;
/// Most repetitions of one step.
const MAX_RETRIES: usize = 10;

/// Checks `workflow`; `tools` are those that its run will have, if they are loaded already.
///
/// # Errors
/// [`InvalidWorkflow`] with every fault found.
pub fn check(workflow: &Workflow, tools: Option<&ToolRegistry>) -> Result<Plan, InvalidWorkflow> {
    let folder = workflow.path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut check = Check { workflow, folder, tools, templates: Templates::default(), faults: Vec::new() };
    check.inputs();
    check.roots();
    check.sampling("sampling", &workflow.spec.sampling);
    check.permissions("permissions", &workflow.spec.permissions);
    let instructions = check.agents();
    let needs = check.order();
    let shapes = check.steps(&needs);
    check.outputs();
    match check.faults.is_empty() {
        true => {
            Ok(Plan { workflow: workflow.clone(), folder: folder.to_owned(), instructions, needs, shapes })
        }
        false => Err(InvalidWorkflow::new(&workflow.path, &workflow.text, check.faults)),
    }
}

/// Whether `value` has the type that an input declares.
pub fn fits(kind: InputType, value: &Value) -> bool {
    match kind {
        InputType::String => value.is_string(),
        InputType::Integer => value.is_i64() || value.is_u64(),
        InputType::Number => value.is_number(),
        InputType::Boolean => value.is_boolean(),
    }
}

/// The type as it is written in the file.
fn type_name(kind: InputType) -> &'static str {
    match kind {
        InputType::String => "string",
        InputType::Integer => "integer",
        InputType::Number => "number",
        InputType::Boolean => "boolean",
    }
}

struct Check<'a> {
    workflow: &'a Workflow,
    folder: &'a Path,
    tools: Option<&'a ToolRegistry>,
    templates: Templates,
    faults: Vec<Fault>,
}

impl Check<'_> {
    fn fault(&mut self, part: &str, position: Position, message: impl Into<String>) {
        self.faults.push(Fault::new(part, position, message));
    }

    fn inputs(&mut self) {
        for (name, InputSpec { kind, default, allowed, .. }) in self.workflow.spec.inputs.iter() {
            let part = format!("input `{}`", name.value);
            if !is_identifier(&name.value) {
                self.fault(&part, name.position, format!("an input's name {IDENTIFIER}"));
            }
            for value in default.iter().chain(allowed.iter().flatten()) {
                match value.value.constant() {
                    Some(constant) if fits(*kind, &constant) => {}
                    _ => {
                        let message = format!("the value is not of its type, `{}`", type_name(*kind));
                        self.fault(&part, value.position, message);
                    }
                }
            }
            let constant = default.as_ref().and_then(|default| default.value.constant());
            if let (Some(default), Some(constant), Some(allowed)) = (default, constant, allowed)
                && !allowed.iter().any(|value| value.value.constant().as_ref() == Some(&constant))
            {
                self.fault(&part, default.position, "the default is not among the values of its `enum`");
            }
        }
    }

    fn roots(&mut self) {
        for (name, root) in self.workflow.spec.roots.iter() {
            let part = format!("root `{}`", name.value);
            let path = self.folder.join(&root.path.value);
            if !crate::plugins::manifest::is_name(&name.value) {
                self.fault(&part, name.position, "a root's name has lower-case letters, digits and `-`");
            }
            if !path.is_dir() {
                self.fault(&part, root.path.position, format!("`{}` is not a folder", path.display()));
            }
        }
    }

    fn agents(&mut self) -> BTreeMap<String, String> {
        let mut instructions = BTreeMap::new();
        for (name, agent) in self.workflow.spec.agents.iter() {
            let part = format!("agent `{}`", name.value);
            let text = match agent.instructions.as_ref().map(|at| (&at.value, at.position)) {
                None => String::new(),
                Some((Instructions::Text(text), position)) => {
                    self.names(&part, position, text, &["inputs", "run"], &BTreeSet::new());
                    text.clone()
                }
                Some((Instructions::File(file), _)) => match read(&self.folder.join(&file.value)) {
                    Ok(text) => {
                        self.names(&part, file.position, &text, &["inputs", "run"], &BTreeSet::new());
                        text
                    }
                    Err(reason) => {
                        self.fault(&part, file.position, reason);
                        String::new()
                    }
                },
            };
            instructions.insert(name.value.clone(), text);
            for tool in &agent.tools {
                self.tool(&part, tool);
            }
            for skill in agent.skills.iter().filter(|skill| skill.value.contains('/')) {
                if let Err(error) = Skill::read(&self.folder.join(&skill.value)) {
                    let fault = Fault::new(&part, skill.position, error.to_string());
                    self.faults.push(Fault { hint: error.hint(), ..fault });
                }
            }
            self.sampling(&part, &agent.sampling);
            self.permissions(&part, &agent.permissions);
            let limits = &agent.limits;
            for (key, count) in
                [("turns", limits.turns), ("tokens", limits.tokens), ("reply_tokens", limits.reply_tokens)]
            {
                if let Some(count) = count.filter(|count| count.value == 0) {
                    self.fault(&part, count.position, format!("`{key}` is 0, it must be at least 1"));
                }
            }
        }
        instructions
    }

    fn permissions(&mut self, part: &str, permissions: &PermissionsSpec) {
        for text in permissions.deny.iter().chain(&permissions.ask) {
            if let Err(error) = text.value.parse::<Pattern>() {
                let hint = error.hint();
                self.faults.push(Fault::new(part, text.position, error.to_string()).with_hint(hint));
            }
        }
    }

    /// A tool's name or pattern, if the tools are known.
    fn tool(&mut self, part: &str, name: &At<String>) {
        if !name.value.contains('.') {
            let fault = Fault::new(part, name.position, format!("`{}` is not a tool's name", name.value));
            self.faults
                .push(fault.with_hint("tools are named `plugin.tool`, or `plugin.*` for all of a plugin"));
            return;
        }
        let Some(tools) = self.tools else { return };
        if let Err(unknown) = tools.grant(std::slice::from_ref(&name.value)) {
            self.faults.push(Fault::new(part, name.position, unknown.to_string()).with_hint(unknown.hint()));
        }
    }

    /// For each step the steps it waits for; faults for unknown names and circles.
    fn order(&mut self) -> Vec<Vec<usize>> {
        let steps = &self.workflow.spec.steps;
        let mut needs: Vec<Vec<usize>> = Vec::with_capacity(steps.len());
        if steps.is_empty() {
            self.fault("", Position::default(), "the workflow has no steps");
        }
        for (index, step) in steps.iter().enumerate() {
            let part = format!("step `{}`", step.id.value);
            if !is_identifier(&step.id.value) {
                self.fault(&part, step.id.position, format!("a step's id {IDENTIFIER}"));
            }
            if steps[..index].iter().any(|before| before.id.value == step.id.value) {
                self.fault(&part, step.id.position, "another step has this id already");
            }
            let Some(named) = &step.needs else {
                needs.push(index.checked_sub(1).into_iter().collect());
                continue;
            };
            let mut found = Vec::new();
            for name in named {
                match steps.iter().position(|step| step.id.value == name.value) {
                    Some(other) => found.push(other),
                    None => {
                        let known = steps.iter().map(|step| step.id.value.as_str());
                        let fault =
                            Fault::new(&part, name.position, format!("there is no step `{}`", name.value));
                        let meant = closest(&name.value, known).map(|name| format!("did you mean `{name}`?"));
                        self.faults.push(Fault { hint: meant, ..fault });
                    }
                }
            }
            needs.push(found);
        }
        for (index, step) in steps.iter().enumerate() {
            if before(&needs, index).contains(&index) {
                let part = format!("step `{}`", step.id.value);
                self.fault(&part, step.id.position, "it waits for itself, by way of its `needs`");
            }
        }
        needs
    }

    fn steps(&mut self, needs: &[Vec<usize>]) -> Vec<Shape> {
        let steps = &self.workflow.spec.steps;
        let mut shapes = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let earlier: BTreeSet<&str> =
                before(needs, index).into_iter().map(|index| steps[index].id.value.as_str()).collect();
            shapes.push(self.step(step, &earlier));
        }
        shapes
    }

    fn step(&mut self, step: &WorkflowStep, earlier: &BTreeSet<&str>) -> Shape {
        let part = format!("step `{}`", step.id.value);
        let outside = ["inputs", "run", "steps"];
        let inside: &[&str] =
            if step.foreach.is_some() { &["inputs", "run", "steps", "item", "index"] } else { &outside };
        for data in step.condition.iter().chain(&step.foreach) {
            self.data(&part, data, &outside, earlier);
        }
        match (&step.agent, &step.tool) {
            (Some(agent), None) => self.agent_step(&part, step, agent),
            (None, Some(tool)) => self.tool_step(&part, step, tool),
            (None, None) => {
                self.fault(&part, step.id.position, "it has neither an `agent` nor a `tool`");
            }
            (Some(_), Some(tool)) => {
                self.fault(&part, tool.position, "it has both an `agent` and a `tool`; make two steps of it");
            }
        }
        if let Some(prompt) = &step.prompt {
            self.names(&part, prompt.position, &prompt.value, inside, earlier);
        }
        for (_, value) in step.with.iter().flat_map(|with| with.iter()) {
            self.data(&part, value, inside, earlier);
        }
        if let Some(parallel) = step.parallel {
            if !(1..=MAX_PARALLEL).contains(&parallel.value) {
                let message =
                    format!("`parallel` is {}, it must be from 1 to {MAX_PARALLEL}", parallel.value);
                self.fault(&part, parallel.position, message);
            }
            if step.foreach.is_none() {
                self.fault(&part, parallel.position, "`parallel` means nothing without `foreach`");
            }
        }
        if let Some(retry) = &step.retry
            && !(1..=MAX_RETRIES).contains(&retry.max.value)
        {
            let message = format!("`max` is {}, it must be from 1 to {MAX_RETRIES}", retry.max.value);
            self.fault(&part, retry.max.position, message);
        }
        self.shape(&part, step, inside, earlier)
    }

    fn agent_step(&mut self, part: &str, step: &WorkflowStep, agent: &At<String>) {
        let known = &self.workflow.spec.agents;
        if known.get(&agent.value).is_none() {
            let meant = closest(&agent.value, known.keys()).map(|name| format!("did you mean `{name}`?"));
            let fault = Fault::new(part, agent.position, format!("there is no agent `{}`", agent.value));
            self.faults.push(Fault { hint: meant, ..fault });
        }
        if step.prompt.is_none() {
            self.fault(part, agent.position, "an agent needs a `prompt`");
        }
        if step.with.is_some() {
            self.fault(part, step.id.position, "`with` goes with a `tool`; an agent takes a `prompt`");
        }
    }

    fn tool_step(&mut self, part: &str, step: &WorkflowStep, tool: &At<String>) {
        if tool.value.ends_with(".*") {
            let message = format!("a step calls one tool, and `{}` stands for all of a plugin", tool.value);
            let fault = Fault::new(part, tool.position, message);
            self.faults.push(fault.with_hint("name the tool, as in `plugin.tool`"));
        } else {
            self.tool(part, tool);
        }
        if let Some(prompt) = &step.prompt {
            self.fault(
                part,
                prompt.position,
                "`prompt` goes with an `agent`; a tool takes arguments in `with`",
            );
        }
        if let Some(output) = &step.output {
            self.fault(
                part,
                output.schema.position,
                "`output` goes with an `agent`; a tool has its own output",
            );
        }
        let Some(found) = self.tools.and_then(|tools| tools.get(&tool.value).ok()) else { return };
        let definition = found.definition().clone();
        self.constants(part, step, &definition);
        self.repetition(part, step, &definition);
        let schema = definition.input_schema;
        let given = step.with.as_ref();
        let properties = schema["properties"].as_object().cloned().unwrap_or_default();
        for (key, _) in given.iter().flat_map(|with| with.iter()) {
            if schema["additionalProperties"] == false && !properties.contains_key(&key.value) {
                let meant = closest(&key.value, properties.keys().map(String::as_str));
                let message = format!("the tool `{}` has no argument `{}`", tool.value, key.value);
                let names: Vec<&str> = properties.keys().map(String::as_str).collect();
                let hint = match meant {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("its arguments are `{}`", names.join("`, `")),
                };
                self.faults.push(Fault::new(part, key.position, message).with_hint(hint));
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if given.is_none_or(|with| with.get(name).is_none()) {
                self.fault(
                    part,
                    tool.position,
                    format!("the tool `{}` needs the argument `{name}`", tool.value),
                );
            }
        }
    }

    fn shape(&mut self, part: &str, step: &WorkflowStep, names: &[&str], earlier: &BTreeSet<&str>) -> Shape {
        let Some(output) = &step.output else { return Shape::Text };
        let at = &output.schema;
        let file = match &at.value {
            Data::Text(file) => file,
            _ => {
                self.data(part, at, names, earlier);
                if let Some(schema) = at.value.constant() {
                    self.json_schema(part, at.position, &schema);
                }
                return Shape::Inline(at.clone());
            }
        };
        let parsed = read(&self.folder.join(file)).and_then(|text| {
            serde_json::from_str(&text).map_err(|error| format!("`{file}` is no JSON: {error}"))
        });
        match parsed {
            Ok(schema) => {
                self.json_schema(part, at.position, &schema);
                Shape::File(schema)
            }
            Err(reason) => {
                self.fault(part, at.position, reason);
                Shape::Text
            }
        }
    }

    fn json_schema(&mut self, part: &str, position: Position, schema: &Value) {
        if let Err(error) = jsonschema::validator_for(schema) {
            self.fault(part, position, format!("the schema is no JSON Schema: {error}"));
        }
    }

    fn outputs(&mut self) {
        let all: BTreeSet<&str> =
            self.workflow.spec.steps.iter().map(|step| step.id.value.as_str()).collect();
        for (name, value) in self.workflow.spec.outputs.iter() {
            self.data(&format!("output `{}`", name.value), value, &["inputs", "run", "steps"], &all);
        }
    }

    /// Every template in `data`.
    fn data(&mut self, part: &str, data: &At<Data>, names: &[&str], steps: &BTreeSet<&str>) {
        match &data.value {
            Data::Scalar(_) => {}
            Data::Text(text) => self.names(part, data.position, text, names, steps),
            Data::List(items) => items.iter().for_each(|item| self.data(part, item, names, steps)),
            Data::Map(entries) => entries.iter().for_each(|(_, value)| self.data(part, value, names, steps)),
        }
    }

    /// The names that a template uses: known ones, declared inputs, and steps that have ended by then.
    fn names(&mut self, part: &str, position: Position, text: &str, known: &[&str], steps: &BTreeSet<&str>) {
        if !is_template(text) {
            return;
        }
        let used = match self.templates.names(text) {
            Ok(used) => used,
            Err(error) => {
                let position = self.within(position, error.line);
                self.faults.push(Fault { hint: error.hint, ..Fault::new(part, position, error.message) });
                return;
            }
        };
        let inputs = &self.workflow.spec.inputs;
        for name in used {
            let mut parts = name.split('.');
            let first = parts.next().unwrap_or_default();
            let second = parts.next();
            let (message, hint) = match (first, second) {
                _ if !known.contains(&first) => (
                    format!("`{first}` is not known here"),
                    closest(first, known.iter().copied()).map(str::to_owned).map_or_else(
                        || format!("known are `{}`", known.join("`, `")),
                        |name| format!("did you mean `{name}`?"),
                    ),
                ),
                ("inputs", Some(input)) if inputs.get(input).is_none() => {
                    let meant =
                        closest(input, inputs.keys()).map(|name| format!("did you mean `inputs.{name}`?"));
                    (
                        format!("there is no input `{input}`"),
                        meant.unwrap_or_else(|| "declare it under `inputs`".into()),
                    )
                }
                ("steps", Some(step)) if !steps.contains(step) => {
                    let exists = self.workflow.spec.steps.iter().any(|other| other.id.value == step);
                    let message = if exists {
                        format!("the step `{step}` has not ended by then")
                    } else {
                        format!("there is no step `{step}`")
                    };
                    let meant = closest(step, steps.iter().copied())
                        .map(|name| format!("did you mean `steps.{name}`?"));
                    (message, meant.unwrap_or_else(|| "a step sees those that it waits for".into()))
                }
                ("steps", Some(_)) => match parts.next() {
                    Some(field) if !STEP_FIELDS.contains(&field) => {
                        let message = format!("a step has `output` and `state`, and no `{field}`");
                        let meant = closest(field, STEP_FIELDS).unwrap_or("output");
                        (message, format!("did you mean `{meant}`?"))
                    }
                    _ => continue,
                },
                ("run", Some(field)) if field != "id" => {
                    (format!("a run has an `id`, and no `{field}`"), "write `run.id`".into())
                }
                _ => continue,
            };
            self.faults.push(Fault::new(part, position, message).with_hint(hint));
        }
    }

    /// The place of line `line` of the text that begins at `position`, where the file's lines are the text's: in
    /// a block that `|` opens. Elsewhere they are not, and the text's own place has to do.
    fn within(&self, position: Position, line: usize) -> Position {
        let opening = self.workflow.text.lines().nth(position.line.saturating_sub(2)).unwrap_or_default();
        match opening.split_whitespace().last() {
            Some(mark) if mark.starts_with('|') => Position { line: position.line + line - 1, ..position },
            _ => position,
        }
    }
}

/// What [`is_identifier`] asks for, to go behind the name of the thing.
const IDENTIFIER: &str = "has letters, digits and `_`, and begins with a letter";

/// What an expression can read of a step.
const STEP_FIELDS: [&str; 2] = ["output", "state"];

/// Whether expressions can use `name` behind a dot: `steps.my-step` would be a subtraction.
fn is_identifier(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

/// All steps that `step` waits for, directly or not.
fn before(needs: &[Vec<usize>], step: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open: Vec<usize> = needs.get(step).cloned().unwrap_or_default();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(needs.get(next).into_iter().flatten());
        }
    }
    found
}

/// A text file of the workflow's.
fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let length = std::fs::metadata(path).map_err(|error| format!("`{shown}` cannot be read: {error}"))?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("`{shown}` has {length} bytes, the most is {MAX_FILE_BYTES}"));
    }
    std::fs::read_to_string(path).map_err(|error| format!("`{shown}` cannot be read: {error}"))
}

#[cfg(test)]
mod tests;
