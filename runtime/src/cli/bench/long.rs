//! What a long context is worth to a model: how well it predicts a text, and whether it finds a sentence in it.
//!
//! Both take a text of the user's: a random one predicts nothing, and a repeated one is found in itself.

use chaski_engine::{Engine, GenerateRequest, Message, OutputFormat, Prompt, Sampling, TokenEvent};
use serde_json::json;

use super::BenchResult;
use crate::cli::failure;

/// Where in the text the sentence is hidden, as shares of its length.
const DEPTHS: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];

/// Tokens of the question, the sentence and the template around them.
const AROUND: usize = 160;

/// The sentences to be found; a number that no text has by chance.
const NEEDLES: [(&str, &str); 5] =
    [("Lima", "48213"), ("Cusco", "91576"), ("Arequipa", "27384"), ("Trujillo", "65092"), ("Puno", "13847")];

/// e to the mean negative log-likelihood of the first tokens of `text`, as many as each of `lengths` says. Beside
/// it stands what the tokens since the length before have by themselves: a context that is too long shows there.
pub(super) async fn perplexity(
    engine: &Engine,
    text: &str,
    lengths: &[usize],
) -> anyhow::Result<Vec<BenchResult>> {
    let mut results = Vec::new();
    let (mut before, mut total_before) = (1, 0.0);
    for &length in lengths {
        enough(engine, text, length)?;
        let mean = engine.mean_nll(text, length).await?;
        let total = mean * (length - 1) as f64;
        let since = (total - total_before) / (length - before) as f64;
        let mut result = BenchResult::new(format!("perplexity/{length}"), "", vec![mean.exp()]);
        result.details = Some(json!({"from": before, "perplexity_from_there": since.exp()}));
        results.push(result);
        (before, total_before) = (length, total);
    }
    Ok(results)
}

/// The share of sentences that the model finds in a prompt of `length` tokens of `text`, each hidden at another depth.
pub(super) async fn needles(engine: &Engine, text: &str, length: usize) -> anyhow::Result<BenchResult> {
    let hay = beginning(engine, text, length.saturating_sub(AROUND))?;
    let mut found = Vec::new();
    for (depth, (city, number)) in DEPTHS.into_iter().zip(NEEDLES) {
        let at = line_start(hay, (hay.len() as f64 * depth) as usize);
        let told = format!(
            "Read this text and remember what it says about {city}.\n\n{}The secret number of {city} is {number}.\n{}\n\n\
             What is the secret number of {city}? Answer with the number alone.",
            &hay[..at],
            &hay[at..]
        );
        let mut request = GenerateRequest::chat(vec![Message::user(told)], 16);
        request.output = OutputFormat::Regex("[0-9]{5}".into());
        request.sampling = Sampling::default();
        let answer = answer(engine, request).await?;
        found.push(
            json!({"depth": depth, "expected": number, "answer": answer, "found": answer.trim() == number}),
        );
    }
    let hits = found.iter().filter(|one| one["found"] == true).count();
    let share = hits as f64 / found.len() as f64;
    let mut result = BenchResult::new(format!("needle/{length}"), "found", vec![share]);
    result.details = Some(json!(found));
    Ok(result)
}

async fn answer(engine: &Engine, request: GenerateRequest) -> anyhow::Result<String> {
    let mut generation = engine.generate(request).await?;
    let mut text = String::new();
    while let Some(event) = generation.events.recv().await {
        match event {
            TokenEvent::Text(more) => text += &more,
            TokenEvent::Failed(error) => return Err(error.into()),
            TokenEvent::Started { .. } | TokenEvent::ToolCall(_) | TokenEvent::Finished(_) => {}
        }
    }
    Ok(text)
}

/// Tokens of `text`.
fn tokens(engine: &Engine, text: &str) -> anyhow::Result<usize> {
    let mut request = GenerateRequest::chat(Vec::new(), 1);
    request.prompt = Prompt::Text(text.to_owned());
    Ok(engine.count_tokens(&request)?)
}

fn enough(engine: &Engine, text: &str, length: usize) -> anyhow::Result<()> {
    match tokens(engine, text)? {
        found if found < length => Err(failure(
            format!("the text has {found} tokens, {length} are asked for"),
            "give a longer one with `--text`, or shorter `--length`s",
        )),
        _ => Ok(()),
    }
}

/// Whole lines of `text` from its beginning: as many as `length` tokens hold.
fn beginning<'a>(engine: &Engine, text: &'a str, length: usize) -> anyhow::Result<&'a str> {
    enough(engine, text, length)?;
    let (mut fits, mut exceeds) = (0, text.len());
    while exceeds - fits > 64 {
        let middle = line_start(text, fits + (exceeds - fits) / 2);
        if middle <= fits {
            break;
        }
        match tokens(engine, &text[..middle])? <= length {
            true => fits = middle,
            false => exceeds = middle,
        }
    }
    Ok(&text[..fits])
}

/// The start of the line that byte `at` of `text` lies in.
fn line_start(text: &str, at: usize) -> usize {
    let at = text.floor_char_boundary(at);
    text[..at].rfind('\n').map_or(0, |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_begins_after_the_break_before_it() {
        assert_eq!([0, 3, 4, 5, 9].map(|at| line_start("abc\ndéf\n", at)), [0, 0, 4, 4, 9]);
    }
}
