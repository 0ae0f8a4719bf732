//! Closes and reopens ports while the datapath runs, and detects failed ports.

use std::io;
use std::time::{Duration, Instant};

use super::{Datapath, TxBacklog};
use crate::port::{KernelCounters, Occupancy, Port, PortCounters, PortError, PortInfo};
use crate::queue::Handler;
use crate::telemetry::DropReason;
use crate::umem::PortIndex;

/// Limits the time in which the kernel holds packets, with the link up, and completes none. A NIC sends a full ring in
/// a few milliseconds; flow control may stop it for some hundred.
const COMPLETIONS_WITHIN: Duration = Duration::from_millis(500);

/// Records a port across its sockets.
#[derive(Default)]
pub(super) struct PortSlot {
    /// Sums of the counters of earlier sockets of this port.
    past: PortCounters,
    past_kernel: KernelCounters,
    /// Whether its interface has left the tables.
    gone: bool,
    /// Number of completions when the kernel last made progress.
    completions: u64,
    /// Time since which the kernel has completed nothing.
    silent_since: Option<Instant>,
}

impl<P: Port, H: Handler> Datapath<P, H> {
    /// Closes a port: stops steering, closes the socket, and writes off its frames until the queue can be bound again.
    /// Packets for it are dropped and counted as [`DropReason::PortClosed`].
    pub fn close_port(&mut self, port: PortIndex) {
        let at = usize::from(port);
        let Some(mut old) = self.ports.get_mut(at).and_then(Option::take) else { return };
        let Occupancy { rx, tx, .. } = old.occupancy();
        self.left_on_rings += u64::from(rx) + u64::from(tx);
        if let Some(slot) = self.port_slots.get_mut(at) {
            add(&mut slot.past, &old.counters());
            add_kernel(&mut slot.past_kernel, &old.kernel_counters().unwrap_or_default());
            (slot.completions, slot.silent_since) = (0, None);
        }
        if let Err(error) = old.steer(false) {
            tracing::debug!(port = %old.info().id, %error, "steering off while closing");
        }
        drop(old);
        self.faults.silent &= !port.bit();
        let _ = self.umem.write_off(port);
        let Self { out, umem, counters, .. } = self;
        if let Some(out) = out.get_mut(at) {
            out.give_up(umem, counters, DropReason::PortClosed);
        }
    }

    /// Adds a port that was reopened, and steers packets to it.
    ///
    /// # Errors
    /// Returns the error of the steering. The port is closed again in this case.
    pub fn put_port(&mut self, port: PortIndex, mut opened: P) -> Result<(), PortError> {
        opened.fill(&mut self.umem);
        let steered = opened.steer(true);
        let at = usize::from(port);
        if let Some(info) = self.info.ports.get_mut(at) {
            info.clone_from(opened.info());
        }
        self.info.changes = self.info.changes.wrapping_add(1);
        if let Some(slot) = self.port_slots.get_mut(at) {
            slot.gone = false;
        }
        if let Some(place) = self.ports.get_mut(at) {
            *place = Some(opened);
        }
        if steered.is_err() {
            self.close_port(port);
        }
        steered
    }

    /// Returns the ports that are closed now.
    pub fn closed(&self) -> impl Iterator<Item = PortIndex> + '_ {
        self.ports.iter().zip(PortIndex::ALL).filter(|(port, _)| port.is_none()).map(|(_, at)| at)
    }

    /// Returns the first failed port and the error. A port has failed if its interface left the tables, or if the
    /// kernel completed none of its packets for too long with the link up. The actor calls this ten times a second.
    pub fn find_failed_port(&mut self, now: Instant) -> Option<(PortIndex, PortError)> {
        let Self { ports, port_slots, umem, tables, faults, .. } = self;
        for ((port, slot), at) in ports.iter().zip(port_slots).zip(PortIndex::ALL) {
            let Some(port) = port else { continue };
            let id = port.info().id.clone();
            if std::mem::take(&mut slot.gone) {
                return Some((at, PortError::Gone { id, source: io::Error::from_raw_os_error(libc::ENODEV) }));
            }
            if at.is_in(faults.socket_lost) {
                faults.socket_lost &= !at.bit();
                return Some((at, PortError::Gone { id, source: io::Error::from_raw_os_error(libc::EBADF) }));
            }
            let completions = port.counters().completions;
            let (_, sent) = umem.at_port(at);
            let up = tables.link(port.info().ifindex).is_none_or(|link| link.up);
            if sent == 0 || !up || completions != slot.completions {
                (slot.completions, slot.silent_since) = (completions, None);
            } else if now.duration_since(*slot.silent_since.get_or_insert(now)) >= COMPLETIONS_WITHIN {
                return Some((at, PortError::NoCompletions { id, sent, after: COMPLETIONS_WITHIN }));
            }
        }
        None
    }

    /// Returns the counters of `port` over all its sockets.
    #[must_use]
    pub fn port_counters(&self, port: PortIndex) -> (PortCounters, KernelCounters) {
        let at = usize::from(port);
        let Some(slot) = self.port_slots.get(at) else { return Default::default() };
        let (mut own, mut kernel) = (slot.past, slot.past_kernel);
        if let Some(Some(port)) = self.ports.get(at) {
            add(&mut own, &port.counters());
            add_kernel(&mut kernel, &port.kernel_counters().unwrap_or_default());
        }
        (own, kernel)
    }

    /// Counts the packets lost by failures: batches whose handler panicked, packets left on the rings of closed
    /// sockets, and packets for a closed port.
    pub(crate) fn lost(&self) -> u64 {
        let drops = &self.counters.drops;
        drops.of(DropReason::HandlerPanic) + drops.of(DropReason::PortClosed) + self.left_on_rings
    }

    /// Counts the packets that the kernel dropped for lack of space, over all sockets.
    pub(crate) fn missed(&self) -> u64 {
        let ports = PortIndex::first(self.port_slots.len()).map(|at| self.port_counters(at).1);
        ports.map(|kernel| kernel.rx_dropped + kernel.rx_ring_full).sum()
    }

    /// Returns the description of each port. The description of a closed port is the last known one.
    #[must_use]
    pub fn infos(&self) -> &[PortInfo] {
        &self.info.ports
    }
}

/// Marks the ports whose interfaces have left the tables, because an idle socket gets no error.
pub(super) fn mark_gone<'a>(slots: &mut [PortSlot], left: impl Iterator<Item = bool> + 'a) {
    for (slot, left) in slots.iter_mut().zip(left) {
        slot.gone |= left;
    }
}

impl TxBacklog {
    fn give_up(&mut self, umem: &mut crate::umem::Umem, counters: &mut super::QueueCounters, why: DropReason) {
        for frame in self.take_all() {
            counters.drops.count(why);
            umem.give(frame);
        }
    }
}

fn add(sum: &mut PortCounters, more: &PortCounters) {
    let PortCounters { rx_packets, rx_bytes, tx_packets, tx_bytes, completions, bad_descriptors, kicks } = *more;
    sum.rx_packets += rx_packets;
    sum.rx_bytes += rx_bytes;
    sum.tx_packets += tx_packets;
    sum.tx_bytes += tx_bytes;
    sum.completions += completions;
    sum.bad_descriptors += bad_descriptors;
    sum.kicks += kicks;
}

fn add_kernel(sum: &mut KernelCounters, more: &KernelCounters) {
    let KernelCounters { rx_dropped, rx_invalid, tx_invalid, rx_ring_full, fill_empty, tx_empty } = *more;
    sum.rx_dropped += rx_dropped;
    sum.rx_invalid += rx_invalid;
    sum.tx_invalid += tx_invalid;
    sum.rx_ring_full += rx_ring_full;
    sum.fill_empty += fill_empty;
    sum.tx_empty += tx_empty;
}
