//! Pinning, and where a core's time goes.

use crate::programs::{Counters, failed};
use crate::{Error, Result};
use aya::programs::PerfEvent;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::{Ebpf, EbpfLoader};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use std::time::Instant;

/// Samples per second: enough for one part in thirty of a core within a second, and no multiple of the kernel's tick.
const RATE: u64 = 7919;

static SPLIT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/split.bpf.o"));

/// Pins the calling thread, and those it will start, to one CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(Error::io(format!("pinning to CPU {cpu}")))
}

/// Samples what one core does: `bpf/split.bpf.c` at every beat of perf's cpu-clock. The kernel's own accounting is by ticks
/// of 4 ms, too coarse for the 5 % of a forwarder's time that are spent in user mode; a process' rusage lacks softirq.
pub(crate) struct Meter {
    _object: Ebpf,
    samples: Counters,
}

/// A look at a [`Meter`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    at: Instant,
    user: u64,
    kernel: u64,
    idle: u64,
}

/// A core's time in a window, nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Split {
    pub(crate) user_ns: f64,
    /// System calls, softirq and interrupts.
    pub(crate) kernel_ns: f64,
    pub(crate) idle_ns: f64,
    /// How many samples that is made of.
    pub(crate) samples: u64,
}

impl Meter {
    /// Starts sampling `cpu`, until dropped.
    pub(crate) fn start(cpu: u32) -> Result<Self> {
        let machine = u32::from(cfg!(target_arch = "aarch64"));
        let mut object = EbpfLoader::new()
            .btf(None)
            .override_global("MACHINE", &machine, true)
            .load(SPLIT)
            .map_err(failed("loading the sampler"))?;
        let program =
            object.program_mut("oxide_split").ok_or_else(|| Error::Text("no program oxide_split".to_owned()))?;
        let program: &mut PerfEvent = program.try_into().map_err(failed("sampler"))?;
        program.load().map_err(failed("loading the sampler"))?;
        let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
        program
            .attach(clock, PerfEventScope::AllProcessesOneCpu { cpu }, SamplePolicy::Frequency(RATE), false)
            .map_err(failed("starting the sampler (perf_event_open: kernel.perf_event_paranoid, CAP_PERFMON)"))?;
        let samples = Counters::take(&mut object, "SAMPLES")?;
        Ok(Self { _object: object, samples })
    }

    /// Samples so far.
    pub(crate) fn look(&self) -> Result<Look> {
        let [user, kernel, idle] = [self.samples.get(0)?, self.samples.get(1)?, self.samples.get(2)?];
        Ok(Look { at: Instant::now(), user, kernel, idle })
    }
}

impl Look {
    /// What the core did since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Split {
        let [user, kernel, idle] = [self.user - earlier.user, self.kernel - earlier.kernel, self.idle - earlier.idle];
        let samples = user + kernel + idle;
        let each = (self.at - earlier.at).as_nanos() as f64 / samples.max(1) as f64;
        let ns = |n: u64| n as f64 * each;
        Split { user_ns: ns(user), kernel_ns: ns(kernel), idle_ns: ns(idle), samples }
    }
}
