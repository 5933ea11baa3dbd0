//! JSON in and out of the template engine: the same conversion that chat templates use.

pub use chaski_engine::chat::jinja_value::{from_json, to_json};
