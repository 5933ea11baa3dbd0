//! The head of a `SKILL.md`: YAML between two lines of `---`.

use serde::Deserialize;

/// Bytes of a name, and characters of a description: what the format allows.
const MAX_NAME: usize = 64;
const MAX_DESCRIPTION: usize = 1024;
/// The line that begins and ends the head.
const FENCE: &str = "---";

/// What chaski reads of a head. Further keys are other programs' business.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct FrontMatter {
    /// The skill's name.
    pub name: String,
    /// When it is of use.
    pub description: String,
}

/// The head and what follows it; or the line and what is wrong there.
pub(super) fn parse<'a>(text: &'a str, folder: &str) -> Result<(FrontMatter, &'a str), (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.split_inclusive('\n');
    let first = lines.next().unwrap_or_default();
    if first.trim_end() != FENCE {
        return Err((1, format!("it does not begin with a line `{FENCE}`")));
    }
    let mut end = first.len();
    let closing = lines.find(|line| {
        let is_fence = line.trim_end() == FENCE;
        if !is_fence {
            end += line.len();
        }
        is_fence
    });
    let Some(closing) = closing else {
        return Err((text.lines().count(), format!("its front matter has no end: a second line `{FENCE}`")));
    };
    let head = &text[first.len()..end];
    let matter: FrontMatter = serde_saphyr::from_str(head).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line() as usize);
        let reason = error.to_string();
        // The front matter begins in the second line of the file.
        (line + 1, reason.lines().next().unwrap_or_default().to_owned())
    })?;
    let line_of = |key: &str| {
        let index = head.lines().position(|line| line.trim_start().starts_with(key));
        index.map_or(1, |index| index + 2)
    };
    let FrontMatter { name, description } = &matter;
    if !is_name(name) {
        let reason = format!("`name` is `{name}`; it has small letters, digits and `-`, at most {MAX_NAME}");
        return Err((line_of("name"), reason));
    }
    if name != folder {
        return Err((line_of("name"), format!("`name` is `{name}`, and the folder is called `{folder}`")));
    }
    let characters = description.chars().count();
    if description.trim().is_empty() || characters > MAX_DESCRIPTION {
        let reason = format!("`description` has {characters} characters; it has 1 to {MAX_DESCRIPTION}");
        return Err((line_of("description"), reason));
    }
    Ok((matter, &text[end + closing.len()..]))
}

/// Whether `name` can be a skill's.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, line: usize, reason: &str) {
        let (found_line, found) = parse(text, "review").expect_err("it is malformed");
        assert_eq!(found_line, line, "{found}");
        assert!(found.contains(reason), "{found}");
    }

    #[test]
    fn a_head_and_a_body() {
        let text = "---\nname: review\ndescription: How we review.\nlicense: MIT\n---\n\n# Review\n";
        let (matter, body) = parse(text, "review").expect("valid");
        assert_eq!((matter.description.as_str(), body), ("How we review.", "\n# Review\n"));
    }

    #[test]
    fn a_head_must_begin() {
        check("# Review\n", 1, "it does not begin with a line `---`");
    }

    #[test]
    fn a_head_must_end() {
        check("---\nname: review\n", 2, "has no end");
    }

    #[test]
    fn a_description_must_be_there() {
        check("---\nname: review\n---\n", 2, "description");
    }

    #[test]
    fn a_name_is_the_folders() {
        check("---\ndescription: x\nname: other\n---\n", 3, "the folder is called `review`");
    }

    #[test]
    fn a_name_leads_nowhere() {
        check("---\nname: ../up\ndescription: x\n---\n", 2, "`name` is `../up`");
    }

    #[test]
    fn a_head_is_yaml() {
        check("---\nname: [review\ndescription: x\n---\n", 2, "expected string scalar");
    }
}
