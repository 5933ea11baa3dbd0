//! What the engine is given to do, and how long it takes: one function a measurement.
//!
//! Only the engine's public interface is used, so a measurement means the same whatever the engine becomes.
//!
//! Invariant: a timed reply has exactly the tokens that were asked for. One that the model ends early is asked
//! for again after another prompt; where the prompt is given, a grammar forbids the end.

use std::time::{Duration, Instant};

use chaski_engine::{Engine, EngineError, Finished, GenerateRequest, OutputFormat, Prompt, TokenEvent};
use futures::future::try_join_all;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

use crate::cli::failure;

/// Prompts that are tried until the model goes on for as long as it is asked to.
const ATTEMPTS: usize = 8;

/// Tokens of each prompt of a batch, beside one more: whole KV blocks, so that a prompt that was computed before
/// costs one token.
pub(super) const BATCH_PROMPT: usize = 64;

/// Any text that is longer than a reply can be: the model may say what it likes, but not stop.
const UNENDING: &str = "(?s:.{100000,})";

/// Words of a tool result: one or two tokens each in every vocabulary, so that its size is met closely.
const WORDS: [&str; 24] = [
    "fn", "read", "line", "error", "value", "return", "index", "path", "limit", "count", "open", "close",
    "client", "server", "retry", "window", "buffer", "token", "state", "queue", "cache", "write", "check",
    "parse",
];

/// A source of work for one engine.
pub(super) struct Workload<'a> {
    engine: &'a Engine,
    random: ChaCha8Rng,
}

/// How a conversation with tools goes on.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Conversation {
    /// Replies of the model.
    pub turns: usize,
    /// Tokens of the tool result before each.
    pub result_tokens: usize,
    /// Tokens of each reply.
    pub reply_tokens: usize,
}

impl Conversation {
    /// Context that is surely enough: a line of a tool result may go a little beyond its size, and a reply that
    /// is read again as text may take more tokens than it was written in.
    pub(super) fn context(self) -> usize {
        self.turns * (self.result_tokens + 32 + 3 * self.reply_tokens)
    }
}

/// What a conversation took.
pub(super) struct ConversationCost {
    /// From the first request to the end of the last reply.
    pub elapsed: Duration,
    /// Prompt tokens that were computed, over all turns.
    pub computed_tokens: usize,
    /// Prompt tokens that were found in the KV cache, over all turns.
    pub cached_tokens: usize,
}

impl<'a> Workload<'a> {
    /// Work for `engine`; the same seed gives the same prompts.
    pub(super) fn new(engine: &'a Engine, seed: u64) -> Self {
        Self { engine, random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The shortest request there is: a model whose weights are read late has read them after it.
    pub(super) async fn first_token(&mut self) -> anyhow::Result<()> {
        let prompt = self.prompt(1);
        self.reply(request(prompt, 1)).await?;
        Ok(())
    }

    /// Does a little of everything, so that no later measurement pays for what happens once.
    pub(super) async fn warm_up(&mut self) -> anyhow::Result<()> {
        let prompt = self.prompt(64);
        self.reply(request(prompt, 8)).await?;
        Ok(())
    }

    /// Prompt tokens a second, for a prompt of `tokens` tokens that the engine has not seen.
    pub(super) async fn prefill(&mut self, tokens: usize) -> anyhow::Result<f64> {
        let prompt = self.prompt(tokens);
        let (finished, _) = self.reply(request(prompt, 1)).await?;
        let computed = finished.usage.prompt_tokens - finished.usage.cached_tokens;
        Ok(per_second(computed, finished.timings.prefill))
    }

    /// A prompt of `depth` tokens (at least one) after which the model goes on for `tokens` tokens and one more.
    /// Finding it fills the KV cache, so that a timed reply need not compute it again.
    pub(super) async fn lasting_prompt(&mut self, depth: usize, tokens: usize) -> anyhow::Result<Vec<u32>> {
        for _ in 0..ATTEMPTS {
            let prompt = self.prompt(depth.max(1));
            let (finished, _) = self.reply(request(prompt.clone(), tokens + 1)).await?;
            if finished.usage.completion_tokens == tokens + 1 {
                return Ok(prompt);
            }
        }
        Err(failure(
            format!("the model stops before {tokens} tokens after each of {ATTEMPTS} random prompts"),
            "ask for fewer tokens with `--tokens`, or for other prompts with `--seed`",
        ))
    }

    /// Tokens a second of one sequence that goes on after `prompt`.
    ///
    /// The first token comes out of the prefill, so one more is asked for than is counted: what is timed is
    /// `tokens` forward passes of one token each.
    pub(super) async fn decode(&self, prompt: &[u32], tokens: usize) -> anyhow::Result<f64> {
        let (finished, _) = self.reply(request(prompt.to_vec(), tokens + 1)).await?;
        Ok(per_second(finished.usage.completion_tokens - 1, finished.timings.decode))
    }

    /// Prompts of `sequences` sequences for [`Workload::batch`], computed beforehand.
    pub(super) async fn batch_prompts(
        &mut self,
        sequences: usize,
        tokens: usize,
    ) -> anyhow::Result<Vec<Vec<u32>>> {
        let mut prompts = Vec::with_capacity(sequences);
        for _ in 0..sequences {
            prompts.push(self.lasting_prompt(BATCH_PROMPT + 1, tokens).await?);
        }
        Ok(prompts)
    }

    /// Tokens a second of all sequences together, by the clock on the wall: what the engine does between the
    /// first request and the last reply counts, its queue included.
    pub(super) async fn batch(&self, prompts: &[Vec<u32>], tokens: usize) -> anyhow::Result<f64> {
        let started = Instant::now();
        let replies = prompts.iter().map(|prompt| self.reply(request(prompt.clone(), tokens + 1)));
        let replies = try_join_all(replies).await?;
        let generated = replies.iter().map(|(finished, _)| finished.usage.completion_tokens).sum();
        Ok(per_second(generated, started.elapsed()))
    }

    /// The tool results of a conversation, each of about as many tokens as it asks for.
    pub(super) fn tool_results(&mut self, conversation: Conversation) -> anyhow::Result<Vec<String>> {
        (0..conversation.turns).map(|_| self.text(conversation.result_tokens)).collect()
    }

    /// A conversation in which each tool result is followed by a reply. Every request holds the whole
    /// conversation so far, as an agent's does.
    pub(super) async fn converse(
        &self,
        results: &[String],
        reply_tokens: usize,
    ) -> anyhow::Result<ConversationCost> {
        let mut cost = ConversationCost { elapsed: Duration::ZERO, computed_tokens: 0, cached_tokens: 0 };
        let mut text = String::new();
        let started = Instant::now();
        for result in results {
            text += result;
            let mut request = GenerateRequest::chat(Vec::new(), reply_tokens);
            request.prompt = Prompt::Text(text.clone());
            request.output = OutputFormat::Regex(UNENDING.into());
            let (finished, reply) = self.reply(request).await?;
            cost.computed_tokens += finished.usage.prompt_tokens - finished.usage.cached_tokens;
            cost.cached_tokens += finished.usage.cached_tokens;
            text += &reply;
            text += "\n";
        }
        cost.elapsed = started.elapsed();
        Ok(cost)
    }

    /// Sends `request` and waits for its end.
    async fn reply(&self, request: GenerateRequest) -> Result<(Finished, String), EngineError> {
        let mut generation = self.engine.generate(request).await?;
        let mut text = String::new();
        loop {
            match generation.events.recv().await {
                Some(TokenEvent::Text(more)) => text += &more,
                Some(TokenEvent::Started { .. } | TokenEvent::ToolCall(_)) => {}
                Some(TokenEvent::Finished(finished)) => return Ok((finished, text)),
                Some(TokenEvent::Failed(error)) => return Err(error),
                None => return Err(EngineError::Stopped),
            }
        }
    }

    /// Random ids from the middle of the vocabulary: special tokens stand at its ends.
    fn prompt(&mut self, tokens: usize) -> Vec<u32> {
        let vocabulary = self.engine.info().vocabulary as u32;
        let (first, span) = (vocabulary / 4, (vocabulary / 2).max(1));
        (0..tokens).map(|_| first + self.random.next_u32() % span).collect()
    }

    /// Random words in lines, about `tokens` tokens of them.
    fn text(&mut self, tokens: usize) -> anyhow::Result<String> {
        let mut text = String::new();
        let mut line = 0;
        loop {
            line += 1;
            text += &format!("{line}:");
            for _ in 0..8 {
                text += " ";
                text += WORDS[self.random.next_u32() as usize % WORDS.len()];
            }
            text += "\n";
            let mut request = GenerateRequest::chat(Vec::new(), 1);
            request.prompt = Prompt::Text(text.clone());
            if self.engine.count_tokens(&request)? >= tokens {
                return Ok(text);
            }
        }
    }
}

fn request(prompt: Vec<u32>, tokens: usize) -> GenerateRequest {
    GenerateRequest { prompt: Prompt::Tokens(prompt), ..GenerateRequest::chat(Vec::new(), tokens) }
}

fn per_second(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)
}
