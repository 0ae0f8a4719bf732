//! Holds the frames that wait for one port's TX ring: one batch, for a limited time.

use std::time::{Duration, Instant};

use super::counters::QueueCounters;
use crate::port::{Burst, Port};
use crate::telemetry::DropReason;
use crate::umem::{Frame, Umem};

/// Limits the wait for a TX ring without progress. After it, packets are dropped and the port stops the back pressure.
/// A working NIC drains a full ring in a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(super) struct TxBacklog {
    waiting: Burst,
    /// Holds the time since which the ring has made no progress.
    stuck_since: Option<Instant>,
    /// Means that the ring made no progress in time. Packets are dropped at once, so that other ports keep receiving.
    stalled: bool,
}

impl TxBacklog {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns whether the port accepts a whole batch: it has no backlog, or it drops at once.
    pub(super) fn ready(&self) -> bool {
        self.waiting.is_empty() || self.stalled
    }

    /// Removes all waiting frames in order, because the port is closed.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Frame> + '_ {
        (self.stuck_since, self.stalled) = (None, false);
        self.waiting.drain()
    }

    /// Moves as many frames of `burst` as fit directly to the TX ring if there is no backlog. The rest stays in
    /// `burst`.
    pub(super) fn pass<P: Port>(
        &mut self,
        burst: &mut Burst,
        port: &mut P,
        umem: &mut Umem,
        counters: &mut QueueCounters,
    ) {
        if self.waiting.is_empty() {
            let sent = port.transmit(umem, burst);
            counters.forwarded += sent as u64;
            if sent > 0 {
                (self.stuck_since, self.stalled) = (None, false);
            }
        }
    }

    /// Queues `frame`, and flushes first if the backlog is full.
    pub(super) fn push<P: Port>(
        &mut self,
        frame: Frame,
        port: &mut P,
        umem: &mut Umem,
        now: Instant,
        counters: &mut QueueCounters,
    ) {
        if self.waiting.room() == 0 {
            self.flush(port, umem, now, counters);
        }
        if let Err(frame) = self.waiting.push(frame) {
            counters.drops.count(DropReason::TxFull);
            umem.give(frame);
        }
    }

    /// Moves as many frames as fit to the TX ring.
    pub(super) fn flush<P: Port>(&mut self, port: &mut P, umem: &mut Umem, now: Instant, counters: &mut QueueCounters) {
        if self.waiting.is_empty() {
            return;
        }
        let sent = port.transmit(umem, &mut self.waiting);
        counters.forwarded += sent as u64;
        if sent > 0 {
            (self.stuck_since, self.stalled) = (None, false);
        }
        if self.waiting.is_empty() {
            return;
        }
        let since = *self.stuck_since.get_or_insert(now);
        if self.stalled || now.duration_since(since) >= PATIENCE {
            self.stalled = true;
            for frame in self.waiting.drain() {
                counters.drops.count(DropReason::TxFull);
                umem.give(frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::port::sim::{SimBackend, SimInterface, SimNet};
    use crate::port::{Backend, QueueId};
    use crate::umem::RingSizes;

    /// Checks that free TX ring entries go to the backlog first.
    #[test]
    fn later_packets_do_not_overtake_backlog() {
        let (net, id) = (SimNet::new(&[SimInterface::new("sim0", 1)], 1), QueueId::new("sim0", 0));
        let backend =
            SimBackend::new(&net, std::slice::from_ref(&id)).with_rings(RingSizes::from_ring_size(64).unwrap());
        let (mut umem, mut ports) = backend.clone().open().unwrap();
        let (port, mut out, mut counters) = (&mut ports[0], TxBacklog::default(), QueueCounters::default());
        let now = Instant::now();
        let mut burst = Burst::new();
        for _ in 0..64 {
            let mut frame = umem.take().unwrap();
            assert!(umem.set_length(&mut frame, 60));
            burst.push(frame).unwrap();
        }
        out.pass(&mut burst, port, &mut umem, &mut counters);
        assert!(burst.is_empty(), "the ring has 64 entries");
        let mut frame = || {
            let mut frame = umem.take().unwrap();
            assert!(umem.set_length(&mut frame, 60));
            frame
        };
        let (waits, later) = (frame(), frame());
        out.push(waits, port, &mut umem, now, &mut counters);
        burst.push(later).unwrap();
        port.kick().unwrap();
        port.run_kernel(&mut umem);
        assert!(port.reclaim(&mut umem) > 0, "the ring has free entries");
        out.pass(&mut burst, port, &mut umem, &mut counters);
        assert_eq!((burst.len(), out.len()), (1, 1));
        out.flush(port, &mut umem, now, &mut counters);
        out.pass(&mut burst, port, &mut umem, &mut counters);
        assert_eq!((burst.len(), out.len(), counters.forwarded), (0, 0, 66));
    }
}
