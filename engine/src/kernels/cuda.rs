//! Whether NVIDIA's driver can be opened on this machine.

/// With candle's CUDA feature the driver is linked: it is there whenever the program starts.
#[cfg(feature = "candle-cuda")]
pub fn driver_is_present() -> bool {
    true
}

/// Asks before the first call of the driver, because a call without it would panic.
#[cfg(not(feature = "candle-cuda"))]
pub fn driver_is_present() -> bool {
    // SAFETY: it only tries to open the driver's library by name, as the operating system's loader would.
    unsafe { cudarc::driver::sys::is_culib_present() }
}
