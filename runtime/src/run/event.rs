//! The events of a run, in the order they happen. What the journal keeps, and what a terminal or a page shows.

use chaski_engine::{FinishReason, Timings, ToolCall, Usage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::tools::ToolOutcome;
use crate::tools::permission::Decision;

/// Where in a run something happens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Place {
    /// The workflow step's id, or `chat`.
    pub step: String,
    /// The item's index in a step with `foreach`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<usize>,
}

/// How a run or a workflow step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinalState {
    /// It did what it should.
    Succeeded,
    /// It could not.
    Failed,
    /// Someone stopped it.
    Cancelled,
    /// It was not run: its `if` was false.
    Skipped,
}

impl std::fmt::Display for FinalState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        })
    }
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum RunEvent {
    /// The first event of every run.
    RunStarted {
        /// The workflow's name, or `chat`.
        name: String,
        /// The workflow file, if there is one.
        source: Option<String>,
        /// The model's name.
        model: String,
        /// The inputs, defaults filled in.
        inputs: Value,
    },
    /// A workflow step begins; with `foreach`, once for the step as a whole.
    StepStarted {
        /// The step's id.
        step: String,
        /// How many items its `foreach` has.
        items: Option<usize>,
    },
    /// The model is asked.
    TurnStarted {
        /// Where.
        place: Place,
        /// From 1.
        turn: usize,
    },
    /// The model replied.
    ModelReplied {
        /// Where.
        place: Place,
        /// From 1.
        turn: usize,
        /// Its text, without the calls.
        content: String,
        /// The calls it asks for.
        tool_calls: Vec<ToolCall>,
        /// A call cut by the token limit, not run.
        cut_call: Option<String>,
        /// Why the reply ended.
        finish: FinishReason,
        /// Token counts.
        usage: Usage,
        /// Where the time went.
        timings: Timings,
    },
    /// A tool is about to run: the intent, on disk before the call.
    ToolCalled {
        /// Where.
        place: Place,
        /// The call.
        call: ToolCall,
        /// Who allowed it and why; absent for a call that no tool will run, whose answer says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        decision: Option<Decision>,
        /// [`ToolCall::id`] of the call that makes this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within: Option<String>,
    },
    /// A call was denied and does not run.
    ToolDenied {
        /// Where.
        place: Place,
        /// The call.
        call: ToolCall,
        /// Who denied it and why.
        decision: Decision,
        /// [`ToolCall::id`] of the call that would have made this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within: Option<String>,
    },
    /// A running call used a capability, or was refused it.
    CapabilityUsed {
        /// Where.
        place: Place,
        /// [`ToolCall::id`] of the call.
        call_id: String,
        /// `http`, `tools`.
        capability: String,
        /// What was asked for.
        what: String,
        /// Why it was refused; absent if it was not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
    },
    /// The tool answered: the receipt.
    ToolAnswered {
        /// Where.
        place: Place,
        /// [`ToolCall::id`].
        call_id: String,
        /// The tool's name.
        tool: String,
        /// How it ended.
        outcome: ToolOutcome,
        /// What the model reads.
        text: String,
        /// The structured answer.
        json: Option<Value>,
        /// Whether `text` was cut.
        truncated: bool,
        /// From dispatch to answer, in seconds.
        seconds: f64,
        /// The same call was answered before in this run, and was not run again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cached: bool,
    },
    /// Something a person should know: a limit reached, text cut, a fallback taken. Never silent.
    Notice {
        /// Where, if in a step.
        place: Option<Place>,
        /// A sentence.
        message: String,
    },
    /// A workflow step, or one item of it, ended.
    StepFinished {
        /// Where.
        place: Place,
        /// How.
        state: FinalState,
        /// Its output.
        output: Value,
        /// What went wrong.
        error: Option<String>,
    },
    /// The last event of every run.
    RunFinished {
        /// How.
        state: FinalState,
        /// The workflow's outputs, or the last answer of a chat.
        outputs: Value,
        /// What went wrong.
        error: Option<String>,
    },
}

/// What an observer of a live run sees: events, and the text between them that is not kept.
#[derive(Clone, Debug, PartialEq)]
pub enum LiveEvent {
    /// An event, already in the journal.
    Event(RunEvent),
    /// Text of a reply as it grows.
    Text {
        /// Where.
        place: Place,
        /// The new text.
        text: String,
    },
    /// The prompt is computed and the reply begins.
    Prefilled {
        /// Where.
        place: Place,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// How many of them were in the cache.
        cached_tokens: usize,
    },
    /// Output of a running tool, shown while it runs.
    ToolOutput {
        /// Where.
        place: Place,
        /// The tool's name.
        tool: String,
        /// The new text.
        text: String,
    },
}
