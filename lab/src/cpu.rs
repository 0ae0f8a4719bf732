//! Pinning, and where a core's time goes.

use crate::programs::{Counters, failed};
use crate::{Error, Result};
use aya::programs::PerfEvent;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::{Ebpf, EbpfLoader};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use std::time::Instant;

/// Between two samples, nanoseconds: some 7900 a second, and no multiple of the kernel's tick.
const PERIOD_NS: u64 = 126_279;

static SPLIT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/split.bpf.o"));

/// Pins the calling thread, and those it will start, to one CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(Error::io(format!("pinning to CPU {cpu}")))
}

/// Milliseconds that the hypervisor has taken from `cpu` since boot (proc_stat(5), `steal`; ticks are 10 ms).
pub(crate) fn steal_ms(cpu: u32) -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let name = format!("cpu{cpu} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(name.as_str())).unwrap_or_default();
    line.split_whitespace().nth(7).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0) * 10
}

/// Samples what one core does: `bpf/split.bpf.c` at every tick of perf's cpu-clock. The kernel's own accounting uses ticks
/// of 4 ms, too coarse for the 5 % of a forwarder's time in user mode; a process' rusage lacks softirq.
pub(crate) struct Meter {
    _object: Ebpf,
    samples: Counters,
}

/// A look at a [`Meter`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    at: Instant,
    user: u64,
    kernel: u64,
}

/// A core's time in a window, nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct CpuTime {
    pub(crate) user_ns: f64,
    /// System calls, softirq and interrupts.
    pub(crate) kernel_ns: f64,
    /// Time without samples: the clock stops on an idle core, and while the hypervisor runs another guest.
    pub(crate) idle_ns: f64,
    /// Number of samples behind the figures.
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
            .attach(clock, PerfEventScope::AllProcessesOneCpu { cpu }, SamplePolicy::Period(PERIOD_NS), false)
            .map_err(failed("starting the sampler (perf_event_open: kernel.perf_event_paranoid, CAP_PERFMON)"))?;
        let samples = Counters::take(&mut object, "SAMPLES")?;
        Ok(Self { _object: object, samples })
    }

    /// Samples so far.
    pub(crate) fn sample(&self) -> Result<Sample> {
        Ok(Sample { at: Instant::now(), user: self.samples.get(0)?, kernel: self.samples.get(1)? })
    }
}

impl Sample {
    /// Returns what the core did since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> CpuTime {
        let (user, kernel) = (self.user - earlier.user, self.kernel - earlier.kernel);
        let [user_ns, kernel_ns] = [user, kernel].map(|samples| (samples * PERIOD_NS) as f64);
        let all = (self.at - earlier.at).as_nanos() as f64;
        CpuTime { user_ns, kernel_ns, idle_ns: (all - user_ns - kernel_ns).max(0.0), samples: user + kernel }
    }
}
