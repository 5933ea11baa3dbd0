//! The text of a DOCX file: paragraphs, headings and tables of its main part.

use std::io::{Cursor, Read};

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};

/// Where the text is.
const MAIN_PART: &str = "word/document.xml";
/// Bytes of it, unpacked: a small archive may claim to hold a large one.
const MAX_BYTES: u64 = 64 << 20;

/// The text, with Markdown's marks for headings and tables.
pub fn text(bytes: &[u8]) -> Result<String, String> {
    let fault = |error: String| format!("as a DOCX: {error}");
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|error| fault(error.to_string()))?;
    let part = archive
        .by_name(MAIN_PART)
        .map_err(|_| "it is an archive without `word/document.xml`, so no DOCX".to_owned())?;
    let mut xml = String::new();
    let read = part.take(MAX_BYTES + 1).read_to_string(&mut xml).map_err(|error| fault(error.to_string()))?;
    if read as u64 > MAX_BYTES {
        return Err(format!("its text has more than {MAX_BYTES} bytes"));
    }
    parse(&xml).map_err(fault)
}

#[derive(Default)]
struct Text {
    text: String,
    paragraph: String,
    heading: usize,
    in_run_text: bool,
    /// The cells of a table's row so far.
    row: Option<Vec<String>>,
}

fn parse(xml: &str) -> Result<String, String> {
    let mut reader = Reader::from_str(xml);
    let mut found = Text::default();
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(element) | Event::Empty(element) if found.mark(&element)? => {}
            Event::Start(element) => found.start(element.local_name().as_ref()),
            Event::End(element) => found.end(element.local_name().as_ref()),
            Event::Text(text) if found.in_run_text => {
                found.paragraph += &text;
            }
            Event::GeneralRef(name) if found.in_run_text => {
                found.paragraph += &unescape(&format!("&{};", &*name)).map_err(|error| error.to_string())?;
            }
            Event::Eof => return Ok(found.text),
            _ => {}
        }
    }
}

impl Text {
    /// What stands for a character or a style. Whether it was that.
    fn mark(&mut self, element: &BytesStart<'_>) -> Result<bool, String> {
        match element.local_name().as_ref() {
            "tab" => self.paragraph.push('\t'),
            "br" | "cr" => self.paragraph.push('\n'),
            "pStyle" => {
                let style = element.try_get_attribute("w:val").map_err(|error| error.to_string())?;
                let style = style.map(|style| style.value.into_owned()).unwrap_or_default();
                let level = style.strip_prefix("Heading").and_then(|level| level.parse().ok());
                self.heading = if style == "Title" { 1 } else { level.unwrap_or(0).min(6) };
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn start(&mut self, name: &str) {
        match name {
            "t" => self.in_run_text = true,
            "tr" => self.row = Some(Vec::new()),
            "tc" => {
                if let Some(row) = &mut self.row {
                    row.push(String::new());
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        match name {
            "t" => self.in_run_text = false,
            "p" => {
                let paragraph = std::mem::take(&mut self.paragraph);
                let heading = std::mem::take(&mut self.heading);
                match self.row.as_mut().and_then(|row| row.last_mut()) {
                    Some(cell) if cell.is_empty() => *cell = paragraph.trim().to_owned(),
                    Some(cell) => *cell = format!("{cell} {}", paragraph.trim()),
                    None if paragraph.trim().is_empty() => {}
                    None if heading > 0 => {
                        self.text += &format!("{} {}\n\n", "#".repeat(heading), paragraph.trim())
                    }
                    None => self.text += &format!("{}\n\n", paragraph.trim_end()),
                }
            }
            "tr" => {
                if let Some(row) = self.row.take() {
                    self.text += &format!("| {} |\n", row.join(" | "));
                }
            }
            "tbl" => self.text.push('\n'),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn docx(body: &str) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        archive.start_file(MAIN_PART, zip::write::SimpleFileOptions::default()).expect("a part");
        let xml = format!("<w:document xmlns:w=\"w\"><w:body>{body}</w:body></w:document>");
        archive.write_all(xml.as_bytes()).expect("writes");
        archive.finish().expect("finishes").into_inner()
    }

    #[track_caller]
    fn check(body: &str, expected: &str) {
        assert_eq!(text(&docx(body)).expect("a DOCX"), expected);
    }

    #[test]
    fn paragraphs_and_headings() {
        check(
            "<w:p><w:pPr><w:pStyle w:val=\"Heading2\"/></w:pPr><w:r><w:t>Head</w:t></w:r></w:p>\
             <w:p><w:r><w:t>A </w:t></w:r><w:r><w:t xml:space=\"preserve\">&lt;b&gt; &amp; é</w:t><w:tab/><w:t>c</w:t></w:r></w:p><w:p/>",
            "## Head\n\nA <b> & é\tc\n\n",
        );
    }

    #[test]
    fn tables_are_rows() {
        let cell = |text: &str| format!("<w:tc><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>");
        let row = |a, b| format!("<w:tr>{}{}</w:tr>", cell(a), cell(b));
        check(&format!("<w:tbl>{}{}</w:tbl>", row("a", "b"), row("1", "2")), "| a | b |\n| 1 | 2 |\n\n");
    }

    #[test]
    fn another_archive_and_broken_xml_are_errors() {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        archive.start_file("x", zip::write::SimpleFileOptions::default()).expect("a part");
        let other = archive.finish().expect("finishes").into_inner();
        assert!(text(&other).expect_err("no DOCX").contains("so no DOCX"));
        assert!(text(&docx("<w:p></w:q>")).expect_err("broken").contains("as a DOCX"));
    }
}
