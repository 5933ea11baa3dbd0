//! Whether a disk has room: better found before an hour of transfer than after it.

use std::io;
use std::path::Path;

use super::pull::PullError;

/// Bytes that may still be written at `path` (or at its nearest folder that exists); `None` where the system
/// does not say.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let path = path.ancestors().find(|path| path.exists())?;
    let disk = rustix::fs::statvfs(path).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// Refuses to begin what cannot end: `needed` more bytes have to fit at `path`.
///
/// # Errors
/// [`PullError::DiskFull`].
pub fn check(path: &Path, needed: u64) -> Result<(), PullError> {
    match free_bytes(path) {
        Some(free) if free < needed => Err(PullError::DiskFull { path: path.to_owned(), free, needed }),
        _ => Ok(()),
    }
}

/// Why `path` could not be written, a full disk told apart; `needed` bytes were still to come.
pub fn write_error(path: &Path, needed: u64, error: &io::Error) -> PullError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            PullError::DiskFull { free: free_bytes(&path).unwrap_or(0), path, needed }
        }
        _ => PullError::Write { path, reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_yet_to_be_made_has_the_room_of_its_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(free_bytes(&folder.path().join("a/b")).is_some_and(|free| free > 0));
    }

    #[test]
    fn more_than_the_disk_holds_is_refused_before_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(matches!(check(folder.path(), u64::MAX), Err(PullError::DiskFull { .. })));
        assert!(check(folder.path(), 1).is_ok());
    }
}
