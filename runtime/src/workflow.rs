//! YAML workflows: read, checked offline, executed step by step.

pub mod schema;
pub mod template;
pub mod check;
pub mod execute;
