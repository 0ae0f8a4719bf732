//! Ports come and go while the worker goes on: closing one, opening it again, and noticing that it is needed.

use std::io;
use std::time::{Duration, Instant};

use super::{Datapath, TxBacklog};
use crate::port::{KernelCounters, Occupancy, Port, PortCounters, PortError, PortInfo};
use crate::queue::Handler;
use crate::telemetry::DropReason;
use crate::umem::PortIndex;

/// How long packets may be with the kernel while the link is up and not one of them comes back. A NIC sends a full
/// ring in milliseconds; flow control may hold it for some hundred.
const COMPLETIONS_WITHIN: Duration = Duration::from_millis(500);

/// What the worker knows of one port besides the port.
#[derive(Default)]
pub(super) struct PortSlot {
    /// What earlier sockets of this port counted.
    past: PortCounters,
    past_kernel: KernelCounters,
    /// Its interface has left the tables.
    gone: bool,
    /// Completions seen when the kernel was last known to send.
    completions: u64,
    /// Since when it has been silent.
    silent_since: Option<Instant>,
}

impl<P: Port, H: Handler> Datapath<P, H> {
    /// Closes a port: steering off, socket closed, its frames written off until the queue can be bound again.
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

    /// Puts a port that was opened again into its place; packets are steered to it from now on.
    ///
    /// # Errors
    /// Steering's refusal; the port is closed again.
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

    /// Ports that are closed now.
    pub fn closed(&self) -> impl Iterator<Item = PortIndex> + '_ {
        self.ports.iter().zip(PortIndex::ALL).filter(|(port, _)| port.is_none()).map(|(_, at)| at)
    }

    /// The first port that is of no more use, and why: its interface has left the tables, or nothing that it was
    /// given to send has come back for too long while its link was up. To be asked a few times a second.
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

    /// What port `port` counted, over all its sockets.
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

    /// Packets that failures have cost so far: batches whose handler panicked, what was left on the rings of closed
    /// sockets, and what was meant for a closed port.
    pub(crate) fn lost(&self) -> u64 {
        let drops = &self.counters.drops;
        drops.of(DropReason::HandlerPanic) + drops.of(DropReason::PortClosed) + self.left_on_rings
    }

    /// Packets that the kernel had no room for so far, over all sockets.
    pub(crate) fn missed(&self) -> u64 {
        let ports = PortIndex::first(self.port_slots.len()).map(|at| self.port_counters(at).1);
        ports.map(|kernel| kernel.rx_dropped + kernel.rx_ring_full).sum()
    }

    /// What each port is; of a closed one, what it was.
    #[must_use]
    pub fn infos(&self) -> &[PortInfo] {
        &self.info.ports
    }
}

/// Notes which ports' interfaces have left the tables: an idle socket is never told.
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
