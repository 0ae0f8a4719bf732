//! Describes one queue at one moment, for the supervisor and its readers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::counters::QueueCounters;
use super::datapath::Datapath;
use super::handler::Handler;
use crate::port::{KernelCounters, Occupancy, Port, PortCounters, QueueId};
use crate::umem::{FrameCounts, PortIndex};

/// Describes one port at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct PortSnapshot {
    /// Interface and queue of the port.
    pub id: QueueId,
    /// Whether the port has a socket now.
    pub open: bool,
    /// Counters of the port over all its sockets.
    pub counters: PortCounters,
    /// Counters of the kernel; zero if the kernel did not answer.
    pub kernel: KernelCounters,
    /// Number of entries in use on its rings.
    pub occupancy: Occupancy,
    /// Whether preferred busy polling is in force.
    pub busy_polling: bool,
}

/// Describes one queue at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct QueueSnapshot {
    /// Queue number.
    pub queue: u32,
    /// Time since this actor started, which is the sum of its regimes.
    pub uptime: Duration,
    /// Counters since the actor started.
    pub counters: QueueCounters,
    /// Its ports.
    pub ports: Vec<PortSnapshot>,
    /// Number of frames in each state.
    pub census: FrameCounts,
    /// Frames that the application holds, as the queue counts them. It equals `census.app` if no frame is lost.
    pub in_hand: u32,
    /// Whether the frame and packet accounting matches.
    pub balanced: bool,
    /// Number of the handler's sessions.
    pub sessions: u64,
    /// Size of the packet memory, in bytes.
    pub umem_bytes: u64,
    /// Memory used by the handler, in bytes.
    pub handler_bytes: u64,
    /// Counters of the handler, since it was created.
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
