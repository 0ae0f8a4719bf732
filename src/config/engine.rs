//! `[engine]`: interfaces, queues, memory, cores.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{ConfigError, Problem};
use super::sections::ENGINE;
use super::value::{Choice, Realtime};
use crate::packet::LANES;
use crate::simd::Level;
use crate::umem::{MAX_PORTS, RingSizes, UmemLayout};
use crate::xdp::ZeroCopy;
use crate::xdp::steering::MAX_QUEUES;

/// How the queues are opened and served. Every field has a default but [`interfaces`](Self::interfaces).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Interfaces served, 1 to [`MAX_PORTS`]; queue *k* of each belongs to actor *k*.
    pub interfaces: Vec<String>,
    /// Queues served on each interface; `Auto` is all that the interfaces have in common.
    pub queues: Choice<Vec<u32>>,
    /// Entries of the RX and TX rings; a power of two from 64 to 32768.
    pub ring_size: u32,
    /// Bytes of a frame: 2048 or 4096.
    pub frame_size: u32,
    /// Frames of each actor; `Auto` is what the rings can hold and two batches.
    pub frame_count: Choice<u32>,
    /// Packets taken at once, 1 to 64.
    pub batch_size: u32,
    /// Preferred busy polling of the NIC from the actor's own core.
    pub busy_poll: bool,
    /// How long one busy poll may last, microseconds, 1 to 1000.
    pub busy_poll_timeout_us: u32,
    /// Whether the NIC writes into our memory.
    pub zero_copy: ZeroCopy,
    /// Vector instructions used.
    pub simd: Choice<Level>,
    /// 2 MiB pages; `Fixed(true)` asks for them and reports where there are none.
    pub huge_pages: Choice<bool>,
    /// Cores of the actors, in the order of the queues; several queues share one where there are more.
    pub pin: Choice<Vec<u32>>,
    /// NUMA node of memory and cores; `Auto` is the NIC's.
    pub numa: Choice<u32>,
    /// SCHED_FIFO for the queue threads.
    pub realtime: Realtime,
    /// What runs an actor.
    pub executor: ExecutorKind,
    /// What becomes of a packet for the relay while its queue has no socket.
    pub fallback: Fallback,
    /// Which XDP hook the steering program uses.
    pub attach: Attach,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            queues: Choice::Auto,
            ring_size: 1024,
            frame_size: 2048,
            frame_count: Choice::Auto,
            batch_size: 64,
            busy_poll: true,
            busy_poll_timeout_us: 20,
            zero_copy: ZeroCopy::Auto,
            simd: Choice::Auto,
            huge_pages: Choice::Auto,
            pin: Choice::Auto,
            numa: Choice::Auto,
            realtime: Realtime(None),
            executor: ExecutorKind::Auto,
            fallback: Fallback::Drop,
            attach: Attach::Auto,
        }
    }
}

/// `executor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutorKind {
    /// glommio where io_uring is allowed, else a plain thread, told.
    #[default]
    Auto,
    /// glommio or no start.
    Glommio,
    /// A plain pinned thread.
    Thread,
}

/// `fallback`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// Dropped by the XDP program.
    #[default]
    Drop,
    /// Given to the kernel, which answers with ICMP port unreachable if nobody listens.
    Pass,
}

/// `attach`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// Native where the driver has it, else generic, told.
    #[default]
    Auto,
    /// The driver's hook, or no start.
    Native,
    /// The kernel's hook behind the driver: slow, works everywhere.
    Generic,
}

/// Highest queue number: the steering program has a slot for each up to this one.
const MAX_QUEUE: u32 = MAX_QUEUES - 1;
/// Highest CPU and node that are believed: above what any machine has, below what a slip of the finger writes.
const MAX_CPU: u32 = 8191;
const MAX_NODE: u32 = 1023;
/// `ALTIFNAMSIZ` without its terminating zero: an alternative name (include/uapi/linux/if.h).
const MAX_INTERFACE_NAME: usize = 127;

impl EngineConfig {
    /// The defaults, for these interfaces.
    #[must_use]
    pub fn new(interfaces: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { interfaces: interfaces.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// How long one busy poll may last.
    #[must_use]
    pub fn busy_poll_timeout(&self) -> Duration {
        Duration::from_micros(u64::from(self.busy_poll_timeout_us))
    }

    /// Checks all values. Every function that takes an `EngineConfig` does so by itself.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    ///
    /// ```
    /// let config = oxide::config::EngineConfig::new((0..9).map(|n| format!("eth{n}")));
    /// assert!(config.validate().unwrap_err().to_string().contains("at most 8 interfaces"));
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        self.check(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// Adds to `problems` everything that is out of range or does not fit the rest.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        self.check_interfaces(problems);
        self.check_sizes(problems);
        self.check_cores(problems);
    }

    fn check_interfaces(&self, problems: &mut Vec<Problem>) {
        let mut say = |value: String, wanted: &str, remedy: &str| {
            problems.push(Problem::new("engine.interfaces", value, wanted, remedy));
        };
        if self.interfaces.is_empty() {
            say(String::new(), "at least one interface is needed", "write interfaces = [\"eth0\"] (see `ip -br link`)");
        }
        if self.interfaces.len() > usize::from(MAX_PORTS) {
            let wanted = format!("at most {MAX_PORTS} interfaces");
            say(format!("{} interfaces", self.interfaces.len()), &wanted, "start a second engine for the others");
        }
        let mut seen = HashSet::new();
        for name in &self.interfaces {
            let legal = !name.is_empty()
                && name.len() <= MAX_INTERFACE_NAME
                && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
            if !legal {
                say(
                    format!("{name:?}"),
                    "an interface name has 1 to 15 bytes (an alternative name up to 127), no blank, colon or slash",
                    "take the name from `ip -br link`",
                );
            }
            if !seen.insert(name) {
                say(format!("{name:?}"), "each interface once", "remove the second one");
            }
        }
    }

    fn check_sizes(&self, problems: &mut Vec<Problem>) {
        match RingSizes::from_ring_size(self.ring_size) {
            Err(_) => {
                let near = self.ring_size.clamp(64, 32_768).next_power_of_two();
                ENGINE.refuse("ring_size", self.ring_size, format!("write ring_size = {near}"), problems);
            }
            Ok(rings) => {
                let ports = self.interfaces.len().max(1) as u32;
                let least = UmemLayout::frames_for(&rings, ports.min(u32::from(MAX_PORTS)));
                if let Choice::Fixed(count) = self.frame_count
                    && !(least..=MAX_FRAMES).contains(&count)
                {
                    problems.push(Problem::new(
                        "engine.frame_count",
                        count,
                        format!(
                            "ring_size = {} on {ports} interface(s) needs at least {least} frames for each queue, and \
                             {MAX_FRAMES} are the most",
                            self.ring_size
                        ),
                        format!("write frame_count = {least}, or \"auto\", or a smaller ring_size"),
                    ));
                }
            }
        }
        if self.frame_size != 2048 && self.frame_size != 4096 {
            let near = if self.frame_size > 2048 { 4096 } else { 2048 };
            ENGINE.refuse("frame_size", self.frame_size, format!("write frame_size = {near}"), problems);
        }
        if !(1..=LANES as u32).contains(&self.batch_size) {
            ENGINE.refuse("batch_size", self.batch_size, "write batch_size = 64", problems);
        }
        if !(1..=1000).contains(&self.busy_poll_timeout_us) {
            let remedy = if self.busy_poll_timeout_us == 0 {
                "write busy_poll = false to do without busy polling"
            } else {
                "write busy_poll_timeout_us = 20 (the unit is microseconds)"
            };
            ENGINE.refuse("busy_poll_timeout_us", self.busy_poll_timeout_us, remedy, problems);
        }
    }

    fn check_cores(&self, problems: &mut Vec<Problem>) {
        for (name, list, highest, remedy) in [
            ("queues", self.queues.fixed(), MAX_QUEUE, "write queues = \"auto\", or [0, 1] (see `ethtool -l`)"),
            ("pin", self.pin.fixed(), MAX_CPU, "write pin = \"auto\", or one CPU for each queue (see `lscpu -e`)"),
        ] {
            let Some(list) = list else { continue };
            let unique = list.iter().collect::<HashSet<_>>().len() == list.len();
            if list.is_empty() || !unique || list.iter().any(|&n| n > highest) {
                ENGINE.refuse(name, format!("{list:?}"), remedy, problems);
            }
        }
        if let Choice::Fixed(node) = self.numa
            && node > MAX_NODE
        {
            ENGINE.refuse("numa", node, "write numa = \"auto\", or a node from `lscpu`", problems);
        }
        if let Realtime(Some(priority)) = self.realtime
            && !(1..=49).contains(&priority)
        {
            // From 50 on the kernel's own interrupt threads would have to wait for a spinning queue.
            ENGINE.refuse("realtime", priority, "write realtime = false, or a priority from 1 to 49", problems);
        }
    }
}

/// Most frames of one actor: 4 GiB of 4 KiB frames.
const MAX_FRAMES: u32 = 1 << 20;
