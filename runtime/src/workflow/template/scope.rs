//! The names that an expression can use, and their values.

use std::collections::BTreeMap;

use minijinja::value::{Value as Jinja, ValueKind};
use serde_json::Value;

use super::value::from_json;
use crate::run::event::FinalState;

/// What `inputs`, `steps`, `item`, `index` and `run` mean at one point of a run. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    inputs: Jinja,
    run: Jinja,
    steps: BTreeMap<String, Jinja>,
    item: Option<(usize, Jinja)>,
}

/// A name that an expression reads and that has no value.
#[derive(Debug, PartialEq, Eq)]
pub struct MissingName {
    /// The whole path that was read: `steps.look.outptu`.
    pub path: String,
    /// The first part of it that is not there.
    pub name: String,
    /// What is there instead.
    pub known: Vec<String>,
}

impl Scope {
    /// At the beginning of the run `run_id`.
    pub fn new(inputs: &Value, run_id: &str) -> Self {
        let run = Jinja::from_pairs([("id", run_id)]);
        Self { inputs: from_json(inputs), run, steps: BTreeMap::new(), item: None }
    }

    /// Adds a step that has ended.
    pub fn add_step(&mut self, id: &str, output: &Value, state: FinalState) {
        let state = match state {
            FinalState::Succeeded => "succeeded",
            FinalState::Failed => "failed",
            FinalState::Cancelled => "cancelled",
            FinalState::Skipped => "skipped",
        };
        let step = Jinja::from_pairs([("output", from_json(output)), ("state", Jinja::from(state))]);
        self.steps.insert(id.to_owned(), step);
    }

    /// The same, for the item `index` of a step with `foreach`.
    pub fn with_item(&self, index: usize, item: &Value) -> Self {
        Self { item: Some((index, from_json(item))), ..self.clone() }
    }

    /// The file that the item is about: its `path`, if it has one.
    pub fn item_path(&self) -> Option<String> {
        let (_, item) = self.item.as_ref()?;
        item.get_attr("path").ok()?.as_str().map(str::to_owned)
    }

    /// The names and values, for the template engine.
    pub(super) fn context(&self) -> Jinja {
        let steps = Jinja::from_pairs(self.steps.iter().map(|(id, step)| (id.as_str(), step.clone())));
        let mut names = vec![("inputs", self.inputs.clone()), ("run", self.run.clone()), ("steps", steps)];
        if let Some((index, item)) = &self.item {
            names.push(("item", item.clone()));
            names.push(("index", Jinja::from(*index)));
        }
        Jinja::from_pairs(names)
    }

    /// The first name in `expression` that has no value, if it begins with a plain dotted path.
    pub(super) fn missing_name(&self, expression: &str) -> Option<MissingName> {
        let path: String =
            expression.trim().chars().take_while(|c| c.is_alphanumeric() || "_.".contains(*c)).collect();
        let mut value = self.context();
        for name in path.split('.') {
            let known = keys(&value);
            match value.get_attr(name) {
                Ok(next) if !next.is_undefined() => value = next,
                _ if name.is_empty() => return None,
                _ => return Some(MissingName { name: name.to_owned(), known, path }),
            }
        }
        None
    }
}

/// The first few keys of a mapping.
fn keys(value: &Jinja) -> Vec<String> {
    const SHOWN: usize = 12;
    if value.kind() != ValueKind::Map {
        return Vec::new();
    }
    let keys = value.try_iter().into_iter().flatten().take(SHOWN);
    keys.filter_map(|key| key.as_str().map(str::to_owned)).collect()
}
