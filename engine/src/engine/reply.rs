//! One reply as it grows: logits to tokens, tokens to text, text to events.
//!
//! Order: grammar mask → sampler → bytes → characters → stop strings → tool calls → events. Text that may
//! still become a stop string or a call is held back, so an event is never taken back.
//!
//! Drafts are guesses at the next tokens whose logits were computed along. Each position is sampled as if there
//! were none; as long as what was sampled is what was guessed, the next position's logits are there already. So
//! the same seed gives the same tokens with drafts and without, and the grammar never sees a wrong one.

use std::sync::Arc;

use crate::chat::tool_calls::{Parsed, ToolCallParser};
use crate::error::EngineError;
use crate::request::{FinishReason, Sampling, Speculation, TokenEvent};
use crate::sampling::drafter::Drafter;
use crate::sampling::grammar::Grammar;
use crate::sampling::sampler::Sampler;
use crate::sampling::token_mask::TokenMask;
use crate::tokenizer::{IncrementalDecoder, Tokenizer};

/// How a reply went on after a step.
pub(super) struct Advance {
    /// Its new tokens: sampled, and forced after that by the grammar.
    pub(super) tokens: Vec<u32>,
    /// How it ended, if it did.
    pub(super) end: Option<End>,
}

/// How a reply ended.
pub(super) struct End {
    pub(super) reason: FinishReason,
    pub(super) cut_call: Option<String>,
}

/// One reply as it grows.
pub(super) struct Reply {
    tokenizer: Arc<Tokenizer>,
    grammar: Option<Grammar>,
    /// What may be said where there is no grammar.
    sayable: Arc<TokenMask>,
    sampler: Sampler,
    drafter: Option<Drafter>,
    decoder: IncrementalDecoder,
    stops: StopStrings,
    parser: Option<ToolCallParser>,
    events: Vec<TokenEvent>,
    tokens: usize,
    called: bool,
}

impl Reply {
    pub(super) fn new(
        tokenizer: Arc<Tokenizer>,
        grammar: Option<Grammar>,
        sayable: Arc<TokenMask>,
        parser: ToolCallParser,
        sampling: Sampling,
        stop: Vec<String>,
        drafter: Option<Drafter>,
    ) -> Self {
        Self {
            tokenizer,
            grammar,
            sayable,
            sampler: Sampler::new(sampling),
            drafter,
            decoder: IncrementalDecoder::default(),
            stops: StopStrings { strings: stop, held: String::new() },
            parser: Some(parser),
            events: Vec::new(),
            tokens: 0,
            called: false,
        }
    }

    /// Tokens so far, forced ones and the stop token included.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// What happened since the last call.
    pub(super) fn take_events(&mut self) -> Vec<TokenEvent> {
        std::mem::take(&mut self.events)
    }

    /// Guesses at the next tokens, if guessing is worth it. The grammar allows them.
    pub(super) fn drafts(&mut self) -> Vec<u32> {
        let mut drafts = self.drafter.as_ref().map_or(&[][..], Drafter::guess).to_vec();
        if let Some(grammar) = self.grammar.as_mut().filter(|_| !drafts.is_empty()) {
            drafts.truncate(grammar.allowed(&drafts));
        }
        drafts
    }

    /// Drafts so far, and how many of them were right.
    pub(super) fn draft_counts(&self) -> Speculation {
        self.drafter.as_ref().map_or_else(Speculation::default, Drafter::counts)
    }

    /// Samples from the logits after the last token, and after each of `drafts` as far as they come true:
    /// `logits` gives those after so many drafts, (vocabulary,).
    pub(super) fn advance<'a>(
        &mut self,
        logits: impl Fn(usize) -> &'a [f32],
        drafts: &[u32],
        max_tokens: usize,
    ) -> Result<Advance, EngineError> {
        let mut tokens = Vec::new();
        loop {
            let end = self.next(logits(tokens.len()), max_tokens, &mut tokens)?;
            let right = tokens.iter().zip(drafts).take_while(|(token, draft)| token == draft).count();
            if end.is_some() || right < tokens.len() {
                if let Some(drafter) = &mut self.drafter {
                    drafter.learn(drafts.len(), right);
                }
                return Ok(Advance { tokens, end });
            }
        }
    }

    /// Samples from `logits`, (vocabulary,), and goes on as far as the grammar leaves no choice.
    fn next(
        &mut self,
        logits: &[f32],
        max_tokens: usize,
        tokens: &mut Vec<u32>,
    ) -> Result<Option<End>, EngineError> {
        let mask = self.grammar.as_mut().map(Grammar::mask).transpose()?;
        let mask = mask.as_ref().unwrap_or(&self.sayable);
        let id = self.sampler.sample(logits, mask).ok_or_else(|| {
            EngineError::Compute(
                "no token can follow: the logits are not numbers, or the grammar is a dead end".into(),
            )
        })?;
        tokens.push(id);
        if let Some(end) = self.take(id, max_tokens)? {
            return Ok(Some(end));
        }
        let forced = self.grammar.as_mut().map(Grammar::forced).unwrap_or_default();
        for id in forced {
            tokens.push(id);
            if let Some(end) = self.take(id, max_tokens)? {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Adds one token to the reply.
    fn take(&mut self, id: u32, max_tokens: usize) -> Result<Option<End>, EngineError> {
        self.tokens += 1;
        self.sampler.note(id);
        if let Some(drafter) = &mut self.drafter {
            drafter.note(id);
        }
        if self.tokenizer.stop_ids().contains(&id) {
            return Ok(Some(self.finish(FinishReason::Stop)));
        }
        if let Some(grammar) = &mut self.grammar {
            grammar.commit(id)?;
        }
        let text = match self.tokenizer.call_marker(id) {
            Some(marker) => marker.to_owned(),
            None => self.decoder.push(self.tokenizer.bytes(id)),
        };
        let (text, stopped) = self.stops.push(&text);
        self.parse(&text);
        if stopped || self.grammar.as_ref().is_some_and(Grammar::is_finished) {
            return Ok(Some(self.finish(FinishReason::Stop)));
        }
        Ok((self.tokens >= max_tokens).then(|| self.finish(FinishReason::Length)))
    }

    fn parse(&mut self, text: &str) {
        let parsed = self.parser.as_mut().map(|parser| parser.push(text)).unwrap_or_default();
        self.give_out(parsed);
    }

    fn give_out(&mut self, parsed: Vec<Parsed>) {
        for parsed in parsed {
            self.events.push(match parsed {
                Parsed::Text(text) => TokenEvent::Text(text),
                Parsed::Call(call) => {
                    self.called = true;
                    TokenEvent::ToolCall(call)
                }
            });
        }
    }

    /// Gives out what was held back. A reply ended by a stop string or by its length may be cut in a call.
    fn finish(&mut self, reason: FinishReason) -> End {
        let cut = reason == FinishReason::Length || self.stops.has_stopped();
        let tail = std::mem::take(&mut self.decoder).finish();
        let held = self.stops.finish(&tail);
        self.parse(&held);
        let rest = self.parser.take().map(|parser| parser.finish(cut)).unwrap_or_default();
        self.give_out(rest.parsed);
        let reason =
            if reason == FinishReason::Stop && self.called { FinishReason::ToolCalls } else { reason };
        End { reason, cut_call: rest.cut_call }
    }
}

/// Looks for stop strings across token borders.
struct StopStrings {
    strings: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

impl StopStrings {
    /// Takes text; gives out what surely comes before any stop string, and whether one came.
    fn push(&mut self, text: &str) -> (String, bool) {
        if self.strings.is_empty() || self.has_stopped() {
            return (text.to_owned(), false);
        }
        self.held.push_str(text);
        if let Some(at) = self.strings.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            self.strings.clear();
            self.strings.push(String::new()); // the mark of `has_stopped`
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self
            .strings
            .iter()
            .flat_map(|stop| stop.char_indices().map(move |(at, _)| &stop[..at]))
            .filter(|beginning| self.held.ends_with(beginning))
            .map(str::len)
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// A stop string ended the reply: stop strings are never empty otherwise.
    fn has_stopped(&self) -> bool {
        self.strings.first().is_some_and(String::is_empty)
    }

    /// What was held back, if no stop string came of it.
    fn finish(&mut self, tail: &str) -> String {
        if self.has_stopped() {
            return String::new();
        }
        std::mem::take(&mut self.held) + tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stops: &[&str], pieces: &[&str], expected: &str) {
        let mut found = StopStrings {
            strings: stops.iter().map(|stop| (*stop).to_owned()).collect(),
            held: String::new(),
        };
        let mut given = String::new();
        for piece in pieces {
            let (text, stopped) = found.push(piece);
            given += &text;
            if stopped {
                break;
            }
        }
        given += &found.finish("");
        assert_eq!(given, expected);
    }

    #[test]
    fn text_before_a_stop_string_is_given_out() {
        check(&["END"], &["one END two"], "one ");
    }

    #[test]
    fn a_stop_string_is_found_across_pieces() {
        check(&["END"], &["one E", "N", "D two"], "one ");
    }

    #[test]
    fn a_beginning_that_comes_to_nothing_is_given_out() {
        check(&["END"], &["one EN", "TER"], "one ENTER");
    }

    #[test]
    fn the_first_of_several_wins() {
        check(&["two", "one"], &["zero one two"], "zero ");
    }

    #[test]
    fn held_text_comes_out_at_the_end() {
        check(&["END"], &["EN"], "EN");
    }
}
