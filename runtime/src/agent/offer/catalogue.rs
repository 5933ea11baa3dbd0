//! The few lines that tell a model which tools there are.

use std::collections::BTreeMap;

use chaski_engine::ToolSpec;

/// Tokens of a catalogue.
const MAX_TOKENS: usize = 300;
/// Characters of a tool's purpose.
const PURPOSE_CHARACTERS: usize = 60;

/// The richest text about `tools` that has at most [`MAX_TOKENS`] by `count`: names with their purpose, names
/// alone, or namespaces with the number of their tools.
pub(super) fn catalogue<E>(
    tools: &[ToolSpec],
    count: &dyn Fn(&str) -> Result<usize, E>,
) -> Result<String, E> {
    let purposes: Vec<String> =
        tools.iter().map(|tool| format!("{}: {}", tool.name, purpose(tool))).collect();
    let names = tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>();
    let mut namespaces: BTreeMap<&str, usize> = BTreeMap::new();
    for name in &names {
        *namespaces.entry(name.split_once('.').map_or(*name, |(namespace, _)| namespace)).or_default() += 1;
    }
    let namespaces: Vec<String> =
        namespaces.iter().map(|(name, tools)| format!("{name} ({tools})")).collect();
    for text in [purposes.join("\n"), names.join(", "), namespaces.join(", ")] {
        if count(&text)? <= MAX_TOKENS {
            return Ok(text);
        }
    }
    // So many namespaces that only some can be named.
    let mut shown = namespaces.len();
    loop {
        shown /= 2;
        let text = format!("{} and {} more", namespaces[..shown].join(", "), namespaces.len() - shown);
        if shown == 0 || count(&text)? <= MAX_TOKENS {
            return Ok(text);
        }
    }
}

/// The first sentence of a tool's description, or its beginning.
fn purpose(tool: &ToolSpec) -> String {
    let line = tool.description.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let sentence = line.split_once(". ").map_or(line, |(sentence, _)| sentence);
    match sentence.char_indices().nth(PURPOSE_CHARACTERS) {
        None => sentence.trim_end_matches('.').to_owned(),
        Some((end, _)) => format!("{}…", sentence[..end].trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tools(namespaces: usize, of_each: usize) -> Vec<ToolSpec> {
        let tool = |namespace, number| ToolSpec {
            name: format!("server{namespace}.tool{number}"),
            description: "Does something useful. And more.".into(),
            parameters: json!({"type": "object"}),
        };
        (0..namespaces).flat_map(|space| (0..of_each).map(move |number| tool(space, number))).collect()
    }

    /// A token is four bytes here.
    #[track_caller]
    fn check(tools: &[ToolSpec], beginning: &str) {
        let count = |text: &str| Ok::<_, ()>(text.len().div_ceil(4));
        let text = catalogue(tools, &count).expect("counting never fails here");
        assert!(text.starts_with(beginning), "{text}");
        assert!(text.len().div_ceil(4) <= MAX_TOKENS, "{} bytes", text.len());
    }

    #[test]
    fn a_few_tools_are_told_with_their_purpose() {
        check(&tools(1, 20), "server0.tool0: Does something useful\nserver0.tool1: ");
    }

    #[test]
    fn more_are_told_by_name() {
        check(&tools(2, 30), "server0.tool0, server0.tool1, ");
    }

    #[test]
    fn many_are_told_by_namespace() {
        check(&tools(20, 30), "server0 (30), server1 (30), ");
    }

    #[test]
    fn very_many_namespaces_are_told_in_part() {
        check(&tools(1_000, 1), "server0 (1), ");
    }
}
