//! Text of models, tools and files on its way to a terminal.

/// `text` in which nothing is a command to the terminal: control characters other than line breaks and tabs are
/// shown as `\u{..}`, and so are the marks that reorder text.
pub fn escape_control(text: &str) -> String {
    let dangerous = |letter: char| {
        (letter.is_control() && letter != '\n' && letter != '\t')
            || matches!(letter, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(dangerous) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if dangerous(letter) {
            shown.extend(letter.escape_unicode());
        } else {
            shown.push(letter);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_stays() {
        assert_eq!(escape_control("é\tü\n"), "é\tü\n");
    }

    #[test]
    fn commands_are_shown() {
        assert_eq!(escape_control("a\x1b[2Jb\u{202E}"), "a\\u{1b}[2Jb\\u{202e}");
    }
}
