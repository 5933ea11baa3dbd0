//! A pool of threads that share one job at a time.
//!
//! A forward pass is some hundred short parallel regions in a row, each a few microseconds long. Workers
//! therefore wait for the next region by spinning for a moment before they sleep. The caller works too.
//!
//! Invariant: `run` returns only when no worker will touch its closure again.

use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker spins before it sleeps. Longer than the serial part between two regions of one
/// forward pass, shorter than anyone would notice on a battery.
const SPIN: Duration = Duration::from_micros(200);

/// Rounds of spinning before the caller gives way: some 20 µs, longer than tasks are apart on idle cores.
const SPINS_BEFORE_YIELD: u32 = 1_000;

type Job<'a> = dyn Fn(usize) + Sync + 'a;

/// What the caller and its workers share.
struct Shared {
    /// Counts jobs; odd bits do not matter, a change means there is a new one.
    generation: AtomicU64,
    job: Mutex<Option<JobPointer>>,
    next: AtomicUsize,
    tasks: AtomicUsize,
    /// Workers that are not done with the current job.
    busy: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    wake: Condvar,
}

/// The current job without its lifetime.
#[derive(Clone, Copy)]
struct JobPointer(*const Job<'static>);

// SAFETY: the pointee is `Sync`, and `ThreadPool::run` keeps it alive until every worker is done with it.
unsafe impl Send for JobPointer {}

/// Threads that run the tasks of one job together. One job at a time: `run` takes `&mut self`.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl ThreadPool {
    /// A pool of `threads` threads, the caller's included.
    pub fn new(threads: NonZeroUsize) -> Self {
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(0),
            job: Mutex::new(None),
            next: AtomicUsize::new(0),
            tasks: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            wake: Condvar::new(),
        });
        let workers = (1..threads.get())
            .map(|index| {
                let shared = shared.clone();
                std::thread::Builder::new()
                    .name(format!("chaski-compute-{index}"))
                    .spawn(move || work(&shared))
                    .expect("the system can start a thread for each core")
            })
            .collect();
        Self { shared, workers }
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)` to `task(tasks - 1)`, each once, on any thread, and returns when all have returned.
    ///
    /// # Panics
    /// When a task panics, after the others have returned.
    pub fn run(&mut self, tasks: usize, task: &(impl Fn(usize) + Sync)) {
        if self.workers.is_empty() || tasks <= 1 {
            return (0..tasks).for_each(task);
        }
        let job: &Job<'_> = task;
        // SAFETY: only the lifetime is erased. The pointer is taken back below, and `busy` is 0 before this
        // function returns or unwinds, so no worker holds it longer than `task` lives.
        let job: *const Job<'static> = unsafe { std::mem::transmute::<&Job<'_>, &'static Job<'static>>(job) };
        let shared = &*self.shared;
        shared.next.store(0, Ordering::Relaxed);
        shared.tasks.store(tasks, Ordering::Relaxed);
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        {
            let mut slot = shared.job.lock().expect("no thread panics while it holds the lock");
            *slot = Some(JobPointer(job));
            shared.generation.fetch_add(1, Ordering::Release);
            shared.wake.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(task)));
        let mut spins = 0u32;
        while shared.busy.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else {
                // A worker has lost its core to another program: give it this one.
                std::thread::yield_now();
            }
        }
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a task of a parallel region panicked");
    }
}

impl Shared {
    fn take_tasks(&self, task: &(impl Fn(usize) + Sync + ?Sized)) {
        let tasks = self.tasks.load(Ordering::Relaxed);
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= tasks {
                return;
            }
            task(index);
        }
    }

    /// Waits for a generation after `seen`, and returns it.
    fn wait(&self, seen: u64) -> u64 {
        let idle_since = Instant::now();
        loop {
            for _ in 0..64 {
                let generation = self.generation.load(Ordering::Acquire);
                if generation != seen {
                    return generation;
                }
                std::hint::spin_loop();
            }
            if idle_since.elapsed() > SPIN {
                break;
            }
            std::thread::yield_now();
        }
        let mut slot = self.job.lock().expect("no thread panics while it holds the lock");
        loop {
            let generation = self.generation.load(Ordering::Acquire);
            if generation != seen {
                return generation;
            }
            slot = self.wake.wait(slot).expect("no thread panics while it holds the lock");
        }
    }
}

fn work(shared: &Shared) {
    let mut seen = 0;
    loop {
        seen = shared.wait(seen);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let job = *shared.job.lock().expect("no thread panics while it holds the lock");
        let job = job.expect("a new generation comes with a job");
        // SAFETY: the caller waits for `busy` to reach 0 before the closure goes out of scope.
        let job: &Job<'_> = unsafe { &*job.0 };
        if catch_unwind(AssertUnwindSafe(|| shared.take_tasks(job))).is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.busy.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        {
            let _slot = self.shared.job.lock().expect("no thread panics while it holds the lock");
            self.shared.stop.store(true, Ordering::Relaxed);
            self.shared.generation.fetch_add(1, Ordering::Release);
            self.shared.wake.notify_all();
        }
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

/// A slice whose parts are written by different tasks of one job.
pub(super) struct SharedSlice<'a, T> {
    start: *mut T,
    length: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: `part` is told by its caller that no two tasks take overlapping parts.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), of: PhantomData }
    }

    /// Sets one element.
    ///
    /// # Panics
    /// When the index is not inside the slice.
    ///
    /// # Safety
    /// No other task reads or writes it meanwhile.
    pub(super) unsafe fn set(&self, index: usize, value: T) {
        assert!(index < self.length);
        // SAFETY: inside the slice, which is borrowed for 'a; nobody else uses it, by the caller's promise.
        unsafe { self.start.add(index).write(value) }
    }

    /// The elements of `range`.
    ///
    /// # Panics
    /// When the range is not inside the slice.
    ///
    /// # Safety
    /// No other part that overlaps it is alive.
    #[allow(clippy::mut_from_ref)] // that is what the caller vouches for
    pub(super) unsafe fn part(&self, range: std::ops::Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: inside the slice, which is borrowed for 'a; not aliased, by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> ThreadPool {
        ThreadPool::new(NonZeroUsize::new(threads).expect("not zero"))
    }

    #[track_caller]
    fn check(threads: usize, tasks: usize) {
        let mut pool = pool(threads);
        for _ in 0..200 {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, &|index| {
                counts[index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn every_task_runs_once() {
        check(3, 100);
    }

    #[test]
    fn one_thread_does_it_all() {
        check(1, 10);
    }

    #[test]
    fn more_threads_than_tasks_is_fine() {
        check(4, 2);
    }

    #[test]
    fn no_task_is_fine() {
        check(2, 0);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = pool(2);
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(50, &|index| assert!(index != 25))));
        assert!(outcome.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(10, &|index| {
            sum.fetch_add(index, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}
