//! Pins an actor's thread to its CPU at start, and again after the kernel moved the thread.
//!
//! When a CPU goes offline, the kernel moves its threads to other CPUs and does not move them back
//! (`select_fallback_rq`, kernel/sched/core.c). An actor that starts while its CPU is offline runs on another one.

use std::time::{Duration, Instant};

use oxide_actors::executor::pin_current_thread;
use rustix::thread::{CpuSet, sched_getaffinity};

/// Sets the time between two checks. A check costs two system calls, and two more if the thread is on another CPU.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the calling thread on its CPU.
pub(super) struct Pinning {
    /// Holds the planned CPU; `None` if the thread may run on any CPU.
    cpu: Option<u32>,
    pinned: bool,
    next_look: Instant,
}

impl Pinning {
    /// Pins the calling thread to `cpu` if that is possible now.
    pub(super) fn new(cpu: Option<u32>, now: Instant) -> Self {
        let pinned = cpu.is_none_or(|cpu| pin_current_thread(cpu).is_ok());
        Self { cpu, pinned, next_look: now + LOOK_EVERY }
    }

    /// Returns whether the thread is on its planned CPU. A thread on another CPU must not spin, because an actor may
    /// own it.
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Checks once a second, and pins the thread again if it was moved. Returns whether the pinned state changed.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        let Some(cpu) = self.cpu.filter(|_| now >= self.next_look) else { return false };
        self.next_look = now + LOOK_EVERY;
        let before = self.pinned;
        self.pinned = is_only(cpu) || pin_current_thread(cpu).is_ok();
        before != self.pinned
    }
}

/// Returns whether the calling thread may run on `cpu` only.
fn is_only(cpu: u32) -> bool {
    sched_getaffinity(None).is_ok_and(|set| set.count() == 1 && is_set(&set, cpu as usize))
}

fn is_set(set: &CpuSet, cpu: usize) -> bool {
    cpu < CpuSet::MAX_CPU && set.is_set(cpu)
}

/// Returns the CPUs that the calling thread may run on (sched_getaffinity(2)); empty if the kernel returns an error.
pub(super) fn own_cpus() -> Vec<u32> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).map(|cpu| cpu as u32).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rustix::thread::sched_setaffinity;

    use super::*;

    #[test]
    fn moved_thread_is_pinned_again() {
        std::thread::spawn(|| {
            let allowed = sched_getaffinity(None).unwrap();
            let cpu = own_cpus()[0];
            let now = Instant::now();
            let mut pinning = Pinning::new(Some(cpu), now);
            assert!(pinning.is_pinned());
            assert_eq!(own_cpus(), [cpu]);
            // The kernel sets this mask when the CPU goes offline.
            sched_setaffinity(None, &allowed).unwrap();
            assert!(!pinning.look(now), "no check before the interval has passed");
            assert!(!pinning.look(now + LOOK_EVERY), "pinned again in the same check, so nothing changed");
            assert_eq!(own_cpus(), [cpu]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn absent_cpu_leaves_thread_where_it_may_run() {
        std::thread::spawn(|| {
            let (allowed, now) = (own_cpus(), Instant::now());
            let mut pinning = Pinning::new(Some(u32::MAX), now);
            assert!(!pinning.is_pinned() && !pinning.look(now + LOOK_EVERY));
            assert_eq!(own_cpus(), allowed);
            // The CPU comes online, and the next check pins the thread.
            pinning.cpu = Some(allowed[0]);
            assert!(pinning.look(now + 2 * LOOK_EVERY) && pinning.is_pinned());
            assert_eq!(own_cpus(), [allowed[0]]);
            // The CPU goes offline again.
            pinning.cpu = Some(u32::MAX);
            assert!(pinning.look(now + 3 * LOOK_EVERY) && !pinning.is_pinned());
        })
        .join()
        .unwrap();
    }
}
