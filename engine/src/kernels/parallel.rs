//! Fills the panels of a matrix on all cores, while a model is loaded.
//!
//! Apart from [`super::threads::ThreadPool`], which lives with the forward pass: loading is one long region,
//! so starting threads for it costs nothing that anyone would notice.

use std::num::NonZeroUsize;
use std::sync::Mutex;

/// From this many weights on, starting threads costs less than it saves (some 50 µs against 1 ms).
const PARALLEL_WEIGHTS: usize = 1 << 20;

/// Calls `fill` once for each of `panels`, on all cores when there are many `weights` to move.
///
/// # Panics
/// When `fill` panics, after the other threads have ended.
pub(super) fn fill_panels<P: Send>(
    panels: impl Iterator<Item = P> + Send,
    weights: usize,
    fill: impl Fn(P) + Sync,
) {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    if threads == 1 || weights < PARALLEL_WEIGHTS {
        return panels.for_each(fill);
    }
    let panels = Mutex::new(panels);
    let next = || panels.lock().expect("taking the next panel does not panic").next();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(panel) = next() {
                    fill(panel);
                }
            });
        }
    });
}
