//! `chaski plugin` and the rules about calls, through the real binary.

use std::path::Path;

use serde_json::Value;

use crate::support::{Chaski, plugin};

/// The guest `probe` as somebody would hand it on: a folder with a manifest and a component.
fn handed_on(home: &Path, id: &str, permissions: &str) -> String {
    let folder = home.join("handed-on");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::copy(plugin("tests/guests/probe").join("component.wasm"), folder.join("component.wasm"))
        .expect("copies");
    let manifest = format!(
        "[plugin]\nid = \"{id}\"\nversion = \"0.1.0\"\ncomponent = \"component.wasm\"\ndescription = \"A guest\"\n\
         [permissions]\n{permissions}\n"
    );
    std::fs::write(folder.join("plugin.toml"), manifest).expect("writes");
    folder.to_str().expect("UTF-8").to_owned()
}

/// `chaski` with installed plugins and settings of its own.
struct Home(Chaski);

impl Home {
    fn new() -> Self {
        Self(Chaski::new())
    }

    fn path(&self) -> &Path {
        self.0.data.path()
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.0.command(arguments);
        command.env("CHASKI_PLUGINS", self.path().join("plugins"));
        let output = command.output().expect("the binary starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
    }

    /// Standard output of a command that works.
    #[track_caller]
    fn does(&self, arguments: &[&str]) -> String {
        let (code, output, errors) = self.run(arguments);
        assert_eq!(code, 0, "{errors}");
        output
    }

    /// Standard error of a command that does not.
    #[track_caller]
    fn refuses(&self, arguments: &[&str], parts: &[&str]) {
        let (code, _, errors) = self.run(arguments);
        assert_ne!(code, 0);
        assert!(parts.iter().all(|part| errors.contains(part)), "{errors}");
    }
}

#[test]
fn a_plugin_is_added_looked_at_changed_and_removed() {
    let home = Home::new();
    let folder = handed_on(home.path(), "guest", "random = true");
    let added = home.does(&["plugin", "add", &folder]);
    assert!(added.contains("asks for   random numbers") && added.contains("pinned in"), "{added}");
    home.refuses(&["plugin", "add", &folder], &["installed already", "chaski plugin update guest --from"]);
    assert!(home.does(&["plugin", "list"]).contains("guest.echo"));

    // Whoever handed it on changes it: the installed one is not touched by that.
    handed_on(home.path(), "guest", "wall-clock = true");
    home.does(&["plugin", "inspect", "guest"]);
    let updated = home.does(&["plugin", "update", "guest"]);
    assert!(updated.contains("asks for   the time of day"), "{updated}");

    // Somebody changes the installed one.
    std::fs::write(home.path().join("plugins/guest/component.wasm"), "something else").expect("writes");
    home.refuses(
        &["plugin", "inspect", "guest"],
        &["the component of plugin `guest` changed", "pinned ", "found ", "chaski plugin update guest"],
    );
    home.does(&["plugin", "update", "guest"]);
    home.does(&["plugin", "inspect", "guest"]);

    home.does(&["plugin", "remove", "guest"]);
    home.refuses(&["plugin", "inspect", "guest"], &["no plugin is called `guest`"]);
    home.refuses(&["plugin", "remove", "guest"], &["no plugin `guest` is installed"]);
}

#[test]
fn a_grant_is_written_into_the_settings_and_taken_back() {
    let home = Home::new();
    let folder = handed_on(
        home.path(),
        "guest",
        "http = [\"https://a.example\"]\nenv = [\"LANG\"]\ntools = [\"workspace.*\"]",
    );
    home.does(&["plugin", "add", &folder]);
    let settings = home.0.config.path().join("chaski/config.toml");
    std::fs::create_dir_all(settings.parent().expect("a folder")).expect("a folder");
    std::fs::write(&settings, "# mine\nmodel = \"smollm2-135m-instruct\" # small\n").expect("writes");

    home.does(&["plugin", "grant", "guest", "http=https://A.example:443", "env=LANG"]);
    home.does(&["plugin", "grant", "guest", "http=https://a.example"]);
    let text = std::fs::read_to_string(&settings).expect("reads");
    insta::assert_snapshot!(text, @r#"
    # mine
    model = "smollm2-135m-instruct" # small

    [plugins.guest]
    http = ["https://a.example"]
    env = ["LANG"]
    "#);
    let shown = home.does(&["plugin", "inspect", "guest"]);
    let lists: Vec<&str> = shown.lines().skip(3).take(8).collect();
    insta::assert_snapshot!(lists.join("\n"), @r"
    asks for   requests: GET, HEAD https://a.example
    asks for   the variable LANG
    asks for   calls of workspace.*
    granted    http=https://a.example
    granted    env=LANG
    effective  sends GET, HEAD to https://a.example
    effective  sees the variable LANG
    ");
    let (_, _, note) = home.run(&["plugin", "grant", "guest", "http=https://b.example"]);
    assert!(note.contains("does not ask for http=https://b.example"), "{note}");
    home.refuses(&["plugin", "grant", "guest", "https://a.example"], &["CAPABILITY=WHAT"]);
    home.refuses(
        &["plugin", "revoke", "guest", "env=HOME"],
        &["was not granted env=HOME", "it was granted LANG"],
    );
    home.does(&["plugin", "revoke", "guest"]);
    let text = std::fs::read_to_string(&settings).expect("reads");
    assert_eq!(text.trim_end(), "# mine\nmodel = \"smollm2-135m-instruct\" # small");
}

/// A workflow with one effectful call, and what stands in front of its steps.
fn workflow(home: &Home, head: &str) -> String {
    let text = format!(
        "version: 1\nname: call\n{head}\nsteps: [{{ id: a, tool: guest.echo, with: {{ text: src/a.rs }} }}]\n\
         outputs: {{ said: '{{{{ steps.a.output }}}}' }}\n"
    );
    home.0.file("call.yaml", text)
}

#[test]
fn an_effectful_call_needs_somebody_or_a_flag() {
    let home = Home::new();
    home.does(&["plugin", "add", &handed_on(home.path(), "guest", "")]);
    let file = workflow(&home, "");
    home.refuses(
        &["run", &file],
        &["`guest.echo` was denied", "nobody can be asked here", "--allow guest.echo"],
    );
    let events = home.does(&["runs", "show", "latest", "--json"]);
    let events: Value = serde_json::from_str(&events).expect("JSON");
    let denied: Vec<&Value> = events["events"].as_array().expect("a list").iter().collect();
    let denied = denied.iter().find(|event| event["event"] == "tool_denied").expect("it is in the log");
    assert_eq!(denied["decision"]["by"], "nobody");

    assert!(home.does(&["run", &file, "--allow", "guest.echo(text=src/**)"]).contains("said: src/a.rs"));
    let shown = home.does(&["runs", "show", "latest"]);
    assert!(shown.contains("`allow` of `--allow` has `guest.echo(text=src/**)`"), "{shown}");
    home.refuses(&["run", &file, "--allow", "guest.echo(text=docs/**)"], &["denied"]);
    home.refuses(
        &["run", &file, "--allow", "guest"],
        &["no pattern of calls", "workspace.write(path=src/**)"],
    );
}

#[test]
fn settings_decide_and_a_workflow_only_narrows() {
    let home = Home::new();
    home.does(&["plugin", "add", &handed_on(home.path(), "guest", "")]);
    let settings = home.0.config.path().join("chaski/config.toml");
    std::fs::create_dir_all(settings.parent().expect("a folder")).expect("a folder");
    std::fs::write(&settings, "[permissions]\nallow = [\"guest.*\"]\n").expect("writes");
    let free = workflow(&home, "");
    assert!(home.does(&["run", &free]).contains("said: src/a.rs"));
    let narrow = workflow(&home, "permissions: { deny: ['guest.echo(text=src/**)'] }");
    home.refuses(
        &["run", &narrow, "--allow", "*"],
        &["`deny` of the workflow has `guest.echo(text=src/**)`"],
    );
    let wide = workflow(&home, "permissions: { allow: ['*'] }");
    home.refuses(&["validate", &wide], &["allow"]);
    let wrong = workflow(&home, "permissions: { ask: ['guest'] }");
    home.refuses(&["validate", &wrong], &["`guest` is no pattern of calls"]);
    std::fs::write(&settings, "[permissions]\nallow = [\"guest\"]\n").expect("writes");
    home.refuses(&["run", &free], &["line 2: `permissions.allow` has `guest`, which is no pattern of calls"]);
}
