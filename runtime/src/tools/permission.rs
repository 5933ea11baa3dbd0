//! Whether a call may run: deny over allow over ask.
//!
//! Rules come from the operator: the settings, `--allow`, and answers that a person asked to be remembered.
//! A workflow and its agents may forbid more and ask more, and never allow. Where no rule speaks, a call that
//! leaves no trace runs and an effectful one is asked about; where nobody can be asked, it does not run.
//!
//! Invariant: nothing here changes through a tool call, and every decision says who made it and why.

mod pattern;
mod remembered;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Effect, ToolDefinition};
pub use pattern::{Pattern, PatternError};
pub use remembered::{Remembered, RememberedError};

/// Patterns of calls, by what becomes of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// They never run.
    pub deny: Vec<Pattern>,
    /// They run without a question.
    pub allow: Vec<Pattern>,
    /// A person is asked.
    pub ask: Vec<Pattern>,
}

/// Rules and where they stand, in words that follow "a rule of".
#[derive(Clone, Debug, PartialEq)]
struct Source {
    name: String,
    rules: Rules,
}

/// Everything that decides about the calls of one agent or step.
#[derive(Clone, Default)]
pub struct Policy {
    operator: Vec<Source>,
    narrowing: Vec<Source>,
    remembered: Option<Arc<Remembered>>,
    person: Option<Arc<dyn Person>>,
    /// One question at a time, over all of a run's parts.
    questions: Arc<tokio::sync::Mutex<()>>,
    /// Where the operator's rules are written, for hints.
    settings: Option<PathBuf>,
}

/// Somebody who can be asked.
pub trait Person: Send + Sync {
    /// Shows the question and waits for the answer. Ends soon after `cancel` is set.
    fn ask<'a>(&'a self, question: &'a Question, cancel: &'a CancellationToken) -> BoxFuture<'a, Answer>;
}

/// What a person is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The tool's name; the plugin's is before the point.
    pub tool: String,
    /// What the model is told about it.
    pub description: String,
    /// What a call may leave behind.
    pub effect: Effect,
    /// The arguments.
    pub arguments: Value,
    /// What the tool may touch, a line each.
    pub reach: Vec<String>,
    /// Why it is asked about.
    pub why: String,
}

/// What a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Not this call.
    No,
    /// This call.
    Once,
    /// Every call of this tool in this run.
    Run,
    /// Every call of this tool in this project, from now on.
    Project,
    /// Every call of this tool, from now on.
    Always,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// No rule speaks of the call.
    Default,
    /// A rule of the settings, the command line or the workflow.
    Rule,
    /// A person, in this run or before.
    Person,
    /// A person would have to be asked and there is none.
    Nobody,
}

/// A decision about one call, for the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// Whether it may run.
    pub allowed: bool,
    /// Who decided.
    pub by: DecidedBy,
    /// Which rule or answer it was.
    pub why: String,
}

/// The tools that a person allowed for the rest of a run.
#[derive(Default)]
pub struct RunAnswers(Mutex<Vec<String>>);

/// What the rules alone say.
enum Verdict {
    Decided(Decision),
    /// `lasting`: what was answered for good in the past counts.
    Ask {
        why: String,
        lasting: bool,
    },
}

impl Policy {
    /// The operator's rules of `settings`, the user's file.
    pub fn new(rules: Rules, settings: PathBuf) -> Self {
        let source = Source { name: format!("`{}`", settings.display()), rules };
        Self { operator: vec![source], settings: Some(settings), ..Self::default() }
    }

    /// More rules of the operator's, from `source`: `--allow`.
    #[must_use]
    pub fn and(mut self, source: &str, rules: Rules) -> Self {
        self.operator.push(Source { name: source.to_owned(), rules });
        self
    }

    /// With somebody to ask, and a memory for what they say for good.
    #[must_use]
    pub fn asking(mut self, person: Arc<dyn Person>) -> Self {
        self.person = Some(person);
        self
    }

    /// With the answers that were given for good.
    #[must_use]
    pub fn remembering(mut self, remembered: Arc<Remembered>) -> Self {
        self.remembered = Some(remembered);
        self
    }

    /// The same for a part that forbids and asks more. What `rules` allow counts for nothing.
    #[must_use]
    pub fn narrowed(mut self, source: &str, rules: Rules) -> Self {
        if !rules.deny.is_empty() || !rules.ask.is_empty() {
            self.narrowing.push(Source { name: source.to_owned(), rules });
        }
        self
    }

    /// Decides about a call of `tool`, asking if need be; `reach` says what it may touch.
    ///
    /// # Errors
    /// [`RememberedError`] when an answer that should last could not be written down.
    pub async fn decide(
        &self,
        tool: &ToolDefinition,
        arguments: &Value,
        reach: &(dyn Fn() -> Vec<String> + Sync),
        run: &RunAnswers,
        cancel: &CancellationToken,
    ) -> Result<Decision, RememberedError> {
        let (why, lasting) = match self.verdict(tool, arguments) {
            Verdict::Decided(decision) => return Ok(decision),
            Verdict::Ask { why, lasting } => (why, lasting),
        };
        if let Some(decision) = self.answered_before(&tool.name, lasting, run) {
            return Ok(decision);
        }
        let Some(person) = &self.person else {
            return Ok(Decision { allowed: false, by: DecidedBy::Nobody, why: self.nobody(tool, &why) });
        };
        let _one = self.questions.lock().await;
        // The one before may have been about the same tool.
        if let Some(decision) = self.answered_before(&tool.name, lasting, run) {
            return Ok(decision);
        }
        let question = Question {
            tool: tool.name.clone(),
            description: tool.description.clone(),
            effect: tool.effect,
            arguments: arguments.clone(),
            reach: reach(),
            why,
        };
        let answer = match cancel.is_cancelled() {
            true => Answer::No,
            false => person.ask(&question, cancel).await,
        };
        let why = match answer {
            Answer::No => "asked, and the answer was no",
            Answer::Once => "asked, and allowed once",
            Answer::Run => "asked, and allowed for this run",
            Answer::Project => "asked, and allowed in this project",
            Answer::Always => "asked, and allowed for good",
        };
        if !matches!(answer, Answer::No | Answer::Once) {
            run.0.lock().unwrap_or_else(PoisonError::into_inner).push(tool.name.clone());
        }
        if let (Answer::Project | Answer::Always, Some(remembered)) = (answer, &self.remembered) {
            remembered.allow(&tool.name, answer == Answer::Project)?;
        }
        Ok(Decision { allowed: answer != Answer::No, by: DecidedBy::Person, why: why.to_owned() })
    }

    /// What the rules say, in the order of their weight.
    fn verdict(&self, tool: &ToolDefinition, arguments: &Value) -> Verdict {
        let name = tool.name.as_str();
        let decided =
            |allowed: bool, by: DecidedBy, why: String| Verdict::Decided(Decision { allowed, by, why });
        let rule = |pattern: &Pattern, list: &str, source: &Source| {
            format!("`{list}` of {} has `{pattern}`", source.name)
        };
        for source in self.operator.iter().chain(&self.narrowing) {
            if let Some(pattern) = source.rules.deny.iter().find(|rule| rule.may_cover(name, arguments)) {
                return decided(false, DecidedBy::Rule, rule(pattern, "deny", source));
            }
        }
        for source in &self.narrowing {
            if let Some(pattern) = source.rules.ask.iter().find(|rule| rule.may_cover(name, arguments)) {
                return Verdict::Ask { why: rule(pattern, "ask", source), lasting: false };
            }
        }
        for source in &self.operator {
            if let Some(pattern) = source.rules.allow.iter().find(|rule| rule.surely_covers(name, arguments))
            {
                return decided(true, DecidedBy::Rule, rule(pattern, "allow", source));
            }
        }
        for source in &self.operator {
            if let Some(pattern) = source.rules.ask.iter().find(|rule| rule.may_cover(name, arguments)) {
                return Verdict::Ask { why: rule(pattern, "ask", source), lasting: true };
            }
        }
        match tool.effect {
            Effect::Pure | Effect::Idempotent => {
                decided(true, DecidedBy::Default, "the tool was granted and leaves nothing behind".into())
            }
            Effect::Effectful => {
                Verdict::Ask { why: "each call may change something outside".into(), lasting: true }
            }
        }
    }

    fn answered_before(&self, tool: &str, lasting: bool, run: &RunAnswers) -> Option<Decision> {
        let answered = run.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|known| known == tool);
        let why = match (&self.remembered, answered) {
            (_, true) => "allowed for this run when it was asked".to_owned(),
            (Some(remembered), false) if lasting => remembered.allows(tool)?,
            _ => return None,
        };
        Some(Decision { allowed: true, by: DecidedBy::Person, why })
    }

    fn nobody(&self, tool: &ToolDefinition, why: &str) -> String {
        let name = &tool.name;
        let settings = self
            .settings
            .as_ref()
            .map(|path| format!(", or `[permissions]` with `allow = [\"{name}\"]` in `{}`", path.display()));
        format!(
            "{why}, and nobody can be asked here; `--allow {name}` allows it{}",
            settings.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests;
