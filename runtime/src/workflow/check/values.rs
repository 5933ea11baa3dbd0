//! Single values of a workflow that have a range of their own: sampling, arguments, repetitions.

use serde_json::Value;

use super::Check;
use crate::tools::{Effect, ToolDefinition};
use crate::workflow::fault::Fault;
use crate::workflow::schema::{At, SamplingSpec, WorkflowStep};

/// Keywords of a JSON Schema that point elsewhere, so that a part of it cannot be judged alone.
const REFERENCES: [&str; 2] = ["$ref", "$dynamicRef"];

impl Check<'_> {
    /// The ranges of [`SamplingSpec`]; what is not a number is in none of them.
    pub(super) fn sampling(&mut self, part: &str, sampling: &SamplingSpec) {
        type Range = fn(f32) -> bool;
        let ranges: [(&str, Option<At<f32>>, Range, &str); 4] = [
            ("temperature", sampling.temperature, |it| it >= 0.0 && it.is_finite(), "at least 0"),
            ("top_p", sampling.top_p, |it| it > 0.0 && it <= 1.0, "above 0 and at most 1"),
            ("min_p", sampling.min_p, |it| (0.0..1.0).contains(&it), "at least 0 and below 1"),
            ("repetition_penalty", sampling.repetition_penalty, |it| it > 0.0 && it.is_finite(), "above 0"),
        ];
        for (key, value, is_fine, range) in ranges {
            if let Some(value) = value.filter(|value| !is_fine(value.value)) {
                self.fault(part, value.position, format!("`{key}` is {}, it must be {range}", value.value));
            }
        }
    }

    /// The arguments that are constants, each against its part of the tool's schema.
    pub(super) fn constants(&mut self, part: &str, step: &WorkflowStep, tool: &ToolDefinition) {
        for (key, given) in step.with.iter().flat_map(|with| with.iter()) {
            let Some(schema) = tool.input_schema["properties"].get(&key.value) else { continue };
            let Some(constant) = given.value.constant().filter(|_| !refers(schema)) else { continue };
            let Ok(validator) = jsonschema::validator_for(schema) else { continue };
            let faults = validator.iter_errors(&constant).map(|fault| match fault.instance_path().as_str() {
                "" => format!("`{}`: {fault}", key.value),
                path => format!("`{}` at `{path}`: {fault}", key.value),
            });
            self.faults.extend(faults.map(|message| Fault::new(part, given.position, message)));
        }
    }

    /// A call that changes something each time is never repeated by the runtime.
    pub(super) fn repetition(&mut self, part: &str, step: &WorkflowStep, tool: &ToolDefinition) {
        if let (Some(retry), Effect::Effectful) = (&step.retry, tool.effect) {
            let message = format!("`{}` may change something each time it is called", tool.name);
            let fault = Fault::new(part, retry.max.position, message);
            self.faults.push(fault.with_hint("a call that failed may have worked: leave `retry` out"));
        }
    }
}

/// Whether something in `schema` stands elsewhere.
fn refers(schema: &Value) -> bool {
    match schema {
        Value::Object(entries) => {
            entries.iter().any(|(key, value)| REFERENCES.contains(&key.as_str()) || refers(value))
        }
        Value::Array(items) => items.iter().any(refers),
        _ => false,
    }
}
