//! What the parser makes of diffs: by example, against a generator, against git, and under attack.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use super::*;

/// One line a file (`status old new`), one a hunk (`@ old new header`), one a line (`old new kind text`).
fn outline(files: &[FileDiff]) -> String {
    let mut text = String::new();
    for file in files {
        let name = |path: &Option<String>| path.as_deref().unwrap_or("none").escape_debug().to_string();
        write!(text, "{:?} {} {}", file.status, name(&file.old_path), name(&file.new_path)).unwrap();
        for (is_so, word) in [(file.binary, " binary"), (file.mode_changed, " mode"), (file.lossy, " lossy")]
        {
            text.push_str(if is_so { word } else { "" });
        }
        text.push('\n');
        for hunk in &file.hunks {
            let header = format!("@ {} {} {}", hunk.old_start, hunk.new_start, hunk.header);
            writeln!(text, "{}", header.trim_end()).unwrap();
            for line in &hunk.lines {
                let number = |line: Option<u32>| line.map_or_else(|| "_".to_owned(), |line| line.to_string());
                let end = if line.no_newline { " (no newline)" } else { "" };
                let (old, new) = (number(line.old_line), number(line.new_line));
                writeln!(text, "{old} {new} {:?} {:?}{end}", line.kind, line.text).unwrap();
            }
        }
    }
    text
}

#[track_caller]
fn check(patch: impl AsRef<[u8]>, expected: &[&str]) {
    let outline = outline(&parse(patch.as_ref()).unwrap());
    assert_eq!(outline.lines().collect::<Vec<_>>(), expected);
}

#[track_caller]
fn check_error(patch: impl AsRef<[u8]>, expected: &str) {
    assert_eq!(parse(patch.as_ref()).unwrap_err().to_string(), expected);
}

/// A hunk's lines below the names of a modified file.
fn with_names(hunks: &str) -> String {
    format!("diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n{hunks}")
}

#[test]
fn new_lines_are_numbered_as_in_the_new_file() {
    check(
        with_names("@@ -10,3 +12,4 @@ fn f()\n one\n-two\n+TWO\n+three\n four\n"),
        &[
            "Modified x x",
            "@ 10 12 fn f()",
            "10 12 Context \"one\"",
            "11 _ Removed \"two\"",
            "_ 13 Added \"TWO\"",
            "_ 14 Added \"three\"",
            "12 15 Context \"four\"",
        ],
    );
}

#[test]
fn a_text_without_a_diff_has_no_files() {
    for text in ["", "\n", "hello\n--- a title\n", "--- a\n+++ b\nno hunk\n", "+1\n-1\n"] {
        check(text, &[]);
    }
}

#[test]
fn a_removed_line_that_looks_like_a_header_is_a_line() {
    check(
        with_names("@@ -1,2 +1,2 @@\n--- a/y\n+++ b/y\n diff --git a/z b/z\n"),
        &[
            "Modified x x",
            "@ 1 1",
            "1 _ Removed \"-- a/y\"",
            "_ 1 Added \"++ b/y\"",
            "2 2 Context \"diff --git a/z b/z\"",
        ],
    );
}

#[test]
fn a_file_begins_or_ends_its_life() {
    check(
        "diff --git a/n b/n\nnew file mode 100755\nindex 0..1\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+x\n\
         diff --git a/o b/o\ndeleted file mode 100644\nindex 1..0\n--- a/o\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\
         diff --git a/empty b/empty\nnew file mode 100644\nindex 0..0\n",
        &[
            "Added none n",
            "@ 0 1",
            "_ 1 Added \"x\"",
            "Deleted o none",
            "@ 1 0",
            "1 _ Removed \"x\"",
            "Added none empty",
        ],
    );
}

#[test]
fn renames_copies_modes_and_binaries_are_told_apart() {
    check(
        "diff --git a/old name b/new name\nsimilarity index 100%\nrename from old name\nrename to new name\n\
         diff --git a/f b/g\nsimilarity index 90%\ncopy from f\ncopy to g\n\
         diff --git a/run b/run\nold mode 100644\nnew mode 100755\n\
         diff --git a/i.png b/i.png\nindex 1..2 100644\nBinary files a/i.png and b/i.png differ\n\
         diff --git a/j.png b/j.png\nindex 1..2 100644\nGIT binary patch\nliteral 3\nKcmZQzc${NkU\n\nliteral 0\nHcmV?d00001\n\n\
         diff --git a/k b/k\nindex 1..2 100644\n--- a/k\n+++ b/k\n@@ -1 +1 @@\n-a\n+b\n",
        &[
            "Renamed old name new name",
            "Copied f g",
            "Modified run run mode",
            "Modified i.png i.png binary",
            "Modified j.png j.png binary",
            "Modified k k",
            "@ 1 1",
            "1 _ Removed \"a\"",
            "_ 1 Added \"b\"",
        ],
    );
}

#[test]
fn a_missing_last_line_feed_is_kept_with_its_line() {
    check(
        with_names("@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n\\ Kein Zeilenumbruch am Dateiende\n"),
        &["Modified x x", "@ 1 1", "1 _ Removed \"a\" (no newline)", "_ 1 Added \"b\" (no newline)"],
    );
}

#[test]
fn carriage_returns_stay_in_lines_and_leave_headers() {
    check(
        "--- a/x\r\n+++ b/x\r\n@@ -1,2 +1,2 @@\r\n \r\n-a\r\n+b\r\n",
        &["Modified x x", "@ 1 1", "1 1 Context \"\\r\"", "2 _ Removed \"a\\r\"", "_ 2 Added \"b\\r\""],
    );
}

#[test]
fn an_empty_line_that_lost_its_space_is_context() {
    check(
        with_names("@@ -1,3 +1,3 @@\n-a\n+b\n\n c\n"),
        &[
            "Modified x x",
            "@ 1 1",
            "1 _ Removed \"a\"",
            "_ 1 Added \"b\"",
            "2 2 Context \"\"",
            "3 3 Context \"c\"",
        ],
    );
}

#[test]
fn names_may_be_quoted_spaced_or_without_prefix() {
    check(
        "diff --git \"a/\\303\\251 \\\"q\\\".rs\" \"b/\\303\\251 \\\"q\\\".rs\"\nold mode 100644\nnew mode 100755\n\
         diff --git a/with space b/with space\nindex 1..2\n--- a/with space\t\n+++ b/with space\t\n@@ -0,0 +1 @@\n+x\n\
         diff --git b/f b/f\nindex 1..2\n--- b/f\n+++ b/f\n@@ -0,0 +1 @@\n+x\n\
         diff --git i/m w/m\nindex 1..2\n--- i/m\n+++ w/m\n@@ -0,0 +1 @@\n+x\n",
        &[
            "Modified é \\\"q\\\".rs é \\\"q\\\".rs mode",
            "Modified with space with space",
            "@ 0 1",
            "_ 1 Added \"x\"",
            "Modified b/f b/f",
            "@ 0 1",
            "_ 1 Added \"x\"",
            "Modified m m",
            "@ 0 1",
            "_ 1 Added \"x\"",
        ],
    );
}

#[test]
fn plain_diffs_and_mails_are_read_too() {
    check(
        "From 1234 Mon Sep 17 00:00:00 2001\nSubject: [PATCH] x\n\n---\n x | 2 +-\n\n\
         --- old/x\t2020-01-01 00:00:00\n+++ new/x\t2020-01-02 00:00:00\n@@ -1 +1 @@\n-a\n+b\n-- \n2.39.0\n\n",
        &["Modified old/x new/x", "@ 1 1", "1 _ Removed \"a\"", "_ 1 Added \"b\""],
    );
}

#[test]
fn bytes_that_are_no_text_are_replaced_and_said() {
    check(
        [with_names("@@ -0,0 +1 @@\n+a").as_bytes(), b"\xff\n"].concat(),
        &["Modified x x lossy", "@ 0 1", "_ 1 Added \"a\u{fffd}\""],
    );
}

#[test]
fn a_hunk_that_contradicts_its_header_is_an_error_with_its_line() {
    check_error(
        with_names("@@ -1,2 +1,2 @@\n-a\n+b\n"),
        "line 8: the hunk of line 5 says 2 old and 2 new lines, but ends after 1 and 1",
    );
    check_error(
        with_names("@@ -1,3 +1,3 @@\n a\ndiff --git a/y b/y\n"),
        "line 7: the hunk of line 5 says 3 old and 3 new lines, but ends after 1 and 1",
    );
    check_error(
        with_names("@@ -1 +1 @@\n-a\n+b\n+c\n"),
        "line 8: the hunk of line 5 says 1 old and 1 new lines, but goes on after 1 and 1",
    );
    check_error(
        with_names("@@ -1,2 +1 @@\n+a\n+b\n"),
        "line 7: the hunk of line 5 says 2 old and 1 new lines, but goes on after 0 and 1",
    );
}

#[test]
fn headers_that_are_none_are_errors() {
    check_error(
        with_names("@@ -1 @@\n"),
        "line 5: `@@ -1 @@` is not a hunk header such as `@@ -1,4 +1,6 @@`",
    );
    for wrong in
        ["@@ -1 +0 @@", "@@ -1,1 +4294967296,1 @@", "@@ -1 +4294967295,9 @@", "@@ --1 +1 @@", "@@ -,1 +1 @@"]
    {
        assert!(
            matches!(parse(with_names(wrong).as_bytes()), Err(DiffError::HunkHeader { line: 5, .. })),
            "{wrong}"
        );
    }
    check_error("@@ -1 +1 @@\n-a\n+b\n", "line 1: a hunk without a file: no `---` and `+++` lines before it");
}

#[test]
fn hunks_go_down_the_file() {
    let first = "@@ -1,2 +1,2 @@\n a\n-b\n+B\n";
    check_error(
        with_names(&format!("{first}@@ -2 +5 @@\n-b\n+c\n")),
        "line 9: the hunk begins before the end of the one above it",
    );
    assert!(parse(with_names(&format!("{first}@@ -3 +3 @@\n-c\n+C\n")).as_bytes()).is_ok());
    assert!(parse(with_names(&format!("{first}@@ -2,0 +3 @@\n+c\n")).as_bytes()).is_ok());
}

#[test]
fn combined_diffs_are_refused() {
    for patch in ["diff --cc x\nindex 1,2..3\n", "diff --combined x\n", "text\n@@@ -1 -1 +1 @@@\n"] {
        let error = parse(patch.as_bytes()).unwrap_err();
        assert!(matches!(error, DiffError::Combined { .. }) && error.hint().is_some(), "{patch}");
    }
}

#[test]
fn paths_that_leave_their_folder_are_refused() {
    for (name, fault) in [
        ("b/../../etc/passwd", "the path `../../etc/passwd` leaves its folder"),
        ("b//etc/passwd", "the path `/etc/passwd` is absolute"),
        ("\"b/a\\000b\"", "the path `a\\0b` has a NUL byte"),
        ("\"b/a", "the path `\\\"b/a` has a quote that does not end, or a wrong escape"),
        ("b/", "the path `` is empty"),
    ] {
        check_error(format!("--- a/x\n+++ {name}\n@@ -0,0 +1 @@\n+x\n"), &format!("line 2: {fault}"));
    }
    let renamed = "diff --git a/x b/y\nsimilarity index 100%\nrename from x\nrename to ../y\n";
    check_error(renamed, "line 4: the path `../y` leaves its folder");
}

/// A small generator, so that a failure names its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn line(&mut self) -> String {
        ["", "-- a/x", "++ b/x", "@@ -1 +1 @@", " a", "b", "\\ no", "diff --git a/x b/x", "é\r"]
            [self.below(9)]
        .to_owned()
    }
}

/// Random edits of a random file, as (kind, text); lines of both files in order.
fn random_edits(random: &mut Random) -> Vec<(LineKind, String)> {
    let length = random.below(60);
    let kinds = [LineKind::Added, LineKind::Removed, LineKind::Context, LineKind::Context, LineKind::Context];
    (0..length).map(|_| (kinds[random.below(5)], random.line())).collect()
}

/// Writes edits as a unified diff with `around` lines of context; the reference that the parser is held to.
fn write_diff(edits: &[(LineKind, String)], around: usize) -> String {
    let changed: Vec<bool> = (0..edits.len())
        .map(|index| {
            let near = index.saturating_sub(around)..(index + around + 1).min(edits.len());
            edits[near].iter().any(|(kind, _)| *kind != LineKind::Context)
        })
        .collect();
    let mut patch = "--- a/f\n+++ b/f\n".to_owned();
    let (mut old, mut new, mut index) = (0, 0, 0);
    while index < edits.len() {
        let end = (index..edits.len()).find(|end| !changed[*end]).unwrap_or(edits.len());
        let hunk = &edits[index..end];
        let count = |not: LineKind| hunk.iter().filter(|(kind, _)| *kind != not).count();
        let (old_count, new_count) = (count(LineKind::Added), count(LineKind::Removed));
        if !hunk.is_empty() {
            let start = |before: usize, count: usize| before + usize::from(count > 0);
            let (old_start, new_start) = (start(old, old_count), start(new, new_count));
            writeln!(patch, "@@ -{old_start},{old_count} +{new_start},{new_count} @@").unwrap();
            for (kind, text) in hunk {
                let mark = [' ', '+', '-'][*kind as usize];
                writeln!(patch, "{mark}{text}").unwrap();
            }
        }
        (old, new) = (old + old_count, new + new_count);
        let unchanged =
            edits[end..].iter().zip(&changed[end..]).take_while(|(_, changed)| !**changed).count();
        (old, new, index) = (old + unchanged, new + unchanged, end + unchanged);
    }
    patch
}

/// Every line of every hunk is the line of that number in its file.
#[track_caller]
fn check_numbers(files: &[FileDiff], old: &[&str], new: &[&str], context: &str) {
    for line in files.iter().flat_map(|file| &file.hunks).flat_map(|hunk| &hunk.lines) {
        for (number, lines) in [(line.old_line, old), (line.new_line, new)] {
            if let Some(number) = number {
                assert_eq!(lines.get(number as usize - 1), Some(&line.text.as_str()), "{context}: {line:?}");
            }
        }
    }
}

#[test]
fn numbers_agree_with_both_files_in_2000_random_diffs() {
    for seed in 0..2_000 {
        let mut random = Random(seed);
        let edits = random_edits(&mut random);
        let side = |not: LineKind| {
            edits.iter().filter(|(kind, _)| *kind != not).map(|(_, text)| text.as_str()).collect::<Vec<_>>()
        };
        let (old, new) = (side(LineKind::Added), side(LineKind::Removed));
        let patch = write_diff(&edits, random.below(4));
        let files = parse(patch.as_bytes()).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{patch}"));
        check_numbers(&files, &old, &new, &format!("seed {seed}"));

        let changes = edits.iter().filter(|(kind, _)| *kind != LineKind::Context).count();
        let found = files.iter().flat_map(|file| &file.hunks).flat_map(|hunk| &hunk.lines);
        assert_eq!(found.filter(|line| line.kind != LineKind::Context).count(), changes, "seed {seed}");
    }
}

#[test]
fn a_damaged_diff_is_read_or_refused_but_never_a_panic() {
    for seed in 0..5_000 {
        let mut random = Random(seed);
        let mut patch = write_diff(&random_edits(&mut random), 3).into_bytes();
        patch.extend_from_slice(
            b"diff --git \"a/\\303\" b/x y\nrename to \"\\1\"\nGIT binary patch\n@@ -0,0 +0,0 @@\n",
        );
        for _ in 0..=random.below(8) {
            let at = random.below(patch.len().max(1));
            if patch.is_empty() {
                break;
            }
            match random.below(3) {
                0 => patch[at] = b"\0\n\r \"\\/-+@,09\xff"[random.below(14)],
                1 => drop(patch.remove(at)),
                _ => patch.truncate(at.max(1)),
            }
        }
        if let Ok(files) = parse(&patch) {
            let numbers = files.iter().flat_map(|file| &file.hunks).flat_map(|hunk| &hunk.lines);
            let ascending: Vec<u32> = numbers.filter_map(|line| line.new_line).collect();
            assert!(ascending.iter().all(|number| *number > 0), "seed {seed}");
        }
    }
}

#[test]
fn a_diff_past_its_bounds_is_refused_whole() {
    check_error("\n".repeat(MAX_LINES + 2), "the diff has more than 1000000 lines");
    check_error(vec![b'x'; MAX_BYTES + 1], "the diff has more than 32 MiB");
}

/// Runs git in `folder`, away from the user's settings.
#[track_caller]
fn git(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "core.autocrlf=false"];
    let done = Command::new("git")
        .args(identity)
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("git is installed");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

#[test]
fn numbers_and_names_agree_with_git() {
    let names = ["plain.rs", "two words.rs", "b/b.rs", "é \"quoted\"\t.rs", "a b/a b", "-- a/x"];
    let options: [&[&str]; 5] = [&[], &["-U0"], &["--no-prefix"], &["-c", "core.quotePath=false"], &["-R"]];
    let folder = tempfile::tempdir().unwrap();
    git(folder.path(), &["init", "-q"]);
    let mut contents = Vec::new();
    for (seed, name) in (0_u64..).zip(names) {
        let edits = random_edits(&mut Random(seed + 90));
        let side = |not: LineKind| -> String {
            edits
                .iter()
                .filter(|(kind, _)| *kind != not)
                .flat_map(|(_, text)| [text.as_str(), "\n"])
                .collect()
        };
        contents.push((name, side(LineKind::Added), side(LineKind::Removed) + "last, without an end"));
    }
    for (name, old, _) in &contents {
        std::fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.path().join(name), old).unwrap();
    }
    git(folder.path(), &["add", "."]);
    git(folder.path(), &["commit", "-qm", "before"]);
    for (name, _, new) in &contents {
        std::fs::write(folder.path().join(name), new).unwrap();
    }
    for extra in options {
        let (before, after) = if extra.first() == Some(&"-c") { (extra, &[][..]) } else { (&[][..], extra) };
        let patch = git(folder.path(), &[before, &["diff"][..], after].concat());
        let files = parse(&patch).unwrap_or_else(|error| panic!("{extra:?}: {error}"));
        assert_eq!(files.len(), names.len(), "{extra:?}");
        for (name, old, new) in &contents {
            let file: Vec<_> = files.iter().filter(|file| file.path() == *name).cloned().collect();
            assert_eq!(file.len(), 1, "{extra:?}: {name:?} among {:?}", outline(&files));
            let (old, new) = if extra == ["-R"] { (new, old) } else { (old, new) };
            let old: Vec<&str> = old.split('\n').collect();
            let new: Vec<&str> = new.split('\n').collect();
            check_numbers(&file, &old, &new, &format!("{extra:?} {name:?}"));
        }
    }
}
