//! What came back, as text.

use crate::html;

/// Room in an answer for what is said about the page.
const MARKS: usize = 2_400;

/// An answer to a request.
pub struct Page<'a> {
    /// Where it came from, after redirects.
    pub url: &'a str,
    pub status: u16,
    /// Its header, or nothing.
    pub content_type: &'a str,
    pub body: &'a [u8],
    /// There was more than the host takes.
    pub cut_off: bool,
}

impl Page<'_> {
    /// The text from character `from` on, as much as `most` bytes hold, and whether there is more.
    pub fn text(&self, from: usize, raw: bool, most: usize) -> Result<(String, bool), String> {
        let whole = self.decoded()?;
        let is_html =
            self.media_type().contains("html") || (self.media_type().is_empty() && html::is_html(&whole));
        let whole = if is_html && !raw { html::markdown(&whole)? } else { whole };
        let characters = whole.chars().count();
        if from > 0 && from >= characters {
            return Err(format!("`{}` has {characters} characters, none from {from} on.", self.url));
        }
        let rest = &whole[whole.char_indices().nth(from).map_or(whole.len(), |(at, _)| at)..];
        let shown = &rest[..rest.floor_char_boundary(most.saturating_sub(MARKS))];
        let mut text = format!("[{} {}]\n{shown}", self.status, self.url);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let cut = shown.len() < rest.len();
        if cut {
            let next = from + shown.chars().count();
            text += &format!("[cut at character {next} of {characters}; ask for `from`: {next}]\n");
        } else if self.cut_off {
            text += &format!("[the page is longer than the {} bytes that are fetched]\n", self.body.len());
        }
        Ok((text, cut || self.cut_off))
    }

    /// `text/html`
    fn media_type(&self) -> String {
        self.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    fn decoded(&self) -> Result<String, String> {
        let kind = self.media_type();
        let is_text = kind.is_empty()
            || kind.starts_with("text/")
            || ["json", "xml", "javascript", "yaml", "toml"].iter().any(|text| kind.ends_with(text));
        if !is_text {
            return Err(format!("`{}` is {kind}, {} bytes, and no text.", self.url, self.body.len()));
        }
        // A body that was cut off may end inside a character.
        match std::str::from_utf8(self.body) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) if self.cut_off && error.error_len().is_none() => {
                Ok(String::from_utf8_lossy(&self.body[..error.valid_up_to()]).into_owned())
            }
            Err(_) if self.is_latin1() => Ok(self.body.iter().map(|byte| char::from(*byte)).collect()),
            Err(error) => Err(format!(
                "`{}` is neither UTF-8 nor ISO-8859-1 text (byte {} fits none).",
                self.url,
                error.valid_up_to()
            )),
        }
    }

    fn is_latin1(&self) -> bool {
        let named = self.content_type.to_ascii_lowercase();
        ["iso-8859-1", "windows-1252", "latin1"].iter().any(|charset| named.contains(charset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page<'a>(content_type: &'a str, body: &'a [u8]) -> Page<'a> {
        Page { url: "http://h/p", status: 200, content_type, body, cut_off: false }
    }

    #[track_caller]
    fn check(page: Page<'_>, expected: &str) {
        assert_eq!(page.text(0, false, 10_000).expect("text"), (expected.to_owned(), false));
    }

    #[test]
    fn html_is_markdown_and_the_rest_as_it_is() {
        check(page("text/html; charset=utf-8", b"<h1>T</h1><p>x"), "[200 http://h/p]\n# T\n\nx\n");
        check(page("", b"<html><p>x"), "[200 http://h/p]\nx\n");
        check(page("application/json", b"{\"a\": 1}"), "[200 http://h/p]\n{\"a\": 1}\n");
        check(page("text/plain; charset=ISO-8859-1", b"caf\xe9"), "[200 http://h/p]\ncaf\u{e9}\n");
        let raw = page("text/html", b"<p>x").text(0, true, 10_000).expect("text");
        assert_eq!(raw.0, "[200 http://h/p]\n<p>x\n");
    }

    #[test]
    fn a_long_page_is_read_in_parts() {
        let body = "é".repeat(1000);
        let (first, more) = page("text/plain", body.as_bytes()).text(0, false, MARKS + 601).expect("text");
        assert!(more && first.ends_with("[cut at character 300 of 1000; ask for `from`: 300]\n"), "{first}");
        let (last, more) = page("text/plain", body.as_bytes()).text(900, false, MARKS + 601).expect("text");
        assert!(!more && last.matches('é').count() == 100);
        assert!(page("text/plain", b"x").text(1, false, 10_000).is_err());
    }

    #[test]
    fn pictures_are_named_and_not_shown() {
        let reason = page("image/png", &[0x89, 0x50]).text(0, false, 10_000).expect_err("no text");
        assert_eq!(reason, "`http://h/p` is image/png, 2 bytes, and no text.");
    }

    #[test]
    fn a_body_that_was_cut_off_says_so() {
        let cut = Page { cut_off: true, ..page("text/plain", "aé".as_bytes()) };
        let cut = Page { body: &cut.body[..2], ..cut };
        let (text, more) = cut.text(0, false, 10_000).expect("text");
        assert!(more && text.contains("\na\n[the page is longer than the 2 bytes"), "{text}");
    }
}
