//! End to end: the real binary, the default model, the real plugins, real files.
//!
//! What is slow to get is got once and kept where `chaski` itself keeps it: the model is pulled, the plugins are
//! built. Each test has a journal of its own.

mod support;
mod examples;
mod bad_input;
mod sandbox;
mod plugins;
mod engine;
mod bench;
mod js_runner;
mod authoring;
mod first_party;
mod mcp;
mod guidance;
