use serde_json::{Value, json};

use super::*;
use crate::tools::{CallContext, Tool, ToolOutcome, ToolResult};

/// Two folders of skills, with `review` in both.
fn world() -> (tempfile::TempDir, Vec<PathBuf>) {
    let world = tempfile::tempdir().expect("a folder");
    let write = |path: &str, text: &str| {
        let path = world.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        std::fs::write(path, text).expect("writes");
    };
    write(
        "project/review/SKILL.md",
        "---\nname: review\ndescription: How this\n  project reviews.\n---\nRead first.\n",
    );
    write("project/review/forms/list.md", "- tests\n");
    write("user/review/SKILL.md", "---\nname: review\ndescription: How I review.\n---\nMine.\n");
    write("user/release/SKILL.md", "---\nname: release\ndescription: How to release.\n---\nTag it.\n");
    write("secret", "key");
    let folders = vec![world.path().join("project"), world.path().join("user"), world.path().join("none")];
    (world, folders)
}

#[track_caller]
fn read(arguments: Value) -> ToolResult {
    let (world, folders) = world();
    #[cfg(unix)]
    std::os::unix::fs::symlink(world.path().join("secret"), world.path().join("project/review/link"))
        .expect("a link");
    let tool = SkillTool::new(discover(&folders).expect("all are valid"));
    let context = CallContext {
        call_id: "1".into(),
        timeout: std::time::Duration::from_secs(1),
        ..CallContext::default()
    };
    futures::executor::block_on(tool.call(arguments, context))
}

#[track_caller]
fn check_refused(path: &str, reason: &str) {
    let result = read(json!({"skill": "review", "path": path}));
    assert_eq!(result.outcome, ToolOutcome::Error);
    assert!(result.text.contains(reason), "{}", result.text);
}

#[test]
fn the_projects_skill_stands_before_the_users() {
    let (_world, folders) = world();
    let skills = discover(&folders).expect("all are valid");
    insta::assert_snapshot!(instructions("Be brief.", &skills), @r"
    Be brief.

    You have skills. Read one with `skill.read` when its description fits the task:
    - release: How to release.
    - review: How this project reviews.
    ");
}

#[test]
fn a_skills_text_names_its_files() {
    assert_eq!(read(json!({"skill": "review"})).text, "Read first.\n\n[Files of this skill: forms/list.md]");
}

#[test]
fn a_file_beneath_it_can_be_read() {
    assert_eq!(read(json!({"skill": "review", "path": "forms/list.md"})).text, "- tests\n");
}

#[test]
fn nothing_beside_it_can_be_read() {
    check_refused("../../user/release/SKILL.md", "it must name a file in the skill's folder");
    check_refused("/etc/passwd", "it must name a file in the skill's folder");
    check_refused("forms", "it is no file");
    check_refused("none.md", "there is no such file");
}

#[cfg(unix)]
#[test]
fn a_link_is_not_followed() {
    check_refused("link", "links are not followed");
}

#[test]
fn a_skill_is_named_by_name_or_path() {
    let (world, folders) = world();
    let asked = ["release".to_owned(), "./user/review".to_owned()];
    let skills = named(&asked, world.path(), &folders).expect("both are there");
    assert_eq!(skills.iter().map(|skill| skill.body.as_str()).collect::<Vec<_>>(), ["Tag it.", "Mine."]);
}

#[test]
fn an_unknown_skill_is_named_with_the_closest() {
    let (world, folders) = world();
    let error = named(&["relaese".to_owned()], world.path(), &folders).expect_err("there is none");
    assert_eq!(error.hint().as_deref(), Some("did you mean `release`?"));
}

#[test]
fn a_malformed_skill_is_an_error_with_its_line() {
    let (world, folders) = world();
    let file = world.path().join("user/release/SKILL.md");
    std::fs::write(&file, "---\nname: Release\ndescription: x\n---\n").expect("writes");
    let error = discover(&folders).expect_err("it is malformed").to_string();
    assert!(
        error.ends_with(
            "no skill\n  line 2: `name` is `Release`; it has small letters, digits and `-`, at most 64"
        ),
        "{error}"
    );
}
