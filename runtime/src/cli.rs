//! The command line: one file a command.

pub mod model;
pub mod license;
pub mod doctor;
pub mod plugin;
pub mod run;
pub mod validate;
pub mod schema;
pub mod runs;
pub mod chat;
pub mod display;
