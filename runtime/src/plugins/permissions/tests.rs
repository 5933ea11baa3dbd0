//! What a plugin gets of what it asks for.

use super::*;
use crate::plugins::manifest::{FolderRequest, HttpRequest, Limits, Permissions};

fn root(name: &str, guest: &str, access: Access) -> FolderRequest {
    FolderRequest { host: FolderSource::Root(name.into()), guest: guest.into(), access }
}

fn private(name: &str, guest: &str, access: Access) -> FolderRequest {
    FolderRequest { host: FolderSource::Private(name.into()), guest: guest.into(), access }
}

fn manifest(permissions: Permissions) -> Manifest {
    Manifest {
        id: "probe".into(),
        version: "1".into(),
        component: "component.wasm".into(),
        description: String::new(),
        limits: Limits::default(),
        permissions,
        build: toml::Table::new(),
    }
}

fn asks_for(fs: Vec<FolderRequest>) -> Manifest {
    manifest(Permissions { fs, ..Permissions::default() })
}

fn offers(roots: &[(&str, &Path, Access)]) -> Roots {
    let root = |&(name, path, access): &(&str, &Path, Access)| {
        (name.to_owned(), Root { path: path.to_owned(), access })
    };
    roots.iter().map(root).collect()
}

/// The access that a plugin gets to a root for which it asks `asked` and of which the run offers `offered`.
#[track_caller]
fn check_access(asked: Access, offered: Access, expected: Access) {
    let roots = offers(&[("docs", Path::new("/home/docs"), offered)]);
    let effective = Effective::of(&asks_for(vec![root("docs", "/docs", asked)]), &roots, Path::new("/data"));
    let folder =
        Folder { host: "/home/docs".into(), guest: "/docs".into(), access: expected, private: false };
    assert_eq!(effective, Effective { folders: vec![folder], ..Effective::default() });
}

#[test]
fn access_is_the_least_of_what_is_asked_and_what_is_offered() {
    check_access(Access::Read, Access::Read, Access::Read);
    check_access(Access::Read, Access::ReadWrite, Access::Read);
    check_access(Access::ReadWrite, Access::Read, Access::Read);
    check_access(Access::ReadWrite, Access::ReadWrite, Access::ReadWrite);
}

#[test]
fn a_root_that_is_offered_and_not_asked_for_stays_out_of_reach() {
    let roots = offers(&[("docs", Path::new("/home/docs"), Access::ReadWrite)]);
    assert_eq!(Effective::of(&asks_for(Vec::new()), &roots, Path::new("/data")), Effective::default());
}

#[test]
fn a_root_that_is_asked_for_and_not_offered_is_missing() {
    let roots = offers(&[("docs", Path::new("/home/docs"), Access::Read)]);
    let manifest = asks_for(vec![root("code", "/code", Access::Read), root("docs", "/docs", Access::Read)]);
    let effective = Effective::of(&manifest, &roots, Path::new("/data"));
    assert_eq!(effective.missing_roots, ["code"]);
    assert_eq!(effective.folders.iter().map(|folder| folder.guest.as_str()).collect::<Vec<_>>(), ["/docs"]);
}

#[test]
fn clock_and_randomness_are_there_for_those_who_ask() {
    let permissions = Permissions { random: true, wall_clock: true, ..Permissions::default() };
    let effective = Effective::of(&manifest(permissions), &Roots::new(), Path::new("/data"));
    assert_eq!(effective, Effective { random: true, wall_clock: true, ..Effective::default() });
}

#[test]
fn a_private_folder_is_the_plugins_own_and_created_on_demand() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let manifest = asks_for(vec![private("index", "/index", Access::ReadWrite)]);
    let effective = Effective::of(&manifest, &Roots::new(), data.path());
    let host = data.path().join("plugin-data/probe/index");
    let folder =
        Folder { host: host.clone(), guest: "/index".into(), access: Access::ReadWrite, private: true };
    assert_eq!(effective.folders, [folder]);
    assert!(!host.exists());
    effective.create_private_folders().expect("the data folder is writable");
    effective.create_private_folders().expect("it may be there already");
    assert!(host.is_dir());
}

#[test]
#[cfg(unix)]
fn a_private_folder_is_readable_by_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let data = tempfile::tempdir().expect("a temporary folder");
    let manifest = asks_for(vec![private("index", "/index", Access::Read)]);
    let effective = Effective::of(&manifest, &Roots::new(), data.path());
    effective.create_private_folders().expect("the data folder is writable");
    let mode = std::fs::metadata(&effective.folders[0].host).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
#[cfg(unix)]
fn a_link_in_the_place_of_a_private_folder_is_refused() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let manifest = asks_for(vec![private("index", "/index", Access::ReadWrite)]);
    let effective = Effective::of(&manifest, &Roots::new(), data.path());
    std::fs::create_dir_all(data.path().join("plugin-data/probe")).expect("it is writable");
    std::os::unix::fs::symlink(elsewhere.path(), &effective.folders[0].host).expect("it is writable");
    let error = effective.create_private_folders().expect_err("a link leads anywhere");
    assert!(error.to_string().ends_with("is not a folder"), "{error}");
}

#[test]
fn a_root_to_write_to_stays_apart_from_chaskis_own_folders() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (own, apart) = (home.path().join("own"), home.path().join("apart"));
    std::fs::create_dir_all(own.join("inside")).expect("it is writable");
    std::fs::create_dir_all(&apart).expect("it is writable");
    let check = |path: &Path, access| check_roots(&offers(&[("docs", path, access)]), &[own.as_path()]);
    for unsafe_path in [own.as_path(), &own.join("inside"), &own.join("not-there-yet"), home.path()] {
        let error = check(unsafe_path, Access::ReadWrite).expect_err("it reaches what is chaski's own");
        assert!(
            matches!(&error, PluginError::UnsafeRoot { root, path, .. } if root == "docs" && path == unsafe_path)
        );
        check(unsafe_path, Access::Read).expect("reading changes nothing");
    }
    check(&apart, Access::ReadWrite).expect("it is apart");
    check(&home.path().join("own-too"), Access::ReadWrite)
        .expect("a name that begins alike is another folder");
    check(&own.join("..").join("apart"), Access::ReadWrite).expect("it leads out again");
    check(&apart.join("..").join("own"), Access::ReadWrite).expect_err("it leads in");
}

#[test]
#[cfg(unix)]
fn a_root_does_not_reach_chaskis_own_folders_by_a_link() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (own, link) = (home.path().join("own"), home.path().join("link"));
    std::fs::create_dir(&own).expect("it is writable");
    std::os::unix::fs::symlink(&own, &link).expect("it is writable");
    check_roots(&offers(&[("docs", &link, Access::ReadWrite)]), &[own.as_path()]).expect_err("it leads in");
    check_roots(&offers(&[("docs", &own, Access::ReadWrite)]), &[link.as_path()])
        .expect_err("it is the same");
}

#[test]
fn a_tools_weakest_claim_follows_from_what_its_plugin_can_reach() {
    let check =
        |permissions: Permissions, expected| assert_eq!(weakest_claim(&manifest(permissions)), expected);
    let fs = |request| Permissions { fs: vec![request], ..Permissions::default() };
    check(Permissions::default(), Effect::Pure);
    check(Permissions { random: true, ..Permissions::default() }, Effect::Idempotent);
    check(Permissions { wall_clock: true, ..Permissions::default() }, Effect::Idempotent);
    check(fs(root("docs", "/docs", Access::Read)), Effect::Idempotent);
    check(fs(private("index", "/index", Access::ReadWrite)), Effect::Idempotent);
    check(fs(root("docs", "/docs", Access::ReadWrite)), Effect::Effectful);
    let http = |methods: &[&str]| Permissions {
        http: vec![HttpRequest { origin: None, methods: methods.iter().map(|&name| name.into()).collect() }],
        ..Permissions::default()
    };
    check(http(&["GET", "HEAD"]), Effect::Idempotent);
    check(http(&["GET", "POST"]), Effect::Effectful);
    check(Permissions { env: vec!["LANG".into()], ..Permissions::default() }, Effect::Idempotent);
    check(Permissions { tools: vec!["*".into()], ..Permissions::default() }, Effect::Idempotent);
}
