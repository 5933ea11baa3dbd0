//! A workflow that was checked: its files read, its order known.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::read::Workflow;
use super::schema::{At, Data};
use crate::tools::registry::plugins_of;

/// A workflow that can be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the file says.
    pub workflow: Workflow,
    /// The folder of the file; paths in it are relative to this.
    pub folder: PathBuf,
    /// The instructions of each agent, files read; expressions in them are not filled in yet.
    pub instructions: BTreeMap<String, String>,
    /// For each step, in the order of the file: the indexes of the steps that must have ended before it.
    pub needs: Vec<Vec<usize>>,
    /// For each step: the shape of its answer.
    pub shapes: Vec<Shape>,
}

/// The shape of an agent's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Text.
    Text,
    /// A schema in the workflow, whose expressions are filled in for every item.
    Inline(At<Data>),
    /// A schema from a file, as it is.
    File(Value),
}

impl Plan {
    /// The ids of the plugins whose tools the workflow names.
    pub fn plugins(&self) -> Vec<String> {
        let spec = &self.workflow.spec;
        let granted =
            spec.agents.iter().flat_map(|(_, agent)| agent.tools.iter().map(|tool| tool.value.as_str()));
        let called = spec.steps.iter().filter_map(|step| step.tool.as_ref()).map(|tool| tool.value.as_str());
        let mut ids = plugins_of(granted.chain(called));
        ids.sort();
        ids.dedup();
        ids.retain(|id| !super::HOST_TOOLS.contains(&id.as_str()));
        ids
    }

    /// Whether any step needs a model.
    pub fn needs_model(&self) -> bool {
        self.workflow.spec.steps.iter().any(|step| step.agent.is_some())
    }
}
