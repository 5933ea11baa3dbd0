//! Messages to prompt text, and the model's text back to messages.

pub mod message;
pub mod template;
pub mod tool_calls;
