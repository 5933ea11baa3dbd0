//! `chaski plugin new`, `test` and `call`: writing a plugin and trying it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chaski_engine::ToolCall;
use serde_json::{Map, Value, json};

use super::{host, plugin_error};
use crate::cli::display::escape::escape_control;
use crate::cli::report::FAILED;
use crate::cli::run::{cancel_on_interrupt, given_roots};
use crate::cli::table::Table;
use crate::cli::{GlobalFlags, usage_error};
use crate::config::Config;
use crate::plugins::case::{self, Case, Expectation, RecordedCall};
use crate::plugins::host::{HostOptions, OutputObserver, PluginHost};
use crate::plugins::permissions::Access;
use crate::plugins::template::{self, Language};
use crate::plugins::{build, catalog};
use crate::tools::dispatch::dispatch;
use crate::tools::{CallContext, ToolRegistry, ToolResult, ToolSet};

/// Where `test` builds a plugin, in its own folder: what is installed stays as it is.
const TEST_BUILD: &str = "target/plugin";
/// Time that a call gets here; its plugin's own limit is shorter.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Arguments of `chaski plugin new`.
#[derive(Debug, clap::Args)]
pub(super) struct NewArgs {
    /// The folder to make; its name becomes the plugin's id
    dir: PathBuf,
    /// What it is written in
    #[arg(long, value_enum)]
    lang: Language,
}

/// Arguments of `chaski plugin test`.
#[derive(Debug, clap::Args)]
pub(super) struct TestArgs {
    /// The plugin's folder
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// A folder that the plugin sees, read-only
    #[arg(long = "root", value_name = "NAME=PATH")]
    roots: Vec<String>,
    /// Call the tool and write what it answers as a new case, in place of running the cases
    #[arg(long, num_args = 3, value_names = ["CASE", "TOOL", "ARGUMENTS"])]
    record: Option<Vec<String>>,
}

/// Arguments of `chaski plugin call`.
#[derive(Debug, clap::Args)]
pub(super) struct CallArgs {
    /// The tool, as `plugin.tool`
    tool: String,
    /// Its arguments, a JSON object
    #[arg(default_value = "{}")]
    arguments: String,
    /// A folder that the plugin sees, read-only
    #[arg(long = "root", value_name = "NAME=PATH")]
    roots: Vec<String>,
}

/// Writes a new plugin's project.
pub(super) fn new(args: &NewArgs) -> anyhow::Result<()> {
    template::create(&args.dir, args.lang).map_err(plugin_error)?;
    println!("{}", args.dir.display());
    eprintln!("next: chaski plugin test {}", args.dir.display());
    Ok(())
}

/// Builds the plugin and holds its answers to the recorded cases, or records one.
pub(super) async fn test(args: TestArgs, config: &Config, global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    let cases = Case::read_all(&args.dir).map_err(plugin_error)?;
    let record = args.record.as_deref().map(recorded).transpose()?;
    if cases.is_empty() && record.is_none() {
        return Err(usage_error(
            format!("`{}` holds no cases", args.dir.join(case::FOLDER).display()),
            "`chaski plugin test --record CASE TOOL '{…}'` writes one from a call",
        ));
    }
    let output = args.dir.join(TEST_BUILD);
    build::build(&args.dir, &output, &|line| eprintln!("{line}")).await.map_err(plugin_error)?;

    // Private folders of its own: a test neither sees nor changes what the installed plugin keeps.
    let data = tempfile::tempdir()?;
    let options = HostOptions::of(config, given_roots(&args.roots, Access::Read)?, silent());
    let options = HostOptions { lock: None, data_dir: data.path().to_owned(), ..options };
    let host = PluginHost::new(options).map_err(plugin_error)?;
    let loaded = host.load(&output).await.map_err(plugin_error)?;
    let id = loaded.manifest.id.clone();
    let mut registry = ToolRegistry::default();
    loaded.tools.into_iter().for_each(|tool| registry.insert(tool));
    let tools = registry.grant(&[format!("{id}.*")])?;

    if let Some((name, call)) = record {
        let result = run(&tools, &id, &call).await;
        let expect = Expectation::of(&result);
        Case { name: name.clone(), call: RecordedCall { expect, ..call } }
            .write(&args.dir)
            .map_err(plugin_error)?;
        print_result(&result, global);
        eprintln!("recorded in {}", args.dir.join(case::FOLDER).join(format!("{name}.json")).display());
        return Ok(ExitCode::SUCCESS);
    }
    let mut results = Vec::new();
    for case in &cases {
        let result = run(&tools, &id, &case.call).await;
        let faults = case.call.expect.faults(&result);
        results.push((case, result, faults));
    }
    Ok(report(&id, &results, global))
}

/// The case to record, and the call that it is of.
fn recorded(values: &[String]) -> anyhow::Result<(String, RecordedCall)> {
    let [case, tool, arguments] = values else { unreachable!("clap asks for three values") };
    let expect = Expectation::default();
    Ok((case_name(case)?, RecordedCall { tool: tool.clone(), arguments: object(arguments)?, expect }))
}

/// A case's name, from its name or its file's.
fn case_name(given: &str) -> anyhow::Result<String> {
    let name = given.strip_suffix(".json").unwrap_or(given);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        let hint = "a case's name has 1 to 64 letters, digits, `-` and `_`";
        return Err(usage_error(format!("`{given}` cannot be a case's name"), hint));
    }
    Ok(name.to_owned())
}

async fn run(tools: &ToolSet, id: &str, call: &RecordedCall) -> ToolResult {
    let (name, arguments) = (format!("{id}.{}", call.tool), Value::Object(call.arguments.clone()));
    let context = CallContext { call_id: "test".into(), timeout: TIMEOUT, ..CallContext::default() };
    dispatch(tools, &ToolCall { id: "test".into(), name, arguments }, context).await
}

fn report(id: &str, results: &[(&Case, ToolResult, Vec<String>)], global: &GlobalFlags) -> ExitCode {
    let failed = results.iter().filter(|(_, _, faults)| !faults.is_empty()).count();
    if global.json {
        let cases: Vec<Value> = results
            .iter()
            .map(|(case, result, faults)| {
                json!({"case": case.name, "tool": format!("{id}.{}", case.call.tool), "passed": faults.is_empty(),
                       "seconds": result.duration.as_secs_f64(), "faults": faults})
            })
            .collect();
        println!(
            "{}",
            json!({"plugin": id, "passed": results.len() - failed, "failed": failed, "cases": cases})
        );
    } else {
        let mut table = Table::new(["case", "tool", "outcome", "time", "result"]);
        for (case, result, faults) in results {
            let time = format!("{:.1} ms", result.duration.as_secs_f64() * 1e3);
            let verdict = if faults.is_empty() { "ok" } else { "FAILED" };
            let tool = escape_control(&case.call.tool);
            table.row([case.name.clone(), tool, result.outcome.to_string(), time, verdict.into()]);
        }
        print!("{}", table.render());
        for (case, _, faults) in results {
            for fault in faults {
                println!("{}: {}", case.name, escape_control(fault));
            }
        }
        println!("{} passed, {failed} failed", results.len() - failed);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

/// Calls a tool of an installed plugin.
pub(super) async fn call(args: CallArgs, config: &Config, global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    let arguments = Value::Object(object(&args.arguments)?);
    let Some((id, _)) = args.tool.split_once('.') else {
        let hint = "for example `chaski plugin call code-runner.run '{\"code\": \"1 + 1\"}'`";
        return Err(usage_error(format!("`{}` is not of the form `plugin.tool`", args.tool), hint));
    };
    let plugin =
        catalog::ensure(&config.plugins_dir, id, &|line| eprintln!("{line}")).await.map_err(plugin_error)?;
    let show: OutputObserver = match global.quiet {
        true => silent(),
        false => Arc::new(|_, text| eprint!("{}", escape_control(text))),
    };
    let host = host(config, given_roots(&args.roots, Access::Read)?, show)?;
    let mut registry = ToolRegistry::default();
    host.load(&plugin.dir)
        .await
        .map_err(plugin_error)?
        .tools
        .into_iter()
        .for_each(|tool| registry.insert(tool));
    registry.get(&args.tool).map_err(|unknown| {
        let hint = unknown.hint();
        usage_error(unknown, hint)
    })?;
    let tools = registry.grant(&[format!("{id}.*")])?;
    let call = ToolCall { id: "call".into(), name: args.tool, arguments };
    let context = CallContext {
        call_id: call_id(),
        timeout: TIMEOUT,
        cancel: cancel_on_interrupt(),
        ..CallContext::default()
    };
    let result = dispatch(&tools, &call, context).await;
    print_result(&result, global);
    Ok(if result.is_error() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// Every call by hand is one of its own.
fn call_id() -> String {
    let mut ids = ulid::Generator::new();
    ids.generate().unwrap_or_else(|overflow| overflow.commit_overflow_random()).to_string()
}

/// An answer goes to standard output, a failure to standard error.
fn print_result(result: &ToolResult, global: &GlobalFlags) {
    let text = escape_control(&result.text);
    match (global.json, result.is_error()) {
        (true, _) => println!("{}", json!(result)),
        (false, false) => println!("{}", text.trim_end_matches('\n')),
        (false, true) => eprintln!("{}: {}", result.outcome, text.trim_end_matches('\n')),
    }
}

fn silent() -> OutputObserver {
    Arc::new(|_, _| {})
}

fn object(text: &str) -> anyhow::Result<Map<String, Value>> {
    let hint = "arguments are a JSON object, for example '{\"path\": \"a.txt\"}'";
    match serde_json::from_str(text) {
        Ok(Value::Object(arguments)) => Ok(arguments),
        Ok(_) => Err(usage_error(format!("the arguments `{text}` are no object"), hint)),
        Err(error) => Err(usage_error(format!("the arguments `{text}` are no JSON: {error}"), hint)),
    }
}
