//! From the text of a manifest to a checked [`Manifest`], every fault with its place.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use toml::Spanned;
use toml::de::DeTable;

use super::{CEILING, FolderRequest, FolderSource, Limits, Manifest, Permissions, is_name};
use super::{HttpRequest, SecretRequest};
use crate::plugins::origin::Origin;
use crate::plugins::permissions::Access;
use crate::suggest::closest;

/// Folders one plugin can ask for.
const MAX_FOLDERS: usize = 16;
/// Items of one other capability. A longer list is not read before it is granted.
const MAX_ITEMS: usize = 32;

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
    #[serde(default)]
    http: Vec<Spanned<RawHttp>>,
    #[serde(default)]
    env: Vec<Spanned<String>>,
    #[serde(default)]
    secrets: Vec<Spanned<RawSecret>>,
    #[serde(default)]
    tools: Vec<Spanned<String>>,
}

/// `"https://api.example.com"`, or with the methods that it takes.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawHttp {
    Origin(String),
    Methods { origin: String, methods: Vec<String> },
}

#[derive(Deserialize)]
struct RawSecret {
    name: String,
    origin: Origin,
    header: String,
    #[serde(default)]
    prefix: String,
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
    for (list, known) in [
        ("fs", &["host", "guest", "access"][..]),
        ("http", &["origin", "methods"][..]),
        ("secrets", &["name", "origin", "header", "prefix"][..]),
    ] {
        let items = root.get("permissions").and_then(|value| value.get_ref().as_table()?.get(list));
        for item in items.and_then(|value| value.get_ref().as_array()).into_iter().flatten() {
            if let Some(table) = item.get_ref().as_table() {
                known_keys(table, &format!("permissions.{list}"), known)?;
            }
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
    Ok(Permissions {
        fs,
        random: raw.random,
        wall_clock: raw.wall_clock,
        http: list(raw.http, "http", http_request)?,
        env: list(raw.env, "env", |name| match is_variable(&name) {
            true => Ok(name),
            false => Err(format!("found `{}`, but it is no variable's name", name.escape_debug())),
        })?,
        secrets: list(raw.secrets, "secrets", secret_request)?,
        tools: list(raw.tools, "tools", |pattern| match is_tool_pattern(&pattern) {
            true => Ok(pattern),
            false => Err(format!(
                "found `{}`, but a tool is `plugin.tool`, `plugin.*` or `*`",
                pattern.escape_debug()
            )),
        })?,
    })
}

/// The items of one capability, each checked and none twice.
fn list<Raw, T: PartialEq>(
    raw: Vec<Spanned<Raw>>,
    name: &str,
    checked: impl Fn(Raw) -> Result<T, String>,
) -> Result<Vec<T>, Fault> {
    let mut items = Vec::new();
    for raw in raw {
        let at = raw.span();
        let item = checked(raw.into_inner()).map_err(|reason| Fault::new(at.clone(), reason))?;
        if items.contains(&item) {
            return Err(Fault::new(at, format!("`{name}` asks for the same thing twice")));
        }
        if items.len() == MAX_ITEMS {
            return Err(Fault::new(at, format!("`{name}` has more than {MAX_ITEMS} items")));
        }
        items.push(item);
    }
    Ok(items)
}

fn http_request(raw: RawHttp) -> Result<HttpRequest, String> {
    let (origin, methods) = match raw {
        RawHttp::Origin(origin) => (origin, HttpRequest::READING.map(str::to_owned).to_vec()),
        RawHttp::Methods { origin, methods } => (origin, methods),
    };
    let known =
        |method: &String| (1..=16).contains(&method.len()) && method.bytes().all(|b| b.is_ascii_uppercase());
    if methods.is_empty() || !methods.iter().all(known) {
        return Err("`methods` is a list of names in capitals, like `GET`, `POST`".into());
    }
    // Not requests but tunnels and echoes.
    if let Some(method) = methods.iter().find(|method| ["CONNECT", "TRACE"].contains(&method.as_str())) {
        return Err(format!("the method `{method}` cannot be had"));
    }
    let origin = match origin.as_str() {
        "*" => None,
        text => Some(text.parse::<Origin>().map_err(|reason| {
            format!(
                "found `{}`, but an origin is like `https://api.example.com`: {reason}",
                text.escape_debug()
            )
        })?),
    };
    Ok(HttpRequest { origin, methods })
}

fn secret_request(raw: RawSecret) -> Result<SecretRequest, String> {
    let header = raw.header.to_ascii_lowercase();
    if !is_name(&raw.name) {
        return Err(format!(
            "a secret's name is `[a-z][a-z0-9-]{{0,63}}`, found `{}`",
            raw.name.escape_debug()
        ));
    }
    if !is_name(&header) || crate::plugins::http::HOSTS_OWN_HEADERS.contains(&header.as_str()) {
        return Err(format!("a secret cannot be in the header `{}`", raw.header.escape_debug()));
    }
    let plain = |letter: char| letter == ' ' || letter.is_ascii_graphic();
    if raw.prefix.len() > 32 || !raw.prefix.chars().all(plain) {
        return Err("a secret's prefix has at most 32 plain characters, like `Bearer `".into());
    }
    Ok(SecretRequest { name: raw.name, origin: raw.origin, header, prefix: raw.prefix })
}

/// Whether `name` can be an environment variable: a letter or `_`, then letters, digits and `_`.
pub(crate) fn is_variable(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether `pattern` is `*`, `plugin.*` or `plugin.tool`.
pub(crate) fn is_tool_pattern(pattern: &str) -> bool {
    let tool = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    pattern == "*"
        || pattern
            .split_once('.')
            .is_some_and(|(plugin, name)| is_name(plugin) && (name == "*" || tool(name)))
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
