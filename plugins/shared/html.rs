//! HTML as Markdown.

use htmd::HtmlToMarkdown;

/// What is not for readers.
const SKIPPED: [&str; 9] =
    ["script", "style", "noscript", "template", "svg", "iframe", "nav", "footer", "head"];

/// Whether a text is HTML, by its beginning.
pub fn is_html(text: &str) -> bool {
    let start = text.trim_start();
    let begins = |with: &str| start.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    begins("<!doctype html") || begins("<html") || begins("<head") || begins("<body")
}

/// The text of a page with its headings, lists, links and tables.
pub fn markdown(html: &str) -> Result<String, String> {
    let converter = HtmlToMarkdown::builder().skip_tags(SKIPPED.to_vec()).build();
    converter.convert(html).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_readers_stays() {
        let page = "<html><head><title>t</title><script>bad()</script></head><body><nav>menu</nav>\
                    <h2>Head</h2><p>A <a href=\"/x\">link</a> &amp; <b>more</b>.</p><ul><li>one<li>two</ul></body>";
        let found = markdown(page).expect("converts");
        assert!(found.starts_with("## Head\n\nA [link](/x) & **more**."), "{found}");
        assert!(found.contains("one") && !found.contains("bad()") && !found.contains("menu"), "{found}");
    }

    #[test]
    fn html_is_told_by_its_beginning() {
        assert!(is_html(" <!DOCTYPE HTML>") && is_html("<html lang=en>"));
        assert!(!is_html("<p>a fragment in a Markdown file") && !is_html("é"));
    }
}
