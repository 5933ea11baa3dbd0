//! A component file to code that can be instantiated, compiled once and then taken from the cache.
//!
//! The cache holds native code, so it is trusted like the program itself: its folder belongs to this user
//! alone, an entry is found by the digest of the component and of the engine's settings, and its own digest is
//! checked before it is mapped. A plugin's author can never supply an entry.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;

use super::error::PluginError;
use super::manifest::Permissions;
use crate::config::create_private;
use crate::digest::sha256_hex;
use crate::models::pull;

/// A larger component is a mistake or an attack; CPython with its library has 34 MB.
const MAX_COMPONENT_BYTES: u64 = 64 << 20;

/// The one thing that a plugin exports.
const EXPORT: &str = "chaski:plugin/tool@0.1.0";
/// What a component may import if its manifest asks for it.
const HTTP: &str = "chaski:plugin/http@0.1.0";
const TOOLS: &str = "chaski:plugin/tools@0.1.0";
/// What a component may import beside WASI. The types come along with the functions that use them.
const IMPORTS: [&str; 4] = ["chaski:plugin/host@0.1.0", "chaski:plugin/types@0.1.0", HTTP, TOOLS];
/// The packages of WASI 0.2 that the host implements.
const WASI_PACKAGES: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];

/// A compiled component.
pub(super) struct Compiled {
    pub(super) component: Component,
    /// SHA-256 of the component file, in hexadecimal.
    pub(super) digest: String,
}

/// Compiles the component in `file`, or takes it from `cache_dir`; `accept` sees its digest before anything is
/// made of it. A digest that is `expected` lets the cache be looked at while the file is still read.
pub(super) fn load(
    engine: &Engine,
    plugin: &str,
    file: &Path,
    cache_dir: &Path,
    expected: Option<&str>,
    accept: impl FnOnce(&str) -> Result<(), PluginError>,
) -> Result<Compiled, PluginError> {
    let fault = |reason: String| PluginError::Component {
        plugin: plugin.to_owned(),
        file: file.to_owned(),
        reason,
        hint: Some(format!("`chaski plugin build {plugin}` builds it again")),
    };
    let length = std::fs::metadata(file).map_err(|error| fault(error.to_string()))?.len();
    if length > MAX_COMPONENT_BYTES {
        return Err(fault(format!("it has {length} bytes, the most is {MAX_COMPONENT_BYTES}")));
    }
    let folder = cache_dir.join("components");
    private_folder(&folder)?;
    let mut settings = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut settings);
    let settings = settings.finish();
    let entry_of = |digest: &str| folder.join(format!("{digest}-{settings:016x}.cwasm"));
    // Read again where it has to be compiled: to keep 34 MB that are only looked at costs more.
    let (digest, early) = std::thread::scope(|scope| {
        let early = expected.map(|digest| scope.spawn(|| cached(engine, &entry_of(digest))));
        let digest = pull::digest(file);
        (digest, early.and_then(|early| early.join().ok().flatten()))
    });
    let digest = digest.map_err(|error| fault(error.to_string()))?;
    accept(&digest)?;
    let entry = entry_of(&digest);
    let known = if expected == Some(digest.as_str()) { early } else { cached(engine, &entry) };
    if let Some(component) = known {
        return Ok(Compiled { component, digest });
    }
    tracing::info!(plugin, "compiling the component, once");
    let bytes = std::fs::read(file).map_err(|error| fault(error.to_string()))?;
    if sha256_hex(&bytes) != digest {
        return Err(fault("it changed while it was read".into()));
    }
    let component = Component::from_binary(engine, &bytes)
        .map_err(|error| fault(format!("it is no component that can be run here: {}", first_line(&error))))?;
    match component.serialize() {
        Ok(code) => store(&entry, &code),
        Err(error) => tracing::warn!(plugin, %error, "the compiled component cannot be cached"),
    }
    Ok(Compiled { component, digest })
}

/// Refuses imports that the contract does not have, or the manifest does not ask for, by name: linking says only
/// that one is missing.
pub(super) fn check_world(engine: &Engine, component: &Component, asked: &Permissions) -> Result<(), String> {
    let world = component.component_type();
    let silent = |name: &str| match name {
        HTTP => asked.http.is_empty().then_some("http"),
        TOOLS => asked.tools.is_empty().then_some("tools"),
        _ => None,
    };
    if let Some((name, list)) =
        world.imports(engine).find_map(|(name, _)| Some((name.to_owned(), silent(name)?)))
    {
        return Err(format!("it imports `{name}`, and its manifest does not ask for `{list}`"));
    }
    let foreign: Vec<String> = world
        .imports(engine)
        .filter(|(name, _)| !is_known_import(name))
        .map(|(name, _)| format!("`{}`", name.escape_debug()))
        .collect();
    if !foreign.is_empty() {
        return Err(format!("it imports {}, which plugins cannot have", foreign.join(", ")));
    }
    // Other exports are nobody's business: nothing calls them, and some toolchains add their own.
    match world.exports(engine).any(|(name, _)| name == EXPORT) {
        true => Ok(()),
        false => Err(format!("it does not export `{EXPORT}`, so it is no plugin")),
    }
}

/// Whether `name` is an interface of the contract or `wasi:PACKAGE/INTERFACE@0.2.N`.
fn is_known_import(name: &str) -> bool {
    let wasi = || {
        let (package, rest) = name.strip_prefix("wasi:")?.split_once('/')?;
        let (_, version) = rest.split_once('@')?;
        Some(WASI_PACKAGES.contains(&package) && version.starts_with("0.2."))
    };
    IMPORTS.contains(&name) || wasi().unwrap_or(false)
}

/// The component of a whole, unchanged cache entry.
fn cached(engine: &Engine, entry: &Path) -> Option<Component> {
    let expected = std::fs::read_to_string(digest_file(entry)).ok()?;
    if pull::digest(entry).ok()? != expected.trim() {
        tracing::warn!(entry = %entry.display(), "a cached component was damaged or changed; it is made again");
        return None;
    }
    // SAFETY: these are bytes that `serialize` wrote: the digest beside the entry is that of the file, and the
    // folder is this user's alone, so that nobody else changes the file before it is mapped or while it is.
    // Entries are replaced by renaming, never written in place.
    #[allow(unsafe_code)]
    let component = unsafe { Component::deserialize_file(engine, entry) };
    component
        .inspect_err(|error| tracing::warn!(%error, "a cached component does not load; it is made again"))
        .ok()
}

/// Writes an entry and its digest. A failure costs time at the next start and nothing else.
fn store(entry: &Path, code: &[u8]) {
    let write = |path: &Path, bytes: &[u8]| -> std::io::Result<()> {
        let mut side = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        side.write_all(bytes)?;
        side.persist(path)?;
        Ok(())
    };
    let digest = sha256_hex(code);
    if let Err(error) = write(entry, code).and_then(|()| write(&digest_file(entry), digest.as_bytes())) {
        tracing::warn!(entry = %entry.display(), %error, "a compiled component was not cached");
    }
}

fn digest_file(entry: &Path) -> PathBuf {
    entry.with_extension("sha256")
}

/// Creates `path` for this user alone, and refuses one that others can write to.
fn private_folder(path: &Path) -> Result<(), PluginError> {
    let fault = |reason: String| PluginError::Storage {
        path: path.to_owned(),
        reason,
        hint: Some("it holds compiled code: it must belong to you, with mode 0700".into()),
    };
    create_private(path).map_err(|error| fault(error.to_string()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::symlink_metadata(path).map_err(|error| fault(error.to_string()))?;
        let own = std::fs::metadata("/proc/self").map(|process| process.uid()).unwrap_or(found.uid());
        if !found.is_dir() || found.uid() != own || found.mode() & 0o022 != 0 {
            return Err(fault("is not a folder that only you can write to".into()));
        }
    }
    Ok(())
}

pub(super) fn first_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}
