//! Reads unified diffs: which lines of which file are new, and what their numbers are.
//!
//! A hunk's extent comes from the counts in its header, never from how a line looks, so a removed line that
//! reads `-- a/file` is not taken for a header. Whatever contradicts its header is an error with a line
//! number: a diff that is half understood gives wrong line numbers, and those are worse than none.
//!
//! Invariant: [`DiffLine::new_line`] is the number that the line has in the new file, exactly.
//!
//! Understood: `git diff`, `git show`, `git format-patch` and plain `diff -u`, with text between the files.
//! Time and memory are linear in the input, which [`MAX_BYTES`] and [`MAX_LINES`] bound.

mod path;

use path::{clean_path, git_line_paths, header_path};

/// Longest diff that is read.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Most lines of a diff. With [`MAX_BYTES`] alone, empty lines would take 60 times their size in memory.
pub const MAX_LINES: usize = 1_000_000;

/// What happened to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDiff {
    /// Its path before, `/` between folders; `None` for a new file.
    pub old_path: Option<String>,
    /// Its path after; `None` for a deleted file.
    pub new_path: Option<String>,
    /// What happened to it.
    pub status: FileStatus,
    /// Its content is not text, so it has no hunks.
    pub binary: bool,
    /// Its mode changed (executable or not, file or link).
    pub mode_changed: bool,
    /// Bytes that are not UTF-8 were replaced by U+FFFD in its lines.
    pub lossy: bool,
    /// The changed places, from top to bottom; empty if only name or mode changed.
    pub hunks: Vec<Hunk>,
}

impl FileDiff {
    /// The path to show: the new one, or the old one of a deleted file.
    pub fn path(&self) -> &str {
        self.new_path.as_deref().or(self.old_path.as_deref()).unwrap_or_default()
    }
}

/// What happened to a file as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileStatus {
    /// Its content or mode changed.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
    /// It has another name, and perhaps other content.
    Renamed,
    /// It began as a copy of another file.
    Copied,
}

/// One changed place of a file, with the unchanged lines around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hunk {
    /// The first line's number in the old file; with no old line, the line before.
    pub old_start: u32,
    /// The first line's number in the new file; with no new line, the line before.
    pub new_start: u32,
    /// What follows the second `@@`: by custom the function that the hunk is in.
    pub header: String,
    /// Its lines, in order.
    pub lines: Vec<DiffLine>,
}

/// One line of a hunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffLine {
    /// Whether it is in the old file, the new one or both.
    pub kind: LineKind,
    /// Its number in the old file, from 1.
    pub old_line: Option<u32>,
    /// Its number in the new file, from 1.
    pub new_line: Option<u32>,
    /// The line without its line feed. A carriage return before that stays.
    pub text: String,
    /// It is its file's last line and ends without a line feed.
    pub no_newline: bool,
}

/// Which of the two files a line is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// Both.
    Context,
    /// The new one.
    Added,
    /// The old one.
    Removed,
}

/// Why a text could not be read as a diff. Lines count from 1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiffError {
    /// Too long to be read whole, and a part would be silently wrong.
    #[error("the diff has more than {limit}")]
    TooLarge {
        /// The bound it passes.
        limit: String,
    },
    /// A merge's diff against several parents: its lines have no single old file.
    #[error("line {line}: a combined diff (of a merge) has no single old file")]
    Combined {
        /// Where it begins.
        line: usize,
    },
    /// A hunk before any file.
    #[error("line {line}: a hunk without a file: no `---` and `+++` lines before it")]
    NoFile {
        /// The hunk's header.
        line: usize,
    },
    /// A hunk header that is not `@@ -start,count +start,count @@`.
    #[error("line {line}: `{found}` is not a hunk header such as `@@ -1,4 +1,6 @@`")]
    HunkHeader {
        /// The header.
        line: usize,
        /// Its beginning.
        found: String,
    },
    /// A hunk that does not hold what its header says.
    #[error(
        "line {line}: the hunk of line {header} says {old} old and {new} new lines, \
         but {fault} after {old_found} and {new_found}"
    )]
    HunkCounts {
        /// Where it became clear.
        line: usize,
        /// The hunk's header.
        header: usize,
        /// Old lines it should have.
        old: u32,
        /// New lines it should have.
        new: u32,
        /// Old lines it has.
        old_found: u32,
        /// New lines it has.
        new_found: u32,
        /// `ends`, or `goes on`.
        fault: &'static str,
    },
    /// A hunk that begins before the end of the one above it.
    #[error("line {line}: the hunk begins before the end of the one above it")]
    Overlap {
        /// Its header.
        line: usize,
    },
    /// A file name that cannot be one inside a repository.
    #[error("line {line}: the path `{path}` {fault}")]
    Path {
        /// Where it is.
        line: usize,
        /// The path, escaped.
        path: String,
        /// What is wrong with it.
        fault: &'static str,
    },
}

impl DiffError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooLarge { .. } => Some("review it in parts: `git diff BASE -- FOLDER > part.diff`".into()),
            Self::Combined { .. } => Some("make the diff against one parent: `git diff PARENT MERGE`".into()),
            Self::HunkCounts { .. } | Self::HunkHeader { .. } | Self::Overlap { .. } => {
                Some("the diff was edited or cut; make it again with `git diff`".into())
            }
            Self::Path { .. } => Some("make the diff with `git diff` at the top of the repository".into()),
            Self::NoFile { .. } => None,
        }
    }
}

/// Reads all files of a diff, in its order. A text without any diff in it gives none.
///
/// # Errors
/// The first fault, with its line. Nothing of a faulty diff is given back.
pub fn parse(patch: &[u8]) -> Result<Vec<FileDiff>, DiffError> {
    if patch.len() > MAX_BYTES {
        return Err(DiffError::TooLarge { limit: format!("{} MiB", MAX_BYTES >> 20) });
    }
    let patch = patch.strip_suffix(b"\n").unwrap_or(patch);
    let lines: Vec<&[u8]> = patch.split(|byte| *byte == b'\n').take(MAX_LINES + 1).collect();
    if lines.len() > MAX_LINES {
        return Err(DiffError::TooLarge { limit: format!("{MAX_LINES} lines") });
    }
    let mut parser = Parser { lines, next: 0, files: Vec::new(), place: Place::Text, prefixed: None };
    while parser.next < parser.lines.len() {
        parser.read_line()?;
    }
    Ok(parser.files)
}

struct Parser<'a> {
    lines: Vec<&'a [u8]>,
    /// Index of the next line to read.
    next: usize,
    files: Vec<FileDiff>,
    place: Place,
    /// Whether the names of the current file have `a/` and `b/` before them, where its git line tells.
    prefixed: Option<bool>,
}

/// What the next line may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Text outside any file: commit messages, statistics.
    Text,
    /// Below a `diff --git` line, before the names.
    GitHeader,
    /// A hunk, for the file that is last in the list.
    Names,
    /// Directly below a hunk of that file.
    AfterHunk,
}

impl<'a> Parser<'a> {
    fn line(&self, index: usize) -> &'a [u8] {
        self.lines.get(index).copied().unwrap_or_default()
    }

    /// Reads the next line and, for a hunk, all of its lines.
    fn read_line(&mut self) -> Result<(), DiffError> {
        let line = self.line(self.next);
        let number = self.next + 1;
        if line.starts_with(b"diff --cc ")
            || line.starts_with(b"diff --combined ")
            || line.starts_with(b"@@@ ")
        {
            return Err(DiffError::Combined { line: number });
        }
        if let Some(names) = line.strip_prefix(b"diff --git ") {
            self.begin_git_file(without_return(names))?;
        } else if self.begins_names(line) {
            self.read_names(number)?;
        } else if line.starts_with(b"@@ ") {
            match self.place {
                Place::Names | Place::AfterHunk => return self.read_hunk(),
                Place::Text | Place::GitHeader => return Err(DiffError::NoFile { line: number }),
            }
        } else if self.place == Place::GitHeader {
            self.read_git_header(line, number)?;
        } else if self.place == Place::AfterHunk {
            self.check_hunk_is_over(line)?;
        } else {
            self.place = Place::Text;
        }
        self.next += 1;
        Ok(())
    }

    /// Whether `line` is the `---` of a file's two names. Outside a git header only a hunk below them tells
    /// them from text.
    fn begins_names(&self, line: &[u8]) -> bool {
        line.starts_with(b"--- ")
            && self.line(self.next + 1).starts_with(b"+++ ")
            && (self.place == Place::GitHeader || self.line(self.next + 2).starts_with(b"@@ "))
    }

    fn begin_git_file(&mut self, names: &[u8]) -> Result<(), DiffError> {
        // A rename's line can be ambiguous; then the names come from the header lines below.
        let (paths, prefixed) = match git_line_paths(names, self.next + 1)? {
            Some(found) => (Some(found.paths), Some(found.prefixed)),
            None => (None, None),
        };
        let (old_path, new_path) = paths.unzip();
        self.prefixed = prefixed;
        self.begin_file(old_path, new_path);
        self.place = Place::GitHeader;
        Ok(())
    }

    fn begin_file(&mut self, old_path: Option<String>, new_path: Option<String>) {
        self.files.push(FileDiff {
            old_path,
            new_path,
            status: FileStatus::Modified,
            binary: false,
            mode_changed: false,
            lossy: false,
            hunks: Vec::new(),
        });
    }

    /// One of git's lines between `diff --git` and the hunks.
    fn read_git_header(&mut self, line: &[u8], number: usize) -> Result<(), DiffError> {
        let line = without_return(line);
        let Some(file) = self.files.last_mut() else { return Ok(()) };
        let name = |raw: &[u8]| clean_path(raw, number).map(Some);
        let after = |word: &str| line.strip_prefix(word.as_bytes());
        if after("new file mode ").is_some() {
            (file.status, file.old_path) = (FileStatus::Added, None);
        } else if after("deleted file mode ").is_some() {
            (file.status, file.new_path) = (FileStatus::Deleted, None);
        } else if after("old mode ").is_some() || after("new mode ").is_some() {
            file.mode_changed = true;
        } else if let Some(raw) = after("rename from ") {
            (file.status, file.old_path) = (FileStatus::Renamed, name(raw)?);
        } else if let Some(raw) = after("rename to ") {
            (file.status, file.new_path) = (FileStatus::Renamed, name(raw)?);
        } else if let Some(raw) = after("copy from ") {
            (file.status, file.old_path) = (FileStatus::Copied, name(raw)?);
        } else if let Some(raw) = after("copy to ") {
            (file.status, file.new_path) = (FileStatus::Copied, name(raw)?);
        } else if after("Binary files ").is_some() || line == b"GIT binary patch" {
            file.binary = true;
            self.place = Place::Text;
        } else if !["index ", "similarity index ", "dissimilarity index "]
            .iter()
            .any(|word| after(word).is_some())
        {
            self.place = Place::Text;
        }
        Ok(())
    }

    /// The `---` and `+++` lines; leaves the second one to the caller's step.
    fn read_names(&mut self, number: usize) -> Result<(), DiffError> {
        let (old_raw, new_raw) = (&self.line(self.next)[4..], &self.line(self.next + 1)[4..]);
        if self.place != Place::GitHeader {
            self.prefixed = None;
            self.begin_file(None, None);
        }
        let prefixed = self.prefixed.unwrap_or_else(|| {
            let old_fits = old_raw.starts_with(b"a/") || old_raw.starts_with(b"\"a/");
            let new_fits = new_raw.starts_with(b"b/") || new_raw.starts_with(b"\"b/");
            (old_fits || old_raw.starts_with(b"/dev/null")) && (new_fits || new_raw.starts_with(b"/dev/null"))
        });
        let old_path = header_path(old_raw, prefixed, number)?;
        let new_path = header_path(new_raw, prefixed, number + 1)?;
        if let Some(file) = self.files.last_mut() {
            match (&old_path, &new_path) {
                (None, _) => file.status = FileStatus::Added,
                (_, None) => file.status = FileStatus::Deleted,
                _ => {}
            }
            (file.old_path, file.new_path) = (old_path, new_path);
        }
        self.next += 1;
        self.place = Place::Names;
        Ok(())
    }

    /// A hunk from its header to its last line.
    fn read_hunk(&mut self) -> Result<(), DiffError> {
        let header_index = self.next;
        let range = HunkRange::read(self.line(header_index), header_index + 1)?;
        self.next += 1;
        let (lines, lossy) = self.read_hunk_lines(&range, header_index + 1)?;
        let hunk = Hunk {
            old_start: range.old_start,
            new_start: range.new_start,
            header: String::from_utf8_lossy(range.header).trim().to_owned(),
            lines,
        };
        let file = self.files.last_mut().expect("a hunk is only read below a file's names");
        if file.hunks.last().is_some_and(|above| overlap(above, &range)) {
            return Err(DiffError::Overlap { line: header_index + 1 });
        }
        file.lossy |= lossy;
        file.hunks.push(hunk);
        self.place = Place::AfterHunk;
        Ok(())
    }

    /// The lines that `range` counts, and whether bytes of them had to be replaced.
    fn read_hunk_lines(
        &mut self,
        range: &HunkRange<'_>,
        header: usize,
    ) -> Result<(Vec<DiffLine>, bool), DiffError> {
        let (mut old_found, mut new_found) = (0, 0);
        let mut lines: Vec<DiffLine> = Vec::new();
        let mut lossy = false;
        loop {
            let whole = old_found == range.old_count && new_found == range.new_count;
            let line = self.lines.get(self.next).copied();
            let (old_open, new_open) = (old_found < range.old_count, new_found < range.new_count);
            let (kind, text) = match line {
                Some([b'\\', b' ', ..]) => {
                    // `\ No newline at end of file`, in any language, is about the line above it.
                    if let Some(last) = lines.last_mut() {
                        last.no_newline = true;
                    }
                    self.next += 1;
                    continue;
                }
                _ if whole => return Ok((lines, lossy)),
                Some([b' ', text @ ..]) if old_open && new_open => (LineKind::Context, text),
                // Some programs strip the space of an empty line.
                Some(text @ ([] | [b'\r'])) if old_open && new_open => (LineKind::Context, text),
                Some([b'+', text @ ..]) if new_open => (LineKind::Added, text),
                Some([b'-', text @ ..]) if old_open => (LineKind::Removed, text),
                Some([b' ' | b'+' | b'-', ..]) => {
                    return Err(range.miscounted(self.next + 1, header, old_found, new_found, "goes on"));
                }
                _ => return Err(range.miscounted(self.next + 1, header, old_found, new_found, "ends")),
            };
            let old_line = (kind != LineKind::Added).then(|| range.old_start + old_found);
            let new_line = (kind != LineKind::Removed).then(|| range.new_start + new_found);
            old_found += u32::from(old_line.is_some());
            new_found += u32::from(new_line.is_some());
            let text = String::from_utf8_lossy(text);
            lossy |= matches!(text, std::borrow::Cow::Owned(_));
            lines.push(DiffLine { kind, old_line, new_line, text: text.into_owned(), no_newline: false });
            self.next += 1;
        }
    }

    /// Directly below a hunk: another line of it would mean that its header counts too few.
    fn check_hunk_is_over(&mut self, line: &[u8]) -> Result<(), DiffError> {
        // `git format-patch` ends with `-- ` and its version.
        let is_signature = matches!(line, b"-- " | b"-- \r");
        if !is_signature && matches!(line, [b' ' | b'+' | b'-', ..]) {
            let header =
                self.lines[..self.next].iter().rposition(|line| line.starts_with(b"@@ ")).unwrap_or(0);
            let range = HunkRange::read(self.lines[header], header + 1)?;
            let (old, new) = (range.old_count, range.new_count);
            return Err(range.miscounted(self.next + 1, header + 1, old, new, "goes on"));
        }
        if !matches!(line, b"" | b"\r") {
            self.place = Place::Text;
        }
        Ok(())
    }
}

/// What a hunk's header says.
struct HunkRange<'a> {
    old_start: u32,
    old_count: u32,
    new_start: u32,
    new_count: u32,
    header: &'a [u8],
}

impl<'a> HunkRange<'a> {
    /// Reads `@@ -start,count +start,count @@ header`; a count of 1 may be left out.
    fn read(line: &'a [u8], number: usize) -> Result<Self, DiffError> {
        let parsed = || {
            let rest = line.strip_prefix(b"@@ -")?;
            let (old_start, old_count, rest) = read_range(rest)?;
            let (new_start, new_count, rest) = read_range(rest.strip_prefix(b" +")?)?;
            let header = rest.strip_prefix(b" @@")?;
            Some(Self { old_start, old_count, new_start, new_count, header })
        };
        parsed().ok_or_else(|| DiffError::HunkHeader {
            line: number,
            found: String::from_utf8_lossy(&line[..line.len().min(80)]).escape_debug().to_string(),
        })
    }

    fn miscounted(&self, line: usize, header: usize, old: u32, new: u32, fault: &'static str) -> DiffError {
        DiffError::HunkCounts {
            line,
            header,
            old: self.old_count,
            new: self.new_count,
            old_found: old,
            new_found: new,
            fault,
        }
    }
}

/// `start` or `start,count`, and what follows. Lines count from 1, so only an empty range begins at 0.
fn read_range(text: &[u8]) -> Option<(u32, u32, &[u8])> {
    let (start, rest) = read_number(text)?;
    let (count, rest) = match rest.strip_prefix(b",") {
        Some(rest) => read_number(rest)?,
        None => (1, rest),
    };
    (start > 0 || count == 0).then_some(())?;
    start.checked_add(count)?;
    Some((start, count, rest))
}

fn read_number(text: &[u8]) -> Option<(u32, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&text[..digits]).ok()?.parse().ok()?;
    Some((number, &text[digits..]))
}

/// Whether `below` begins before the end of `above`, in the old or in the new file.
fn overlap(above: &Hunk, below: &HunkRange<'_>) -> bool {
    let last = |number: fn(&DiffLine) -> Option<u32>, start: u32| {
        above.lines.iter().rev().find_map(number).unwrap_or(start)
    };
    // An empty range is written as the line before it, so it may name the last line of `above`.
    let first = |start: u32, count: u32| if count == 0 { start.saturating_add(1) } else { start };
    first(below.old_start, below.old_count) <= last(|line| line.old_line, above.old_start)
        || first(below.new_start, below.new_count) <= last(|line| line.new_line, above.new_start)
}

/// A header line without the carriage return of a diff that was saved with CRLF.
fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests;
