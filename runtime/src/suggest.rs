//! Names among known ones, and "did you mean": the closest to one that nobody knows.

/// The name among `known` that `asked` most likely meant, if any is close.
pub fn closest<'a>(asked: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Two thirds of the letters in place: `git.dif` finds `git.diff`, `foo` does not find `bar`.
    const CLOSE_ENOUGH: f64 = 0.66;
    known
        .into_iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(asked, name), name))
        .filter(|(similarity, _)| *similarity >= CLOSE_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// What `known` has under `name`; if nothing, the sentence that lists the known names.
pub fn named<T: Copy>(name: &str, known: &[(&str, T)]) -> Result<T, String> {
    let found = known.iter().find(|(known, _)| *known == name);
    found.map(|(_, named)| *named).ok_or_else(|| {
        let names: Vec<String> = known.iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("known are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(asked: &str, expected: Option<&str>) {
        assert_eq!(closest(asked, ["git.diff", "workspace.read", "run"]), expected);
    }

    #[test]
    fn a_missing_letter_finds_the_name() {
        check("git.dif", Some("git.diff"));
    }

    #[test]
    fn two_swapped_letters_find_the_name() {
        check("workspace.raed", Some("workspace.read"));
    }

    #[test]
    fn a_foreign_name_finds_nothing() {
        check("weather", None);
    }
}
