//! Paths that a model writes.

use std::path::{Component, Path, PathBuf};

/// The place of `path` below `root`; a no that says how paths are written.
pub fn inside(root: &Path, path: &str) -> Result<PathBuf, String> {
    let relative = Path::new(path.trim().trim_start_matches("./"));
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain || path.contains('\0') {
        return Err(format!(
            "`{path}` is not inside the workspace: paths are relative to it, for example `src/lib.rs`, without `..`"
        ));
    }
    Ok(root.join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<&str>) {
        assert_eq!(inside(Path::new("/w"), path).ok().as_deref(), expected.map(Path::new));
    }

    #[test]
    fn relative_paths_are_inside() {
        check("src/lib.rs", Some("/w/src/lib.rs"));
        check("./src", Some("/w/src"));
        check("", Some("/w"));
    }

    #[test]
    fn everything_else_is_refused() {
        check("../etc/passwd", None);
        check("/etc/passwd", None);
        check("src/../../x", None);
        check("a\0b", None);
    }
}
