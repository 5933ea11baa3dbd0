//! The part of a document that an answer has room for.

use serde::Serialize;

use crate::Document;

/// Room in an answer for the marks around the text.
const MARKS: usize = 256;

/// A part of a document. Places are characters of the whole text, all pages one after the other.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Of the file.
    pub format: &'static str,
    /// Pages of the document.
    pub pages: usize,
    /// Characters of the document.
    pub characters: usize,
    /// The first character of this part.
    pub from: usize,
    /// The character after its last.
    pub to: usize,
    /// What it has of each page.
    pub parts: Vec<PagePart>,
}

/// What a part has of one page.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct PagePart {
    /// From 1.
    pub page: usize,
    /// Its first character.
    pub start: usize,
    /// The text.
    pub text: String,
}

/// The text from character `from` on, as much as `most` bytes hold.
pub fn part(document: &Document, from: usize, most: usize) -> Result<Part, String> {
    let lengths: Vec<usize> = document.pages.iter().map(|page| page.chars().count()).collect();
    let characters = lengths.iter().sum();
    if from > 0 && from >= characters {
        return Err(format!("it has {characters} characters, none from {from} on"));
    }
    let mut part =
        Part { format: document.format, pages: lengths.len(), characters, from, to: from, parts: Vec::new() };
    // JSON and text are both answers; either must fit.
    let mut room = most.saturating_sub(MARKS);
    let mut start = 0;
    for (index, (page, length)) in document.pages.iter().zip(lengths).enumerate() {
        let skipped = from.saturating_sub(start).min(length);
        let rest = &page[page.char_indices().nth(skipped).map_or(page.len(), |(at, _)| at)..];
        let marked = rest.len() + 16;
        let taken =
            if marked <= room { rest } else { &rest[..rest.floor_char_boundary(room.saturating_sub(16))] };
        if skipped < length || length == 0 {
            part.to = start + skipped + taken.chars().count();
            part.parts.push(PagePart { page: index + 1, start: start + skipped, text: taken.to_owned() });
        }
        if taken.len() < rest.len() {
            break;
        }
        room = room.saturating_sub(if skipped < length { marked } else { 0 });
        start += length;
    }
    Ok(part)
}

impl Part {
    /// As the model reads it.
    pub fn shown(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            if self.pages > 1 {
                text += &format!("[page {}]\n", part.page);
            }
            text += &part.text;
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        if self.to < self.characters {
            text +=
                &format!("[cut at character {0} of {1}; ask for `from`: {0}]\n", self.to, self.characters);
        } else if text.trim().is_empty() {
            text += "[there is no text in it; a scanned document has pictures only]\n";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(pages: &[&str]) -> Document {
        Document { format: "pdf", pages: pages.iter().map(|page| page.to_string()).collect() }
    }

    #[test]
    fn pages_are_marked_and_counted() {
        let part = part(&document(&["one", "zwei é"]), 0, 10_000).expect("a part");
        assert_eq!(part.shown(), "[page 1]\none\n[page 2]\nzwei é\n");
        assert_eq!((part.characters, part.to, part.parts[1].start), (9, 9, 3));
    }

    #[test]
    fn parts_follow_each_other_without_a_gap() {
        let pages = ["é".repeat(300), "b".repeat(300), String::new(), "c".repeat(10)];
        let document = document(&pages.each_ref().map(String::as_str));
        let (mut from, mut all) = (0, String::new());
        loop {
            let part = part(&document, from, MARKS + 116).expect("a part");
            all.extend(part.parts.iter().map(|part| part.text.as_str()));
            assert!(part.to > from && part.shown().len() <= MARKS + 116, "{}", part.shown().len());
            if part.to == part.characters {
                break;
            }
            assert!(part.shown().contains(&format!("`from`: {}", part.to)));
            from = part.to;
        }
        assert_eq!(all, pages.concat());
    }

    #[test]
    fn beyond_the_end_is_an_error_and_nothing_is_said_to_be_nothing() {
        assert!(part(&document(&["abc"]), 3, 1000).expect_err("beyond").contains("3 characters"));
        assert!(part(&document(&[""]), 0, 1000).expect("empty").shown().contains("no text in it"));
    }
}
