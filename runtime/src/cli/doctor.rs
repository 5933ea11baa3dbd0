//! `chaski doctor`: what this machine can do, and what is missing. It never fails; it reports.

use std::process::{Command, ExitCode, Stdio};

use chaski_engine::device::{self, DeviceReport};
use serde::Serialize;

use super::GlobalFlags;
use super::table::bytes;
use crate::config::Config;
use crate::models::{catalog, room};
use crate::plugins::catalog as plugins;

/// Arguments of `chaski doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {}

#[derive(Serialize)]
struct Report {
    device: DeviceReport,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    disk_free_bytes: Option<u64>,
    data_dir: String,
    models: Vec<Model>,
    plugins: Result<Vec<String>, String>,
    python: Result<String, String>,
    wasm_target: bool,
    node: Result<String, String>,
}

#[derive(Serialize)]
struct Model {
    name: String,
    installed: bool,
    runnable: bool,
    fits: Option<bool>,
}

/// Prints the report.
///
/// # Errors
/// None of its own: what is missing is in the report.
pub async fn run(_args: DoctorArgs, config: &Config, global: &GlobalFlags) -> anyhow::Result<ExitCode> {
    let report = examine(config);
    if global.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn examine(config: &Config) -> Report {
    let memory = memory("MemTotal:");
    let model = |model: &catalog::CatalogModel| Model {
        name: model.name.clone(),
        installed: model.file.as_ref().is_some_and(|file| config.models_dir.join(file).is_file()),
        runnable: model.runnable,
        fits: memory.map(|memory| model.memory < memory),
    };
    Report {
        device: device::report(),
        memory_bytes: memory,
        memory_available_bytes: self::memory("MemAvailable:"),
        disk_free_bytes: room::free_bytes(&config.data_dir),
        data_dir: config.data_dir.display().to_string(),
        models: catalog::all().iter().map(model).collect(),
        plugins: plugins::installed(&config.plugins_dir)
            .map(|found| found.into_iter().map(|plugin| plugin.id).collect())
            .map_err(|error| error.to_string()),
        python: output("python3", &["-I", "-m", "pip", "--version"]),
        wasm_target: crate::plugins::build::has_wasm_target(),
        node: output("node", &["--version"]),
    }
}

fn print(report: &Report) {
    let or_unknown = |count: Option<u64>| count.map_or_else(|| "unknown".to_owned(), bytes);
    let features: Vec<&str> =
        report.device.cpu_features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    println!("cpu      {} threads; {}", report.device.threads, features.join(", "));
    match &report.device.cpu_kernels {
        Ok(kernels) => println!("kernels  {kernels}"),
        Err(reason) => println!("kernels  {reason}"),
    }
    match &report.device.gpus {
        Ok(gpus) => {
            for gpu in gpus {
                println!("gpu      {}, {}", gpu.name, bytes(gpu.memory_bytes as u64));
            }
        }
        Err(reason) => println!("gpu      none: {reason}"),
    }
    println!(
        "memory   {}, {} available",
        or_unknown(report.memory_bytes),
        or_unknown(report.memory_available_bytes)
    );
    println!("disk     {} free at {}", or_unknown(report.disk_free_bytes), report.data_dir);
    for model in &report.models {
        let state = if model.installed { "installed" } else { "not installed" };
        let fit = match (model.runnable, model.fits) {
            (false, _) => "no loader for its format yet",
            (true, Some(true)) => "fits in memory",
            (true, Some(false)) => "does NOT fit in memory",
            (true, None) => "memory unknown",
        };
        println!("model    {}: {state}, {fit}", model.name);
    }
    match &report.plugins {
        Ok(ids) if ids.is_empty() => println!("plugins  none yet; a run builds what it needs"),
        Ok(ids) => println!("plugins  {}", ids.join(", ")),
        Err(reason) => println!("plugins  {reason}"),
    }
    match &report.python {
        Ok(version) => println!("python   {}", version.lines().next().unwrap_or_default()),
        Err(reason) => {
            println!("python   {reason}; needed to fetch the default model and to build code-runner")
        }
    }
    let target = if report.wasm_target {
        "wasm32-wasip2 installed"
    } else {
        "no wasm32-wasip2 target; `rustup target add wasm32-wasip2`"
    };
    println!("rust     {target}");
    match &report.node {
        Ok(version) => println!("node     {}", version.trim_end()),
        Err(reason) => println!("node     {reason}; needed to build js-runner"),
    }
}

/// Bytes of memory that the kernel reports under `key`; a container's own limit counts where it is lower.
fn memory(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes: u64 =
        text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()?;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    // Without a limit the file holds the word `max`.
    let limit = limit.and_then(|limit| limit.trim().parse().ok()).unwrap_or(u64::MAX);
    Some(limit.min(kilobytes * 1024))
}

/// What a program prints, or why it could not say.
fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    match done {
        Ok(done) if done.status.success() => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        Ok(_) => Err(format!("`{program} {}` fails", arguments.join(" "))),
        Err(error) => Err(format!("`{program}` cannot be started: {error}")),
    }
}
