//! `chaski bench tools`: what a tool call costs, what neighbours of a runaway call notice, what loading costs.
//!
//! Next to the figures stand those of a process that does the same and isolates nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chaski_engine::ToolCall;
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::machine::{Machine, resident_memory};
use crate::cli::plugin::plugin_error;
use crate::cli::table::{Table, bytes};
use crate::cli::{GlobalFlags, failure, usage_error};
use crate::config::Config;
use crate::plugins::host::{HostOptions, PluginHost};
use crate::plugins::{build, catalog};
use crate::run::calls::CallSite;
use crate::run::event::{Place, RunEvent};
use crate::run::journal::Journal;
use crate::run::recorder::Recorder;
use crate::tools::dispatch::dispatch;
use crate::tools::permission::{Policy, Rules};
use crate::tools::{CallContext, ToolOutcome, ToolRegistry, ToolSet};

/// Calls of the trivial tool that are timed.
const TRIVIAL_CALLS: usize = 2_000;
/// Calls with a journal, each of which waits for the disk twice.
const RECORDED_CALLS: usize = 200;
/// Calls of the Python tool, and starts of other programs.
const PYTHON_CALLS: usize = 200;
const PROCESSES: usize = 10;
/// Calls at once, and those among them that never end by themselves.
const AT_ONCE: usize = 200;
const ENDLESS: usize = 4;
/// Calls that each of the others makes.
const ROUNDS: usize = 20;
/// What an endless call may take.
const ENDLESS_TIME: Duration = Duration::from_secs(3);
/// Calls between two looks at the memory.
const MEMORY_CALLS: usize = 10_000;
/// Times that all plugins are loaded.
const LOADS: usize = 5;

/// One figure with its bar.
#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    unit: &'static str,
    count: usize,
    p50: f64,
    p99: f64,
    most: f64,
    /// The most that `measured` may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    bar: Option<f64>,
    /// Which of them the bar is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holds: Option<bool>,
}

impl Figure {
    fn new(name: impl Into<String>, unit: &'static str, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize];
        let (p50, p99, most) = (at(0.5), at(0.99), at(1.0));
        let count = samples.len();
        Self { name: name.into(), unit, count, p50, p99, most, bar: None, measured: None, holds: None }
    }

    fn with_bar(mut self, measured: &'static str, bar: f64) -> Self {
        let value = match measured {
            "p50" => self.p50,
            "p99" => self.p99,
            _ => self.most,
        };
        (self.bar, self.measured, self.holds) = (Some(bar), Some(measured), Some(value <= bar));
        self
    }
}

/// Measures, and prints.
///
/// # Errors
/// When the guests cannot be built, or a call ends otherwise than it must.
pub(super) async fn run(config: &Config, global: &GlobalFlags) -> anyhow::Result<()> {
    let guests = Guests::load(config).await?;
    let mut figures = Vec::new();
    figures.push(guests.trivial().await?);
    figures.push(guests.recorded(config).await?);
    figures.push(guests.python().await?);
    figures.extend(guests.crowd().await?);
    figures.push(guests.memory().await?);
    drop(guests);
    figures.push(loading(config).await?);
    for (name, program, arguments) in [
        ("process: python3 -c", "python3", ["-c", "print(1+1)"]),
        ("process: node -e vm", "node", ["-e", "console.log(require('vm').runInNewContext('1+1'))"]),
    ] {
        figures.extend(process(name, program, &arguments)?);
    }
    if global.json {
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"), "date": jiff::Timestamp::now().to_string(),
            "machine": Machine::this(), "results": figures,
        });
        println!("{report}");
    } else {
        print(&figures);
    }
    Ok(())
}

/// The guests that are called, each under limits of its own.
struct Guests {
    tools: ToolSet,
    _host: PluginHost,
    _folder: tempfile::TempDir,
}

impl Guests {
    async fn load(config: &Config) -> anyhow::Result<Self> {
        let source = catalog::sources().map(|sources| sources.join("../tests/guests/probe"));
        let source = source.filter(|source| source.is_dir()).ok_or_else(|| {
            let hint = "run it from the repository, or name its plugins' folder in CHASKI_PLUGIN_SOURCES";
            usage_error("the guest that is measured is not here: tests/guests/probe", hint)
        })?;
        let progress = |line: &str| eprintln!("{line}");
        let built = config.cache_dir.join("test-plugins/probe");
        build::build(&source, &built, &progress).await.map_err(plugin_error)?;
        let python = catalog::ensure(&config.plugins_dir, "code-runner", &progress).await;
        let folder = tempfile::tempdir()?;
        let options = HostOptions::of(config, Default::default(), Arc::new(|_, _| {}));
        let host = PluginHost::new(HostOptions { lock: None, ..options }).map_err(plugin_error)?;
        let mut registry = ToolRegistry::default();
        let calm = manifest(&folder, &built, "calm", 64, "10s")?;
        let endless = manifest(&folder, &built, "endless", ENDLESS, "3s")?;
        for dir in [calm, endless, python.map_err(plugin_error)?.dir] {
            let loaded = host.load(&dir).await.map_err(plugin_error)?;
            loaded.tools.into_iter().for_each(|tool| registry.insert(tool));
        }
        let allow = vec!["*".parse()?];
        registry.set_policy(Policy::new(Rules { allow, ..Rules::default() }, config.user_file.clone()));
        Ok(Self { tools: registry.all(), _host: host, _folder: folder })
    }

    /// One call, and how long it took.
    async fn call(&self, name: &str, arguments: Value, expected: ToolOutcome) -> anyhow::Result<Duration> {
        let call = ToolCall { id: "call".into(), name: name.into(), arguments };
        let context = CallContext {
            call_id: "call".into(),
            timeout: Duration::from_secs(30),
            ..CallContext::default()
        };
        let started = Instant::now();
        let result = dispatch(&self.tools, &call, context).await;
        let elapsed = started.elapsed();
        if result.outcome != expected {
            return Err(failure(
                format!("`{name}` ended with {}: {}", result.outcome, result.text),
                None::<String>,
            ));
        }
        Ok(elapsed)
    }

    async fn echo(&self) -> anyhow::Result<Duration> {
        self.call("calm.echo", json!({"text": "hello"}), ToolOutcome::Ok).await
    }

    /// A call that does nothing: validated, queued, instantiated, called, dropped.
    async fn trivial(&self) -> anyhow::Result<Figure> {
        for _ in 0..50 {
            self.echo().await?;
        }
        let mut samples = Vec::new();
        for _ in 0..TRIVIAL_CALLS {
            samples.push(micros(self.echo().await?));
        }
        Ok(Figure::new("trivial Rust tool", "us", samples).with_bar("p50", 100.0))
    }

    /// The same as a run does it: decided and written down, on disk before and after.
    async fn recorded(&self, config: &Config) -> anyhow::Result<Figure> {
        let folder = tempfile::tempdir_in(&config.data_dir)?;
        let journal = Arc::new(Journal::open(folder.path())?);
        let recorder =
            Recorder::new(journal.new_run(), journal.clone(), Arc::new(|_| {}), CancellationToken::new());
        let (name, model) = ("bench".to_owned(), "none".to_owned());
        recorder.record(RunEvent::RunStarted { name, source: None, model, inputs: json!({}) })?;
        let site = CallSite::new(self.tools.clone(), Place::default(), recorder);
        let mut samples = Vec::new();
        for number in 0..RECORDED_CALLS {
            let arguments = json!({"text": number.to_string()});
            let call = ToolCall { id: format!("call_{number}"), name: "calm.echo".into(), arguments };
            let started = Instant::now();
            let admitted = site.admit(&call).await?;
            let context = site.context(&call, call.id.clone(), Duration::from_secs(30));
            let (result, cached) = site.run(&call, admitted, context).await;
            site.answered(&call, &result, cached)?;
            samples.push(micros(started.elapsed()));
        }
        Ok(Figure::new("... with the journal on disk", "us", samples))
    }

    async fn python(&self) -> anyhow::Result<Figure> {
        let mut samples = Vec::new();
        for number in 0..PYTHON_CALLS + 5 {
            let took = self.call("code-runner.run", json!({"code": "print(1+1)"}), ToolOutcome::Ok).await?;
            if number >= 5 {
                samples.push(millis(took));
            }
        }
        Ok(Figure::new("code-runner: print(1+1)", "ms", samples).with_bar("p50", 3.0))
    }

    /// Many calls at once, a few of which loop for ever.
    async fn crowd(&self) -> anyhow::Result<Vec<Figure>> {
        let endless = (0..ENDLESS).map(|_| self.call("endless.spin", json!({}), ToolOutcome::Timeout));
        let neighbours = (0..AT_ONCE - ENDLESS).map(|_| async {
            let mut samples = Vec::new();
            for _ in 0..ROUNDS {
                samples.push(millis(self.echo().await?));
                // Somebody who asks again at once would only measure how long the queue is.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(samples)
        });
        let (endless, neighbours) =
            tokio::join!(futures::future::try_join_all(endless), futures::future::try_join_all(neighbours));
        let overrun = endless?.into_iter().map(|took| millis(took.saturating_sub(ENDLESS_TIME))).collect();
        let neighbours = neighbours?.into_iter().flatten().collect();
        Ok(vec![
            Figure::new(format!("{AT_ONCE} at once, {ENDLESS} endless: neighbours"), "ms", neighbours)
                .with_bar("p99", 20.0),
            Figure::new("... the endless ones beyond their deadline", "ms", overrun).with_bar("most", 200.0),
        ])
    }

    async fn memory(&self) -> anyhow::Result<Figure> {
        for _ in 0..500 {
            self.echo().await?;
        }
        let before = resident_memory().unwrap_or(0);
        for _ in 0..MEMORY_CALLS {
            self.echo().await?;
        }
        let grown = resident_memory().unwrap_or(0).saturating_sub(before);
        let name = format!("memory after {MEMORY_CALLS} calls, over {}", bytes(before));
        Ok(Figure::new(name, "MB", vec![grown as f64 / 1e6]).with_bar("most", 8.0))
    }
}

/// A folder with the guest in `built` as plugin `id`.
fn manifest(
    folder: &tempfile::TempDir,
    built: &Path,
    id: &str,
    concurrency: usize,
    timeout: &str,
) -> anyhow::Result<PathBuf> {
    let dir = folder.path().join(id);
    std::fs::create_dir(&dir)?;
    std::fs::copy(built.join("component.wasm"), dir.join("component.wasm"))?;
    let text = format!(
        "[plugin]\nid = \"{id}\"\nversion = \"1\"\ncomponent = \"component.wasm\"\ndescription = \"measured\"\n\
         [limits]\nmemory = \"16MiB\"\ntimeout = \"{timeout}\"\nconcurrency = {concurrency}\n"
    );
    std::fs::write(dir.join("plugin.toml"), text)?;
    Ok(dir)
}

/// Every first-party plugin, from the cache, with a new host each time.
async fn loading(config: &Config) -> anyhow::Result<Figure> {
    let progress = |line: &str| eprintln!("{line}");
    let mut dirs = Vec::new();
    for id in catalog::first_party() {
        dirs.push(catalog::ensure(&config.plugins_dir, &id, &progress).await.map_err(plugin_error)?.dir);
    }
    let mut samples = Vec::new();
    for number in 0..LOADS + 1 {
        let started = Instant::now();
        let options = HostOptions::of(config, Default::default(), Arc::new(|_, _| {}));
        let host = PluginHost::new(options).map_err(plugin_error)?;
        host.load_all(&dirs).await.map_err(plugin_error)?;
        // The first one compiles what is not in the cache yet.
        if number > 0 {
            samples.push(millis(started.elapsed()));
        }
    }
    let name = format!("loading {} plugins from the cache", dirs.len());
    Ok(Figure::new(name, "ms", samples).with_bar("p50", 50.0))
}

/// A program that does as much, from start to end; nothing where it is not installed.
fn process(name: &str, program: &str, arguments: &[&str]) -> anyhow::Result<Option<Figure>> {
    let mut samples = Vec::new();
    for _ in 0..PROCESSES {
        let started = Instant::now();
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.status() {
            Ok(status) if status.success() => samples.push(millis(started.elapsed())),
            Ok(status) => return Err(failure(format!("`{program}` failed: {status}"), None::<String>)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(Figure::new(name, "ms", samples)))
}

fn micros(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

fn print(figures: &[Figure]) {
    let mut table = Table::new(["measure", "p50", "p99", "most", "unit", "times", "bar"]);
    for figure in figures {
        let number = |value: f64| format!("{value:.2}");
        let bar = match (figure.bar, figure.measured, figure.holds) {
            (Some(bar), Some(measured), Some(holds)) => {
                format!("{measured} <= {bar}: {}", if holds { "holds" } else { "FAILS" })
            }
            _ => String::new(),
        };
        table.row([
            figure.name.clone(),
            number(figure.p50),
            number(figure.p99),
            number(figure.most),
            figure.unit.to_owned(),
            figure.count.to_string(),
            bar,
        ]);
    }
    print!("{}", table.render());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_holds_its_bar_or_not() {
        let figure = || Figure::new("x", "ms", (1..=100).map(f64::from).collect());
        let Figure { p50, p99, most, .. } = figure();
        assert_eq!((p50, p99, most), (51.0, 99.0, 100.0));
        assert_eq!(figure().with_bar("p50", 51.0).holds, Some(true));
        assert_eq!(figure().with_bar("p99", 98.0).holds, Some(false));
        assert_eq!(figure().with_bar("most", 99.0).holds, Some(false));
    }
}
