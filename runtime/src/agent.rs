//! The agent loop: ask the model, run the tools it calls, tell it the results, until it answers.

pub mod model;
pub mod turn;
pub mod transcript;
pub mod offer;
pub mod instructions;
pub mod skills;
pub mod workplace;
pub mod engine_model;
pub mod openai_model;
pub mod scripted_model;
