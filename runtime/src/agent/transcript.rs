//! The messages of one conversation.

use chaski_engine::Message;

/// The messages of one conversation, oldest first, without the system message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    /// The messages.
    pub messages: Vec<Message>,
}
