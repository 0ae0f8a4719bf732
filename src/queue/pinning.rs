//! The CPU of an actor's thread: taken at start, and taken again after the kernel moved the thread elsewhere.
//!
//! A CPU that goes offline loses its threads to the others, and does not get them back (`select_fallback_rq`,
//! kernel/sched/core.c). An actor that is started meanwhile runs elsewhere rather than not at all.

use std::time::{Duration, Instant};

use oxide_actors::executor::pin_current_thread;
use rustix::thread::{CpuSet, sched_getaffinity};

/// Between two looks: two system calls, and two more where the thread is not in its place.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the calling thread on its CPU.
pub(super) struct Pinning {
    /// `None`: the thread runs where it may.
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

    /// Whether the thread is where it was planned: one that is not may have taken another actor's CPU, and must not spin.
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Looks once a second, and pins the thread again if it was moved. Returns whether its place changed.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        let Some(cpu) = self.cpu.filter(|_| now >= self.next_look) else { return false };
        self.next_look = now + LOOK_EVERY;
        let before = self.pinned;
        self.pinned = is_only(cpu) || pin_current_thread(cpu).is_ok();
        before != self.pinned
    }
}

/// Whether the calling thread may run on `cpu` and nowhere else.
fn is_only(cpu: u32) -> bool {
    sched_getaffinity(None).is_ok_and(|set| set.count() == 1 && is_set(&set, cpu as usize))
}

fn is_set(set: &CpuSet, cpu: usize) -> bool {
    cpu < CpuSet::MAX_CPU && set.is_set(cpu)
}

/// CPUs that the calling thread may run on (sched_getaffinity(2)); none where the kernel does not tell.
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
            // As the kernel does when the CPU goes offline.
            sched_setaffinity(None, &allowed).unwrap();
            assert!(!pinning.look(now), "not before the next look");
            assert!(!pinning.look(now + LOOK_EVERY), "it is back at once: nothing to report");
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
            // The CPU comes online: the next look takes it.
            pinning.cpu = Some(allowed[0]);
            assert!(pinning.look(now + 2 * LOOK_EVERY) && pinning.is_pinned());
            assert_eq!(own_cpus(), [allowed[0]]);
            // And goes offline again.
            pinning.cpu = Some(u32::MAX);
            assert!(pinning.look(now + 3 * LOOK_EVERY) && !pinning.is_pinned());
        })
        .join()
        .unwrap();
    }
}
