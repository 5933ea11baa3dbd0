use std::path::Path;

use chaski_engine::config::{KvFormat, RopeStretch};

use super::*;

/// A home and a project in a temporary folder.
struct World {
    root: tempfile::TempDir,
    variables: HashMap<String, String>,
    flags: GlobalFlags,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(root.path().join("project/.chaski")).expect("a project");
        fs::create_dir_all(root.path().join("project/src/deep")).expect("a folder in it");
        fs::create_dir_all(root.path().join("home")).expect("a home");
        Self { root, variables: HashMap::new(), flags: GlobalFlags::default() }
    }

    fn user(self, text: &str) -> Self {
        fs::write(self.root.path().join("home/config.toml"), text).expect("the user's file");
        self
    }

    fn project(self, text: &str) -> Self {
        fs::write(self.root.path().join("project/.chaski/config.toml"), text).expect("the project's file");
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    fn resolve(&self) -> Result<Config, ConfigError> {
        let root = self.root.path();
        let surroundings = Surroundings {
            variables: self.variables.clone(),
            working_dir: root.join("project/src/deep"),
            user_file: root.join("home/config.toml"),
            default_data_dir: root.join("data"),
            default_cache_dir: root.join("cache"),
        };
        Config::resolve(&self.flags, &surroundings)
    }

    /// The error and its hint as a user sees them, with the temporary folder cut out.
    #[track_caller]
    fn complaint(&self) -> String {
        let error = self.resolve().expect_err("these settings are wrong");
        let text = format!("{error}\nhint: {}", error.hint().unwrap_or_default());
        text.replace(&self.root.path().display().to_string(), "ROOT")
    }
}

#[test]
fn without_files_everything_has_a_default() {
    let world = World::new();
    let config = world.resolve().expect("defaults");
    assert_eq!(config.model, DEFAULT_MODEL);
    assert_eq!(config.models_dir, world.root.path().join("data/models"));
    assert!(config.models.is_empty());
}

#[test]
fn a_flag_wins_over_all() {
    let mut world =
        World::new().user("model = 'user'").project("model = 'project'").variable("CHASKI_MODEL", "env");
    world.flags.model = Some("flag".into());
    assert_eq!(world.resolve().expect("valid").model, "flag");
}

#[test]
fn a_variable_wins_over_files() {
    let world =
        World::new().user("model = 'user'").project("model = 'project'").variable("CHASKI_MODEL", "env");
    assert_eq!(world.resolve().expect("valid").model, "env");
}

#[test]
fn a_project_above_the_working_directory_wins_over_the_user() {
    let world = World::new().user("model = 'user'").project("model = 'project'");
    assert_eq!(world.resolve().expect("valid").model, "project");
}

#[test]
fn a_model_file_named_by_a_project_is_meant_from_its_folder() {
    let world = World::new().project("model = 'weights/m.gguf'");
    let expected = world.root.path().join("project/weights/m.gguf");
    assert_eq!(world.resolve().expect("valid").model, expected.to_string_lossy());
}

#[test]
fn the_user_may_define_remote_models() {
    let world = World::new().user(
        "[models.big]\nbase_url = 'https://llm.example/v1/'\nmodel = 'llama'\ncontext = 8_192\n\
         [models.lab]\nbase_url = 'http://127.0.0.1:8000/v1'\nmodel = 'm'\napi_key_env = 'LAB_KEY'\n",
    );
    let models = world.resolve().expect("valid").models;
    let big = &models["big"];
    assert_eq!((big.base_url.as_str(), big.context), ("https://llm.example/v1", Some(8192)));
    assert_eq!(big.api_key_env, "OPENAI_API_KEY");
    assert_eq!(models["lab"].api_key_env, "LAB_KEY");
}

#[test]
fn the_user_may_name_mcp_servers() {
    let world = World::new().user(
        "[mcp.docs]\ncommand = 'docs'\nargs = ['--stdio']\nenv = ['DOCS_KEY']\neffects = { search = 'pure' }\n\
         timeout = '5s'\n[mcp.web]\nurl = 'https://mcp.example/mcp/'\nkey_env = 'WEB_KEY'\noutput = '16KiB'\n",
    );
    let servers = world.resolve().expect("valid").mcp;
    insta::assert_debug_snapshot!(servers, @r#"
    {
        "docs": McpSettings {
            endpoint: Program {
                command: "docs",
                args: [
                    "--stdio",
                ],
                env: [
                    "DOCS_KEY",
                ],
            },
            effects: {
                "search": Pure,
            },
            start_timeout: 30s,
            timeout: 5s,
            output: 65536,
        },
        "web": McpSettings {
            endpoint: Http {
                url: "https://mcp.example/mcp",
                key_env: Some(
                    "WEB_KEY",
                ),
            },
            effects: {},
            start_timeout: 30s,
            timeout: 60s,
            output: 16384,
        },
    }
    "#);
}

#[track_caller]
fn check_mcp(table: &str, complaint: &str) {
    let found = World::new().user(&format!("[mcp.docs]\n{table}\n")).complaint();
    assert!(found.contains(complaint), "{found}");
}

#[test]
fn a_faulty_mcp_server_is_named_with_what_is_wrong() {
    check_mcp("args = []", "line 1: `mcp.docs` needs a `command` to start, or the `url`");
    check_mcp("command = 'a'\nurl = 'http://a'", "has a `command` and a `url`");
    check_mcp("url = 'http://a'\nenv = ['A']", "has `args` or `env`, which go with a `command`");
    check_mcp("command = 'a'\nkey_env = 'A'", "has a `key_env`, which goes with a `url`");
    check_mcp(
        "command = 'a'\nenv = ['sk-12345']",
        "line 3: `mcp.docs.env` must be the NAME of an environment",
    );
    check_mcp("command = 'a'\neffects = { x = 'none' }", "`mcp.docs.effects.x` must be `pure`, `idempotent`");
    check_mcp("command = 'a'\ntimeout = '5'", "`mcp.docs.timeout` is wrong: `5` is not a span of time");
    check_mcp("comand = 'a'", "did you mean `command`?");
}

#[test]
fn a_project_cannot_start_programs() {
    let complaint = World::new().project("[mcp.docs]\ncommand = 'evil'\n").complaint();
    assert!(complaint.contains("sets what a project may not set\n  line 1: `mcp`"), "{complaint}");
}

#[test]
fn skills_are_looked_for_in_the_project_and_beside_the_users_file() {
    let world = World::new();
    let root = world.root.path();
    fs::create_dir_all(root.join("project/.chaski/skills")).expect("a folder");
    let expected = [root.join("project/.chaski/skills"), root.join("home/skills")];
    assert_eq!(world.resolve().expect("valid").skill_dirs, expected);
}

#[test]
fn the_user_says_what_agents_are_told() {
    let settings = World::new().user("[agents]\nagents_md = false\ndescribed_tools = 5\n").resolve();
    let settings = settings.expect("valid").agents;
    assert_eq!((settings.agents_md, settings.tool_room.tools, settings.tool_room.percent), (false, 5, 10));
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_a_suggestion() {
    insta::assert_snapshot!(World::new().user("# mine\nmodle = 'x'\n").complaint(), @r"
    `ROOT/home/config.toml` has an unknown key
      line 2: `modle`
    hint: did you mean `model`?
    ");
}

#[test]
fn an_unknown_key_of_a_model_is_named_too() {
    insta::assert_snapshot!(World::new().user("[models.a]\nbase_url='https://a'\nkey='x'\n").complaint(), @r"
    `ROOT/home/config.toml` has an unknown key
      line 3: `models.a.key`
    hint: known here: `base_url`, `model`, `api_key_env`, `context`
    ");
}

#[test]
fn a_project_cannot_redirect_prompts() {
    insta::assert_snapshot!(World::new().project("[models.big]\nbase_url = 'https://evil.example'\n").complaint(), @r"
    `ROOT/project/.chaski/config.toml` sets what a project may not set
      line 1: `models`
    hint: a cloned repository must not redirect prompts or files; move `models` to `ROOT/home/config.toml`
    ");
}

#[test]
fn a_project_cannot_move_folders() {
    let complaint = World::new().project("data_dir = '/tmp/x'\n").complaint();
    assert!(complaint.contains("line 1: `data_dir`"), "{complaint}");
}

#[test]
fn broken_toml_is_named_with_its_line() {
    let complaint = World::new().user("model = 'a'\n\n[models\n").complaint();
    assert!(complaint.starts_with("`ROOT/home/config.toml` is not valid TOML\n  line 3: "), "{complaint}");
}

#[test]
fn a_pasted_key_is_refused_and_not_repeated() {
    let complaint = World::new()
        .user("[models.a]\nbase_url='https://a'\nmodel='m'\napi_key_env='sk-12345'\n")
        .complaint();
    assert!(complaint.contains("line 4: `models.a.api_key_env` must be the NAME"), "{complaint}");
    assert!(!complaint.contains("sk-12345"), "{complaint}");
}

#[test]
fn credentials_in_a_url_are_refused() {
    let complaint = World::new().user("[models.a]\nbase_url='https://u:p@a/v1'\nmodel='m'\n").complaint();
    assert!(complaint.contains("must not hold credentials"), "{complaint}");
}

#[test]
fn an_empty_variable_is_refused() {
    let complaint = World::new().variable("CHASKI_DATA_DIR", "").complaint();
    assert!(complaint.starts_with("`CHASKI_DATA_DIR` is set but empty"), "{complaint}");
}

#[test]
fn a_relative_folder_in_a_file_is_refused() {
    let complaint = World::new().user("data_dir = 'here'\n").complaint();
    assert!(complaint.contains("must be absolute or begin with `~/`"), "{complaint}");
}

#[cfg(unix)]
#[test]
fn folders_are_closed_to_other_users() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().expect("a temporary folder");
    let dir = root.path().join("a/b");
    create_private(&dir).expect("created");
    assert_eq!(fs::metadata(&dir).expect("there").permissions().mode() & 0o777, 0o700);
}

#[test]
fn the_engine_is_set_from_the_users_file() {
    let world = World::new().user(
        "[engine]\ncontext = 16384\nrope_scaling = 'ntk'\nkv_format = 'q8'\nkv_disk = '2GiB'\nspeculate = false\n",
    );
    let config = world.resolve().expect("valid");
    let options = config.engine.options(Path::new("m.gguf"), Path::new("/cache"));
    assert_eq!((options.context, options.kv_format), (Some(16384), KvFormat::Q8));
    assert_eq!(options.rope_scaling, Some(RopeStretch::Ntk));
    assert_eq!(options.kv_store.expect("set").most_bytes, 2 << 30);
    assert!(!options.speculate);
}

#[test]
fn an_unknown_format_is_told_with_the_known_ones() {
    let complaint = World::new().user("[engine]\nkv_format = 'q4'\n").complaint();
    assert!(complaint.contains("line 2: `engine.kv_format` is `q4`; known are `f16`, `q8`"), "{complaint}");
}
