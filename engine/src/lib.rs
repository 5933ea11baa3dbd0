//! In-process inference for the Llama family.
//!
//! A [`GenerateRequest`] holds messages, tool specifications and the shape that the answer must have. The
//! engine thread turns it into prompt tokens ([`chat`], [`tokenizer`]), decides what each engine step
//! computes ([`scheduler`]), runs the forward pass ([`model`]), picks the next token under the request's
//! grammar ([`sampling`]) and sends [`TokenEvent`]s back. It runs no tools and opens no sockets: that is
//! the runtime's part.

pub mod config;
pub mod error;
pub mod request;
pub mod chat;
pub mod tokenizer;
pub mod scheduler;
pub mod kv_store;
pub mod model;
pub mod sampling;
pub mod device;
pub mod kernels;
pub mod engine;
pub mod inspect;

pub use chat::message::{Message, Role, ToolCall, ToolSpec};
pub use config::EngineOptions;
pub use engine::{Engine, Generation, ModelInfo};
pub use error::EngineError;
pub use request::{
    FinishReason, Finished, GenerateRequest, OutputFormat, Priority, Prompt, Sampling, SessionId,
    Speculation, Timings, TokenEvent, ToolChoice, Usage,
};
