//! Which devices this machine offers to the engine.

use serde::Serialize;

/// What this machine offers.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceReport {
    /// Instructions that matter to the engine, and whether this processor has them.
    pub cpu_features: Vec<(&'static str, bool)>,
    /// Threads that can run at once.
    pub threads: usize,
    /// The kernels in use on the CPU, or why the choice in `CHASKI_CPU` is not possible.
    pub cpu_kernels: Result<String, String>,
    /// The GPUs, or why there is none.
    pub gpus: Result<Vec<Gpu>, String>,
}

/// One GPU.
#[derive(Clone, Debug, Serialize)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// All its memory, in bytes.
    pub memory_bytes: usize,
    /// Compute capability, major and minor.
    pub compute_capability: (i32, i32),
}

/// Looks at this machine. Never fails: what is missing is said in the report.
pub fn report() -> DeviceReport {
    DeviceReport {
        cpu_features: cpu_features(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        cpu_kernels: crate::kernels::cpu::InstructionSet::detect().map(|set| format!("{set:?}")),
        gpus: gpus(),
    }
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<(&'static str, bool)> {
    vec![
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512_vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512_bf16", is_x86_feature_detected!("avx512bf16")),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<(&'static str, bool)> {
    vec![("neon", cfg!(target_feature = "neon"))]
}

fn gpus() -> Result<Vec<Gpu>, String> {
    if !crate::kernels::cuda::driver_is_present() {
        return Err("no NVIDIA driver: `libcuda` is not on the loader's path".into());
    }
    let count =
        cudarc::driver::CudaContext::device_count().map_err(|error| format!("the driver says: {error:?}"))?;
    if count == 0 {
        return Err("the NVIDIA driver reports no GPU".into());
    }
    (0..count as usize)
        .map(|ordinal| {
            let context = cudarc::driver::CudaContext::new(ordinal)?;
            Ok(Gpu {
                name: context.name()?,
                memory_bytes: context.total_mem()?,
                compute_capability: context.compute_capability()?,
            })
        })
        .collect::<Result<_, cudarc::driver::DriverError>>()
        .map_err(|error| format!("the driver says: {error:?}"))
}
