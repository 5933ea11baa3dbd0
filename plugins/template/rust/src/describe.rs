//! What there is to say about a list of numbers. Knows nothing of plugins, so `cargo test --lib` tests it anywhere.

use std::fmt;

use serde::Serialize;

#[derive(Debug, PartialEq, Serialize)]
pub struct Description {
    pub count: usize,
    pub mean: f64,
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

/// `None` where there are no numbers.
pub fn describe(numbers: &[f64]) -> Option<Description> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, most) = (*sorted.first()?, *sorted.last()?);
    let count = sorted.len();
    let median = (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0;
    let mean = sorted.iter().sum::<f64>() / count as f64;
    Some(Description {
        count,
        mean,
        median,
        least,
        most,
    })
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            mean,
            median,
            least,
            most,
        } = self;
        write!(
            f,
            "{count} numbers: mean {mean}, median {median}, least {least}, most {most}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(
            describe(&[4.0, 1.0, 2.0, 3.0]).map(|found| found.median),
            Some(2.5)
        );
    }

    #[test]
    fn there_is_nothing_to_say_about_nothing() {
        assert_eq!(describe(&[]), None);
    }
}
