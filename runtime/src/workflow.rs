//! YAML workflows: read, checked offline, executed step by step.
//!
//! [`read`] turns a file into typed data that remembers its lines ([`schema`]). [`check`] finds every fault
//! that can be found without a model or a network, all at once, and gives a [`plan::Plan`]: the same
//! workflow with its files read and its order known. [`execute`](mod@execute) runs a plan. Expressions in the file are
//! [`template`]s; what is wrong with a file is a [`fault`] with its line.

pub mod schema;
pub mod read;
pub mod fault;
pub mod template;
pub mod plan;
pub mod check;
pub mod execute;
pub mod inputs;

pub use execute::{RunEnvironment, RunOutcome, execute};
pub use fault::{Fault, InvalidWorkflow};
pub use plan::Plan;
pub use read::Workflow;

/// Namespaces of tools that chaski provides itself.
pub const HOST_TOOLS: [&str; 2] = ["review", "skill"];
