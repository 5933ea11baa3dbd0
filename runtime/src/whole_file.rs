//! Files that are written whole or not at all.

use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

/// Puts what `fill` writes in the place of `path`. It is written beside it first: whoever reads finds the old file or
/// the new one, and an error leaves the old.
///
/// # Errors
/// Those of `fill`, and of the disk.
pub fn replace<E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&mut NamedTempFile) -> Result<(), E>,
) -> Result<(), E> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut side = NamedTempFile::new_in(folder)?;
    fill(&mut side)?;
    side.as_file().sync_all()?;
    side.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn an_error_leaves_the_old_file_and_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        replace(&path, |file| file.write_all(b"old")).expect("writes");
        let failed = replace(&path, |file| {
            file.write_all(b"new")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.expect_err("it fails").to_string(), "no more");
        assert_eq!(std::fs::read(&path).expect("reads"), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1);
    }
}
