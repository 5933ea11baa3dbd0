//! Where a measurement was made, and how many threads it may use.

use chaski_engine::device::{self, DeviceReport};
use serde::Serialize;

use crate::cli::usage_error;

/// What a reader of the numbers must know of the machine.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    /// The processor, as it calls itself.
    pub cpu: Option<String>,
    /// Every instruction set that the system reports.
    pub cpu_flags: Vec<String>,
    /// What the engine makes of it.
    pub device: DeviceReport,
    /// All memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// `linux`, `macos`, …
    pub system: &'static str,
}

impl Machine {
    /// This machine.
    pub(super) fn this() -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = field(&cpu, "flags").or_else(|| field(&cpu, "Features")).unwrap_or_default();
        Self {
            cpu: field(&cpu, "model name"),
            cpu_flags: flags.split_whitespace().map(str::to_owned).collect(),
            device: device::report(),
            memory_bytes: kilobytes("/proc/meminfo", "MemTotal"),
            system: std::env::consts::OS,
        }
    }
}

/// The most memory that this process has held at any time, in bytes: pages of mapped files included.
pub(super) fn peak_memory() -> Option<u64> {
    kilobytes("/proc/self/status", "VmHWM")
}

/// The memory that this process holds now, in bytes.
pub(super) fn resident_memory() -> Option<u64> {
    kilobytes("/proc/self/status", "VmRSS")
}

/// Leaves `threads` processors to this thread and to those that it starts from now on. The engine starts one
/// thread a processor that it is left, so this bounds its threads.
///
/// # Errors
/// When there are not so many, or when this system cannot do it.
#[cfg(target_os = "linux")]
pub(super) fn limit_threads(threads: usize) -> anyhow::Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let here = sched_getaffinity(None)?;
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| here.is_set(*cpu)).collect();
    if threads == 0 || threads > processors.len() {
        return Err(usage_error(
            format!("`--threads` is {threads}, this process may use {} processors", processors.len()),
            None::<String>,
        ));
    }
    let mut left = CpuSet::new();
    processors[..threads].iter().for_each(|cpu| left.set(*cpu));
    Ok(sched_setaffinity(None, &left)?)
}

/// Only Linux lets a thread choose its processors.
#[cfg(not(target_os = "linux"))]
pub(super) fn limit_threads(_threads: usize) -> anyhow::Result<()> {
    Err(usage_error("`--threads` works on Linux only", "leave it out: every core is used"))
}

/// The value after `key` and a colon, in the first line that has it.
fn field(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// The kilobytes that the kernel reports under `key` in `file`, as bytes.
fn kilobytes(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let kilobytes: u64 = field(&text, key)?.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}
