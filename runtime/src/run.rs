//! A run: one execution with an id, an event log and a final state.
//!
//! Every entrance builds a run the same way. What happens in it is a sequence of [`event::RunEvent`]s, each
//! written to the [`journal`] before it is acted on and before anyone sees it.

pub mod event;
pub mod journal;
pub mod recorder;
pub mod calls;
pub mod environment;
