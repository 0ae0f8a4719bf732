//! One queue's work, one turn at a time: no threads, no waiting, no clock of its own. The actor loop
//! ([`super::actor`]) turns it on a real core; tests and the simulator turn it by hand.

mod control;
mod faults;
mod port_slots;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use faults::ActiveFaults;
use port_slots::PortSlot;

use super::batch::{Batch, HoldKey, Verdict};
use super::counters::QueueCounters;
use super::handler::{Context, Handler, NextHopRequests, QueueInfo};
use super::held::Held;
use super::peers::{Handover, QueuePeers};
use super::tx_backlog::TxBacklog;
use crate::net::Tables;
use crate::packet::{Columns, LANES};
use crate::port::{Burst, Kick, Port, PortError};
use crate::simd::Processor;
use crate::telemetry::DropReason;
use crate::umem::{Frame, PortIndex, PortList, Umem};

pub use faults::DatapathFault;

/// How often [`Handler::tick`] is called, and held packets are shown again.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// What a worker is made of.
pub struct DatapathParts<P, H> {
    /// The packet memory that all ports were opened with.
    pub umem: Umem,
    /// The ports, in the order of `info.ports`; `None`: closed, to be put in its place later
    /// ([`put_port`](Datapath::put_port)).
    pub ports: PortList<Option<P>>,
    /// The application.
    pub handler: H,
    /// The batch processor.
    pub processor: Processor,
    /// Which queue this is.
    pub info: QueueInfo,
    /// Packets that other queues hand over, and the ways to theirs.
    pub peers: QueuePeers,
    /// Packets taken from a port at once, 1 to [`LANES`].
    pub batch_size: usize,
}

/// What one turn did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TurnResult {
    /// Packets looked at.
    pub packets: usize,
    /// Something is waiting for the kernel that another turn would move on.
    pub kick_again: bool,
    /// At least one port's link is down.
    pub link_down: bool,
}

/// Ports, memory, handler and tables of one queue.
pub struct Datapath<P, H> {
    /// `None`: closed, and to be opened again.
    ports: PortList<Option<P>>,
    port_slots: Vec<PortSlot>,
    /// What waits for each port's TX ring.
    out: Vec<TxBacklog>,
    umem: Umem,
    handler: H,
    processor: Processor,
    info: QueueInfo,
    peers: QueuePeers,
    batch_size: usize,
    tables: Box<Tables>,
    burst: Burst,
    columns: Box<Columns>,
    verdicts: Box<[Verdict; LANES]>,
    held: Held,
    requests: NextHopRequests,
    counters: QueueCounters,
    next_tick: Instant,
    draining: bool,
    /// Ports that take no new packets, a bit each.
    paused: u8,
    /// The handler panicked and has not been replaced yet: its words.
    handler_panic: Option<String>,
    faults: ActiveFaults,
    /// Packets that were on the rings of sockets when they were closed.
    left_on_rings: u64,
}

impl<P: Port, H: Handler> Datapath<P, H> {
    /// Puts a worker together; nothing moves before the first [`turn`](Self::turn).
    #[must_use]
    pub fn new(parts: DatapathParts<P, H>, now: Instant) -> Self {
        let DatapathParts { umem, ports, handler, processor, info, peers, batch_size } = parts;
        Self {
            out: ports.iter().map(|_| TxBacklog::default()).collect(),
            port_slots: ports.iter().map(|_| PortSlot::default()).collect(),
            ports,
            umem,
            handler,
            processor,
            info,
            peers,
            batch_size: batch_size.clamp(1, LANES),
            tables: Box::default(),
            burst: Burst::new(),
            columns: Box::default(),
            verdicts: Box::new([Verdict::None; LANES]),
            held: Held::default(),
            requests: NextHopRequests::default(),
            counters: QueueCounters::default(),
            // The first one at once: a handler may want to ask for something before packets come.
            next_tick: now,
            draining: false,
            paused: 0,
            handler_panic: None,
            faults: ActiveFaults::default(),
            left_on_rings: 0,
        }
    }

    /// One turn: [`work`](Self::work), then [`kick`](Self::kick).
    ///
    /// # Errors
    /// As [`kick`](Self::kick).
    pub fn turn(&mut self, now: Instant) -> Result<TurnResult, (PortIndex, PortError)> {
        let packets = self.work(now);
        let again = self.kick()?;
        Ok(TurnResult { packets, ..again })
    }

    /// Our own share of a turn: reclaim, fill, receive, process, transmit; inbox and timeouts. No
    /// system call. Returns how many packets were looked at.
    pub fn work(&mut self, now: Instant) -> usize {
        for (at, (port, out)) in PortIndex::ALL.into_iter().zip(self.ports.iter_mut().zip(&mut self.out)) {
            let Some(port) = port else { continue };
            if !at.is_in(self.faults.silent) {
                port.reclaim(&mut self.umem);
            }
            out.flush(port, &mut self.umem, now, &mut self.counters);
            port.fill(&mut self.umem);
        }
        self.counters.turns += 1;
        let mut packets = 0;
        if self.handler_panic.is_some() {
            return packets;
        }
        // Before the ports: what waited for a next hop is older than what comes now.
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now);
            packets += self.serve_held(now);
        }
        for from in PortIndex::first(self.ports.len()) {
            // A full TX ring pushes back to the RX rings, where the kernel counts what it drops.
            let open = self.handler_panic.is_none() && !from.is_in(self.paused);
            if open && self.out.iter().all(TxBacklog::ready) {
                packets += self.serve_port(from, now);
            }
        }
        packets += self.serve_inbox(now);
        packets
    }

    /// The kernel's share: makes it look at the rings it asked to be told about.
    ///
    /// # Errors
    /// [`PortError::Gone`] or the kernel's refusal, and of which port: that one is of no more use
    /// ([`close_port`](Self::close_port)), while every frame is still in the ledger.
    pub fn kick(&mut self) -> Result<TurnResult, (PortIndex, PortError)> {
        let mut turn = TurnResult::default();
        for ((port, out), at) in self.ports.iter_mut().zip(&self.out).zip(PortIndex::ALL) {
            let Some(port) = port else { continue };
            match port.kick().map_err(|error| (at, error))? {
                Kick::Done => {}
                Kick::Again => turn.kick_again = true,
                Kick::LinkDown => turn.link_down = true,
            }
            turn.kick_again |= !out.is_empty();
        }
        Ok(turn)
    }

    fn serve_port(&mut self, from: PortIndex, now: Instant) -> usize {
        debug_assert!(self.burst.is_empty());
        let Some(port) = self.ports.get_mut(usize::from(from)).and_then(Option::as_mut) else { return 0 };
        let received = port.receive(&mut self.umem, &mut self.burst, self.batch_size);
        self.counters.received += received as u64;
        self.process(from, None, now);
        received
    }

    /// Packets of our flows that came in on other queues; at most a batch of them.
    fn serve_inbox(&mut self, now: Instant) -> usize {
        let mut taken = 0;
        let mut batch_from = PortIndex::P0;
        while taken < LANES
            && let Some(handover) = self.peers.take()
        {
            taken += 1;
            // A batch has one port: a parcel from another one begins a new batch.
            if handover.from != batch_from {
                self.process(batch_from, None, now);
                batch_from = handover.from;
            }
            self.counters.taken_over += 1;
            if let Err(reason) = self.unpack(&handover) {
                self.counters.drops.count(reason);
            }
        }
        self.process(batch_from, None, now);
        taken
    }

    /// Copies a parcel into a frame of ours, at the end of `self.burst`.
    fn unpack(&mut self, handover: &Handover) -> Result<(), DropReason> {
        let mut frame = self.umem.take().ok_or(DropReason::NoFrame)?;
        // A parcel holds less than 2 KiB.
        if self.umem.set_length(&mut frame, handover.bytes.len() as u16) {
            self.umem.bytes_mut(&mut frame).copy_from_slice(&handover.bytes);
            return self.burst.push(frame).map_err(|frame| {
                self.umem.give(frame);
                DropReason::NoFrame
            });
        }
        self.umem.give(frame);
        Err(DropReason::Oversized)
    }

    /// Packets that wait for something, shown to the handler again.
    fn serve_held(&mut self, now: Instant) -> usize {
        let mut shown = 0;
        self.held.begin_round();
        while let Some((from, deadline)) = self.held.next_group(&mut self.burst) {
            shown += self.burst.len();
            if now < deadline {
                self.process(from, Some(deadline), now);
                continue;
            }
            for frame in self.burst.drain() {
                self.counters.drops.count(DropReason::NeighbourTimeout);
                self.umem.give(frame);
            }
        }
        shown
    }

    /// Batch -> columns -> handler -> verdicts, for what is in `self.burst`.
    fn process(&mut self, from: PortIndex, held_until: Option<Instant>, now: Instant) {
        if self.burst.is_empty() {
            return;
        }
        self.counters.batches.record(self.burst.len() as u64);
        let parsed: &[Frame] = if self.handler.reads_columns() { &self.burst } else { &[] };
        self.processor.parse_frames(&self.umem, parsed, &mut self.columns);
        self.verdicts[..self.burst.len()].fill(Verdict::None);
        let handler = &mut self.handler;
        let mut batch =
            Batch::new(&self.umem, &mut self.burst, &self.columns, &mut self.verdicts, from, held_until.is_some());
        let mut cx = Context::new(now, &self.info, &self.tables, self.draining, &mut self.requests);
        // The handler is the one part that may be wrong: batch and memory stay whole, it is not used again.
        let outcome = match self.handler_panic {
            None => catch_unwind(AssertUnwindSafe(|| {
                self.faults.strike(batch.len());
                handler.handle(&mut batch, &mut cx);
            })),
            Some(_) => Ok(()),
        };
        if let Err(panic) = outcome {
            self.mark_handler_failed(panic.as_ref());
        }
        if self.handler_panic.is_some() {
            self.verdicts.fill(Verdict::Drop(DropReason::HandlerPanic));
        }
        self.apply_verdicts(from, held_until, now);
    }

    fn apply_verdicts(&mut self, from: PortIndex, held_until: Option<Instant>, now: Instant) {
        let Self { burst, verdicts, umem, ports, out, counters, held, peers, .. } = self;
        // The common case: the whole batch leaves by one port.
        if let Verdict::Transmit(to) = verdicts[0]
            && verdicts[..burst.len()].iter().all(|verdict| *verdict == Verdict::Transmit(to))
            && let (Some(Some(port)), Some(out)) = (ports.get_mut(usize::from(to)), out.get_mut(usize::from(to)))
        {
            out.pass(burst, port, umem, counters);
        }
        for (frame, verdict) in burst.drain().zip(verdicts.iter()) {
            let reason = match *verdict {
                Verdict::Transmit(to) => match (ports.get_mut(usize::from(to)), out.get_mut(usize::from(to))) {
                    (Some(Some(port)), Some(out)) => {
                        out.push(frame, port, umem, now, counters);
                        continue;
                    }
                    _ => DroppedFrame(frame, DropReason::PortClosed),
                },
                Verdict::Hold | Verdict::HoldFor(_) => {
                    let key = if let Verdict::HoldFor(key) = *verdict { key } else { HoldKey::default() };
                    match held.hold(frame, from, key, held_until, now) {
                        Ok(None) => continue,
                        // One that waits longer, or this one.
                        Ok(Some(frame)) | Err(frame) => DroppedFrame(frame, DropReason::HoldFull),
                    }
                }
                Verdict::HandOver(queue) => match peers.hand_over(queue, from, umem.bytes(&frame)) {
                    Ok(()) => {
                        counters.handed_over += 1;
                        umem.give(frame);
                        continue;
                    }
                    Err(reason) => DroppedFrame(frame, reason),
                },
                Verdict::Drop(reason) => DroppedFrame(frame, reason),
                Verdict::None => DroppedFrame(frame, DropReason::NoVerdict),
            };
            counters.drops.count(reason.1);
            umem.give(reason.0);
        }
        for (port, out) in ports.iter_mut().zip(out) {
            if let Some(port) = port {
                out.flush(port, umem, now, counters);
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        let handler = &mut self.handler;
        let mut cx = Context::new(now, &self.info, &self.tables, self.draining, &mut self.requests);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| handler.tick(&mut cx))) {
            self.mark_handler_failed(panic.as_ref());
        }
    }

    fn mark_handler_failed(&mut self, panic: &(dyn Any + Send)) {
        self.handler_panic = Some(control::panic_message(panic));
    }
}

/// A frame that goes back to the pool, and why.
struct DroppedFrame(Frame, DropReason);
