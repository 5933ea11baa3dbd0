//! KV blocks on disk: what was computed before a restart need not be computed after it.
//!
//! An entry is one block of one prefix, named by the block's hash, which covers the model, its rotary setting
//! and all tokens up to the block's end. So an entry is found by exactly those who would compute the same.
//! Entries are checked against their digest when they are read; one that is damaged or no entry at all is
//! removed, with a line in the log. The store is bounded: the entry used longest ago makes room.
//!
//! Writing happens on a thread of its own. An entry that cannot be written costs the time to compute it again
//! and nothing else.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::error::EngineError;

/// The name of a block's content: see [`crate::scheduler`].
pub type EntryName = [u8; 16];

/// Begins every entry; the digit is the version of the layout.
const MAGIC: [u8; 8] = *b"chaskiK1";
/// Magic, name and length.
const HEADER: usize = 8 + 16 + 8;
const DIGEST: usize = 32;
/// Blocks that may wait to be written; the next ones are not kept.
const WAITING: usize = 64;

/// A folder of KV blocks.
pub struct KvStore {
    folder: PathBuf,
    most_bytes: u64,
    used_bytes: u64,
    entries: HashMap<EntryName, Entry>,
    clock: u64,
    writer: Option<SyncSender<Waiting>>,
    thread: Option<JoinHandle<()>>,
}

/// A block on its way to the disk.
struct Waiting {
    path: PathBuf,
    name: EntryName,
    content: Vec<u8>,
}

struct Entry {
    bytes: u64,
    /// The store's clock when it was last used.
    last_use: u64,
}

impl KvStore {
    /// Opens the store in `folder`, which is made if missing and closed to other users: its entries tell what
    /// was asked. At most `most_bytes` are kept.
    ///
    /// # Errors
    /// [`EngineError::Read`] when the folder cannot be made or read.
    pub fn open(folder: &Path, most_bytes: u64) -> Result<Self, EngineError> {
        let fault =
            |error: io::Error| EngineError::Read { path: folder.to_owned(), reason: error.to_string() };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder).map_err(fault)?;

        let mut found: Vec<(SystemTime, EntryName, u64)> = Vec::new();
        for file in fs::read_dir(folder).map_err(fault)? {
            let file = file.map_err(fault)?;
            let Some(name) = entry_name(&file.file_name().to_string_lossy()) else { continue };
            let about = file.metadata().map_err(fault)?;
            found.push((about.modified().unwrap_or(SystemTime::UNIX_EPOCH), name, about.len()));
        }
        found.sort_unstable();
        let (writer, inbox) = sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("chaski-kv-store".into())
            .spawn(move || write_all(&inbox))
            .map_err(fault)?;
        let mut store = Self {
            folder: folder.to_owned(),
            most_bytes,
            used_bytes: 0,
            entries: HashMap::new(),
            clock: 0,
            writer: Some(writer),
            thread: Some(thread),
        };
        for (_, name, bytes) in found {
            store.note(name, bytes);
        }
        store.make_room(0);
        Ok(store)
    }

    /// Whether the store has the entry, as far as is known without reading it.
    pub fn contains(&self, name: &EntryName) -> bool {
        self.entries.contains_key(name)
    }

    /// The content of an entry, if it is there and whole.
    pub fn load(&mut self, name: &EntryName) -> Option<Vec<u8>> {
        let entry = self.entries.get_mut(name)?;
        self.clock += 1;
        entry.last_use = self.clock;
        let path = self.path(name);
        match read(&path, name) {
            Ok(content) => Some(content),
            Err(reason) => {
                tracing::warn!(entry = %path.display(), reason, "a stored KV block is not usable; it is computed again");
                self.remove(name);
                None
            }
        }
    }

    /// Keeps `content` under `name`. Returns at once; what does not fit the store or its queue is not kept.
    pub fn save(&mut self, name: EntryName, content: Vec<u8>) {
        let bytes = (HEADER + content.len() + DIGEST) as u64;
        if self.contains(&name) || bytes > self.most_bytes {
            return;
        }
        self.make_room(bytes);
        let writer = self.writer.as_ref().expect("only `drop` takes it");
        match writer.try_send(Waiting { path: self.path(&name), name, content }) {
            Ok(()) => self.note(name, bytes),
            Err(TrySendError::Full(_)) => {
                tracing::debug!("the disk is slower than the engine: a KV block is not kept")
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Bytes of all entries.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    fn note(&mut self, name: EntryName, bytes: u64) {
        self.clock += 1;
        self.used_bytes += bytes;
        self.entries.insert(name, Entry { bytes, last_use: self.clock });
    }

    /// Removes entries until `wanted` more bytes fit.
    fn make_room(&mut self, wanted: u64) {
        if self.used_bytes + wanted <= self.most_bytes {
            return;
        }
        let mut oldest: Vec<(u64, EntryName)> =
            self.entries.iter().map(|(name, entry)| (entry.last_use, *name)).collect();
        oldest.sort_unstable();
        // A tenth more than needed, so that a full store is not sorted for every block.
        let target = self.most_bytes - wanted - (self.most_bytes - wanted) / 10;
        for (_, name) in oldest {
            if self.used_bytes <= target {
                return;
            }
            self.remove(&name);
        }
    }

    fn remove(&mut self, name: &EntryName) {
        if let Some(entry) = self.entries.remove(name) {
            self.used_bytes -= entry.bytes;
            // It may still wait to be written, or be gone already: then it is found, or not, at the next start.
            let _ = fs::remove_file(self.path(name));
        }
    }

    fn path(&self, name: &EntryName) -> PathBuf {
        let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(name + ENDING)
    }
}

const ENDING: &str = ".kv";

impl Drop for KvStore {
    fn drop(&mut self) {
        // Closing the channel ends the thread once everything is written.
        drop(self.writer.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was logged where it happened.
            let _ = thread.join();
        }
    }
}

/// The name in a file name, if it is an entry's.
fn entry_name(file: &str) -> Option<EntryName> {
    let digits = file.strip_suffix(ENDING)?;
    let mut name = EntryName::default();
    if digits.len() != 2 * name.len() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in name.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(name)
}

/// Reads and checks an entry; gives its content.
fn read(path: &Path, name: &EntryName) -> Result<Vec<u8>, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let mut header = [0; HEADER];
    file.read_exact(&mut header).map_err(|_| "it is cut off".to_owned())?;
    if header[..8] != MAGIC || header[8..24] != *name {
        return Err("it is no entry of this name and version".into());
    }
    let content = u64::from_le_bytes(*header.last_chunk().expect("the header ends with 8 bytes"));
    // The file's own length bounds what is read, so a wild number allocates nothing.
    if content.checked_add((HEADER + DIGEST) as u64) != Some(length) {
        return Err("it has another length than it says".into());
    }
    let mut bytes = Vec::with_capacity(content as usize + DIGEST);
    file.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 != content + DIGEST as u64 {
        return Err("it is cut off".into());
    }
    let digest = bytes.split_off(content as usize);
    let found = Sha256::new_with_prefix(header).chain_update(&bytes).finalize();
    if found[..] != digest[..] {
        return Err("its digest is wrong".into());
    }
    // For the next start to know what was used last; a failure only makes it go earlier.
    let _ = file.set_modified(SystemTime::now());
    Ok(bytes)
}

fn write_all(inbox: &Receiver<Waiting>) {
    for block in inbox {
        if let Err(error) = write(&block) {
            tracing::warn!(entry = %block.path.display(), %error, "a KV block cannot be kept");
        }
    }
}

/// Writes beside and renames, so that a reader sees all or nothing.
fn write(block: &Waiting) -> io::Result<()> {
    let Waiting { path, name, content } = block;
    let header = [&MAGIC[..], name, &(content.len() as u64).to_le_bytes()].concat();
    let digest = Sha256::new_with_prefix(&header).chain_update(content).finalize();
    let side = path.with_extension("part");
    let written = private_file(&side)
        .and_then(|mut file| {
            [&header[..], content, &digest].into_iter().try_for_each(|part| file.write_all(part))
        })
        .and_then(|()| fs::rename(&side, path));
    if written.is_err() {
        let _ = fs::remove_file(&side);
    }
    written
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests;
