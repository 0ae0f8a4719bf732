//! Defines the status of one port: counters over all its sockets, and the use of its rings.

use serde::Serialize;

use crate::port::{KernelCounters, Occupancy, PortCounters, QueueId};
use crate::queue::PortSnapshot;
use crate::umem::RingSizes;

/// Describes one port.
#[derive(Debug, Clone, Serialize)]
pub struct PortStatus {
    /// Interface and queue.
    pub id: QueueId,
    /// Counters of the port over all its sockets.
    pub counters: PortCounters,
    /// Counters of the kernel over all its sockets.
    pub kernel: KernelCounters,
    /// Number of entries on its rings now.
    pub occupancy: Occupancy,
}

impl PortStatus {
    /// Returns the ports of `now`, with the counters of the `former` ports of the same name added.
    pub(super) fn list(former: &[Self], now: &[PortSnapshot]) -> Vec<Self> {
        let one = |port: &PortSnapshot| {
            let before = former.iter().find(|f| f.id == port.id);
            Self {
                id: port.id.clone(),
                counters: before.map_or(port.counters, |b| sum(&b.counters, &port.counters)),
                kernel: before.map_or(port.kernel, |b| sum_kernel(&b.kernel, &port.kernel)),
                occupancy: port.occupancy,
            }
        };
        now.iter().map(one).collect()
    }

    /// Returns how full each ring is, from 0 to 1.
    #[must_use]
    pub fn fullness(&self, sizes: &RingSizes) -> [(&'static str, f64); 4] {
        let Occupancy { fill, rx, tx, completion } = self.occupancy;
        let ratio = |entries: u32, size: u32| f64::from(entries) / f64::from(size.max(1));
        [
            ("fill", ratio(fill, sizes.fill)),
            ("rx", ratio(rx, sizes.rx)),
            ("tx", ratio(tx, sizes.tx)),
            ("completion", ratio(completion, sizes.completion)),
        ]
    }

    /// Counts the packets on its rings, which are lost when the socket is closed.
    pub(super) fn waiting(&self) -> u64 {
        u64::from(self.occupancy.rx) + u64::from(self.occupancy.tx)
    }

    /// Sets the rings to empty after the socket was closed.
    pub(super) fn close(&mut self) {
        self.occupancy = Occupancy::default();
    }
}

fn sum(a: &PortCounters, b: &PortCounters) -> PortCounters {
    PortCounters {
        rx_packets: a.rx_packets + b.rx_packets,
        rx_bytes: a.rx_bytes + b.rx_bytes,
        tx_packets: a.tx_packets + b.tx_packets,
        tx_bytes: a.tx_bytes + b.tx_bytes,
        completions: a.completions + b.completions,
        bad_descriptors: a.bad_descriptors + b.bad_descriptors,
        kicks: a.kicks + b.kicks,
    }
}

fn sum_kernel(a: &KernelCounters, b: &KernelCounters) -> KernelCounters {
    KernelCounters {
        rx_dropped: a.rx_dropped + b.rx_dropped,
        rx_invalid: a.rx_invalid + b.rx_invalid,
        tx_invalid: a.tx_invalid + b.tx_invalid,
        rx_ring_full: a.rx_ring_full + b.rx_ring_full,
        fill_empty: a.fill_empty + b.fill_empty,
        tx_empty: a.tx_empty + b.tx_empty,
    }
}
