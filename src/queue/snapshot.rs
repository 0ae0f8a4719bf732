//! One queue at one moment, as the supervisor and its readers see it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::counters::QueueCounters;
use super::datapath::Datapath;
use super::handler::Handler;
use crate::port::{KernelCounters, Occupancy, Port, PortCounters, QueueId};
use crate::umem::{FrameCounts, PortIndex};

/// One port at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct PortSnapshot {
    /// Which port.
    pub id: QueueId,
    /// Whether it has a socket now.
    pub open: bool,
    /// Its own counters, over all its sockets.
    pub counters: PortCounters,
    /// The kernel's; zero where it did not answer.
    pub kernel: KernelCounters,
    /// How full its rings are.
    pub occupancy: Occupancy,
    /// Preferred busy polling is in force.
    pub busy_polling: bool,
}

/// One queue at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct QueueSnapshot {
    /// Queue number.
    pub queue: u32,
    /// How long this actor has been running: the sum of its regimes.
    pub uptime: Duration,
    /// What it counted since it was started.
    pub counters: QueueCounters,
    /// Its ports.
    pub ports: Vec<PortSnapshot>,
    /// Where its frames are.
    pub census: FrameCounts,
    /// Frames with the application that the queue knows of; `census.app` where nothing is lost.
    pub in_hand: u32,
    /// Whether the books balance.
    pub balanced: bool,
    /// Sessions of the handler.
    pub sessions: u64,
    /// Bytes of packet memory.
    pub umem_bytes: u64,
    /// Bytes that the handler keeps.
    pub handler_bytes: u64,
    /// What the handler counts, since it was made.
    pub handler: BTreeMap<&'static str, u64>,
}

impl QueueSnapshot {
    pub(super) fn take<P: Port, H: Handler>(datapath: &mut Datapath<P, H>, queue: u32) -> Self {
        let ids: Vec<QueueId> = datapath.infos().iter().map(|info| info.id.clone()).collect();
        let one = |(id, at): (QueueId, PortIndex)| {
            let (counters, kernel) = datapath.port_counters(at);
            let port = datapath.port_mut(at);
            PortSnapshot {
                id,
                counters,
                kernel,
                open: port.is_some(),
                busy_polling: port.as_ref().is_some_and(|port| port.busy_polling()),
                occupancy: port.map(|port| port.occupancy()).unwrap_or_default(),
            }
        };
        let ports = ids.into_iter().zip(PortIndex::ALL).map(one).collect();
        Self {
            queue,
            uptime: Duration::from_nanos(datapath.counters().wall_ns()),
            counters: datapath.counters().clone(),
            ports,
            census: datapath.umem().census(),
            in_hand: datapath.in_hand() as u32,
            balanced: datapath.balanced(),
            sessions: datapath.handler().sessions(),
            umem_bytes: datapath.umem().layout().bytes() as u64,
            handler_bytes: datapath.handler().memory_bytes(),
            handler: handler_counts(datapath.handler()),
        }
    }
}

fn handler_counts(handler: &impl Handler) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    handler.counts(&mut |name, count| {
        counts.insert(name, count);
    });
    counts
}
