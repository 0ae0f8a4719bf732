//! Holds the user side of a socket's four rings, and counts the frames that the kernel holds through them. The other
//! side is the kernel or a simulated one.
//!
//! ```text
//!   pool --fill--> kernel --rx--> Burst --tx--> kernel --completion--> pool
//!         post_fill      received      post_transmit        completed         the ledger's moves
//! ```

use super::{Burst, Occupancy, PortCounters};
use crate::packet::LANES;
use crate::ring::{Consumer, Descriptor, Producer, RingMemory};
use crate::umem::{BadDescriptor, PortKey, RingSizes, Umem};

/// Holds the four rings. `A` is the memory of the address rings, `D` that of the descriptor rings.
pub(crate) struct RingHandles<A, D> {
    pub(crate) fill: Producer<u64, A>,
    pub(crate) completion: Consumer<u64, A>,
    pub(crate) rx: Consumer<Descriptor, D>,
    pub(crate) tx: Producer<Descriptor, D>,
}

/// Moves frames through the rings of one socket.
pub(crate) struct PortRings<A, D> {
    rings: RingHandles<A, D>,
    key: PortKey,
    sizes: RingSizes,
    /// Frames posted to the fill ring that have not returned through the RX ring.
    posted_fill: u32,
    /// Frames posted to the TX ring that have not returned through the completion ring.
    posted_tx: u32,
    counters: PortCounters,
}

impl<A: RingMemory<u64>, D: RingMemory<Descriptor>> PortRings<A, D> {
    /// Creates the user side of empty rings of these sizes, for the port of `key`.
    pub(crate) fn new(rings: RingHandles<A, D>, key: PortKey, sizes: RingSizes) -> Self {
        Self { rings, key, sizes, posted_fill: 0, posted_tx: 0, counters: PortCounters::default() }
    }

    /// Returns the port's key, for a simulated kernel.
    pub(crate) fn key(&self) -> &PortKey {
        &self.key
    }

    pub(crate) fn counters(&self) -> PortCounters {
        self.counters
    }

    /// Counts a system call that wakes the kernel for a ring.
    pub(crate) fn count_kick(&mut self) {
        self.counters.kicks += 1;
    }

    /// Posts as many frames as the fill ring wants, if they are at least a batch. A smaller number is not worth the
    /// access to the ring's cache line.
    #[inline]
    pub(crate) fn fill(&mut self, umem: &mut Umem) -> usize {
        let wanted = self.sizes.fill.saturating_sub(self.posted_fill);
        if wanted < LANES as u32 { 0 } else { self.fill_up(umem) }
    }

    /// Posts as many frames as the fill ring wants, even less than a batch.
    pub(crate) fn fill_up(&mut self, umem: &mut Umem) -> usize {
        let mut slots = self.rings.fill.reserve(self.sizes.fill.saturating_sub(self.posted_fill));
        umem.post_fill_batch(&self.key, slots.room(), |address| {
            let pushed = slots.push(address);
            debug_assert!(pushed, "posted frames must fit the reserved entries");
        });
        let posted = slots.commit();
        self.posted_fill += posted;
        posted as usize
    }

    /// Implements [`Port::receive`](super::Port::receive). Calls `refuse` for each descriptor that the ledger refuses.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        umem: &mut Umem,
        into: &mut Burst,
        limit: usize,
        mut refuse: impl FnMut(BadDescriptor),
    ) -> usize {
        let Self { rings, counters, key, .. } = self;
        let entries = rings.rx.peek(into.room().min(limit) as u32);
        let seen = entries.len();
        if seen == 0 {
            return 0;
        }
        entries.prefetch();
        let mut bytes = 0;
        let taken = umem.received_batch(
            key,
            // The socket never enables multi-buffer packets (XDP_USE_SG), so a descriptor is a packet.
            entries.iter().map(|Descriptor { address, length, .. }| (address, length)),
            |frame| {
                bytes += u64::from(frame.length());
                // At most as many entries as free places were read, so this fits.
                into.push(frame)
            },
            |error| {
                counters.bad_descriptors += 1;
                refuse(error);
            },
        );
        entries.release(seen);
        counters.rx_bytes += bytes;
        counters.rx_packets += u64::from(taken);
        self.posted_fill = self.posted_fill.saturating_sub(seen);
        // The next batch is posted to these entries soon.
        rings.fill.prefetch(LANES as u32);
        taken as usize
    }

    /// Implements [`Port::transmit`](super::Port::transmit).
    #[inline]
    pub(crate) fn transmit(&mut self, umem: &mut Umem, from: &mut Burst) -> usize {
        // The completion ring must have space for all frames with the kernel.
        let under_way = self.sizes.completion.saturating_sub(self.posted_tx);
        let mut slots = self.rings.tx.reserve((from.len() as u32).min(under_way));
        let frames = from.drain_front(slots.room() as usize);
        let mut bytes = 0;
        umem.post_transmit_batch(&self.key, frames, |address, length| {
            bytes += u64::from(length);
            let pushed = slots.push(Descriptor { address, length, options: 0 });
            debug_assert!(pushed, "drained frames must fit the reserved entries");
        });
        let sent = slots.commit();
        self.posted_tx += sent;
        self.counters.tx_bytes += bytes;
        self.counters.tx_packets += u64::from(sent);
        sent as usize
    }

    /// Implements [`Port::reclaim`](super::Port::reclaim). Calls `refuse` for each descriptor that the ledger refuses.
    #[inline]
    pub(crate) fn reclaim(&mut self, umem: &mut Umem, mut refuse: impl FnMut(BadDescriptor)) -> usize {
        let Self { rings, counters, key, .. } = self;
        let entries = rings.completion.peek(u32::MAX);
        let seen = entries.len();
        if seen == 0 {
            return 0;
        }
        let reclaimed = umem.completed_batch(key, entries.iter(), |error| {
            counters.bad_descriptors += 1;
            refuse(error);
        });
        entries.release(seen);
        counters.completions += u64::from(reclaimed);
        self.posted_tx = self.posted_tx.saturating_sub(reclaimed);
        reclaimed as usize
    }

    /// Returns whether the kernel sleeps while packets wait on the TX ring.
    #[inline]
    pub(crate) fn tx_wants_wakeup(&mut self) -> bool {
        self.posted_tx > 0 && self.rings.tx.needs_wakeup() && self.rings.tx.waiting() > 0
    }

    /// Returns whether the kernel needs a wakeup for new frames on the fill ring.
    #[inline]
    pub(crate) fn fill_wants_wakeup(&mut self) -> bool {
        self.rings.fill.needs_wakeup()
    }

    /// Implements [`Port::occupancy`](super::Port::occupancy).
    pub(crate) fn occupancy(&mut self) -> Occupancy {
        Occupancy {
            fill: self.rings.fill.waiting(),
            rx: self.rings.rx.waiting(),
            tx: self.rings.tx.waiting(),
            completion: self.rings.completion.waiting(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::packet::LANES;
    use crate::port::sim::{SimBackend, SimInterface, SimNet};
    use crate::port::{Backend, Burst, Port, QueueId};
    use crate::umem::{HELD_FRAMES, RingSizes, Umem};

    fn batch(umem: &mut Umem) -> Burst {
        let mut burst = Burst::new();
        for _ in 0..LANES {
            let mut frame = umem.take().unwrap();
            assert!(umem.set_length(&mut frame, 60));
            burst.push(frame).unwrap();
        }
        burst
    }

    /// Checks the assumption of [`UmemLayout::frames_for`](crate::umem::UmemLayout::frames_for).
    #[test]
    fn full_rings_leave_a_batch_and_the_held_frames() {
        let (net, id) = (SimNet::new(&[SimInterface::new("sim0", 1)], 1), QueueId::new("sim0", 0));
        let backend =
            SimBackend::new(&net, std::slice::from_ref(&id)).with_rings(RingSizes::from_ring_size(64).unwrap());
        let (mut umem, mut ports) = backend.clone().open().unwrap();
        let port = &mut ports[0];
        port.steer(true).unwrap();
        port.fill(&mut umem);
        // The RX ring fills with the posted frames, and no packet replaces them.
        (0..100).for_each(|_| net.inject(&id, &[0; 60]));
        port.run_kernel(&mut umem);
        port.fill(&mut umem);
        assert_eq!((port.occupancy().rx, umem.census().receive), (64, 128));
        // Completions are not reclaimed, so the completion ring is full and no packet may be sent.
        let mut first = batch(&mut umem);
        port.transmit(&mut umem, &mut first);
        port.kick().unwrap();
        port.run_kernel(&mut umem);
        let mut second = batch(&mut umem);
        assert_eq!((first.len(), port.transmit(&mut umem, &mut second), second.len()), (0, 0, LANES));
        assert_eq!(umem.census().free as usize, LANES + HELD_FRAMES as usize);
    }
}
