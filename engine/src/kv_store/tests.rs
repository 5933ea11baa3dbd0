use super::*;

const ROOM: u64 = 1 << 20;

fn name(number: u8) -> EntryName {
    [number; 16]
}

/// A store whose entries are all on disk.
fn stored(folder: &Path, most_bytes: u64, numbers: std::ops::Range<u8>) -> KvStore {
    let mut store = KvStore::open(folder, most_bytes).expect("opens");
    for number in numbers {
        store.save(name(number), vec![number; 1000]);
    }
    drop(store); // which waits for the writer
    KvStore::open(folder, most_bytes).expect("opens again")
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).expect("a folder").count()
}

#[test]
fn entries_are_there_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = stored(folder.path(), ROOM, 0..5);
    for number in 0..5 {
        assert_eq!(store.load(&name(number)), Some(vec![number; 1000]));
    }
    assert!(!store.contains(&name(9)) && store.load(&name(9)).is_none());
}

/// `damage` done to an entry's file: it is not used, and gone.
#[track_caller]
fn check(damage: impl Fn(&mut Vec<u8>)) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = stored(folder.path(), ROOM, 1..3);
    let path = store.path(&name(1));
    let mut bytes = fs::read(&path).expect("the entry");
    damage(&mut bytes);
    fs::write(&path, bytes).expect("writes");
    assert_eq!(store.load(&name(1)), None);
    assert!(!store.contains(&name(1)) && !path.exists());
    assert!(store.load(&name(2)).is_some(), "the other one is as it was");
}

#[test]
fn a_damaged_entry_is_removed() {
    check(|bytes| bytes[500] ^= 1);
    check(|bytes| bytes.truncate(700));
    check(|bytes| bytes.truncate(3));
    check(Vec::clear);
    check(|bytes| bytes.push(0));
    check(|bytes| bytes[7] = b'9');
    check(|bytes| bytes[10] ^= 1);
    check(|bytes| bytes[24..32].fill(0xff));
}

#[test]
fn an_entry_under_a_wrong_name_is_not_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = stored(folder.path(), ROOM, 1..2);
    fs::copy(store.path(&name(1)), store.path(&name(2))).expect("copies");
    let mut store = KvStore::open(folder.path(), ROOM).expect("opens");
    assert_eq!(store.load(&name(2)), None);
    assert!(store.load(&name(1)).is_some());
}

#[test]
fn files_of_others_are_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    for foreign in ["notes.txt", "zz.kv", "0011.kv"] {
        fs::write(folder.path().join(foreign), "mine").expect("writes");
    }
    let store = stored(folder.path(), 3000, 0..9);
    assert!(store.used_bytes() <= 3000);
    assert!(["notes.txt", "zz.kv", "0011.kv"].iter().all(|foreign| folder.path().join(foreign).exists()));
}

#[test]
fn the_entry_used_longest_ago_makes_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = stored(folder.path(), 11_000, 0..10);
    assert_eq!(files(folder.path()), 10);
    assert!(store.load(&name(0)).is_some());
    store.save(name(20), vec![20; 1000]);
    assert!(store.contains(&name(0)) && store.contains(&name(20)) && !store.contains(&name(1)));
    assert!(store.used_bytes() <= 11_000);
}

#[test]
fn a_smaller_bound_removes_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(stored(folder.path(), ROOM, 0..10));
    let store = KvStore::open(folder.path(), 4000).expect("opens");
    assert!(store.used_bytes() <= 4000 && files(folder.path()) <= 3);
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let error = KvStore::open(&file.path().join("below"), ROOM).err().expect("refused");
    assert!(error.to_string().contains("below"), "{error}");
}

#[cfg(unix)]
#[test]
fn others_cannot_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("kv");
    let store = stored(&folder, ROOM, 1..2);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&store.path(&name(1)))), (0o700, 0o600));
}
