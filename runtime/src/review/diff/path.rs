//! File names in a diff's headers: quoted or plain, with or without `a/` and `b/`.
//!
//! Invariant: a path that leaves here is relative and stays inside: no `..`, no root, no NUL.

use super::{DiffError, without_return};

/// The two names of a `diff --git` line.
pub(super) struct GitLinePaths {
    /// Old and new, without prefixes.
    pub(super) paths: (String, String),
    /// Whether the names had prefixes.
    pub(super) prefixed: bool,
}

/// Reads `a/x b/x`. `None` if it cannot be told where the first name ends; then other headers have them.
pub(super) fn git_line_paths(names: &[u8], line: usize) -> Result<Option<GitLinePaths>, DiffError> {
    let Some((old, new)) = split_names(names) else { return Ok(None) };
    let (Some(old), Some(new)) = (unquote(old), unquote(new)) else { return Ok(None) };
    // Names with prefixes differ in their first part; names without are equal unless it is a rename.
    let prefixed = old != new;
    let strip = |name: &[u8]| {
        if prefixed { without_first_part(name).map(<[u8]>::to_vec) } else { Some(name.to_vec()) }
    };
    let (Some(old), Some(new)) = (strip(&old), strip(&new)) else { return Ok(None) };
    if old != new {
        return Ok(None);
    }
    Ok(Some(GitLinePaths { paths: (checked(&old, line)?, checked(&new, line)?), prefixed }))
}

/// Where the first of two names ends: at its quote, before a quote, or in the middle of two equal lengths.
fn split_names(names: &[u8]) -> Option<(&[u8], &[u8])> {
    let cut = if names.first() == Some(&b'"') {
        let mut escaped = false;
        let inside = names[1..].iter().position(|byte| {
            let closes = !escaped && *byte == b'"';
            escaped = !escaped && *byte == b'\\';
            closes
        })?;
        inside + 2
    } else if names.last() == Some(&b'"') {
        names.windows(2).position(|pair| pair == b" \"")?
    } else {
        names.len() / 2
    };
    let (old, rest) = names.split_at_checked(cut)?;
    Some((old, rest.strip_prefix(b" ")?))
}

/// The name on a `---` or `+++` line; `None` for `/dev/null`.
pub(super) fn header_path(raw: &[u8], prefixed: bool, line: usize) -> Result<Option<String>, DiffError> {
    // A tab ends the name: `diff` puts the time behind it, git nothing, for names with a space.
    let name = raw.split(|byte| *byte == b'\t').next().unwrap_or_default();
    let name = without_return(name);
    if name == b"/dev/null" {
        return Ok(None);
    }
    let name =
        unquote(name).ok_or_else(|| fault(name, line, "has a quote that does not end, or a wrong escape"))?;
    let name = if prefixed { without_first_part(&name).unwrap_or(&name) } else { &name };
    checked(name, line).map(Some)
}

/// The name behind `rename from ` and the like, which has no prefix.
pub(super) fn clean_path(raw: &[u8], line: usize) -> Result<String, DiffError> {
    let name =
        unquote(raw).ok_or_else(|| fault(raw, line, "has a quote that does not end, or a wrong escape"))?;
    checked(&name, line)
}

fn without_first_part(name: &[u8]) -> Option<&[u8]> {
    let slash = name.iter().position(|byte| *byte == b'/')?;
    Some(&name[slash + 1..])
}

/// Undoes git's quoting of unusual names (`core.quotePath`): C escapes and three octal digits a byte.
fn unquote(name: &[u8]) -> Option<Vec<u8>> {
    let Some(quoted) = name.strip_prefix(b"\"") else { return Some(name.to_vec()) };
    let mut bytes = quoted.strip_suffix(b"\"")?.iter().copied();
    let mut plain = Vec::with_capacity(quoted.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'"' => return None,
            b'\\' => match bytes.next()? {
                b'a' => 0x07,
                b'b' => 0x08,
                b't' => b'\t',
                b'n' => b'\n',
                b'v' => 0x0b,
                b'f' => 0x0c,
                b'r' => b'\r',
                same @ (b'"' | b'\\') => same,
                first @ b'0'..=b'3' => {
                    let mut digit =
                        || bytes.next().filter(|byte| matches!(byte, b'0'..=b'7')).map(|byte| byte - b'0');
                    (first - b'0') << 6 | digit()? << 3 | digit()?
                }
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

/// The name as text, if it stays inside the folder that the diff is about.
fn checked(name: &[u8], line: usize) -> Result<String, DiffError> {
    if name.is_empty() {
        return Err(fault(name, line, "is empty"));
    }
    if name.contains(&0) {
        return Err(fault(name, line, "has a NUL byte"));
    }
    if name.starts_with(b"/") {
        return Err(fault(name, line, "is absolute"));
    }
    if name.split(|byte| *byte == b'/').any(|part| part == b"..") {
        return Err(fault(name, line, "leaves its folder"));
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn fault(name: &[u8], line: usize, fault: &'static str) -> DiffError {
    let shown = &name[..name.len().min(200)];
    DiffError::Path { line, path: String::from_utf8_lossy(shown).escape_debug().to_string(), fault }
}
