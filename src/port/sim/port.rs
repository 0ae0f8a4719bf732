//! The user's ends of a simulated socket's rings.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use super::net::lock;
use super::nic::NicQueue;
use super::{Descriptor, SimNet};
use crate::packet::LANES;
use crate::port::{Burst, KernelCounters, Kick, Occupancy, Port, PortCounters, PortError, PortInfo};
use crate::ring::{Consumer, Producer};
use crate::umem::{PortIndex, RingSizes, Umem};

/// One queue of one simulated interface. Dropping it closes its socket.
pub struct SimPort {
    pub(super) info: PortInfo,
    pub(super) index: PortIndex,
    pub(super) rings: RingSizes,
    pub(super) user: UserRings,
    pub(super) net: SimNet,
    pub(super) nic: Arc<Mutex<NicQueue>>,
    /// Number of the socket at its NIC queue.
    pub(super) socket: u64,
    pub(super) counters: PortCounters,
    /// Frames posted to the fill ring that have not come back by the RX ring.
    pub(super) posted_fill: u32,
    /// Frames posted to the TX ring that have not come back by the completion ring.
    pub(super) posted_tx: u32,
}

/// The user's ends of the rings.
pub(super) struct UserRings {
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    pub(super) rx: Consumer<Descriptor>,
    pub(super) tx: Producer<Descriptor>,
}

impl SimPort {
    /// One step of the kernel for this port: packets that were taken are sent, completions come back,
    /// packets that arrived are written to `umem` and appear on the RX ring. How much of it, the faults
    /// and the seed decide.
    pub fn run_kernel(&mut self, umem: &mut Umem) {
        lock(&self.nic).run(self.socket, umem, self.net.now_ns());
    }
}

impl Drop for SimPort {
    fn drop(&mut self) {
        lock(&self.nic).close(self.socket, self.net.now_ns());
    }
}

impl Port for SimPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn fill(&mut self, umem: &mut Umem) -> usize {
        let wanted = self.rings.fill.saturating_sub(self.posted_fill);
        // As the AF_XDP port: below a batch it is not worth the ring's cache line.
        if wanted < LANES as u32 {
            return 0;
        }
        let mut slots = self.user.fill.reserve(wanted);
        umem.post_fill_batch(self.index, slots.room(), |address| {
            let pushed = slots.push(address);
            debug_assert!(pushed, "no more frames than room are posted");
        });
        let posted = slots.commit();
        self.posted_fill += posted;
        posted as usize
    }

    fn receive(&mut self, umem: &mut Umem, into: &mut Burst, limit: usize) -> usize {
        let Self { user, counters, info, .. } = self;
        let entries = user.rx.peek(into.room().min(limit) as u32);
        let mut bytes = 0;
        let taken = umem.received_batch(
            self.index,
            entries.iter().map(|Descriptor { address, length, .. }| (address, length)),
            |frame| {
                bytes += u64::from(frame.length());
                // No more than the room was asked for, so this fits.
                into.push(frame)
            },
            |error| {
                counters.bad_descriptors += 1;
                tracing::debug!(port = %info.id, %error, "RX descriptor refused");
            },
        );
        let seen = entries.len();
        entries.release(seen);
        self.posted_fill = self.posted_fill.saturating_sub(taken);
        counters.rx_bytes += bytes;
        counters.rx_packets += u64::from(taken);
        taken as usize
    }

    fn transmit(&mut self, umem: &mut Umem, from: &mut Burst) -> usize {
        // The completion ring must have room for whatever is under way.
        let under_way = self.rings.completion.saturating_sub(self.posted_tx);
        let mut slots = self.user.tx.reserve((from.len() as u32).min(under_way));
        let frames = from.drain_front(slots.room() as usize);
        let mut bytes = 0;
        umem.post_transmit_batch(self.index, frames, |address, length| {
            bytes += u64::from(length);
            let pushed = slots.push(Descriptor { address, length, options: 0 });
            debug_assert!(pushed, "no more frames than room were drained");
        });
        let sent = slots.commit();
        self.posted_tx += sent;
        self.counters.tx_bytes += bytes;
        self.counters.tx_packets += u64::from(sent);
        sent as usize
    }

    fn reclaim(&mut self, umem: &mut Umem) -> usize {
        let Self { user, counters, info, .. } = self;
        let entries = user.completion.peek(u32::MAX);
        let reclaimed = umem.completed_batch(self.index, entries.iter(), |error| {
            counters.bad_descriptors += 1;
            tracing::debug!(port = %info.id, %error, "completion refused");
        });
        let seen = entries.len();
        entries.release(seen);
        self.posted_tx = self.posted_tx.saturating_sub(reclaimed);
        counters.completions += u64::from(reclaimed);
        reclaimed as usize
    }

    fn kick(&mut self) -> Result<Kick, PortError> {
        let tx = self.posted_tx > 0 && self.user.tx.needs_wakeup() && self.user.tx.waiting() > 0;
        if !tx && !self.user.fill.needs_wakeup() {
            return Ok(Kick::Done);
        }
        self.counters.kicks += 1;
        lock(&self.nic).kick(self.socket)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn kernel_counters(&self) -> Result<KernelCounters, PortError> {
        lock(&self.nic).kernel_counters(self.socket)
    }

    fn occupancy(&mut self) -> Occupancy {
        Occupancy {
            fill: self.user.fill.waiting(),
            rx: self.user.rx.waiting(),
            tx: self.user.tx.waiting(),
            completion: self.user.completion.waiting(),
        }
    }

    fn steer(&mut self, on: bool) -> Result<(), PortError> {
        lock(&self.nic).steer(self.socket, on)
    }
}
