//! Selects the CPUs of the engine's own threads.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Confines the calling thread to some CPUs until it is dropped. Threads that it starts meanwhile inherit them
/// (sched_setaffinity(2)) and keep them.
pub(super) struct InheritedCpus {
    /// CPUs of the calling thread before; `None` if they were not changed.
    former: Option<CpuSet>,
}

impl InheritedCpus {
    /// Confines the calling thread to `cpus`. Changes nothing if `cpus` is empty or the kernel refuses them.
    pub(super) fn new(cpus: &[u32]) -> Self {
        let mut set = CpuSet::new();
        cpus.iter().map(|&cpu| cpu as usize).filter(|&cpu| cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu));
        if set.count() == 0 {
            return Self { former: None };
        }
        let change = || {
            let former = sched_getaffinity(None)?;
            sched_setaffinity(None, &set)?;
            Ok::<_, rustix::io::Errno>(former)
        };
        let former = change().inspect_err(|error| tracing::debug!(%error, ?cpus, "threads are not confined")).ok();
        Self { former }
    }
}

impl Drop for InheritedCpus {
    fn drop(&mut self) {
        if let Some(former) = &self.former
            && let Err(error) = sched_setaffinity(None, former)
        {
            tracing::warn!(%error, "cannot restore the CPUs of the starting thread");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn cpus() -> Vec<u32> {
        let set = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).map(|cpu| cpu as u32).collect()
    }

    #[test]
    fn threads_started_meanwhile_keep_the_cpus_and_the_caller_gets_its_own_back() {
        std::thread::spawn(|| {
            let before = cpus();
            let (go, started) = std::sync::mpsc::channel();
            let child = {
                let _confined = InheritedCpus::new(&before[..1]);
                std::thread::spawn(move || {
                    started.recv().unwrap();
                    cpus()
                })
            };
            assert_eq!(cpus(), before);
            go.send(()).unwrap();
            assert_eq!(child.join().unwrap(), before[..1]);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn absent_cpus_change_nothing() {
        std::thread::spawn(|| {
            let before = cpus();
            for absent in [&[][..], &[u32::MAX], &[1023]] {
                let _confined = InheritedCpus::new(absent);
                assert_eq!(cpus(), before);
            }
        })
        .join()
        .unwrap();
    }
}
