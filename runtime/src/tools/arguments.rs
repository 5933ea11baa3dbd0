//! Whether a call's arguments fit its tool: the schema is compiled once, when the tool becomes known.
//!
//! Invariant: arguments that were not checked never reach a tool. Where a schema does not compile, no
//! arguments fit.

use chaski_engine::sampling::grammar;
use serde_json::Value;

use super::ToolDefinition;

/// The compiled schema of one tool's arguments.
pub struct ArgumentCheck {
    validator: Result<jsonschema::Validator, String>,
}

impl ArgumentCheck {
    /// The check of `schema`.
    pub fn new(schema: &Value) -> Self {
        let validator = jsonschema::validator_for(schema);
        Self { validator: validator.map_err(|fault| format!("the tool's own schema is not valid: {fault}")) }
    }

    /// Every fault of `arguments` with its place, `; ` between them; `None` if they fit.
    pub fn faults(&self, arguments: &Value) -> Option<String> {
        let validator = match &self.validator {
            Ok(validator) => validator,
            Err(reason) => return Some(reason.clone()),
        };
        if validator.is_valid(arguments) {
            return None;
        }
        let faults: Vec<String> = validator
            .iter_errors(arguments)
            .map(|fault| match fault.instance_path().as_str() {
                "" => fault.to_string(),
                path => format!("at `{path}`: {fault}"),
            })
            .collect();
        Some(faults.join("; "))
    }
}

/// Refuses a tool whose arguments a model could not be held to: what it would write might then be anything.
///
/// # Errors
/// What is wrong with the schema, or what it has that a grammar cannot guarantee.
pub fn check_guaranteed(definition: &ToolDefinition) -> Result<(), String> {
    jsonschema::validator_for(&definition.input_schema)
        .map_err(|error| format!("its input schema is no JSON Schema: {error}"))?;
    grammar::check_tool(&definition.spec()).map_err(|error| match error {
        chaski_engine::EngineError::Grammar { reason, .. } => {
            format!("its arguments cannot be guaranteed while a model writes them: {reason}")
        }
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tools::Effect;

    #[track_caller]
    fn check(input_schema: Value, expected: Result<(), &str>) {
        let definition = ToolDefinition {
            name: "a.b".into(),
            description: String::new(),
            input_schema,
            output_schema: None,
            effect: Effect::Pure,
        };
        match (check_guaranteed(&definition), expected) {
            (Ok(()), Ok(())) => {}
            (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_schema_that_a_grammar_holds_to_is_fine() {
        check(json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}), Ok(()));
    }

    #[test]
    fn a_schema_that_no_grammar_holds_to_is_refused_with_the_reason() {
        let unique = json!({"type": "array", "items": {"type": "integer"}, "uniqueItems": true});
        check(json!({"type": "object", "properties": {"list": unique}}), Err("uniqueItems"));
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        check(json!({"type": "objekt"}), Err("no JSON Schema"));
    }

    #[test]
    fn no_arguments_fit_a_schema_that_does_not_compile() {
        let faults = ArgumentCheck::new(&json!({"type": 3})).faults(&json!({}));
        assert!(faults.is_some_and(|faults| faults.contains("the tool's own schema is not valid")));
    }
}
