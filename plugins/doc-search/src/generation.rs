//! Generations of a collection's index: written whole, then named current by one rename.

use std::path::{Path, PathBuf};

/// The file that names the current generation.
const CURRENT: &str = "CURRENT";

/// The folder of the current generation, if the collection has one.
pub fn current(collection: &Path) -> Option<PathBuf> {
    let name = std::fs::read_to_string(collection.join(CURRENT)).ok()?;
    let folder = collection.join(name.trim());
    folder.is_dir().then_some(folder)
}

/// An empty folder for a new generation.
pub fn create(collection: &Path) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(collection)?;
    let next = generations(collection).map(|(number, _)| number + 1).max().unwrap_or(0);
    let folder = collection.join(format!("generation-{next}"));
    std::fs::create_dir(&folder)?;
    Ok(folder)
}

/// Makes `folder` the current generation and removes the others.
pub fn publish(collection: &Path, folder: &Path) -> std::io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let side = collection.join(format!("{CURRENT}.new"));
    std::fs::write(&side, &name)?;
    std::fs::rename(side, collection.join(CURRENT))?;
    for (_, old) in generations(collection).filter(|(_, path)| path != folder) {
        // An old generation that stays costs space and nothing else; the next indexing tries again.
        let _ = std::fs::remove_dir_all(old);
    }
    Ok(())
}

fn generations(collection: &Path) -> impl Iterator<Item = (u64, PathBuf)> {
    let entries = std::fs::read_dir(collection).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        Some((name.strip_prefix("generation-")?.parse().ok()?, entry.path()))
    })
}
