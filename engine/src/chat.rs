//! Messages to prompt text, and the model's text back to messages.

pub mod message;
pub mod jinja_value;
pub mod template;
pub mod tool_calls;
