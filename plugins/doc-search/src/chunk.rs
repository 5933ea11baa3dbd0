//! Documents cut into passages at headings and empty lines.

/// Bytes that a chunk should have: a paragraph or two, so that a hit says something by itself.
const TARGET: usize = 1_000;
/// Bytes that a chunk has at most; a longer paragraph is cut at a line, and a longer line in its middle.
const MOST: usize = 2_000;

/// A passage of a document.
#[derive(Debug, PartialEq)]
pub struct Chunk {
    /// The heading that it stands under.
    pub title: String,
    /// From 1.
    pub start_line: usize,
    /// Included.
    pub end_line: usize,
    pub text: String,
}

/// The passages of `text`. Together they are the whole text.
pub fn chunks(text: &str) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut title = String::new();
    let mut open: Option<Chunk> = None;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        let heading = heading(line);
        if let Some(chunk) = &open {
            let full = chunk.text.len() >= TARGET && line.trim().is_empty();
            if heading.is_some() || full || chunk.text.len() + line.len() > MOST {
                chunks.extend(open.take());
            }
        }
        if let Some(heading) = heading {
            title = heading.to_owned();
        }
        for part in parts(line) {
            if open.as_ref().is_some_and(|chunk| chunk.text.len() + part.len() > MOST) {
                chunks.extend(open.take());
            }
            let chunk = open.get_or_insert_with(|| Chunk {
                title: title.clone(),
                start_line: number,
                end_line: number,
                text: String::new(),
            });
            chunk.text.push_str(part);
            chunk.end_line = number;
        }
    }
    chunks.extend(open);
    chunks.retain(|chunk| !chunk.text.trim().is_empty());
    chunks
}

/// The text of a Markdown heading.
fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    ((1..=6).contains(&level) && text.starts_with(' ')).then(|| text.trim())
}

/// A line in parts of at most [`MOST`] bytes.
fn parts(mut line: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if line.is_empty() {
            return None;
        }
        let (part, rest) = line.split_at(line.floor_char_boundary(MOST.min(line.len())));
        line = rest;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(String, usize, usize)> {
        chunks(text).into_iter().map(|chunk| (chunk.title, chunk.start_line, chunk.end_line)).collect()
    }

    #[test]
    fn a_heading_starts_a_chunk_and_names_it() {
        let text = "intro\n\n# One\ntext\n## Two\nmore\n";
        let expected = [("", 1, 2), ("One", 3, 4), ("Two", 5, 6)];
        assert_eq!(lines(text), expected.map(|(title, start, end)| (title.to_owned(), start, end)));
    }

    #[test]
    fn a_long_section_is_cut_at_an_empty_line() {
        let paragraph = format!("{}\n\n", "word ".repeat(150));
        let found = lines(&paragraph.repeat(4));
        assert_eq!(
            found,
            [(String::new(), 1, 3), (String::new(), 4, 7), (String::new(), 8, 8)][..2].to_vec()
        );
    }

    #[test]
    fn a_line_without_end_is_cut_between_characters() {
        let text = "ü".repeat(3_000);
        let found = chunks(&text);
        assert!(found.iter().all(|chunk| chunk.text.len() <= MOST));
        assert_eq!(found.iter().map(|chunk| chunk.text.as_str()).collect::<String>(), text);
    }
}
