//! The port contract over the four rings of one AF_XDP socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use rustix::net::sockopt;

use super::options;
use super::steering::Slot;
use super::xsk::Xsk;
use crate::packet::LANES;
use crate::port::{Burst, KernelCounters, Kick, Occupancy, Port, PortCounters, PortError, PortInfo};
use crate::ring::Descriptor;
use crate::umem::{PortIndex, RingSizes, Umem};

/// One queue of one interface.
///
/// Dropping it closes the socket and unmaps its rings; the kernel tears the socket down some tens of
/// milliseconds later, until when the queue answers EBUSY to a new bind.
pub struct XdpPort {
    // Dropped in this order: steering off first, so that no packet goes to a dying socket.
    gate: Gate,
    xsk: Xsk,
    info: PortInfo,
    index: PortIndex,
    rings: RingSizes,
    busy_poll: BusyPolling,
    counters: PortCounters,
    /// Frames posted to the fill ring that have not come back by the RX ring.
    posted_fill: u32,
    /// Frames posted to the TX ring that have not come back by the completion ring.
    posted_tx: u32,
}

/// Whether our system calls drive the driver's receive work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BusyPolling {
    /// Not wished, or refused.
    Off,
    /// Accepted by the kernel; whether there is a NAPI instance to drive shows with the first packet.
    Accepted,
    /// In force.
    On,
}

/// The socket's entry in the XSKMAP, taken out on drop.
struct Gate {
    slot: Option<Arc<Slot>>,
    open: bool,
}

impl Drop for Gate {
    fn drop(&mut self) {
        if self.open
            && let Some(slot) = &self.slot
            && let Err(error) = slot.remove()
        {
            tracing::warn!(%error, "socket not taken out of the XSKMAP; the kernel empties the entry when it closes");
        }
    }
}

/// What the backend hands over.
pub(super) struct Parts {
    /// Bound.
    pub(super) xsk: Xsk,
    pub(super) slot: Option<Arc<Slot>>,
    pub(super) info: PortInfo,
    pub(super) index: PortIndex,
    pub(super) rings: RingSizes,
    pub(super) busy_poll: BusyPolling,
    /// Frames that are on the fill ring already.
    pub(super) posted_fill: u32,
}

impl XdpPort {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { xsk, slot, info, index, rings, busy_poll, posted_fill } = parts;
        Self {
            gate: Gate { slot, open: false },
            xsk,
            info,
            index,
            rings,
            busy_poll,
            counters: PortCounters::default(),
            posted_fill,
            posted_tx: 0,
        }
    }

    fn refused(&self, step: &'static str, source: io::Error) -> PortError {
        match source.raw_os_error() {
            Some(libc::ENXIO | libc::ENODEV) => PortError::Gone { id: self.info.id.clone(), source },
            _ => PortError::Refused { id: self.info.id.clone(), step, source, advice: String::new() },
        }
    }
}

impl Port for XdpPort {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn fill(&mut self, umem: &mut Umem) -> usize {
        let wanted = self.rings.fill.saturating_sub(self.posted_fill);
        // Below a batch it is not worth the ring's cache line.
        if wanted < LANES as u32 {
            return 0;
        }
        let posted = self.xsk.post(umem, self.index, wanted);
        self.posted_fill += posted;
        posted as usize
    }

    fn receive(&mut self, umem: &mut Umem, into: &mut Burst, limit: usize) -> usize {
        let Self { xsk, counters, info, .. } = self;
        let entries = xsk.rings.rx.peek(into.room().min(limit) as u32);
        let seen = entries.len();
        if seen == 0 {
            return 0;
        }
        entries.prefetch();
        let mut bytes = 0;
        let taken = umem.received_batch(
            self.index,
            // A multi-buffer chain is never asked for (no XDP_USE_SG), so a descriptor is a packet.
            entries.iter().map(|Descriptor { address, length, .. }| (address, length)),
            |frame| {
                bytes += u64::from(frame.length());
                // No more than the room was asked for, so this fits.
                into.push(frame)
            },
            |error| {
                counters.bad_descriptors += 1;
                tracing::error!(port = %info.id, %error, "RX descriptor refused");
            },
        );
        entries.release(seen);
        counters.rx_bytes += bytes;
        counters.rx_packets += u64::from(taken);
        self.posted_fill = self.posted_fill.saturating_sub(seen);
        // The next batch is posted there in a moment.
        xsk.rings.fill.prefetch(LANES as u32);
        if taken > 0 && self.busy_poll == BusyPolling::Accepted {
            let driven = options::has_napi(self.xsk.fd().as_raw_fd());
            self.busy_poll = if driven { BusyPolling::On } else { BusyPolling::Off };
        }
        taken as usize
    }

    fn transmit(&mut self, umem: &mut Umem, from: &mut Burst) -> usize {
        // The completion ring must have room for whatever is under way.
        let under_way = self.rings.completion.saturating_sub(self.posted_tx);
        let mut slots = self.xsk.rings.tx.reserve((from.len() as u32).min(under_way));
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
        if self.posted_tx == 0 {
            return 0;
        }
        let Self { xsk, counters, info, .. } = self;
        let entries = xsk.rings.completion.peek(u32::MAX);
        let seen = entries.len();
        let reclaimed = umem.completed_batch(self.index, entries.iter(), |error| {
            counters.bad_descriptors += 1;
            tracing::error!(port = %info.id, %error, "completion refused");
        });
        entries.release(seen);
        counters.completions += u64::from(reclaimed);
        self.posted_tx = self.posted_tx.saturating_sub(reclaimed);
        reclaimed as usize
    }

    fn kick(&mut self) -> Result<Kick, PortError> {
        let fd = self.xsk.fd().as_raw_fd();
        let mut answer = Kick::Done;
        if self.posted_tx > 0 && self.xsk.rings.tx.needs_wakeup() && self.xsk.rings.tx.waiting() > 0 {
            self.counters.kicks += 1;
            answer = options::wake_tx(fd).map_err(|e| self.refused("sendto to wake the TX ring", e))?;
        }
        if self.busy_poll == BusyPolling::On || self.xsk.rings.fill.needs_wakeup() {
            self.counters.kicks += 1;
            let rx = options::wake_rx(fd).map_err(|e| self.refused("recvfrom to wake the fill ring", e))?;
            // Nothing received is EAGAIN as well: only a dead link is news.
            if rx == Kick::LinkDown {
                answer = rx;
            }
        }
        Ok(answer)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.xsk.fd())
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }

    fn kernel_counters(&self) -> Result<KernelCounters, PortError> {
        let refused = |e: rustix::io::Errno| self.refused("getsockopt XDP_STATISTICS", e.into());
        let stats = sockopt::xdp_statistics(self.xsk.fd()).map_err(refused)?;
        Ok(KernelCounters {
            rx_dropped: stats.rx_dropped,
            rx_invalid: stats.rx_invalid_descs,
            tx_invalid: stats.tx_invalid_descs,
            rx_ring_full: stats.rx_ring_full.unwrap_or(0),
            fill_empty: stats.rx_fill_ring_empty_descs.unwrap_or(0),
            tx_empty: stats.tx_ring_empty_descs.unwrap_or(0),
        })
    }

    fn busy_polling(&self) -> bool {
        self.busy_poll == BusyPolling::On
    }

    fn occupancy(&mut self) -> Occupancy {
        let rings = &mut self.xsk.rings;
        Occupancy {
            fill: rings.fill.waiting(),
            rx: rings.rx.waiting(),
            tx: rings.tx.waiting(),
            completion: rings.completion.waiting(),
        }
    }

    fn steer(&mut self, on: bool) -> Result<(), PortError> {
        let Some(slot) = &self.gate.slot else { return Ok(()) };
        let refused = |text: String| PortError::Steering { id: self.info.id.clone(), text };
        if on && !self.gate.open {
            slot.insert(self.xsk.fd()).map_err(|e| refused(e.to_string()))?;
        } else if !on && self.gate.open {
            slot.remove().map_err(|e| refused(e.to_string()))?;
        }
        self.gate.open = on;
        Ok(())
    }
}
