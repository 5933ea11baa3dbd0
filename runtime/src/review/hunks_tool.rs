//! The tool `review.hunks`: a change as hunks, each with the numbers of the lines that a finding may be about.
//!
//! Reads a patch file, or asks git for the difference to a commit. Paths are below the workflow's folder; a
//! link that leads out of it is refused.
//!
//! Invariant: every hunk of the answer has at least one line, and each is a line of the new file that the hunk
//! shows. What the answer leaves out (files without text, hunks past the limit) is said in its text.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::diff::{self, FileDiff, Hunk, LineKind};
use crate::tools::{CallContext, Effect, Tool, ToolDefinition, ToolOutcome, ToolResult};

/// Bytes of a patch; a larger change is not reviewed in one run.
const MAX_PATCH_BYTES: usize = 16 << 20;
/// Hunks of one answer, unless the call asks for fewer.
const MAX_HUNKS: usize = 200;
/// Bytes of git's complaints that are read.
const MAX_COMPLAINT_BYTES: usize = 4096;
/// Settings that would make git run another program, or write names in a way of the user's own.
const GIT_SETTINGS: [&str; 3] = ["core.fsmonitor=false", "core.hooksPath=/dev/null", "diff.external="];
/// `--relative`: names are relative to the folder, and what lies outside of it does not show.
const GIT_DIFF: [&str; 10] = [
    "--no-pager",
    "diff",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--relative",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "--ignore-submodules",
    "-U3",
];
/// Variables that would lead git to another repository or program than the folder's.
const GIT_VARIABLES: [&str; 6] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_EXTERNAL_DIFF",
    "GIT_DIFF_OPTS",
];

/// The tool.
pub struct HunksTool {
    folder: PathBuf,
    definition: ToolDefinition,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    patch: Option<String>,
    base: Option<String>,
    repository: Option<String>,
    #[serde(default)]
    leave_out: Vec<String>,
    max_hunks: Option<usize>,
}

impl HunksTool {
    /// The tool for workflows in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        let path = json!({"type": "string", "minLength": 1, "maxLength": 500});
        let definition = ToolDefinition {
            name: "review.hunks".into(),
            description:
                "Reads a change and answers with its hunks: path, text with line numbers, and the numbers of \
                          the added lines. From a patch file, or from git as the difference to a commit."
                    .into(),
            input_schema: json!({
                "type": "object",
                "properties": {
                    "patch": {"description": "A patch file, relative to the workflow", "type": "string", "minLength": 1},
                    "base": {"description": "A commit or branch to compare with", "type": "string", "minLength": 1},
                    "repository": {"description": "A folder with a git work tree, relative to the workflow",
                                   "type": "string", "minLength": 1},
                    "leave_out": {"description": "Beginnings or endings of paths to leave out", "type": "array",
                                  "items": path},
                    "max_hunks": {"type": "integer", "minimum": 1, "maximum": MAX_HUNKS},
                },
                "additionalProperties": false,
            }),
            output_schema: Some(json!({"type": "array", "items": {"type": "object"}})),
            effect: Effect::Idempotent,
        };
        Self { folder, definition }
    }

    async fn hunks(&self, arguments: Value, context: CallContext) -> Result<ToolResult, String> {
        let arguments: Arguments = serde_json::from_value(arguments).map_err(|error| error.to_string())?;
        let patch = match (&arguments.patch, &arguments.base) {
            (Some(patch), None) => self.read(patch)?,
            (None, Some(base)) => {
                self.ask_git(base, arguments.repository.as_deref().unwrap_or("."), &context).await?
            }
            _ => return Err("give either `patch`, a file, or `base`, a commit to compare with".into()),
        };
        let files = diff::parse(&patch).map_err(|error| format!("the change cannot be read: {error}"))?;
        let left_out = |file: &FileDiff| {
            arguments
                .leave_out
                .iter()
                .any(|part| file.path().starts_with(part) || file.path().ends_with(part))
        };
        let (kept, dropped): (Vec<&FileDiff>, Vec<&FileDiff>) =
            files.iter().partition(|file| !left_out(file));
        let all: Vec<Value> = kept
            .iter()
            .flat_map(|file| file.hunks.iter().filter_map(move |hunk| described(file, hunk)))
            .collect();
        let most = arguments.max_hunks.unwrap_or(MAX_HUNKS).min(MAX_HUNKS);
        let more = all.len().saturating_sub(most);
        let shown: Vec<Value> = all.into_iter().take(most).collect();
        let mut text = format!("{} hunks", shown.len());
        if more > 0 {
            text.push_str(&format!("; {more} more were left out, raise `max_hunks`"));
        }
        let count = |is_so: fn(&FileDiff) -> bool| kept.iter().filter(|file| is_so(file)).count();
        for (number, what) in [
            (dropped.len(), "files left out as asked"),
            (count(|file| file.binary), "binary files have no lines"),
            (count(|file| file.new_path.is_none() && !file.binary), "files were deleted"),
            (count(|file| file.lossy), "files have bytes that are not UTF-8, shown as U+FFFD"),
        ] {
            if number > 0 {
                text.push_str(&format!("; {number} {what}"));
            }
        }
        Ok(ToolResult { truncated: more > 0, text, ..ToolResult::json(Value::Array(shown)) })
    }

    /// A file below the workflow's folder.
    fn inside(&self, path: &str) -> Result<PathBuf, String> {
        let unreadable = |error: std::io::Error| format!("`{path}` cannot be read: {error}");
        let folder = self.folder.canonicalize().map_err(unreadable)?;
        let found = folder.join(path).canonicalize().map_err(unreadable)?;
        match found.starts_with(&folder) {
            true => Ok(found),
            false => Err(format!("`{path}` is not below the workflow's folder")),
        }
    }

    fn read(&self, patch: &str) -> Result<Vec<u8>, String> {
        let file = self.inside(patch)?;
        let about = std::fs::metadata(&file).map_err(|error| format!("`{patch}` cannot be read: {error}"))?;
        // A pipe would keep the run waiting for ever.
        if !about.is_file() {
            return Err(format!("`{patch}` is not a file"));
        }
        let length = about.len();
        if length > MAX_PATCH_BYTES as u64 {
            return Err(format!("`{patch}` has {length} bytes, the most is {MAX_PATCH_BYTES}"));
        }
        std::fs::read(&file).map_err(|error| format!("`{patch}` cannot be read: {error}"))
    }

    /// What git says changed since `base`. No program that the repository's own configuration names is run.
    async fn ask_git(&self, base: &str, repository: &str, context: &CallContext) -> Result<Vec<u8>, String> {
        if base.starts_with('-') {
            return Err(format!("`{base}` is not a commit"));
        }
        let folder = self.inside(repository)?;
        let mut git = tokio::process::Command::new("git");
        git.arg("-C").arg(&folder);
        for setting in GIT_SETTINGS {
            git.args(["-c", setting]);
        }
        for variable in GIT_VARIABLES {
            git.env_remove(variable);
        }
        git.args(GIT_DIFF)
            .args([base, "--"].map(OsStr::new))
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_TERMINAL_PROMPT", "0")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        tokio::select! {
            done = tokio::time::timeout(context.timeout, bounded_output(git)) => {
                done.map_err(|_| format!("git did not end within {:?}", context.timeout))?
            }
            () = context.cancel.cancelled() => Err("cancelled".into()),
        }
    }
}

/// What git writes, if it ends well and writes at most [`MAX_PATCH_BYTES`]; past that it is stopped.
async fn bounded_output(mut git: tokio::process::Command) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("git cannot be run: {error}");
    let mut child = git.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Both at once: git would wait for ever on a full pipe that nobody reads.
    let (patch, complaint) = tokio::try_join!(
        read_at_most(stdout, MAX_PATCH_BYTES + 1, false),
        read_at_most(stderr, MAX_COMPLAINT_BYTES, true),
    )
    .map_err(failed)?;
    if patch.len() > MAX_PATCH_BYTES {
        return Err(format!("the change has more than {MAX_PATCH_BYTES} bytes"));
    }
    if !child.wait().await.map_err(failed)?.success() {
        let said = String::from_utf8_lossy(&complaint);
        return Err(format!("git says: {}", said.lines().next().unwrap_or("nothing")));
    }
    Ok(patch)
}

/// The first `limit` bytes; the rest is read and dropped if `drain`, else the pipe is closed.
async fn read_at_most(
    pipe: Option<impl AsyncRead + Unpin>,
    limit: usize,
    drain: bool,
) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let Some(mut pipe) = pipe else { return Ok(bytes) };
    (&mut pipe).take(limit as u64).read_to_end(&mut bytes).await?;
    if drain {
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

impl Tool for HunksTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    fn call<'a>(&'a self, arguments: Value, context: CallContext) -> BoxFuture<'a, ToolResult> {
        Box::pin(async move {
            self.hunks(arguments, context)
                .await
                .unwrap_or_else(|reason| ToolResult::failed(ToolOutcome::Error, reason))
        })
    }
}

/// The lines that a finding may be about: the added ones or, where a hunk only removes, the lines that the
/// removal now joins.
fn anchors(hunk: &Hunk) -> Vec<u32> {
    let added: Vec<u32> = hunk
        .lines
        .iter()
        .filter(|line| line.kind == LineKind::Added)
        .filter_map(|line| line.new_line)
        .collect();
    if !added.is_empty() {
        return added;
    }
    let is_removed = |index: Option<usize>| {
        index.and_then(|index| hunk.lines.get(index)).is_some_and(|line| line.kind == LineKind::Removed)
    };
    let next_to_removed = |index: usize| is_removed(index.checked_sub(1)) || is_removed(Some(index + 1));
    hunk.lines
        .iter()
        .enumerate()
        .filter(|(index, _)| next_to_removed(*index))
        .filter_map(|(_, line)| line.new_line)
        .collect()
}

/// A hunk as a workflow sees it; `None` when no line of the new file is in it, so that no finding could be
/// about one.
fn described(file: &FileDiff, hunk: &Hunk) -> Option<Value> {
    let lines = anchors(hunk);
    if lines.is_empty() {
        return None;
    }
    let text: Vec<String> = hunk
        .lines
        .iter()
        .map(|line| {
            let (mark, number) = match line.kind {
                LineKind::Added => ('+', line.new_line),
                LineKind::Context => (' ', line.new_line),
                LineKind::Removed => ('-', None),
            };
            let number = number.map_or_else(String::new, |number| number.to_string());
            format!("{number:>4} {mark}{}", line.text.trim_end_matches('\r'))
        })
        .collect();
    let ending = Path::new(file.path()).extension().map(|ending| ending.to_string_lossy().into_owned());
    Some(json!({
        "path": file.path(),
        "lines": lines,
        "text": text.join("\n"),
        "header": hunk.header,
        "old_start": hunk.old_start,
        "new_start": hunk.new_start,
        "ending": ending,
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::sync::CancellationToken;

    use super::*;

    const PATCH: &str = "--- a/src/a.rs\n+++ b/src/a.rs\n@@ -1,3 +1,4 @@ fn f()\n one\n-two\n+TWO\n+three\n four\n\
                         --- a/b.lock\n+++ b/b.lock\n@@ -1 +1,2 @@\n x\n+y\n";

    async fn call(folder: &Path, arguments: Value) -> ToolResult {
        let context = CallContext {
            call_id: "c".into(),
            timeout: Duration::from_secs(20),
            cancel: CancellationToken::new(),
            ..CallContext::default()
        };
        HunksTool::new(folder.to_owned()).call(arguments, context).await
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("change.diff"), PATCH).expect("writes");
        folder
    }

    #[tokio::test]
    async fn lines_are_those_of_the_new_file() {
        let folder = folder();
        let result = call(folder.path(), json!({"patch": "change.diff", "leave_out": [".lock"]})).await;
        let hunks = result.json.expect("hunks");
        assert_eq!(hunks.as_array().map(Vec::len), Some(1));
        assert_eq!(hunks[0]["lines"], json!([2, 3]));
        assert_eq!(hunks[0]["text"], "   1  one\n     -two\n   2 +TWO\n   3 +three\n   4  four");
    }

    #[tokio::test]
    async fn what_is_left_out_is_said() {
        let folder = folder();
        let result = call(folder.path(), json!({"patch": "change.diff", "max_hunks": 1})).await;
        assert!(result.truncated);
        assert_eq!(result.text, "1 hunks; 1 more were left out, raise `max_hunks`");
    }

    #[tokio::test]
    async fn a_hunk_that_only_removes_is_anchored_where_it_removed() {
        let folder = folder();
        let patch = "--- a/x\n+++ b/x\n@@ -1,4 +1,3 @@\n a\n b\n-check()\n c\n\
                     diff --git a/y b/y\ndeleted file mode 100644\n--- a/y\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n\
                     diff --git a/z.png b/z.png\nBinary files a/z.png and b/z.png differ\n";
        std::fs::write(folder.path().join("change.diff"), patch).expect("writes");
        let result = call(folder.path(), json!({"patch": "change.diff"})).await;
        let hunks = result.json.expect("hunks");
        assert_eq!((hunks.as_array().map(Vec::len), &hunks[0]["lines"]), (Some(1), &json!([2, 3])));
        assert_eq!(result.text, "1 hunks; 1 binary files have no lines; 1 files were deleted");
    }

    #[tokio::test]
    async fn git_is_asked_for_what_changed_below_the_repository_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let git = |arguments: &[&str]| {
            let identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"];
            let mut done = std::process::Command::new("git");
            done.args(identity).args(arguments).current_dir(folder.path());
            assert!(done.output().expect("git runs").status.success(), "{arguments:?}");
        };
        let write = |text: &str| {
            for path in ["outside.txt", "inner/inside.txt"] {
                std::fs::create_dir_all(folder.path().join("inner")).expect("a folder");
                std::fs::write(folder.path().join(path), text).expect("writes");
            }
        };
        write("one\n");
        git(&["init", "-q"]);
        git(&["config", "diff.noprefix", "true"]);
        git(&["add", "."]);
        git(&["commit", "-qm", "before"]);
        write("one\ntwo\n");
        let result = call(folder.path(), json!({"base": "HEAD", "repository": "inner"})).await;
        let hunks = result.json.expect("hunks");
        assert_eq!(hunks.as_array().map(Vec::len), Some(1));
        assert_eq!((&hunks[0]["path"], &hunks[0]["lines"]), (&json!("inside.txt"), &json!([2])));

        let result = call(folder.path(), json!({"base": "no-such-branch"})).await;
        assert!(result.text.starts_with("git says: fatal: "), "{}", result.text);
    }

    #[tokio::test]
    async fn a_folder_is_no_patch() {
        let folder = folder();
        assert_eq!(call(folder.path(), json!({"patch": "."})).await.text, "`.` is not a file");
    }

    #[tokio::test]
    async fn paths_stay_below_the_workflow() {
        let folder = folder();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).expect("a folder");
        let result = call(&inner, json!({"patch": "../change.diff"})).await;
        assert_eq!(result.outcome, ToolOutcome::Error);
        assert!(result.text.contains("not below the workflow's folder"), "{}", result.text);
    }

    #[tokio::test]
    async fn an_option_is_no_commit() {
        let folder = folder();
        let result = call(folder.path(), json!({"base": "--output=x"})).await;
        assert_eq!(result.text, "`--output=x` is not a commit");
    }
}
