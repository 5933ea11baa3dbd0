//! Which tools exist, and which of them one agent was granted.

use std::collections::BTreeMap;
use std::sync::Arc;

use chaski_engine::ToolSpec;

use super::arguments::ArgumentCheck;
use super::permission::{Policy, Rules};
use super::{Tool, ToolDefinition};
use crate::suggest::closest;

/// Every tool of a run, by name, and what decides about their calls.
#[derive(Clone, Default)]
pub struct ToolRegistry {
    tools: BTreeMap<String, GrantedTool>,
    /// What is offered and cannot be used, and why.
    unusable: BTreeMap<String, String>,
    policy: Policy,
}

/// A tool with what is worked out about it once.
#[derive(Clone)]
pub struct GrantedTool {
    /// The tool.
    pub tool: Arc<dyn Tool>,
    /// Checks the arguments of its calls.
    pub arguments: Arc<ArgumentCheck>,
}

impl GrantedTool {
    fn new(tool: Arc<dyn Tool>) -> Self {
        let arguments = Arc::new(ArgumentCheck::new(&tool.definition().input_schema));
        Self { tool, arguments }
    }

    fn name(&self) -> &str {
        &self.tool.definition().name
    }
}

/// A pattern or name that fits no tool.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no loaded plugin exports the tool `{asked}`")]
pub struct UnknownTool {
    /// What was asked for.
    pub asked: String,
    /// The known name closest to it.
    pub closest: Option<String>,
    /// Why it cannot be used, if it is offered.
    pub unusable: Option<String>,
}

impl UnknownTool {
    /// What to do about it.
    pub fn hint(&self) -> String {
        if let Some(reason) = &self.unusable {
            return format!("`{}` is offered, but cannot be used: {reason}", self.asked);
        }
        match &self.closest {
            Some(name) => format!("did you mean `{name}`? `chaski plugin list` shows every tool"),
            None => "`chaski plugin list` shows every tool".to_owned(),
        }
    }
}

impl ToolRegistry {
    /// Puts `policy` in charge of every call; without one, effectful calls do not run.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// All tools, as if each was granted by name.
    pub fn all(&self) -> ToolSet {
        ToolSet { tools: self.tools.values().cloned().collect(), policy: self.policy.clone() }
    }

    /// Adds `tool` and compiles the schema of its arguments; the last one of a name wins.
    pub fn insert(&mut self, tool: Arc<dyn Tool>) {
        self.tools.insert(tool.definition().name.clone(), GrantedTool::new(tool));
    }

    /// Notes why the tool `name`, which is offered, cannot be used: for who asks for it.
    pub fn insert_unusable(&mut self, name: &str, reason: &str) {
        self.unusable.insert(name.to_owned(), reason.to_owned());
    }

    /// The tool `name`.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Tool>, UnknownTool> {
        self.tools.get(name).map(|known| &known.tool).ok_or_else(|| self.unknown(name))
    }

    /// All tools, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Tool>> {
        self.tools.values().map(|known| &known.tool)
    }

    /// The tools that `patterns` grant: a name (`workspace.read`) or all of a plugin (`workspace.*`).
    ///
    /// They come in the order of the patterns, which is the order the model sees.
    pub fn grant(&self, patterns: &[String]) -> Result<ToolSet, UnknownTool> {
        let mut granted: Vec<GrantedTool> = Vec::new();
        for pattern in patterns {
            let mut fits = self.tools.values().filter(|known| matches(pattern, known.name())).peekable();
            if fits.peek().is_none() {
                return Err(self.unknown(pattern));
            }
            for tool in fits {
                if !granted.iter().any(|known| known.name() == tool.name()) {
                    granted.push(tool.clone());
                }
            }
        }
        Ok(ToolSet { tools: granted, policy: self.policy.clone() })
    }

    fn unknown(&self, asked: &str) -> UnknownTool {
        let closest = closest(asked, self.tools.keys().map(String::as_str)).map(str::to_owned);
        UnknownTool { asked: asked.to_owned(), closest, unusable: self.unusable.get(asked).cloned() }
    }
}

/// The plugins and servers that names of tools, or patterns for them, begin with.
pub fn plugins_of<'a>(patterns: impl Iterator<Item = &'a str>) -> Vec<String> {
    patterns.filter_map(|pattern| Some(pattern.split_once('.')?.0.to_owned())).collect()
}

/// Whether `pattern`, a name or `plugin.*`, covers the tool `name`.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix(".*") {
        Some(plugin) => name.strip_prefix(plugin).is_some_and(|rest| rest.starts_with('.')),
        None => pattern == name,
    }
}

/// The tools that one agent was granted, in the order the model sees them.
#[derive(Clone, Default)]
pub struct ToolSet {
    tools: Vec<GrantedTool>,
    policy: Policy,
}

impl ToolSet {
    /// What the model is told.
    pub fn specs(&self) -> Vec<ToolSpec> {
        self.tools.iter().map(|known| known.tool.definition().spec()).collect()
    }

    /// Their definitions, in order.
    pub fn definitions(&self) -> impl Iterator<Item = &ToolDefinition> {
        self.tools.iter().map(|known| known.tool.definition())
    }

    /// The granted tool `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.granted(name).map(|known| &known.tool)
    }

    /// The granted tool `name` with what is known about it.
    pub fn granted(&self, name: &str) -> Option<&GrantedTool> {
        self.tools.iter().find(|known| known.name() == name)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tools.iter().map(GrantedTool::name)
    }

    /// The same tools under `rules` as well, those of `source`, which forbid and ask more.
    #[must_use]
    pub fn narrowed(mut self, source: &str, rules: Rules) -> Self {
        self.policy = self.policy.narrowed(source, rules);
        self
    }

    /// What decides about calls.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The tools, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Tool>> {
        self.tools.iter().map(|known| &known.tool)
    }

    /// The same tools and `tool`, in place of one of its name.
    pub fn with(mut self, tool: Arc<dyn Tool>) -> Self {
        self.tools.retain(|known| known.name() != tool.definition().name);
        self.tools.push(GrantedTool::new(tool));
        self
    }

    /// Whether nothing was granted.
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }
}
