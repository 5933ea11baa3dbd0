//! What is wrong with a workflow file: every fault with its place, and what to do about it.

use std::fmt;
use std::path::PathBuf;

use super::schema::Position;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The part of the file: ``step `look` ``, ``input `base` ``; empty for the file as a whole.
    pub part: String,
    /// Where.
    pub position: Position,
    /// What was asked and what was found.
    pub message: String,
    /// The way out, if there is one.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault in `part`.
    pub fn new(part: impl Into<String>, position: Position, message: impl Into<String>) -> Self {
        Self { part: part.into(), position, message: message.into(), hint: None }
    }

    /// The same fault with a way out.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// A file that is no valid workflow, and why. The message has a line per fault and the text it is about.
#[derive(Clone, Debug)]
pub struct InvalidWorkflow {
    /// The file.
    pub path: PathBuf,
    /// Everything that is wrong, at least one, in the order of the file.
    pub faults: Vec<Fault>,
    /// The file's text, for excerpts; empty if it could not be read.
    text: String,
}

impl InvalidWorkflow {
    /// `faults` of the file `path` with this `text`.
    pub fn new(path: impl Into<PathBuf>, text: impl Into<String>, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.position);
        Self { path: path.into(), faults, text: text.into() }
    }

    /// The way out, when there is one fault; with several, each has its own in the message.
    pub fn hint(&self) -> Option<String> {
        match self.faults.as_slice() {
            [only] => only.hint.clone(),
            _ => None,
        }
    }
}

impl std::error::Error for InvalidWorkflow {}

impl fmt::Display for InvalidWorkflow {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let name = self.path.file_name().map_or(self.path.as_os_str(), |name| name).to_string_lossy();
        write!(formatter, "workflow `{name}` is not valid")?;
        for fault in &self.faults {
            write!(formatter, "\n  {}{}", place(fault), fault.message)?;
            if let Some(line) = excerpt(&self.text, fault.position) {
                write!(formatter, "\n{line}")?;
            }
            if let (Some(hint), true) = (&fault.hint, self.faults.len() > 1) {
                write!(formatter, "\n    hint: {hint}")?;
            }
        }
        Ok(())
    }
}

/// ``step `look` (line 7, column 11): ``.
fn place(fault: &Fault) -> String {
    let Position { line, column } = fault.position;
    match (fault.part.as_str(), line) {
        ("", 0) => String::new(),
        (part, 0) => format!("{part}: "),
        ("", _) => format!("line {line}, column {column}: "),
        (part, _) => format!("{part} (line {line}, column {column}): "),
    }
}

/// The line at `position` with a mark below its column; cut where it would not fit a screen.
fn excerpt(text: &str, position: Position) -> Option<String> {
    const LONGEST: usize = 90;
    let line = text.lines().nth(position.line.checked_sub(1)?)?;
    // What a terminal would act on is shown, not sent.
    let shown: String = line
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { if c == '\t' { ' ' } else { '·' } } else { c })
        .collect();
    let more = if line.chars().count() > LONGEST { " …" } else { "" };
    let number = position.line.to_string();
    let mut excerpt = format!("    {number} | {shown}{more}");
    let column = position.column.saturating_sub(1);
    if position.column > 0 && column <= LONGEST {
        excerpt.push_str(&format!("\n    {:1$} | {2:column$}^", "", number.len(), ""));
    }
    Some(excerpt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize) -> Position {
        Position { line, column }
    }

    #[test]
    fn one_fault_shows_its_line_and_leaves_the_hint_to_the_caller() {
        let fault = Fault::new("step `collect`", at(2, 7), "no loaded plugin exports the tool `git.dif`")
            .with_hint("did you mean `git.diff`?");
        let error = InvalidWorkflow::new("flows/review.yaml", "steps:\ntool: git.dif\n", vec![fault]);
        insta::assert_snapshot!(error, @r"
        workflow `review.yaml` is not valid
          step `collect` (line 2, column 7): no loaded plugin exports the tool `git.dif`
            2 | tool: git.dif
              |       ^
        ");
        assert_eq!(error.hint().as_deref(), Some("did you mean `git.diff`?"));
    }

    #[test]
    fn several_faults_come_in_the_order_of_the_file_each_with_its_hint() {
        let faults = vec![
            Fault::new("step `b`", at(2, 1), "second").with_hint("do this"),
            Fault::new("", at(1, 1), "first"),
            Fault::new("", Position::default(), "no place"),
        ];
        let error = InvalidWorkflow::new("x.yaml", "one\ntwo", faults);
        insta::assert_snapshot!(error, @r"
        workflow `x.yaml` is not valid
          no place
          line 1, column 1: first
            1 | one
              | ^
          step `b` (line 2, column 1): second
            2 | two
              | ^
            hint: do this
        ");
        assert_eq!(error.hint(), None);
    }

    #[test]
    fn an_excerpt_never_sends_control_characters_to_the_terminal() {
        assert_eq!(excerpt("a\u{1b}[2Jb", at(1, 1)).unwrap(), "    1 | a·[2Jb\n      | ^");
    }
}
