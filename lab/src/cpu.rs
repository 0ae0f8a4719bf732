//! Pins threads, and measures the time of a core by kind.

use crate::programs::{Counters, failed};
use crate::{Error, Result};
use aya::programs::PerfEvent;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::{Ebpf, EbpfLoader};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::Serialize;
use std::time::Instant;

/// Interval between two samples in nanoseconds: about 7900 samples a second, and not a multiple of the kernel's tick.
const PERIOD_NS: u64 = 126_279;

static SPLIT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/split.bpf.o"));

/// Pins the calling thread, and those that it starts later, to one CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(Error::io(format!("CPU {cpu}: cannot pin")))
}

/// Returns the milliseconds that the hypervisor has taken from `cpu` since boot (proc_stat(5), `steal`; ticks are 10
/// ms).
pub(crate) fn steal_ms(cpu: u32) -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let name = format!("cpu{cpu} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(name.as_str())).unwrap_or_default();
    line.split_whitespace().nth(7).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0) * 10
}

/// Samples one core by running `bpf/split.bpf.c` at every tick of perf's cpu-clock. The kernel's own accounting has
/// ticks of 4 ms, which is too coarse for the 5 % of a forwarder's time in user mode. A process' rusage does not
/// contain softirq.
pub(crate) struct Meter {
    _object: Ebpf,
    samples: Counters,
}

/// Holds one sample of a [`Meter`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    at: Instant,
    user: u64,
    kernel: u64,
}

/// Holds the time of a core in a window, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct CpuTime {
    pub(crate) user_ns: f64,
    /// Time in system calls, softirq and interrupts.
    pub(crate) kernel_ns: f64,
    /// Time without samples: the clock stops on an idle core, and while the hypervisor runs another guest.
    pub(crate) idle_ns: f64,
    /// Number of samples.
    pub(crate) samples: u64,
}

impl Meter {
    /// Starts to sample `cpu`. It ends on drop.
    pub(crate) fn start(cpu: u32) -> Result<Self> {
        let machine = u32::from(cfg!(target_arch = "aarch64"));
        let mut object = EbpfLoader::new()
            .btf(None)
            .override_global("MACHINE", &machine, true)
            .load(SPLIT)
            .map_err(failed("cannot load the sampler"))?;
        let program =
            object.program_mut("oxide_split").ok_or_else(|| Error::Text("no program oxide_split".to_owned()))?;
        let program: &mut PerfEvent = program.try_into().map_err(failed("sampler"))?;
        program.load().map_err(failed("cannot load the sampler"))?;
        let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
        program
            .attach(clock, PerfEventScope::AllProcessesOneCpu { cpu }, SamplePolicy::Period(PERIOD_NS), false)
            .map_err(failed("cannot start the sampler (needs CAP_PERFMON or a lower kernel.perf_event_paranoid)"))?;
        let samples = Counters::take(&mut object, "SAMPLES")?;
        Ok(Self { _object: object, samples })
    }

    /// Returns the samples so far.
    pub(crate) fn sample(&self) -> Result<Sample> {
        Ok(Sample { at: Instant::now(), user: self.samples.get(0)?, kernel: self.samples.get(1)? })
    }
}

impl Sample {
    /// Returns the core's time since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> CpuTime {
        let (user, kernel) = (self.user - earlier.user, self.kernel - earlier.kernel);
        let [user_ns, kernel_ns] = [user, kernel].map(|samples| (samples * PERIOD_NS) as f64);
        let all = (self.at - earlier.at).as_nanos() as f64;
        CpuTime { user_ns, kernel_ns, idle_ns: (all - user_ns - kernel_ns).max(0.0), samples: user + kernel }
    }
}
