//! Whether a final answer fits the agent's output schema.

use serde_json::Value;

use super::{Agent, AgentError};

/// Faults told at most; the rest follows from them more often than not.
const MAX_FAULTS: usize = 3;

/// An agent's output schema, compiled once.
pub(super) struct OutputCheck {
    validator: Option<jsonschema::Validator>,
}

impl OutputCheck {
    /// The check of `agent`'s answers; an agent without a schema may say anything.
    pub(super) fn new(agent: &Agent) -> Result<Self, AgentError> {
        let validator = agent.output.as_ref().map(jsonschema::validator_for).transpose();
        let validator = validator.map_err(|fault| AgentError::Output {
            agent: agent.name.clone(),
            reason: format!("the schema itself is not valid: {fault}"),
        })?;
        Ok(Self { validator })
    }

    /// The answer as JSON, `None` for text; or what is wrong with it, with places.
    pub(super) fn check(&self, text: &str) -> Result<Option<Value>, String> {
        let Some(validator) = &self.validator else {
            return Ok(None);
        };
        let answer: Value =
            serde_json::from_str(text.trim()).map_err(|fault| format!("it is not JSON: {fault}"))?;
        let faults: Vec<String> = validator
            .iter_errors(&answer)
            .take(MAX_FAULTS)
            .map(|fault| match fault.instance_path().as_str() {
                "" => fault.to_string(),
                path => format!("at `{path}`: {fault}"),
            })
            .collect();
        if faults.is_empty() { Ok(Some(answer)) } else { Err(faults.join("; ")) }
    }
}
