//! From the text of a manifest to a checked [`Manifest`], every fault with its place.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use toml::Spanned;
use toml::de::DeTable;

use super::{CEILING, FolderRequest, FolderSource, Limits, Manifest, Permissions, is_name};
use crate::plugins::permissions::Access;
use crate::suggest::closest;

/// Folders one plugin can ask for.
const MAX_FOLDERS: usize = 16;

/// What is wrong with a manifest, and where.
#[derive(Debug)]
pub(super) struct Fault {
    at: Option<Range<usize>>,
    pub(super) reason: String,
    pub(super) hint: Option<String>,
}

impl Fault {
    fn new(at: Range<usize>, reason: impl Into<String>) -> Self {
        Self { at: Some(at), reason: reason.into(), hint: None }
    }

    /// The line in `text`, from 1.
    pub(super) fn line(&self, text: &str) -> Option<usize> {
        let start = self.at.as_ref()?.start.min(text.len());
        Some(text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1)
    }
}

impl From<toml::de::Error> for Fault {
    fn from(error: toml::de::Error) -> Self {
        Self { at: error.span(), reason: error.message().to_owned(), hint: None }
    }
}

pub(super) fn parse(text: &str) -> Result<Manifest, Fault> {
    check_keys(DeTable::parse(text)?.get_ref())?;
    let raw: RawManifest = toml::from_str(text)?;
    Ok(Manifest {
        id: checked(raw.plugin.id, is_name, "a plugin's id is `[a-z][a-z0-9-]{0,63}`")?,
        version: checked(
            raw.plugin.version,
            is_version,
            "a version has 1 to 64 letters, digits, `.`, `-`, `+`",
        )?,
        component: checked(
            raw.plugin.component,
            is_file_name,
            "the component is a file in the plugin's folder",
        )?,
        description: raw.plugin.description,
        limits: limits(raw.limits)?,
        permissions: permissions(raw.permissions)?,
        build: raw.build,
    })
}

#[derive(Deserialize)]
struct RawManifest {
    plugin: RawPlugin,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    permissions: RawPermissions,
    #[serde(default)]
    build: toml::Table,
}

#[derive(Deserialize)]
struct RawPlugin {
    id: Spanned<String>,
    version: Spanned<String>,
    component: Spanned<String>,
    description: String,
}

#[derive(Default, Deserialize)]
struct RawLimits {
    memory: Option<Spanned<ByteSize>>,
    timeout: Option<Spanned<Span>>,
    output: Option<Spanned<ByteSize>>,
    concurrency: Option<Spanned<usize>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawPermissions {
    #[serde(default)]
    fs: Vec<RawFolder>,
    #[serde(default)]
    random: bool,
    #[serde(default)]
    wall_clock: bool,
    http: Option<Spanned<Vec<toml::Value>>>,
    env: Option<Spanned<Vec<toml::Value>>>,
    secrets: Option<Spanned<Vec<toml::Value>>>,
    tools: Option<Spanned<Vec<toml::Value>>>,
}

#[derive(Deserialize)]
struct RawFolder {
    host: Spanned<String>,
    guest: Spanned<String>,
    access: Access,
}

/// Refuses keys that nobody reads. `build` belongs to the builder, which checks its own.
fn check_keys(root: &DeTable<'_>) -> Result<(), Fault> {
    known_keys(root, "", &["plugin", "limits", "permissions", "build"])?;
    for (name, known) in [
        ("plugin", &["id", "version", "component", "description"][..]),
        ("limits", &["memory", "timeout", "output", "concurrency"][..]),
        ("permissions", &["fs", "random", "wall-clock", "http", "env", "secrets", "tools"][..]),
    ] {
        if let Some(table) = root.get(name).and_then(|value| value.get_ref().as_table()) {
            known_keys(table, name, known)?;
        }
    }
    let folders = root.get("permissions").and_then(|value| value.get_ref().as_table()?.get("fs"));
    for folder in folders.and_then(|value| value.get_ref().as_array()).into_iter().flatten() {
        if let Some(table) = folder.get_ref().as_table() {
            known_keys(table, "permissions.fs", &["host", "guest", "access"])?;
        }
    }
    Ok(())
}

fn known_keys(table: &DeTable<'_>, place: &str, known: &[&str]) -> Result<(), Fault> {
    for key in table.keys() {
        let name = key.get_ref().as_ref();
        if !known.contains(&name) {
            let place = if place.is_empty() { "a manifest".to_owned() } else { format!("`[{place}]`") };
            let hint = match closest(name, known.iter().copied()) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("{place} has the keys {}", quoted(known)),
            };
            let reason = format!("{place} has no key `{}`", name.escape_debug());
            return Err(Fault { hint: Some(hint), ..Fault::new(key.span(), reason) });
        }
    }
    Ok(())
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn checked(text: Spanned<String>, rule: fn(&str) -> bool, expected: &str) -> Result<String, Fault> {
    if rule(text.get_ref()) {
        return Ok(text.into_inner());
    }
    let found = text.get_ref().escape_debug().to_string();
    Err(Fault::new(text.span(), format!("found `{found}`, but {expected}")))
}

fn is_version(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+'))
}

/// One path component that does not hide and does not climb.
fn is_file_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

fn limits(raw: RawLimits) -> Result<Limits, Fault> {
    let default = Limits::default();
    Ok(Limits {
        memory: bounded(raw.memory, "memory", default.memory, CEILING.memory, |size| size.0)?,
        timeout: bounded(raw.timeout, "timeout", default.timeout, CEILING.timeout, |span| span.0)?,
        output: bounded(raw.output, "output", default.output, CEILING.output, |size| size.0)?,
        concurrency: bounded(
            raw.concurrency,
            "concurrency",
            default.concurrency,
            CEILING.concurrency,
            |count| count,
        )?,
    })
}

/// A limit between nothing and its ceiling, both refused: one means a plugin that cannot run, and lowering
/// the other in silence a plugin that fails for no visible reason.
fn bounded<Raw, T: Copy + Default + PartialOrd + std::fmt::Debug>(
    raw: Option<Spanned<Raw>>,
    name: &str,
    default: T,
    ceiling: T,
    value: impl Fn(Raw) -> T,
) -> Result<T, Fault> {
    let Some(raw) = raw else { return Ok(default) };
    let at = raw.span();
    let value = value(raw.into_inner());
    if value <= T::default() {
        return Err(Fault::new(at, format!("the limit `{name}` is zero")));
    }
    if value > ceiling {
        return Err(Fault::new(at, format!("the limit `{name}` is {value:?}; the most is {ceiling:?}")));
    }
    Ok(value)
}

fn permissions(raw: RawPermissions) -> Result<Permissions, Fault> {
    let later = [("http", raw.http), ("env", raw.env), ("secrets", raw.secrets), ("tools", raw.tools)];
    for (name, list) in later.into_iter().filter_map(|(name, list)| Some((name, list?))) {
        if !list.get_ref().is_empty() {
            let reason = format!("the permission `{name}` is not supported yet");
            let hint = "leave it empty; a plugin reaches folders, a clock and randomness".to_owned();
            return Err(Fault { hint: Some(hint), ..Fault::new(list.span(), reason) });
        }
    }
    let mut fs: Vec<FolderRequest> = Vec::new();
    for folder in raw.fs {
        let at = folder.guest.span();
        let request = folder_request(folder)?;
        let overlap = |other: &FolderRequest| {
            Path::new(&other.guest).starts_with(&request.guest)
                || Path::new(&request.guest).starts_with(&other.guest)
        };
        if let Some(other) = fs.iter().find(|other| overlap(other)) {
            let reason = format!("the folders `{}` and `{}` overlap", other.guest, request.guest);
            return Err(Fault::new(at, reason));
        }
        if fs.len() == MAX_FOLDERS {
            return Err(Fault::new(at, format!("a plugin has at most {MAX_FOLDERS} folders")));
        }
        fs.push(request);
    }
    Ok(Permissions { fs, random: raw.random, wall_clock: raw.wall_clock })
}

fn folder_request(raw: RawFolder) -> Result<FolderRequest, Fault> {
    let host = match raw.host.get_ref().split_once(':') {
        Some(("root", name)) if is_name(name) => FolderSource::Root(name.to_owned()),
        Some(("private", name)) if is_name(name) => FolderSource::Private(name.to_owned()),
        _ => {
            let found = raw.host.get_ref().escape_debug().to_string();
            let reason = format!("found `{found}`, but a folder is `root:NAME` or `private:NAME`");
            let hint =
                "a root is a folder that the run offers; a private folder is the plugin's own".to_owned();
            return Err(Fault { hint: Some(hint), ..Fault::new(raw.host.span(), reason) });
        }
    };
    let guest = checked(raw.guest, is_guest_path, "a guest path is absolute, like `/workspace`")?;
    Ok(FolderRequest { host, guest, access: raw.access })
}

/// `/name`, `/name/name`: absolute, plain and not the guest's whole file system.
fn is_guest_path(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    text.len() <= 256 && text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part))
}

/// `64KiB`, `256MiB`, `1GiB`.
struct ByteSize(usize);

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let units = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
        scaled(&text, &units)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom(misread(&text, "a size", "`64KiB`, `256MiB`, `1GiB`")))
    }
}

/// `500ms`, `10s`, `2m`.
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        scaled(&text, &[("ms", 1), ("s", 1000), ("m", 60_000)])
            .map(|milliseconds| Self(Duration::from_millis(milliseconds)))
            .ok_or_else(|| serde::de::Error::custom(misread(&text, "a duration", "`500ms`, `10s`, `2m`")))
    }
}

fn misread(found: &str, what: &str, like: &str) -> String {
    format!("found `{}`, but {what} is a whole number with its unit, like {like}", found.escape_debug())
}

/// A whole number followed by one of `units`, in the smallest unit.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}
