//! The text of a PDF, page by page.

/// Pages of a document that is read.
const MAX_PAGES: usize = 5_000;

/// The text of each page; empty for one that holds pictures only.
pub fn pages(bytes: &[u8]) -> Result<Vec<String>, String> {
    let pages =
        pdf_extract::extract_text_from_mem_by_pages(bytes).map_err(|error| format!("as a PDF: {error}"))?;
    if pages.len() > MAX_PAGES {
        return Err(format!("it has {} pages, the most is {MAX_PAGES}", pages.len()));
    }
    Ok(pages.iter().map(|page| tidy(page)).collect())
}

/// Without the blank lines that positions on a page turn into, and the blanks at the ends of lines.
fn tidy(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut blank = true;
    for line in page.lines().map(str::trim_end) {
        if line.is_empty() && blank {
            continue;
        }
        blank = line.is_empty();
        text += line;
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document with one page for each text.
    fn pdf(texts: &[&str]) -> Vec<u8> {
        let mut objects = vec!["<</Type/Catalog/Pages 2 0 R>>".to_owned()];
        let kids: Vec<String> = (0..texts.len()).map(|page| format!("{} 0 R", 4 + 2 * page)).collect();
        objects.push(format!("<</Type/Pages/Kids[{}]/Count {}>>", kids.join(" "), texts.len()));
        objects.push("<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>".to_owned());
        for (page, text) in texts.iter().enumerate() {
            objects.push(format!(
                "<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 300]/Resources<</Font<</F1 3 0 R>>>>/Contents {} 0 R>>",
                5 + 2 * page
            ));
            let stream = format!("BT /F1 12 Tf 20 200 Td ({text}) Tj ET");
            objects.push(format!("<</Length {}>>\nstream\n{stream}\nendstream", stream.len()));
        }
        let mut file = b"%PDF-1.4\n".to_vec();
        let mut places = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            places.push(file.len());
            file.extend(format!("{} 0 obj\n{object}\nendobj\n", index + 1).bytes());
        }
        let table = file.len();
        file.extend(format!("xref\n0 {}\n0000000000 65535 f \n", places.len() + 1).bytes());
        file.extend(places.iter().flat_map(|place| format!("{place:010} 00000 n \n").into_bytes()));
        file.extend(
            format!("trailer<</Size {}/Root 1 0 R>>\nstartxref\n{table}\n%%EOF", places.len() + 1).bytes(),
        );
        file
    }

    #[test]
    fn each_page_has_its_text() {
        let found = pages(&pdf(&["Hello first page", "And the second"])).expect("a PDF");
        assert_eq!(found, ["Hello first page\n", "And the second\n"]);
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let mut file = pdf(&["x"]);
        file.truncate(60);
        assert!(pages(&file).expect_err("damaged").contains("as a PDF"));
    }

    #[test]
    fn blank_lines_are_joined() {
        assert_eq!(tidy("\n\na  \n\n\n\nb\n \n"), "a\n\nb\n");
        assert_eq!(tidy("\n \n"), "");
    }
}
