//! The messages of one conversation, and how they are kept within the context.
//!
//! What does not fit gives way in a fixed order: old tool results are shortened, the newest ones are cut to a
//! share, the oldest exchanges are left out, then the oldest turns of the task at hand.
//!
//! Invariant: a call is never parted from its result, the task itself is never touched but for one added line,
//! and nothing gives way silently: the model reads a mark in its place, a person reads [`Fit::notices`].

use chaski_engine::{EngineError, Message, Role};

use super::model::ModelError;

/// Bytes that stay of an old tool result when room is needed: about 100 tokens, enough to remember what it was.
const OLD_RESULT_BYTES: usize = 400;

/// A result this little above its limit stays whole: the mark would take what the cut gives.
const WORTH_CUTTING_BYTES: usize = 100;

/// Bytes of a token in ordinary text, roughly; only sizes the first cut, the count afterwards is exact.
const BYTES_PER_TOKEN: usize = 4;

/// Stands where a tool result lost its middle. It names no number: a result may be cut twice.
const CUT_MARK: &str = "\n[... left out to fit the context ...]\n";

/// Stands before the first message that is left, where older ones were.
const OLDER_MARK: &str = "[Earlier messages were left out here to fit the context.]\n\n";

/// Stands behind the task, where the first turns of its work were.
const TURNS_MARK: &str = "\n\n[Your first tool calls for this task were left out here to fit the context.]";

/// The messages of one conversation, oldest first, without the system message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transcript {
    /// The messages.
    pub messages: Vec<Message>,
}

/// What a prompt and its reply may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Tokens of the context, prompt and reply together.
    pub context: usize,
    /// Tokens that the reply should have.
    pub reply: usize,
}

/// How a transcript came to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Tokens of the whole prompt now.
    pub prompt_tokens: usize,
    /// What gave way, a sentence each.
    pub notices: Vec<String>,
}

/// What gave way so far.
#[derive(Default)]
struct Losses {
    shortened: usize,
    older: usize,
    turns: usize,
}

impl Transcript {
    /// A transcript that begins with what a person asks.
    pub fn of_user(text: impl Into<String>) -> Self {
        Self { messages: vec![Message::user(text)] }
    }

    /// Makes room for a reply of `room.reply` tokens, but keeps at least half of the context for the prompt.
    ///
    /// `task` is the index of the user's message that is worked on; it moves when older messages go. `count`
    /// tells the tokens of the whole prompt (system message and tools included) with these messages.
    ///
    /// # Errors
    /// [`EngineError::ContextTooLong`] when the task alone leaves no room for a single token of reply.
    pub fn fit(
        &mut self,
        task: &mut usize,
        room: Room,
        count: &dyn Fn(&[Message]) -> Result<usize, ModelError>,
    ) -> Result<Fit, ModelError> {
        let target = room.context - room.reply.min(room.context / 2);
        let mut losses = Losses::default();
        let mut prompt_tokens = count(&self.messages)?;
        while prompt_tokens > target && self.give_way(task, target, &mut losses) {
            prompt_tokens = count(&self.messages)?;
        }
        if prompt_tokens >= room.context {
            return Err(EngineError::ContextTooLong { prompt_tokens, context: room.context }.into());
        }
        Ok(Fit { prompt_tokens, notices: losses.notices(room, prompt_tokens) })
    }

    /// Takes the next smallest thing away; false when nothing is left to take.
    fn give_way(&mut self, task: &mut usize, target: usize, losses: &mut Losses) -> bool {
        let newest = self.newest_turn(*task);
        let new_results = self.messages[newest..].iter().filter(|message| message.role == Role::Tool).count();
        let share = target * BYTES_PER_TOKEN / 2 / new_results.max(1);
        let whole = self.messages.len();
        if self.shorten_result(0..newest, OLD_RESULT_BYTES)
            || self.shorten_result(newest..whole, share.max(OLD_RESULT_BYTES))
        {
            losses.shortened += 1;
            return true;
        }
        let older = self.drop_oldest_exchange(task);
        let turn = if older == 0 { self.drop_oldest_turn(*task) } else { 0 };
        losses.older += older;
        losses.turns += usize::from(turn > 0);
        if older + turn > 0 {
            return true;
        }
        let cut = self.shorten_result(newest..whole, OLD_RESULT_BYTES);
        losses.shortened += usize::from(cut);
        cut
    }

    /// Where the newest reply to the task begins; the end when there is none yet.
    fn newest_turn(&self, task: usize) -> usize {
        let reply = self.messages.iter().rposition(|message| message.role == Role::Assistant);
        reply.filter(|index| *index > task).unwrap_or(self.messages.len())
    }

    /// Takes the middle out of the first tool result in `range` that is longer than `limit` bytes.
    fn shorten_result(&mut self, range: std::ops::Range<usize>, limit: usize) -> bool {
        let long = self.messages[range].iter_mut().find(|message| {
            message.role == Role::Tool && message.content.len() > limit + WORTH_CUTTING_BYTES
        });
        match long {
            Some(message) => {
                message.content = without_middle(&message.content, limit);
                true
            }
            None => false,
        }
    }

    /// Drops the messages up to the next one of the user, if that is not past the task. Tells how many.
    fn drop_oldest_exchange(&mut self, task: &mut usize) -> usize {
        let next = self.messages.iter().skip(1).position(|message| message.role == Role::User);
        let Some(end) = next.map(|index| index + 1).filter(|end| *end <= *task) else {
            return 0;
        };
        self.messages.drain(..end);
        *task -= end;
        let first = &mut self.messages[0].content;
        if !first.starts_with(OLDER_MARK) {
            first.insert_str(0, OLDER_MARK);
        }
        end
    }

    /// Drops the first reply to the task and its results, unless it is the newest. Tells how many messages.
    fn drop_oldest_turn(&mut self, task: usize) -> usize {
        let replies = self.messages.iter().enumerate().skip(task + 1);
        let starts: Vec<usize> =
            replies.filter(|(_, message)| message.role == Role::Assistant).map(|(index, _)| index).collect();
        let [first, second, ..] = starts[..] else {
            return 0;
        };
        self.messages.drain(first..second);
        let task = &mut self.messages[task].content;
        if !task.ends_with(TURNS_MARK) {
            task.push_str(TURNS_MARK);
        }
        second - first
    }
}

/// `text` with its middle replaced by a mark, so that about `limit` bytes stay: two thirds from its beginning.
fn without_middle(text: &str, limit: usize) -> String {
    let head = text.floor_char_boundary(limit * 2 / 3);
    let tail = text.ceil_char_boundary(text.len() - limit / 3);
    format!("{}{CUT_MARK}{}", &text[..head], &text[tail..])
}

impl Losses {
    fn notices(&self, room: Room, prompt_tokens: usize) -> Vec<String> {
        let context = room.context;
        let left = context - prompt_tokens;
        let mut notices = Vec::new();
        if self.shortened > 0 {
            notices.push(format!(
                "the context of {context} tokens is full: {} lost their middle",
                counted(self.shortened, "tool result")
            ));
        }
        if self.older > 0 {
            notices.push(format!(
                "the context of {context} tokens is full: the oldest {} left out",
                counted(self.older, "message")
            ));
        }
        if self.turns > 0 {
            notices.push(format!(
                "the context of {context} tokens is full: the first {} of this task left out",
                counted(self.turns, "turn")
            ));
        }
        if left < room.reply {
            notices.push(format!(
                "the prompt has {prompt_tokens} of the context's {context} tokens: the reply may have {left}, \
                 not {}",
                room.reply
            ));
        }
        notices
    }
}

fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
