//! Loads the BPF programs that create, count and return frames (`bpf/*.bpf.c`). Their objects are in the repository,
//! so that building needs no clang for BPF. docs/performance.md has the command; a test compares.

use crate::frame::{self, CLIENT, CLIENT_PORT};
use crate::{Error, Result};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, TestRun, TestRunAttrs, TestRunOptions};

static GENERATE: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/generate.bpf.o"));
static BOUNCE: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/bounce.bpf.o"));
static COUNT: &[u8] = aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/count.bpf.o"));

/// Number of frames that the kernel creates between two checks for signals and rescheduling. It refuses more than 256
/// (net/bpf/test_run.c, `TEST_XDP_MAX_BATCH`), and a veth's ring holds 256.
const BATCH: u32 = 64;

pub(crate) fn failed<E: std::error::Error>(what: &str) -> impl FnOnce(E) -> Error {
    move |error| {
        let mut text = format!("{what}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Error::Text(text)
    }
}

/// Describes the frames that the generator sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Size of a frame in bytes, without FCS.
    pub(crate) frame: usize,
    /// Number of flows, a power of two.
    pub(crate) flows: u32,
    /// First UDP port of the forwarder.
    pub(crate) port: u16,
    /// Number of ports used in alternation.
    pub(crate) ports: u16,
}

/// Holds the loaded generator.
pub(crate) struct Generator {
    object: Ebpf,
    packet: Vec<u8>,
}

impl Generator {
    /// Loads the generator for `shape`, to send through interface `ifindex`. If `ordered`, it sends only what
    /// [`TrialControl`] requests.
    pub(crate) fn load(shape: Shape, ifindex: u32, ordered: bool) -> Result<Self> {
        if !shape.flows.is_power_of_two() || shape.flows > 1 << 22 || shape.ports == 0 {
            return Err(Error::Text("flows: expected a power of two up to 4 Mi, and at least one port".to_owned()));
        }
        let packet = frame::request(shape.frame, shape.port)?;
        let word = |at: usize| u32::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        let mut head: [u16; 21] = std::array::from_fn(|n| u16::from_ne_bytes([packet[2 * n], packet[2 * n + 1]]));
        // The program fills in IP checksum, source address, both ports and UDP checksum.
        for n in [12, 13, 14, 17, 18, 20] {
            head[n] = 0;
        }
        let ip_sum: u32 = (14..34).step_by(2).filter(|at| ![24, 26, 28].contains(at)).map(word).sum();
        let length = packet.len() - 34;
        let destination = word(30) + word(32);
        let payload: u32 =
            packet[42..].chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
        // The length is in the pseudo-header and in the header. 1400 bytes add up to less than 2^26.
        let udp_sum = destination + 17 + 2 * length as u32 + payload;
        let mask = shape.flows - 1;
        let (source, source_port) = (u32::from(CLIENT), u32::from(CLIENT_PORT));
        let (port, ports) = (u32::from(shape.port), u32::from(shape.ports));
        let mut object = EbpfLoader::new()
            .btf(None)
            .override_global("HEAD", &head, true)
            .override_global("IP_SUM", &ip_sum, true)
            .override_global("UDP_SUM", &udp_sum, true)
            .override_global("SOURCE", &source, true)
            .override_global("SOURCE_PORT", &source_port, true)
            .override_global("FLOW_MASK", &mask, true)
            .override_global("PORT", &port, true)
            .override_global("PORTS", &ports, true)
            .override_global("IFINDEX", &ifindex, true)
            .override_global("ORDERED", &u32::from(ordered), true)
            .load(GENERATE)
            .map_err(failed("cannot load the generator"))?;
        program(&mut object, "oxide_generate")?.load().map_err(failed("cannot load the generator"))?;
        Ok(Self { object, packet })
    }

    /// Sends `frames` from the calling thread's CPU. Returns early with an error after a signal.
    pub(crate) fn send(&mut self, frames: u32) -> Result<()> {
        let attrs = TestRunAttrs::new().xdp_live_frames(BATCH.min(frames));
        let options = TestRunOptions { data_in: Some(&self.packet), repeat: frames, attrs, ..TestRunOptions::new() };
        let program: &Xdp = self
            .object
            .program("oxide_generate")
            .ok_or_else(|| Error::Text("no program oxide_generate".to_owned()))?
            .try_into()
            .map_err(failed("generator"))?;
        program.test_run(options).map_err(failed("cannot send live frames (needs Linux 5.18)"))?;
        Ok(())
    }

    /// Returns the counter of created frames.
    pub(crate) fn made(&mut self) -> Result<Counters> {
        Counters::take(&mut self.object, "MADE")
    }

    /// Returns the maps that control the generator and report its progress.
    pub(crate) fn orders(&mut self) -> Result<TrialControl> {
        Ok(TrialControl { order: array(&mut self.object, "ORDER")?, progress: array(&mut self.object, "PROGRESS")? })
    }
}

fn array<const N: usize>(object: &mut Ebpf, name: &str) -> Result<Array<MapData, [u64; N]>> {
    let map = object.take_map(name).ok_or_else(|| Error::Text(format!("no map {name}")))?;
    map.try_into().map_err(failed(name))
}

/// Describes the frames of a trial.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    /// Rate in packets per second; 0 means the maximum.
    pub(crate) pps: f64,
    pub(crate) frames: u64,
    /// Number of the first frame; the number selects the flow.
    pub(crate) first: u64,
}

/// Mirrors `struct progress` of bpf/generate.bpf.c. Times are nanoseconds of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    pub(crate) sent: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) late: u64,
}

/// Holds the maps that control an ordered [`Generator`].
pub(crate) struct TrialControl {
    order: Array<MapData, [u64; 4]>,
    progress: Array<MapData, [u64; 5]>,
}

impl TrialControl {
    /// Begins trial `number`, which must be new.
    pub(crate) fn give(&mut self, number: u64, order: &Order) -> Result<()> {
        let step = if order.pps > 0.0 { (1e9 * 1024.0 / order.pps) as u64 } else { 0 };
        // The program may read during the write. So the other fields are written first, while trial 0 stops it, and
        // then the number.
        self.order.set(0, [0, step, order.frames, order.first], 0).map_err(failed("cannot set the order"))?;
        self.order.set(0, [number, step, order.frames, order.first], 0).map_err(failed("cannot set the order"))
    }

    /// Ends the trial.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let [_, step, frames, first] = self.order.get(&0, 0).map_err(failed("cannot read the order"))?;
        self.order.set(0, [0, step, frames, first], 0).map_err(failed("cannot set the order"))?;
        // This waits for the frames of the current batch.
        std::thread::sleep(std::time::Duration::from_millis(1));
        Ok(())
    }

    /// Returns the progress of trial `number`; zeros if the generator has not seen it yet. After [`stop`](Self::stop)
    /// it is the progress of the stopped trial.
    pub(crate) fn progress(&self, number: u64) -> Result<Progress> {
        let [trial, sent, start, end, late] = self.progress.get(&0, 0).map_err(failed("cannot read the progress"))?;
        Ok(if trial == number { Progress { sent, start, end, late } } else { Progress::default() })
    }
}

/// Holds a map of counters, one set per CPU.
pub(crate) struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    pub(crate) fn take(object: &mut Ebpf, name: &str) -> Result<Self> {
        let map = object.take_map(name).ok_or_else(|| Error::Text(format!("no map {name}")))?;
        Ok(Self(map.try_into().map_err(failed(name))?))
    }

    /// Returns counter `index`, summed over all CPUs.
    pub(crate) fn get(&self, index: u32) -> Result<u64> {
        let values = self.0.get(&index, 0).map_err(failed("cannot read a counter"))?;
        Ok(values.iter().copied().fold(0, u64::wrapping_add))
    }
}

/// Counts packets on one interface of the far side. It is attached until it is dropped.
pub(crate) struct Counter {
    _object: Ebpf,
    counters: Counters,
    times: Counters,
}

/// Holds the counts of a [`Counter`].
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct FarSideCount {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) others: u64,
}

impl FarSideCount {
    /// Returns what arrived since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            packets: self.packets - earlier.packets,
            bytes: self.bytes - earlier.bytes,
            others: self.others - earlier.others,
        }
    }
}

impl Counter {
    /// Attaches to `interface` in native mode.
    pub(crate) fn attach(interface: &str) -> Result<Self> {
        let mut object = EbpfLoader::new().btf(None).load(COUNT).map_err(failed("cannot load the counter"))?;
        let program = program(&mut object, "oxide_count")?;
        program.load().map_err(failed("cannot load the counter"))?;
        program
            .attach(interface, XdpMode::Driver)
            .map_err(failed(&format!("{interface}: cannot attach the counter")))?;
        let counters = Counters::take(&mut object, "COUNTERS")?;
        let times = Counters::take(&mut object, "TIMES")?;
        Ok(Self { _object: object, counters, times })
    }

    /// Returns what arrived so far.
    pub(crate) fn seen(&self) -> Result<FarSideCount> {
        Ok(FarSideCount { packets: self.counters.get(0)?, bytes: self.counters.get(1)?, others: self.counters.get(2)? })
    }

    /// Returns what arrived so far at all of `counters`.
    pub(crate) fn all(counters: &[Self]) -> Result<FarSideCount> {
        counters.iter().try_fold(FarSideCount::default(), |sum, counter| {
            let seen = counter.seen()?;
            Ok(FarSideCount {
                packets: sum.packets + seen.packets,
                bytes: sum.bytes + seen.bytes,
                others: sum.others + seen.others,
            })
        })
    }

    /// Adds the table of times so far to `table`.
    pub(crate) fn add_times(&self, table: &mut [u64]) -> Result<()> {
        for (bucket, sum) in (0..).zip(table) {
            *sum += self.times.get(bucket)?;
        }
        Ok(())
    }
}

/// Forwards packets of one interface in the kernel. It is attached until it is dropped.
pub(crate) struct Bounce {
    _object: Ebpf,
}

impl Bounce {
    /// Attaches to `interface`. Packets leave through `out`, or return if there is none.
    pub(crate) fn attach(interface: &str, out: Option<&str>) -> Result<Self> {
        let ifindex = out.map_or(Ok(0), crate::saturate::ifindex)?;
        let bytes = [frame::VD.0, frame::VC.0].concat();
        let macs: [u16; 6] = std::array::from_fn(|n| u16::from_ne_bytes([bytes[2 * n], bytes[2 * n + 1]]));
        let mut object = EbpfLoader::new()
            .btf(None)
            .override_global("IFINDEX", &ifindex, true)
            .override_global("MACS", &macs, true)
            .load(BOUNCE)
            .map_err(failed("cannot load the forwarder"))?;
        let program = program(&mut object, "oxide_bounce")?;
        program.load().map_err(failed("cannot load the forwarder"))?;
        program
            .attach(interface, XdpMode::Driver)
            .map_err(failed(&format!("{interface}: cannot attach the forwarder")))?;
        Ok(Self { _object: object })
    }
}

fn program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = object.program_mut(name).ok_or_else(|| Error::Text(format!("no program {name}")))?;
    program.try_into().map_err(failed(name))
}
