//! What a manifest may ask for, and what its author is told otherwise.

use super::*;

/// A manifest with `more` after its `[plugin]` table, which has five lines.
fn manifest(more: &str) -> String {
    format!(
        "[plugin]\nid = \"probe\"\nversion = \"1.2.0\"\ncomponent = \"component.wasm\"\ndescription = \"Tests\"\n{more}"
    )
}

/// The manifest in a folder of its own, read.
fn read(text: &str) -> Result<Manifest, PluginError> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join(FILE_NAME), text).expect("it is writable");
    Manifest::read(folder.path())
}

/// What is wrong with the manifest that ends in `more`: `LINE: reason`, and the hint on a line of its own.
#[track_caller]
fn check(more: &str, expected: &str) {
    check_whole(&manifest(more), expected);
}

#[track_caller]
fn check_whole(text: &str, expected: &str) {
    let Err(PluginError::Manifest { line, reason, hint, .. }) = read(text) else {
        panic!("it is refused:\n{text}");
    };
    let line = line.map(|line| format!("{line}: ")).unwrap_or_default();
    let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    assert_eq!(format!("{line}{reason}{hint}"), expected);
}

/// A request for the folder `host`, seen as `guest`.
fn folder(host: &str, guest: &str) -> String {
    format!("{{ host = \"{host}\", guest = \"{guest}\", access = \"read\" }}")
}

fn folders(list: &[String]) -> String {
    format!("[permissions]\nfs = [{}]", list.join(", "))
}

#[test]
fn a_whole_manifest_is_read_as_it_stands() {
    let text = manifest(
        "[limits]\nmemory = \"256MiB\"\ntimeout = \"2m\"\noutput = \"4KiB\"\nconcurrency = 2\n[permissions]\nfs = [\n  \
         { host = \"root:docs\", guest = \"/docs\", access = \"read\" },\n  \
         { host = \"private:index\", guest = \"/index\", access = \"read-write\" },\n]\n\
         random = true\nwall-clock = true\nhttp = []\n[build]\nkind = \"rust\"",
    );
    let read = read(&text).expect("it is valid");
    assert_eq!((read.id.as_str(), read.version.as_str()), ("probe", "1.2.0"));
    let timeout = Duration::from_secs(120);
    assert_eq!(read.limits, Limits { memory: 256 << 20, timeout, output: 4 << 10, concurrency: 2 });
    let request = |host, guest: &str, access| FolderRequest { host, guest: guest.into(), access };
    let fs = vec![
        request(FolderSource::Root("docs".into()), "/docs", Access::Read),
        request(FolderSource::Private("index".into()), "/index", Access::ReadWrite),
    ];
    assert_eq!(
        read.permissions,
        Permissions { fs, random: true, wall_clock: true, ..Permissions::default() }
    );
    assert_eq!(read.build["kind"].as_str(), Some("rust"));
}

#[test]
fn what_is_not_asked_for_is_not_there() {
    let read = read(&manifest("")).expect("it is valid");
    assert_eq!(read.permissions, Permissions::default());
    assert_eq!(read.limits, Limits::default());
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_closest_key() {
    check("[limits]\nmemroy = \"1MiB\"", "7: `[limits]` has no key `memroy`\nhint: did you mean `memory`?");
    check(
        "[permissions]\ngpu = []",
        "7: `[permissions]` has no key `gpu`\nhint: `[permissions]` has the keys `fs`, `random`, \
         `wall-clock`, `http`, `env`, `secrets`, `tools`",
    );
    check(
        "[permissions]\nfs = [\n  { host = \"root:a\", guset = \"/a\", access = \"read\" },\n]",
        "8: `[permissions.fs]` has no key `guset`\nhint: did you mean `guest`?",
    );
    check(
        "[permission]\nrandom = true",
        "6: a manifest has no key `permission`\nhint: did you mean `permissions`?",
    );
}

#[test]
fn text_that_is_no_toml_is_refused_with_its_line() {
    check("[limits\n", "6: unclosed table, expected `]`");
    check_whole("[plugin]\nid = \"probe\"\n", "1: missing field `version`");
}

#[test]
fn a_limit_of_nothing_is_refused() {
    check("[limits]\nmemory = \"0MiB\"", "7: the limit `memory` is zero");
    check("[limits]\ntimeout = \"0s\"", "7: the limit `timeout` is zero");
    check("[limits]\noutput = \"0B\"", "7: the limit `output` is zero");
    check("[limits]\nconcurrency = 0", "7: the limit `concurrency` is zero");
}

#[test]
fn a_limit_above_its_ceiling_is_refused_rather_than_lowered() {
    read(&manifest("[limits]\nmemory = \"1GiB\"\ntimeout = \"10m\"\nconcurrency = 64"))
        .expect("the ceiling itself");
    check("[limits]\nmemory = \"2GiB\"", "7: the limit `memory` is 2147483648; the most is 1073741824");
    check("[limits]\ntimeout = \"11m\"", "7: the limit `timeout` is 660s; the most is 600s");
    check("[limits]\noutput = \"2MiB\"", "7: the limit `output` is 2097152; the most is 1048576");
    check("[limits]\nconcurrency = 65", "7: the limit `concurrency` is 65; the most is 64");
}

#[test]
fn a_limit_has_a_unit() {
    check(
        "[limits]\nmemory = \"64\"",
        "7: found `64`, but a size is a whole number with its unit, like `64KiB`, `256MiB`, `1GiB`",
    );
    check(
        "[limits]\ntimeout = \"1.5s\"",
        "7: found `1.5s`, but a duration is a whole number with its unit, like `500ms`, `10s`, `2m`",
    );
    check(
        "[limits]\nmemory = \"99999999999999999GiB\"",
        "7: found `99999999999999999GiB`, but a size is a whole number with its unit, like `64KiB`, `256MiB`, `1GiB`",
    );
}

#[test]
fn requests_variables_secrets_and_tools_are_asked_for_by_name() {
    let text = manifest(
        "[permissions]\nhttp = [\"https://a.example\", { origin = \"*\", methods = [\"POST\"] }]\nenv = [\"LANG\"]\n\
         secrets = [{ name = \"token\", origin = \"https://a.example\", header = \"Authorization\", prefix = \"Bearer \" }]\n\
         tools = [\"workspace.*\", \"math.add\"]",
    );
    let asked = read(&text).expect("it is valid").permissions;
    let shown: Vec<String> = asked.http.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["GET, HEAD https://a.example", "POST any origin that you name"]);
    assert!(asked.http[0].reads_only() && !asked.http[1].reads_only());
    assert_eq!(asked.env, ["LANG"]);
    assert_eq!(asked.secrets[0].to_string(), "token in the header `authorization` to https://a.example");
    assert_eq!(asked.tools, ["workspace.*", "math.add"]);
    read(&manifest("[permissions]\nhttp = []\nenv = []\nsecrets = []\ntools = []"))
        .expect("nothing is asked for");
}

#[test]
fn what_cannot_be_granted_cannot_be_asked_for() {
    let secret = |origin: &str, header: &str| {
        format!("[permissions]\nsecrets = [{{ name = \"a\", origin = \"{origin}\", header = \"{header}\" }}]")
    };
    check("[permissions]\nenv = [\"A=B\"]", "7: found `A=B`, but it is no variable's name");
    check(
        "[permissions]\ntools = [\"math\"]",
        "7: found `math`, but a tool is `plugin.tool`, `plugin.*` or `*`",
    );
    check(
        "[permissions]\nhttp = [\"example.com\"]",
        "7: found `example.com`, but an origin is like `https://api.example.com`: it is no URL: relative URL \
         without a base",
    );
    check(
        "[permissions]\nhttp = [{ origin = \"*\", methods = [\"CONNECT\"] }]",
        "7: the method `CONNECT` cannot be had",
    );
    check(
        "[permissions]\nhttp = [{ origin = \"*\", methods = [] }]",
        "7: `methods` is a list of names in capitals, like `GET`, `POST`",
    );
    check(
        "[permissions]\nhttp = [{ origin = \"*\", method = [\"GET\"] }]",
        "7: `[permissions.http]` has no key `method`\nhint: did you mean `methods`?",
    );
    check(&secret("https://a.example", "Host"), "7: a secret cannot be in the header `Host`");
    check("[permissions]\nenv = [\"A\", \"A\"]", "7: `env` asks for the same thing twice");
    let Err(PluginError::Manifest { reason, .. }) = read(&manifest(&secret("*", "x-key"))) else {
        panic!("a secret goes to one origin");
    };
    assert!(reason.contains("`*` is no origin"), "{reason}");
}

#[test]
fn a_guest_path_is_absolute_and_never_climbs() {
    for good in ["/a", "/a/b", "/with-dash/and_under.dot"] {
        read(&manifest(&folders(&[folder("root:a", good)]))).expect("it is a guest path");
    }
    for bad in
        ["/../etc", "/a/..", "/a/../b", "/./a", "/", "//a", "/a/", "a", "", "/a b", "/a\\\\b", "/.hidden"]
    {
        let expected = format!("7: found `{bad}`, but a guest path is absolute, like `/workspace`");
        check(&folders(&[folder("root:a", bad)]), &expected);
    }
}

#[test]
fn a_folder_of_the_host_is_a_name_rather_than_a_path() {
    for bad in ["/etc", "root:../etc", "root:", "root:A", "private:a/b", "home:a", ".", "root:."] {
        let expected = format!(
            "7: found `{bad}`, but a folder is `root:NAME` or `private:NAME`\n\
             hint: a root is a folder that the run offers; a private folder is the plugin's own"
        );
        check(&folders(&[folder(bad, "/a")]), &expected);
    }
}

#[test]
fn folders_do_not_lie_in_each_other() {
    check(
        &folders(&[folder("root:a", "/a"), folder("root:b", "/a/b")]),
        "7: the folders `/a` and `/a/b` overlap",
    );
    check(
        &folders(&[folder("root:a", "/a"), folder("root:b", "/a")]),
        "7: the folders `/a` and `/a` overlap",
    );
    read(&manifest(&folders(&[folder("root:a", "/a"), folder("root:b", "/ab")]))).expect("they are apart");
}

#[test]
fn folders_are_counted() {
    let many =
        |count: usize| folders(&(0..count).map(|n| folder("root:a", &format!("/{n}"))).collect::<Vec<_>>());
    read(&manifest(&many(16))).expect("as many as there may be");
    check(&many(17), "7: a plugin has at most 16 folders");
}

#[test]
fn id_and_component_are_plain_names() {
    let whole = |id: &str, component: &str| {
        format!("[plugin]\nid = \"{id}\"\nversion = \"1\"\ncomponent = \"{component}\"\ndescription = \"\"\n")
    };
    for bad in ["", "Probe", "a.b", "../a", "1a", "a_b"] {
        check_whole(
            &whole(bad, "c.wasm"),
            &format!("2: found `{bad}`, but a plugin's id is `[a-z][a-z0-9-]{{0,63}}`"),
        );
    }
    for bad in ["", "../c.wasm", "/c.wasm", ".c.wasm", "a/c.wasm"] {
        check_whole(
            &whole("a", bad),
            &format!("4: found `{bad}`, but the component is a file in the plugin's folder"),
        );
    }
}

#[test]
fn a_name_is_short_and_plain() {
    for (name, expected) in [("a", true), ("a-1", true), ("", false), ("-a", false), ("é", false)] {
        assert_eq!(is_name(name), expected, "{name}");
    }
    assert!(is_name(&"a".repeat(64)) && !is_name(&"a".repeat(65)));
}

#[test]
fn a_manifest_that_is_missing_or_too_large_cannot_be_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert!(matches!(Manifest::read(folder.path()), Err(PluginError::Unreadable { .. })));
    let Err(PluginError::Unreadable { reason, .. }) = read(&"#".repeat(64 * 1024 + 1)) else {
        panic!("it is too large");
    };
    assert_eq!(reason, "it has 65537 bytes; the most is 65536");
}
