//! Spans of time as people write them: `30s`, `5m`, `2d`.

use std::borrow::Cow;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

/// The longest span that makes sense here; a year keeps every sum far from overflow.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// A span of time, longer than zero: a whole number and one of `ms`, `s`, `m`, `h`, `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(pub Duration);

/// Reads `text`, or says what is wrong with it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let written = text.trim();
    let digits = written.len() - written.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = written.split_at(digits);
    let milliseconds = match unit.trim_start() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => {
            return Err(format!(
                "`{text}` is not a span of time: write a whole number and ms, s, m, h or d, such as `30s`"
            ));
        }
    };
    let number: u64 =
        number.parse().map_err(|_| format!("`{text}` is not a span of time: its number is missing"))?;
    let span = number.checked_mul(milliseconds).map(Duration::from_millis).filter(|span| *span <= LONGEST);
    match span {
        Some(Duration::ZERO) => Err(format!("`{text}` leaves no time at all")),
        Some(span) => Ok(span),
        None => Err(format!("`{text}` is longer than a year")),
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Interval {
    fn schema_name() -> Cow<'static, str> {
        "Interval".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A span of time: a whole number and one of ms, s, m, h, d.",
            "type": "string",
            "pattern": "^[0-9]+ *(ms|s|m|h|d)$",
            "examples": ["500ms", "30s", "5m", "2h", "1d"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(parse(text).ok().map(|span| span.as_millis()), expected.map(u128::from), "{text}");
    }

    #[test]
    fn a_number_and_a_unit_are_a_span() {
        check("30s", Some(30_000));
        check("5m", Some(300_000));
        check("2 d", Some(172_800_000));
        check("250ms", Some(250));
        check("1h", Some(3_600_000));
    }

    #[test]
    fn a_bare_number_is_refused_because_its_unit_would_be_a_guess() {
        check("30", None);
    }

    #[test]
    fn nonsense_zero_and_eternity_are_refused() {
        check("", None);
        check("m", None);
        check("0s", None);
        check("-5s", None);
        check("1.5s", None);
        check("400d", None);
        check("99999999999999999999s", None);
    }
}
