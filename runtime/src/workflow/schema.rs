//! The workflow language, version 1: what may stand in the file, and what it means.
//!
//! The types are the language: the parser, the JSON Schema that editors use (`chaski schema workflow`) and
//! the documentation come from them. Every key that is not here is an error. Whatever a later check may
//! complain about is an [`At`], so the complaint has a line.

pub mod at;
pub mod data;
pub mod interval;

use std::borrow::Cow;

use chaski_engine::{Sampling, ToolChoice};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer};

pub use at::{At, Entries, Position};
pub use data::Data;
pub use interval::Interval;

use crate::plugins::permissions::Access;
use crate::tools::permission::Rules;

/// The version of the language that this program speaks.
pub const VERSION: u64 = 1;

/// A chaski workflow.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "chaski workflow")]
pub struct WorkflowSpec {
    /// The version of the workflow language: 1.
    #[schemars(schema_with = "version_schema")]
    pub version: At<u64>,
    /// The workflow's name, shown in `chaski runs list`.
    pub name: At<String>,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// What a run is given: `chaski run FILE --input NAME=VALUE`. In expressions: `inputs.NAME`.
    #[serde(default)]
    pub inputs: Entries<InputSpec>,
    /// The model of every agent: a name from the catalog or the configuration, or a path to a GGUF file.
    #[serde(default)]
    pub model: Option<At<String>>,
    /// The folders that plugins may reach, by the name that their manifests ask for.
    #[serde(default)]
    pub roots: Entries<RootSpec>,
    /// Calls that the workflow forbids or asks about, beyond what its user does.
    #[serde(default)]
    pub permissions: PermissionsSpec,
    /// How tokens are picked, for every agent.
    #[serde(default)]
    pub sampling: SamplingSpec,
    /// The agents that steps can put to work, by name.
    #[serde(default)]
    pub agents: Entries<AgentSpec>,
    /// What happens, in order: a step begins when the one before it has ended, or those in its `needs`.
    pub steps: Vec<WorkflowStep>,
    /// What the run gives back. Values keep their type when they are one expression.
    #[serde(default)]
    pub outputs: Entries<At<Data>>,
}

fn version_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "const": VERSION })
}

/// One input of a run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// The type of its value.
    #[serde(default, rename = "type")]
    pub kind: InputType,
    /// Its value when a run names none. Without a default, every run must name one.
    #[serde(default)]
    pub default: Option<At<Data>>,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// The only values it may have.
    #[serde(default, rename = "enum")]
    pub allowed: Option<Vec<At<Data>>>,
}

/// The type of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InputType {
    /// Text.
    #[default]
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// `true` or `false`.
    Boolean,
}

/// A folder that plugins may reach.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RootSpec {
    /// The folder, relative to the workflow file. `--root NAME=PATH` takes its place.
    pub path: At<String>,
    /// The most that any plugin gets there.
    #[serde(default)]
    pub access: Access,
}

/// Calls that may not be made, or not without a question: `workspace.write(path=src/**)`, `http-fetch.*`.
///
/// A file can only narrow what its user allows, so it has no `allow`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PermissionsSpec {
    /// They never run.
    pub deny: Vec<At<String>>,
    /// A person is asked; without one they do not run.
    pub ask: Vec<At<String>>,
}

impl PermissionsSpec {
    /// The rules; `check` has refused what is no pattern.
    pub fn rules(&self) -> Rules {
        let patterns = |list: &[At<String>]| list.iter().filter_map(|text| text.value.parse().ok()).collect();
        Rules { deny: patterns(&self.deny), ask: patterns(&self.ask), allow: Vec::new() }
    }
}

/// How tokens are picked. What is left out is taken from the workflow, then from the defaults (greedy).
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingSpec {
    /// 0 picks the most likely token; 1 samples the model's own distribution.
    pub temperature: Option<At<f32>>,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: Option<At<usize>>,
    /// Keep the most likely tokens that together reach this probability, in (0, 1].
    pub top_p: Option<At<f32>>,
    /// Drop tokens below this share of the most likely token's probability, in [0, 1).
    pub min_p: Option<At<f32>>,
    /// Makes tokens of the last 64 less likely; 1 changes nothing.
    pub repetition_penalty: Option<At<f32>>,
    /// The same seed, model and request give the same tokens.
    pub seed: Option<At<u64>>,
}

impl SamplingSpec {
    /// `base`, with what this one names in place of it.
    pub fn over(&self, base: Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.map_or(base.temperature, |at| at.value),
            top_k: self.top_k.map_or(base.top_k, |at| at.value),
            top_p: self.top_p.map_or(base.top_p, |at| at.value),
            min_p: self.min_p.map_or(base.min_p, |at| at.value),
            repetition_penalty: self.repetition_penalty.map_or(base.repetition_penalty, |at| at.value),
            seed: self.seed.map_or(base.seed, |at| at.value),
        }
    }
}

/// An agent: instructions, tools and limits.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSpec {
    /// The system message: text, or `{ file: PATH }`. Expressions may use `inputs` and `run`.
    pub instructions: Option<At<Instructions>>,
    /// The tools it may call: names (`workspace.read`), or all of a plugin (`workspace.*`).
    pub tools: Vec<At<String>>,
    /// The skills it may read: names of skills of the project or the user, or paths (with a `/`) of their folders,
    /// relative to the workflow file.
    pub skills: Vec<At<String>>,
    /// Whether its first turn may, must or must not call a tool.
    pub tool_choice: ToolChoiceSpec,
    /// Calls that it may not make, or not without a question, beyond what the workflow says.
    pub permissions: PermissionsSpec,
    /// Its bounds.
    pub limits: LimitsSpec,
    /// How its tokens are picked, where that differs from the workflow's `sampling`.
    pub sampling: SamplingSpec,
    /// The LoRA adapter that it speaks through: a name of the configuration's `[engine.adapters]`.
    pub adapter: Option<At<String>>,
}

/// An agent's standing instructions.
#[derive(Clone, Debug, PartialEq)]
pub enum Instructions {
    /// As they are.
    Text(String),
    /// In a file, relative to the workflow file.
    File(At<String>),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileReference {
    /// The file, relative to the workflow file.
    file: At<String>,
}

impl<'de> Deserialize<'de> for Instructions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Instructions;
            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("text, or `{ file: PATH }`")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Instructions::Text(text.to_owned()))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let reference = FileReference::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Instructions::File(reference.file))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Instructions {
    fn schema_name() -> Cow<'static, str> {
        "Instructions".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let file = FileReference::json_schema(generator);
        schemars::json_schema!({
            "description": "Text, or a file relative to the workflow file.",
            "anyOf": [{ "type": "string" }, file],
        })
    }
}

/// Whether an agent's first turn may, must or must not call a tool. Later turns are free to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolChoiceSpec {
    /// The model decides.
    #[default]
    Auto,
    /// It calls at least one.
    Required,
    /// It calls none.
    None,
}

impl From<ToolChoiceSpec> for ToolChoice {
    fn from(choice: ToolChoiceSpec) -> Self {
        match choice {
            ToolChoiceSpec::Auto => Self::Auto,
            ToolChoiceSpec::Required => Self::Required,
            ToolChoiceSpec::None => Self::None,
        }
    }
}

/// The bounds of an agent's work on one prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSpec {
    /// Most turns, at least 1; 8 if left out.
    pub turns: Option<At<usize>>,
    /// Most tokens that all its replies have together; 8192 if left out.
    pub tokens: Option<At<usize>>,
    /// Most tokens of one reply; 1024 if left out.
    pub reply_tokens: Option<At<usize>>,
    /// Most time, tools included; 10m if left out.
    pub time: Option<At<Interval>>,
    /// Most time for one tool call; 30s if left out.
    pub tool_time: Option<At<Interval>>,
}

/// One step: an agent at work on a prompt, or a tool call. With `foreach`, once for every item of a list.
///
/// In expressions, a step that has ended is `steps.ID.output` and `steps.ID.state`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkflowStep {
    /// Its name in expressions and in the log: letters, digits and `_`, a letter first.
    pub id: At<String>,
    /// The steps that must have ended before it; if left out, the one before it. `[]` waits for none.
    #[serde(default)]
    pub needs: Option<Vec<At<String>>>,
    /// One expression that is true or false. False skips the step: its output is then `null`.
    #[serde(default, rename = "if")]
    pub condition: Option<At<Data>>,
    /// A list, usually one expression. The step runs for each item, known as `item` and `index` (from 0); its
    /// output is the list of their outputs, in the same order.
    #[serde(default)]
    pub foreach: Option<At<Data>>,
    /// How many items run at the same time, 1 to 64; 1 if left out.
    #[serde(default)]
    pub parallel: Option<At<usize>>,
    /// The agent that works on `prompt`.
    #[serde(default)]
    pub agent: Option<At<String>>,
    /// What the agent is asked.
    #[serde(default)]
    pub prompt: Option<At<String>>,
    /// The shape of the agent's answer; its output is text if left out.
    #[serde(default)]
    pub output: Option<OutputSpec>,
    /// The tool to call.
    #[serde(default)]
    pub tool: Option<At<String>>,
    /// The tool's arguments. Values keep their type when they are one expression.
    #[serde(default)]
    pub with: Option<Entries<At<Data>>>,
    /// Most time for one attempt at one item: `30s`, `5m`, `2h`, `1d`.
    #[serde(default)]
    pub timeout: Option<At<Interval>>,
    /// What to do about a failure before giving up.
    #[serde(default)]
    pub retry: Option<RetrySpec>,
    /// What a failure means for the run.
    #[serde(default)]
    pub on_error: OnError,
}

/// The shape of an agent's answer.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// A JSON Schema, or the path of a file that holds one. Expressions in it are filled in for every item, so
    /// `enum: "{{ item.lines }}"` allows exactly the lines of this item.
    #[schemars(schema_with = "output_schema_schema")]
    pub schema: At<Data>,
}

fn output_schema_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "description": "A JSON Schema, or the path of a file that holds one, relative to the workflow file.",
        "type": ["object", "string"],
    })
}

/// What to do about a failure before giving up.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetrySpec {
    /// How often to try again, 1 to 10.
    pub max: At<usize>,
    /// How long to wait before the first of these; each later wait is twice as long, at most 5m. 1s if left out.
    #[serde(default)]
    pub backoff: Option<At<Interval>>,
}

/// What a failure means for the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The run fails.
    #[default]
    Fail,
    /// The run goes on; the failed item's output is `null`.
    Continue,
}
