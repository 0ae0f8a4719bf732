//! Processes one queue's packets, one turn at a time, without threads, waiting or a clock. The actor loop
//! ([`super::actor`]) runs it on a real core; tests and the simulator call it directly.

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

/// Sets the interval between calls of [`Handler::tick`], and between attempts with held packets.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Holds the constructor arguments of a [`Datapath`].
pub struct DatapathParts<P, H> {
    /// Packet memory that all ports were opened with.
    pub umem: Umem,
    /// Ports, in the order of `info.ports`. `None` is a closed port that [`put_port`](Datapath::put_port) may add
    /// later.
    pub ports: PortList<Option<P>>,
    /// Application.
    pub handler: H,
    /// Batch processor.
    pub processor: Processor,
    /// Description of the queue.
    pub info: QueueInfo,
    /// Inbox for packets from other queues, and the inboxes of those.
    pub peers: QueuePeers,
    /// Limit of packets taken from a port at once, 1 to [`LANES`].
    pub batch_size: usize,
}

/// Reports what one turn did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TurnResult {
    /// Number of packets processed.
    pub packets: usize,
    /// Whether kernel work remains that another turn would continue.
    pub kick_again: bool,
    /// Whether the link of at least one port is down.
    pub link_down: bool,
}

/// Owns the ports, memory, handler and tables of one queue.
pub struct Datapath<P, H> {
    /// `None` means that the port is closed and may be reopened.
    ports: PortList<Option<P>>,
    port_slots: Vec<PortSlot>,
    /// Frames that wait for each port's TX ring.
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
    /// Ports that receive no new packets, as a bit mask.
    paused: u8,
    /// Panic message of the handler; `None` if it did not panic or was replaced.
    handler_panic: Option<String>,
    faults: ActiveFaults,
    /// Counts packets that were on the rings of sockets when those were closed.
    left_on_rings: u64,
}

impl<P: Port, H: Handler> Datapath<P, H> {
    /// Creates a datapath. It processes nothing before the first [`turn`](Self::turn).
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
            // The first tick is due at once: a handler may have requests before the first packet.
            next_tick: now,
            draining: false,
            paused: 0,
            handler_panic: None,
            faults: ActiveFaults::default(),
            left_on_rings: 0,
        }
    }

    /// Executes one turn: [`work`](Self::work), then [`kick`](Self::kick).
    ///
    /// # Errors
    /// Returns the error of [`kick`](Self::kick).
    pub fn turn(&mut self, now: Instant) -> Result<TurnResult, (PortIndex, PortError)> {
        let packets = self.work(now);
        let again = self.kick()?;
        Ok(TurnResult { packets, ..again })
    }

    /// Executes the user side of a turn: reclaim, fill, receive, process, transmit, inbox and timeouts. It makes no
    /// system call. Returns the number of packets processed.
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
        // Held packets come before the ports, because they are older than new packets.
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now);
            packets += self.serve_held(now);
        }
        for from in PortIndex::first(self.ports.len()) {
            // A full TX ring stops reception. The RX rings fill, and the kernel counts the packets it drops.
            let open = self.handler_panic.is_none() && !from.is_in(self.paused);
            if open && self.out.iter().all(TxBacklog::ready) {
                packets += self.serve_port(from, now);
            }
        }
        packets += self.serve_inbox(now);
        packets
    }

    /// Executes the kernel side of a turn: wakes the kernel for the rings that request it.
    ///
    /// # Errors
    /// Returns the port and [`PortError::Gone`] or another kernel error. That port has failed and must be closed
    /// ([`close_port`](Self::close_port)). Every frame is still in the ledger.
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

    /// Processes at most one batch of packets that other queues handed over. Returns their number.
    fn serve_inbox(&mut self, now: Instant) -> usize {
        let mut taken = 0;
        let mut batch_from = PortIndex::P0;
        while taken < LANES
            && let Some(handover) = self.peers.take()
        {
            taken += 1;
            // A batch has one port, so a handover from another port begins a new batch.
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

    /// Copies a handover into a frame of this UMEM, at the end of `self.burst`.
    fn unpack(&mut self, handover: &Handover) -> Result<(), DropReason> {
        let mut frame = self.umem.take().ok_or(DropReason::NoFrame)?;
        // A handover holds less than 2 KiB.
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

    /// Shows held packets to the handler again, and drops those past their deadline. Returns their number.
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

    /// Processes the packets in `self.burst`: columns, handler, verdicts.
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
        let mut cx =
            Context::new(now, &self.info, &self.tables, self.draining, &mut self.requests).with_peers(&self.peers);
        // Only the handler can panic. After a panic, batch and memory stay consistent, and the handler is not used
        // again.
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
                        // The dropped frame is an evicted one or this one.
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

/// Holds a frame that goes back to the pool, with the drop reason.
struct DroppedFrame(Frame, DropReason);
