//! Defines the section `[engine]`: interfaces, queues, memory, cores.

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

/// Configures how the queues are opened and served. Every field except [`interfaces`](Self::interfaces) has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EngineConfig {
    /// Interfaces to serve, 1 to [`MAX_PORTS`]. Queue *k* of each belongs to actor *k*.
    pub interfaces: Vec<String>,
    /// Queues to serve on each interface; `Auto` means all that the interfaces have in common.
    pub queues: Choice<Vec<u32>>,
    /// Number of entries of the RX and TX rings: a power of two from 64 to 32768.
    pub ring_size: u32,
    /// Size of a frame in bytes: 2048 or 4096.
    pub frame_size: u32,
    /// Number of frames of each actor; `Auto` means as many as the rings and the actor can hold.
    pub frame_count: Choice<u32>,
    /// Limit of packets taken at once, 1 to 64.
    pub batch_size: u32,
    /// Whether the actor's own core polls the NIC (preferred busy polling).
    pub busy_poll: bool,
    /// Maximum time of one busy poll in microseconds, 1 to 1000.
    pub busy_poll_timeout_us: u32,
    /// Whether the NIC writes directly to the packet memory.
    pub zero_copy: ZeroCopy,
    /// Vector instructions to use.
    pub simd: Choice<Level>,
    /// Whether to use 2 MiB pages. `Fixed(true)` requests them and reports if there are none.
    pub huge_pages: Choice<bool>,
    /// Cores of the actors in the order of the queues. With fewer cores than queues, queues share.
    pub pin: Choice<Vec<u32>>,
    /// NUMA node of memory and cores; `Auto` means the node of the NIC.
    pub numa: Choice<u32>,
    /// SCHED_FIFO priority of the queue threads.
    pub realtime: Realtime,
    /// Executor of the actors.
    pub executor: ExecutorKind,
    /// Action for the relay's packets while their queue has no socket.
    pub fallback: Fallback,
    /// XDP hook of the steering program.
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

/// Selects the `executor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutorKind {
    /// Uses glommio if io_uring is permitted, and a plain thread otherwise, with a report.
    #[default]
    Auto,
    /// Requires glommio.
    Glommio,
    /// Uses a plain pinned thread.
    Thread,
}

/// Selects the `fallback`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// The XDP program drops the packet.
    #[default]
    Drop,
    /// The kernel gets the packet, and answers with ICMP port unreachable if nothing listens there.
    Pass,
}

/// Selects the mode of `attach`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// Uses native mode if the driver supports it, and generic mode otherwise, with a report.
    #[default]
    Auto,
    /// Requires the hook of the driver.
    Native,
    /// Uses the kernel's hook after the driver, which is slow but works everywhere.
    Generic,
}

/// Limits the queue numbers, because the XSKMAP has an entry for each number up to this one.
const MAX_QUEUE: u32 = MAX_QUEUES - 1;
/// Limits the CPU numbers. It is above those of any machine, and detects typing errors.
const MAX_CPU: u32 = 8191;
const MAX_NODE: u32 = 1023;
/// Limits the length of an alternative interface name: `ALTIFNAMSIZ` without its final zero (include/uapi/linux/if.h).
const MAX_INTERFACE_NAME: usize = 127;

impl EngineConfig {
    /// Returns the defaults for these interfaces.
    #[must_use]
    pub fn new(interfaces: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { interfaces: interfaces.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Returns the maximum time of one busy poll.
    #[must_use]
    pub fn busy_poll_timeout(&self) -> Duration {
        Duration::from_micros(u64::from(self.busy_poll_timeout_us))
    }

    /// Checks all values. Every function that takes an `EngineConfig` calls it.
    ///
    /// # Errors
    /// Returns [`ConfigError::Invalid`] with all problems.
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

    /// Adds a problem for every value that is out of range or in conflict with another value.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        self.check_interfaces(problems);
        self.check_sizes(problems);
        self.check_cores(problems);
    }

    fn check_interfaces(&self, problems: &mut Vec<Problem>) {
        let mut report = |value: String, wanted: &str, remedy: &str| {
            problems.push(Problem::new("engine.interfaces", value, wanted, remedy));
        };
        if self.interfaces.is_empty() {
            report(
                String::new(),
                "expected at least one interface",
                "write interfaces = [\"eth0\"] (see `ip -br link`)",
            );
        }
        if self.interfaces.len() > usize::from(MAX_PORTS) {
            let wanted = format!("expected at most {MAX_PORTS} interfaces");
            report(format!("{} interfaces", self.interfaces.len()), &wanted, "start a second engine for the others");
        }
        let mut seen = HashSet::new();
        for name in &self.interfaces {
            let legal = !name.is_empty()
                && name.len() <= MAX_INTERFACE_NAME
                && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace());
            if !legal {
                report(
                    format!("{name:?}"),
                    "expected 1 to 15 bytes (an alternative name up to 127) without blank, colon or slash",
                    "take the name from `ip -br link`",
                );
            }
            if !seen.insert(name) {
                report(format!("{name:?}"), "expected each interface once", "remove the second one");
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
                             at most {MAX_FRAMES} are possible",
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
                "write busy_poll = false to disable busy polling"
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
            // From 50 on, a spinning queue would delay the kernel's own interrupt threads.
            ENGINE.refuse("realtime", priority, "write realtime = false, or a priority from 1 to 49", problems);
        }
    }
}

/// Limits the frames of one actor: 4 GiB of 4 KiB frames.
const MAX_FRAMES: u32 = 1 << 20;
