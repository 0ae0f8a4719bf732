//! Lists the faults of the drill: the action, and the scope that it may affect.

use super::lab::{Lab, ProcessResources, Relay, Report};
use super::traffic::At;
use crate::process::{Result, Session, failed};
use std::path::Path;
use std::time::{Duration, Instant};

/// Limits which packets a fault may lose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AffectedScope {
    /// No packet.
    Nothing,
    /// Packets of queue 1 of the first interface.
    Port,
    /// Packets of queue 1 of both interfaces: one actor.
    Actor,
    /// Packets of the first interface.
    Interface,
    /// Packets of the first interface, and of queue 1 of the other one.
    InterfaceAndActor,
}

impl AffectedScope {
    pub(super) fn covers(self, (interface, queue): At) -> bool {
        match self {
            AffectedScope::Nothing => false,
            AffectedScope::Port => (interface, queue) == (0, 1),
            AffectedScope::Actor => queue == 1,
            AffectedScope::Interface => interface == 0,
            AffectedScope::InterfaceAndActor => interface == 0 || queue == 1,
        }
    }
}

/// Gives the action of a fault what it needs.
pub(super) struct DrillContext<'a> {
    pub(super) session: &'a Session,
    pub(super) lab: &'a Lab,
    pub(super) relay: &'a mut Relay,
    pub(super) binary: &'a Path,
}

impl DrillContext<'_> {
    /// Injects a fault into queue 1 and waits for this number of restarts.
    fn broken(&mut self, line: &str, restarts: u64) -> Result<()> {
        let before = self.relay.report()?.queues.get(1).map_or(0, |queue| queue.restarts);
        self.relay.inject(line)?;
        let done = |r: &Report| r.queues.get(1).is_some_and(|queue| queue.restarts >= before + restarts);
        self.relay.until(self.session, "restarted", done).map(drop)
    }

    fn near(&mut self, argv: &str) -> Result<()> {
        self.lab.near(self.session, &argv.split(' ').collect::<Vec<_>>())
    }

    /// Changes the first interface's XDP program, like another process with the privilege.
    fn inject_program_fault(&mut self, what: &str) -> Result<()> {
        let binary = self.binary.display().to_string();
        self.lab.near(self.session, &[&binary, "inject-program-fault", what, "near0"])
    }

    fn waiting(&mut self) -> Result<()> {
        let waits = |r: &Report| r.queues.iter().all(|queue| queue.state == "waiting");
        self.relay.until(self.session, "noticed", waits).map(drop)
    }

    /// Restarts queue 1 of the first interface this number of times, and waits for it.
    fn restarted(&mut self, times: u64) -> Result<()> {
        let restarts = |r: &Report| r.queues.get(1).map_or(0, |queue| queue.restarts);
        let before = restarts(&self.relay.report()?);
        self.relay.inject(&format!("restarts near0:1 {times}"))?;
        let done = |r: &Report| restarts(r) >= before + times && r.queues.iter().all(|queue| queue.state == "running");
        self.relay.until_within(self.session, "restarted", MINUTES, done).map(drop)
    }

    /// Waits until the relay holds no more resources than `before`: helper threads of executors end shortly after
    /// them.
    fn released(&mut self, before: ProcessResources) -> Result<()> {
        for _ in 0..40 {
            let after = self.relay.held()?;
            let grown = after.mappings > before.mappings + MAPPINGS || after.rss_kib > before.rss_kib + RSS_KIB;
            if after.descriptors == before.descriptors && !grown {
                return Ok(());
            }
            self.rest()?;
        }
        failed(format!("resources leaked: before {before:?}, after {:?}", self.relay.held()?))
    }

    fn rest(&self) -> Result<()> {
        self.session.cancel.sleep(Duration::from_millis(300))
    }
}

/// Time limit for a thousand restarts. Each takes the kernel tens of milliseconds on any machine.
const MINUTES: Duration = Duration::from_secs(300);
/// Tolerated number of new mappings: the allocator keeps arenas of ended threads, and may split or join them.
const MAPPINGS: u64 = 8;
/// Tolerated growth of the resident memory. A leaked UMEM would add megabytes for each restart, a leaked handler or
/// table some KiB.
const RSS_KIB: u64 = 4096;

/// Describes one fault of the drill.
pub(super) struct DrillCase {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) reach: AffectedScope,
    pub(super) act: fn(&mut DrillContext<'_>) -> Result<()>,
}

/// Lists the faults in their order.
pub(super) const FAULTS: &[DrillCase] = &[
    DrillCase {
        name: "panic",
        what: "handler panics every 1000th packet, twice",
        reach: AffectedScope::Actor,
        act: |cx| {
            cx.broken("panic near0:1 1000", 2)?;
            cx.relay.inject("panic near0:1 0")
        },
    },
    DrillCase {
        name: "stall",
        what: "handler does not return for 2.5 s",
        reach: AffectedScope::Actor,
        act: |cx| {
            let end = Instant::now() + Duration::from_millis(2500);
            cx.relay.inject("stall near0:1 2500")?;
            let stalled = |r: &Report| r.queues.get(1).is_some_and(|queue| queue.stalled);
            cx.relay.until(cx.session, "noticed", stalled)?;
            cx.session.cancel.sleep(end.saturating_duration_since(Instant::now()))
        },
    },
    DrillCase {
        name: "completions",
        what: "completions stop, link up",
        reach: AffectedScope::Port,
        act: |cx| cx.broken("completions near0:1", 1),
    },
    DrillCase {
        name: "socket",
        what: "socket lost",
        reach: AffectedScope::Port,
        act: |cx| cx.broken("socket near0:1", 1),
    },
    DrillCase {
        name: "leak",
        what: "three frames leak",
        reach: AffectedScope::Actor,
        act: |cx| cx.broken("leak near0:1 3", 1),
    },
    DrillCase {
        name: "restart-handler",
        what: "handler restarted by command",
        reach: AffectedScope::Nothing,
        act: |cx| cx.broken("restart-handler near0:1", 1),
    },
    DrillCase {
        name: "restart-port",
        what: "port restarted by command",
        reach: AffectedScope::Port,
        act: |cx| cx.broken("restart-port near0:1", 1),
    },
    DrillCase {
        name: "restart-queue",
        what: "queue restarted by command",
        reach: AffectedScope::Actor,
        act: |cx| cx.broken("restart-queue near0:1", 1),
    },
    DrillCase {
        name: "thousand",
        what: "a thousand restarts after a thousand: 600 handlers, 300 ports, 100 queues; no resource leaks",
        reach: AffectedScope::Actor,
        act: |cx| {
            // Threads come and go, and with them the allocator's arenas. Each arena reaches the size of a handler's
            // tables only after some hundred restarts, and then stays.
            cx.restarted(1000)?;
            cx.rest()?;
            let before = cx.relay.held()?;
            cx.restarted(1000)?;
            cx.released(before)
        },
    },
    DrillCase {
        name: "flap",
        what: "link down and up, five times",
        reach: AffectedScope::Interface,
        act: |cx| {
            for _ in 0..5 {
                cx.rest()?;
                cx.near("ip link set near0 down")?;
                cx.near("ip link set near0 up")?;
            }
            cx.lab.running(cx.session, 0)
        },
    },
    DrillCase {
        name: "detach",
        what: "XDP program detached",
        reach: AffectedScope::Interface,
        act: |cx| cx.inject_program_fault("detach"),
    },
    DrillCase {
        name: "swap",
        what: "program replaced under the relay's bpf_link",
        reach: AffectedScope::Interface,
        act: |cx| cx.inject_program_fault("swap"),
    },
    DrillCase {
        name: "replace",
        what: "another program attached instead, then detached",
        reach: AffectedScope::Interface,
        act: |cx| {
            let binary = cx.binary.display().to_string();
            let other = cx.lab.near_spawn(cx.session, &[&binary, "inject-program-fault", "replace", "near0"])?;
            cx.waiting()?;
            drop(other);
            Ok(())
        },
    },
    DrillCase {
        name: "mtu",
        what: "MTU lowered, raised and restored",
        reach: AffectedScope::Interface,
        act: |cx| {
            for mtu in ["1400", "2000", "1500"] {
                cx.near(&format!("ip link set near0 mtu {mtu}"))?;
                cx.rest()?;
            }
            Ok(())
        },
    },
    DrillCase {
        name: "move",
        what: "interface moved to another namespace and back",
        reach: AffectedScope::Interface,
        act: |cx| {
            let (other, own) = (cx.lab.far.pid(), cx.lab.near_pid());
            cx.near(&format!("ip link set near0 netns {other}"))?;
            cx.waiting()?;
            let back = format!("ip link set near0 netns {own}");
            cx.lab.far.run(cx.session, "far", &back.split(' ').collect::<Vec<_>>())?;
            cx.lab.address(cx.session, 0)?;
            cx.lab.running(cx.session, 0)
        },
    },
    DrillCase {
        name: "absent",
        what: "queue restarted while an interface is absent, then present again",
        reach: AffectedScope::InterfaceAndActor,
        act: |cx| {
            cx.near("ip link del near0")?;
            cx.waiting()?;
            let before = cx.relay.report()?.queues.get(1).map_or(0, |queue| queue.restarts);
            cx.relay.inject("restart-queue near1:1")?;
            let rebuilt = |r: &Report| r.queues.get(1).is_some_and(|q| q.restarts > before && q.state == "waiting");
            cx.relay.until(cx.session, "rebuilt", rebuilt)?;
            cx.lab.create_link(cx.session, 0)
        },
    },
    DrillCase {
        name: "channels",
        what: "channels set to 2, then to 4",
        reach: AffectedScope::Interface,
        act: |cx| {
            // The kernel refuses the first command while sockets are bound to the other queues; both are tried.
            let _ = cx.near("ethtool -L near0 rx 2 tx 2");
            let _ = cx.near("ethtool -L near0 rx 4 tx 4");
            Ok(())
        },
    },
    DrillCase {
        name: "recreate",
        what: "interface deleted and re-created",
        reach: AffectedScope::Interface,
        act: |cx| {
            cx.near("ip link del near0")?;
            cx.waiting()?;
            cx.lab.create_link(cx.session, 0)
        },
    },
    DrillCase {
        name: "rename",
        what: "interface renamed and renamed back",
        reach: AffectedScope::Interface,
        act: |cx| {
            cx.near("ip link set near0 down")?;
            cx.near("ip link set near0 name other")?;
            cx.waiting()?;
            cx.near("ip link set other name near0")?;
            cx.near("ip link set near0 up")?;
            cx.lab.running(cx.session, 0)
        },
    },
];
