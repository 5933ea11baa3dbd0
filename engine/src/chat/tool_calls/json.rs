//! Finds the end of a JSON value without parsing it.

/// Where a JSON value ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// After so many bytes.
    Whole(usize),
    /// Not in this text.
    More,
    /// It is no JSON object or array.
    Invalid,
}

/// Scans the object or array at the start of `text` for its end. Only what shows at once is held against it:
/// a key that is no string, or a closing bracket of the wrong kind.
pub(super) fn scan(text: &str) -> Scan {
    let bytes = text.as_bytes();
    let mut open: Vec<u8> = Vec::new();
    let mut at = 0;
    let mut after_brace = false;
    while at < bytes.len() {
        let byte = bytes[at];
        if after_brace && !byte.is_ascii_whitespace() {
            if byte != b'"' && byte != b'}' {
                return Scan::Invalid;
            }
            after_brace = false;
        }
        match byte {
            b'"' => match string_end(bytes, at + 1) {
                Some(end) => at = end,
                None => return Scan::More,
            },
            b'{' => {
                open.push(b'}');
                after_brace = true;
            }
            b'[' => open.push(b']'),
            b'}' | b']' => {
                if open.pop() != Some(byte) {
                    return Scan::Invalid;
                }
                if open.is_empty() {
                    return Scan::Whole(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
    Scan::More
}

/// The index of the quote that ends the string whose first character is at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    None
}
