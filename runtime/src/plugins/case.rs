//! Recorded cases of a plugin: `cases/NAME.json` holds the arguments of one call and what it should come to.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::PluginError;
use crate::tools::{ToolOutcome, ToolResult};

/// The folder of the cases, in the plugin's folder.
pub const FOLDER: &str = "cases";

/// One call and what it should come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The file's name without `.json`.
    pub name: String,
    /// The tool, arguments and answer.
    pub call: RecordedCall,
}

/// What a case's file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedCall {
    /// The tool, without the plugin's id.
    pub tool: String,
    /// What it is called with.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    /// What it should come to.
    pub expect: Expectation,
}

/// What an answer is held to. What is absent may be anything; without an outcome, the call has to go well.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// How the call ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<ToolOutcome>,
    /// The whole text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What the text has in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<Parts>,
    /// The structured answer; `2` and `2.0` are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
}

/// One part of a text, or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Parts {
    /// A single one.
    One(String),
    /// All of these.
    All(Vec<String>),
}

impl Parts {
    fn each(&self) -> &[String] {
        match self {
            Self::One(part) => std::slice::from_ref(part),
            Self::All(parts) => parts,
        }
    }
}

impl Case {
    /// The cases of the plugin in `dir`, by name.
    ///
    /// # Errors
    /// When a file cannot be read or is no case: the file, the place in it and what is wrong there.
    pub fn read_all(dir: &Path) -> Result<Vec<Self>, PluginError> {
        let folder = dir.join(FOLDER);
        let fault =
            |path: &Path, reason: String| PluginError::Invalid(format!("`{}`: {reason}", path.display()));
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fault(&folder, error.to_string())),
        };
        let mut cases = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| fault(&folder, error.to_string()))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).map_err(|error| fault(&path, error.to_string()))?;
            let call = parse(&text).map_err(|reason| fault(&path, reason))?;
            cases.push(Self { name, call });
        }
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(cases)
    }

    /// Writes the case into the plugin's folder `dir`; one that is there stays.
    ///
    /// # Errors
    /// When there is one of that name, or the disk refuses.
    pub fn write(&self, dir: &Path) -> Result<(), PluginError> {
        let path = dir.join(FOLDER).join(format!("{}.json", self.name));
        let fault = |reason: String| PluginError::Invalid(format!("`{}`: {reason}", path.display()));
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(dir.join(FOLDER))?;
            let text = format!("{}\n", serde_json::to_string_pretty(&self.call)?);
            let mut side = tempfile::NamedTempFile::new_in(dir.join(FOLDER))?;
            std::io::Write::write_all(&mut side, text.as_bytes())?;
            side.persist_noclobber(&path)?;
            Ok(())
        };
        write().map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                fault("it is there already; remove it to record it anew".into())
            }
            _ => fault(error.to_string()),
        })
    }
}

fn parse(text: &str) -> Result<RecordedCall, String> {
    // serde_json says where: `... at line 3 column 5`.
    let call: RecordedCall = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if call.expect == Expectation::default() {
        return Err("`expect` holds nothing; it takes `outcome`, `text`, `contains` and `json`".into());
    }
    Ok(call)
}

impl Expectation {
    /// What `result` should come to, when it comes to the same again.
    pub fn of(result: &ToolResult) -> Self {
        let outcome = (result.outcome != ToolOutcome::Ok).then_some(result.outcome);
        Self { outcome, text: Some(result.text.clone()), contains: None, json: result.json.clone() }
    }

    /// Everything that is otherwise in `result`, a sentence each.
    pub fn faults(&self, result: &ToolResult) -> Vec<String> {
        let mut faults = Vec::new();
        let outcome = self.outcome.unwrap_or(ToolOutcome::Ok);
        if result.outcome != outcome {
            faults.push(format!(
                "expected the outcome `{outcome}`, found `{}`: {}",
                result.outcome, result.text
            ));
        }
        if let Some(text) = self.text.as_ref().filter(|text| **text != result.text) {
            faults.push(format!("expected the text {text:?}, found {:?}", result.text));
        }
        for part in self.contains.iter().flat_map(Parts::each).filter(|part| !result.text.contains(*part)) {
            faults.push(format!("expected {part:?} in the text, found {:?}", result.text));
        }
        if let Some(json) = &self.json {
            match &result.json {
                Some(found) if same(json, found) => {}
                Some(found) => faults.push(format!("expected the JSON {json}, found {found}")),
                None => faults.push(format!("expected the JSON {json}, found none")),
            }
        }
        faults
    }
}

/// Whether two values are the same, numbers by what they are rather than how they are written.
fn same(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Number(expected), Value::Number(found)) => {
            expected == found || expected.as_f64() == found.as_f64()
        }
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len()
                && expected.iter().zip(found).all(|(expected, found)| same(expected, found))
        }
        (Value::Object(expected), Value::Object(found)) => {
            expected.len() == found.len()
                && expected.iter().all(|(key, value)| found.get(key).is_some_and(|found| same(value, found)))
        }
        _ => expected == found,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let error = parse(text).expect_err("it is refused");
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_malformed_case_says_what_and_where() {
        check("{", "line 1 column 1");
        check(
            "{\n  \"tool\": \"a\",\n  \"expects\": {}\n}",
            "unknown field `expects`, expected one of `tool`, `arguments`, `expect` at line 3 column 11",
        );
        check(
            "{\"tool\": \"a\", \"expect\": {\"outcome\": \"fine\"}}",
            "unknown variant `fine`, expected one of `ok`",
        );
        check(
            "{\"tool\": \"a\", \"arguments\": [], \"expect\": {\"text\": \"\"}}",
            "expected a map at line 1",
        );
        check("{\"tool\": \"a\", \"expect\": {}}", "`expect` holds nothing");
    }

    #[track_caller]
    fn faults(expect: Value, result: &ToolResult, expected: &[&str]) {
        let expect: Expectation = serde_json::from_value(expect).expect("an expectation");
        assert_eq!(expect.faults(result), expected);
    }

    #[test]
    fn an_answer_is_held_to_what_is_expected_of_it() {
        let result = ToolResult { json: Some(json!({"n": 2.0})), ..ToolResult::ok("two apples") };
        faults(json!({"text": "two apples", "contains": ["two", "apples"], "json": {"n": 2}}), &result, &[]);
        faults(json!({"text": "two"}), &result, &["expected the text \"two\", found \"two apples\""]);
        faults(
            json!({"contains": "pears"}),
            &result,
            &["expected \"pears\" in the text, found \"two apples\""],
        );
        faults(json!({"json": {"n": 3}}), &result, &["expected the JSON {\"n\":3}, found {\"n\":2.0}"]);
        faults(
            json!({"outcome": "timeout"}),
            &result,
            &["expected the outcome `timeout`, found `ok`: two apples"],
        );
    }

    #[test]
    fn a_call_that_fails_is_a_fault_unless_it_is_expected() {
        let result = ToolResult::failed(ToolOutcome::Error, "no");
        faults(json!({"contains": "no"}), &result, &["expected the outcome `ok`, found `error`: no"]);
        faults(json!({"outcome": "error"}), &result, &[]);
    }

    #[test]
    fn a_recorded_answer_fits_itself_and_is_written_once() {
        let result = ToolResult { json: Some(json!([1.5])), ..ToolResult::failed(ToolOutcome::Error, "no") };
        let expect = Expectation::of(&result);
        assert_eq!(expect.faults(&result), Vec::<String>::new());
        let case =
            Case { name: "a".into(), call: RecordedCall { tool: "t".into(), arguments: Map::new(), expect } };
        let folder = tempfile::tempdir().expect("a folder");
        case.write(folder.path()).expect("written");
        let error = case.write(folder.path()).expect_err("refused").to_string();
        assert!(error.contains("is there already"), "{error}");
        assert_eq!(Case::read_all(folder.path()).expect("cases"), [case]);
    }
}
