//! Code review: a diff as hunks whose line numbers can be trusted.

pub mod diff;
pub mod hunks_tool;
