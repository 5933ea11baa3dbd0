//! Skills: folders with a `SKILL.md` that tell an agent how something is done.
//!
//! They are told in three steps, each when the model asks for it: names and descriptions are in the instructions
//! ([`instructions`]), `skill.read` gives a skill's text, and then the files beneath it ([`tool`]).
//!
//! A skill is text. It grants nothing: its front matter may name tools, licences and more, and nobody acts on it.

mod front_matter;
pub mod tool;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use tool::SkillTool;

use crate::suggest::closest;

/// The file that makes a folder a skill.
pub const FILE_NAME: &str = "SKILL.md";
/// A larger file is refused: a skill is a few pages.
const MAX_FILE_BYTES: u64 = 256 << 10;
/// Skills of one agent; each costs its prompt a line or two.
const MAX_SKILLS: usize = 64;

/// A skill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skill {
    /// Its name, which is its folder's.
    pub name: String,
    /// When it is of use.
    pub description: String,
    /// Its text, without the front matter.
    pub body: String,
    /// Its folder.
    pub folder: PathBuf,
}

/// Why a skill cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkillError {
    /// Its file is not there or cannot be read.
    #[error("`{file}` cannot be read: {reason}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// Its file is not what it must be.
    #[error("`{file}` is no skill\n  line {line}: {reason}")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// No folder has a skill of this name.
    #[error("no skill is called `{name}`")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The known name closest to it.
        closest: Option<String>,
        /// The folders that were looked in.
        folders: Vec<PathBuf>,
    },
    /// More than a prompt should hold.
    #[error("there are {0} skills, the most is {MAX_SKILLS}")]
    TooMany(usize),
}

impl SkillError {
    /// What to do about it, if there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Malformed { .. } => Some(
                "a SKILL.md begins with `---`, `name: NAME`, `description: WHEN TO USE IT`, `---`".into(),
            ),
            Self::Unknown { closest: Some(name), .. } => Some(format!("did you mean `{name}`?")),
            Self::Unknown { folders, .. } => {
                let folders: Vec<String> =
                    folders.iter().map(|folder| format!("`{}`", folder.display())).collect();
                Some(format!("skills are folders in {}", folders.join(" and ")))
            }
            Self::Read { .. } => None,
            Self::TooMany(_) => Some("name fewer, or leave them out with `--no-skills`".into()),
        }
    }
}

impl Skill {
    /// The skill in `folder`.
    ///
    /// # Errors
    /// [`SkillError`] with the line of what is wrong.
    pub fn read(folder: &Path) -> Result<Self, SkillError> {
        let file = folder.join(FILE_NAME);
        let unreadable = |reason: String| SkillError::Read { file: file.clone(), reason };
        let metadata = std::fs::symlink_metadata(&file).map_err(|error| unreadable(error.to_string()))?;
        if !metadata.is_file() {
            return Err(unreadable("it is a link or no file".into()));
        }
        if metadata.len() > MAX_FILE_BYTES {
            return Err(unreadable(format!("it has {} bytes, the most is {MAX_FILE_BYTES}", metadata.len())));
        }
        let text = std::fs::read_to_string(&file).map_err(|error| unreadable(error.to_string()))?;
        let folder_name =
            folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let parsed = front_matter::parse(&text, &folder_name);
        let (matter, body) = parsed.map_err(|(line, reason)| SkillError::Malformed { file, line, reason })?;
        let (name, description) = (matter.name, matter.description);
        Ok(Self { name, description, body: body.trim().to_owned(), folder: folder.to_owned() })
    }
}

/// The skills in `folders`, by name; of two with one name, that in the earlier folder.
///
/// # Errors
/// When one of them cannot be used, or there are too many.
pub fn discover(folders: &[PathBuf]) -> Result<Vec<Skill>, SkillError> {
    let mut found: BTreeMap<String, Skill> = BTreeMap::new();
    for folder in folders {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(SkillError::Read { file: folder.clone(), reason: error.to_string() }),
        };
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            if path.is_dir() && std::fs::symlink_metadata(path.join(FILE_NAME)).is_ok() {
                let skill = Skill::read(&path)?;
                found.entry(skill.name.clone()).or_insert(skill);
            }
        }
    }
    match found.len() {
        count if count > MAX_SKILLS => Err(SkillError::TooMany(count)),
        _ => Ok(found.into_values().collect()),
    }
}

/// The skills `asked` for: names of skills in `folders`, or paths (with a `/`) relative to `base`.
///
/// # Errors
/// When one is unknown or cannot be used.
pub fn named(asked: &[String], base: &Path, folders: &[PathBuf]) -> Result<Vec<Skill>, SkillError> {
    let mut skills: Vec<Skill> = Vec::new();
    for name in asked {
        let skill = if name.contains('/') { Skill::read(&base.join(name))? } else { one(name, folders)? };
        if !skills.iter().any(|known| known.name == skill.name) {
            skills.push(skill);
        }
    }
    if skills.len() > MAX_SKILLS { Err(SkillError::TooMany(skills.len())) } else { Ok(skills) }
}

fn one(name: &str, folders: &[PathBuf]) -> Result<Skill, SkillError> {
    let is_there = |folder: &PathBuf| std::fs::symlink_metadata(folder.join(FILE_NAME)).is_ok();
    let is_name = front_matter::is_name(name);
    let found = folders.iter().map(|folder| folder.join(name)).filter(|_| is_name).find(is_there);
    match found {
        Some(folder) => Skill::read(&folder),
        None => {
            let known: Vec<String> = folders.iter().flat_map(|folder| names(folder)).collect();
            let closest = closest(name, known.iter().map(String::as_str)).map(str::to_owned);
            Err(SkillError::Unknown { name: name.to_owned(), closest, folders: folders.to_vec() })
        }
    }
}

/// The names of the folders in `folder`, for a suggestion.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// `instructions` with the names and descriptions of `skills` behind them.
pub fn instructions(instructions: &str, skills: &[Skill]) -> String {
    if skills.is_empty() {
        return instructions.to_owned();
    }
    let lines: Vec<String> =
        skills.iter().map(|skill| format!("- {}: {}", skill.name, one_line(&skill.description))).collect();
    let lead = if instructions.is_empty() { "" } else { "\n\n" };
    format!(
        "{instructions}{lead}You have skills. Read one with `{}` when its description fits the task:\n{}",
        tool::NAME,
        lines.join("\n")
    )
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
