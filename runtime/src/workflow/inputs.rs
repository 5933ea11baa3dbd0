//! The inputs of a workflow as JSON: what they may be, and what they are when some are left out.

use serde_json::{Map, Value, json};

use super::schema::{Entries, InputSpec, InputType};

/// The JSON Schema of the `declared` inputs: an object with those that have no default required.
pub fn schema(declared: &Entries<InputSpec>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, input) in declared.iter() {
        let kind = match input.kind {
            InputType::String => "string",
            InputType::Integer => "integer",
            InputType::Number => "number",
            InputType::Boolean => "boolean",
        };
        let mut property = Map::from_iter([("type".to_owned(), json!(kind))]);
        if let Some(description) = &input.description {
            property.insert("description".into(), json!(description));
        }
        if let Some(allowed) = &input.allowed {
            let values: Vec<Value> = allowed.iter().filter_map(|value| value.value.constant()).collect();
            property.insert("enum".into(), json!(values));
        }
        match default(input) {
            Some(default) => {
                property.insert("default".into(), default);
            }
            None => required.push(name.value.clone()),
        }
        properties.insert(name.value.clone(), Value::Object(property));
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// `given`, which is valid under [`schema`], and the defaults of the others.
pub fn filled(declared: &Entries<InputSpec>, given: &Value) -> Value {
    let value = |name: &str, input: &InputSpec| given.get(name).cloned().or_else(|| default(input));
    let values =
        declared.iter().filter_map(|(name, input)| Some((name.value.clone(), value(&name.value, input)?)));
    Value::Object(values.collect())
}

fn default(input: &InputSpec) -> Option<Value> {
    input.default.as_ref().and_then(|default| default.value.constant())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> Entries<InputSpec> {
        serde_saphyr::from_str(
            "path: { description: Which file }\nlines: { type: integer, default: 3, enum: [3, 5] }\n",
        )
        .expect("inputs")
    }

    #[test]
    fn inputs_become_a_schema() {
        insta::assert_snapshot!(schema(&declared()), @r#"{"type":"object","properties":{"path":{"type":"string","description":"Which file"},"lines":{"type":"integer","enum":[3,5],"default":3}},"required":["path"],"additionalProperties":false}"#);
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        assert_eq!(filled(&declared(), &json!({"path": "a"})), json!({"path": "a", "lines": 3}));
    }
}
