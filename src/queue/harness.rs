//! Runs a handler over packets without NIC, root or threads, for the tests of its author.
//!
//! The handler sees the same as in the engine: the real batch processor, frames of a real packet memory, batches of up
//! to 64 packets. The clock moves only when the test moves it.
//!
//! ```
//! use oxide::queue::{Batch, Context, Handler, Harness, HandlerOutcome};
//! use oxide::telemetry::DropReason;
//!
//! struct Refuse;
//! impl Handler for Refuse {
//!     fn handle(&mut self, batch: &mut Batch<'_>, _: &mut Context<'_>) {
//!         (0..batch.len()).for_each(|lane| batch.drop(lane, DropReason::Handler));
//!     }
//! }
//! let mut harness = Harness::new(Harness::info(2), Default::default(), |_| Refuse)?;
//! assert_eq!(harness.feed(0, &[[0u8; 60]]), [HandlerOutcome::Drop(DropReason::Handler)]);
//! # Ok::<(), oxide::queue::HarnessError>(())
//! ```

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::batch::{Batch, Verdict};
use super::handler::{Context, Handler, NextHopRequests, QueueInfo, Replaced};
use crate::net::Tables;
use crate::packet::{Columns, LANES, MacAddr};
use crate::port::{Burst, Mode, PortInfo, QueueId};
use crate::simd::Processor;
use crate::telemetry::DropReason;
use crate::umem::{Frame, LayoutError, PageKind, PortIndex, Region, RegionError, RingSizes, Umem, UmemLayout};

/// Reports what a handler decided, with the packet as it left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandlerOutcome {
    /// The packet leaves through the port of this number. Contains the whole frame.
    Transmit(u8, Vec<u8>),
    /// The packet is dropped.
    Drop(DropReason),
    /// The packet is held. Contains the whole frame.
    Hold(Vec<u8>),
    /// The packet goes to another queue. Contains that queue's place and the whole frame.
    HandOver(u32, Vec<u8>),
}

/// Reports that the packet memory could not be allocated.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
#[non_exhaustive]
pub enum HarnessError {
    /// The layout has invalid sizes.
    Layout(#[from] LayoutError),
    /// The kernel refused the memory.
    Memory(#[from] RegionError),
}

/// Runs one handler with everything that it needs.
pub struct Harness<H> {
    handler: H,
    info: QueueInfo,
    tables: Tables,
    now: Instant,
    draining: bool,
    requests: NextHopRequests,
    umem: Umem,
    processor: Processor,
    columns: Box<Columns>,
    verdicts: [Verdict; LANES],
}

impl Harness<()> {
    /// Describes queue 0 of 1 with `ports` simulated ports `sim0`, `sim1`, ...: interface numbers from 1, MAC addresses
    /// from `02:00:00:00:01:00`, MTU 1500, seed 1. A test changes the fields that it needs.
    #[must_use]
    pub fn info(ports: u8) -> QueueInfo {
        let port = |n: u8| PortInfo {
            id: QueueId::new(format!("sim{n}"), 0),
            ifindex: u32::from(n) + 1,
            mac: MacAddr([2, 0, 0, 0, 1, n]),
            mtu: 1500,
            mode: Mode::Simulated,
            mode_reason: String::new(),
            busy_poll: String::new(),
        };
        QueueInfo {
            queue: 0,
            queues: 1,
            place: 0,
            ports: (0..ports).map(port).collect(),
            rss: vec![None; usize::from(ports)],
            changes: 0,
            processor: Processor::detect(),
            seed: 1,
        }
    }
}

impl<H: Handler> Harness<H> {
    /// Creates a harness for the handler that `factory` creates.
    ///
    /// # Errors
    /// Returns a [`HarnessError`] if 256 frames of 4 KiB cannot be allocated.
    pub fn new(info: QueueInfo, tables: Tables, factory: impl FnOnce(&QueueInfo) -> H) -> Result<Self, HarnessError> {
        let rings = RingSizes::from_ring_size(64)?;
        let layout = UmemLayout::new(4096, UmemLayout::frames_for(&rings, 1), 0, &rings, 1, 0)?;
        let umem = Umem::new(Region::map(layout.bytes(), PageKind::Base, None)?, layout)?;
        Ok(Self {
            handler: factory(&info),
            processor: info.processor,
            info,
            tables,
            now: Instant::now(),
            draining: false,
            requests: NextHopRequests::default(),
            umem,
            columns: Box::default(),
            verdicts: [Verdict::None; LANES],
        })
    }

    /// Receives packets (whole Ethernet frames of at most 3840 bytes) at `port`, in batches of 64. Returns one outcome
    /// for each, in order; a packet that is too long gives [`DropReason::Oversized`]. Returns nothing if `port` is not
    /// below [`MAX_PORTS`](crate::umem::MAX_PORTS).
    pub fn feed(&mut self, port: u8, packets: &[impl AsRef<[u8]>]) -> Vec<HandlerOutcome> {
        packets.chunks(LANES).flat_map(|chunk| self.batch(port, chunk, false)).collect()
    }

    /// Receives packets like [`feed`](Self::feed), and marks them as held before.
    pub fn feed_again(&mut self, port: u8, packets: &[impl AsRef<[u8]>]) -> Vec<HandlerOutcome> {
        packets.chunks(LANES).flat_map(|chunk| self.batch(port, chunk, true)).collect()
    }

    fn batch(&mut self, port: u8, packets: &[impl AsRef<[u8]>], again: bool) -> Vec<HandlerOutcome> {
        let Some(port) = PortIndex::new(port.into()) else { return Vec::new() };
        let mut burst = Burst::new();
        let taken: Vec<bool> = packets.iter().map(|packet| self.load(packet.as_ref(), &mut burst)).collect();
        let parsed: &[Frame] = if self.handler.reads_columns() { &burst } else { &[] };
        self.processor.parse_frames(&self.umem, parsed, &mut self.columns);
        self.verdicts.fill(Verdict::None);
        let mut batch = Batch::new(&self.umem, &mut burst, &self.columns, &mut self.verdicts, port, again);
        let mut cx = Context::new(self.now, &self.info, &self.tables, self.draining, &mut self.requests);
        if !batch.is_empty() {
            self.handler.handle(&mut batch, &mut cx);
        }
        let mut frames = burst.drain().zip(self.verdicts);
        let mut outcomes = Vec::with_capacity(packets.len());
        for taken in taken {
            let Some((frame, verdict)) = taken.then(|| frames.next()).flatten() else {
                outcomes.push(HandlerOutcome::Drop(DropReason::Oversized));
                continue;
            };
            let bytes = self.umem.bytes(&frame).to_vec();
            self.umem.give(frame);
            outcomes.push(match verdict {
                Verdict::Transmit(to) => HandlerOutcome::Transmit(to.number(), bytes),
                Verdict::Drop(reason) => HandlerOutcome::Drop(reason),
                Verdict::None => HandlerOutcome::Drop(DropReason::NoVerdict),
                Verdict::Hold | Verdict::HoldFor(_) => HandlerOutcome::Hold(bytes),
                Verdict::HandOver(queue) => HandlerOutcome::HandOver(queue, bytes),
            });
        }
        outcomes
    }

    /// Copies a packet into a frame at the end of `burst`. Returns `false` if it does not fit.
    fn load(&mut self, packet: &[u8], burst: &mut Burst) -> bool {
        let Some(mut frame) = self.umem.take() else { return false };
        let fits = u16::try_from(packet.len()).is_ok_and(|length| self.umem.set_length(&mut frame, length));
        if !fits {
            self.umem.give(frame);
            return false;
        }
        self.umem.bytes_mut(&mut frame).copy_from_slice(packet);
        match burst.push(frame) {
            Ok(()) => true,
            Err(frame) => {
                self.umem.give(frame);
                false
            }
        }
    }

    /// Replaces the handler by the one that `factory` creates, as a restart does. Returns the number of sessions that
    /// the new handler took over ([`Handler::inherit`]).
    ///
    /// # Errors
    /// Returns the error of `inherit`.
    pub fn restart_handler(&mut self, why: Replaced, factory: impl FnOnce(&QueueInfo) -> H) -> Result<u64, String> {
        self.info = self.info.for_next_handler();
        let mut next = factory(&self.info);
        let kept = next.inherit(&mut self.handler, why);
        self.handler = next;
        kept
    }

    /// Calls [`Handler::tick`] once.
    pub fn tick(&mut self) {
        let mut cx = Context::new(self.now, &self.info, &self.tables, self.draining, &mut self.requests);
        self.handler.tick(&mut cx);
    }

    /// Moves the clock without a tick.
    pub fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// Returns the time of the clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Replaces the tables. New tables need a new generation.
    pub fn set_tables(&mut self, tables: Tables) {
        self.tables = tables;
    }

    /// Returns the current tables.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Sets whether the handler sees that the engine drains.
    pub fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Returns the next hops that the handler requested since the last call.
    pub fn take_requests(&mut self) -> Vec<(u32, IpAddr)> {
        self.requests.take().collect()
    }

    /// Returns the handler.
    #[must_use]
    pub fn handler(&self) -> &H {
        &self.handler
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::packet::build::UdpFrame;
    use crate::packet::{Endpoint, Flow};

    /// Drops the packets that the columns mark as UDP, and sends the rest.
    struct Reader(bool);

    impl Handler for Reader {
        fn reads_columns(&self) -> bool {
            self.0
        }

        fn handle(&mut self, batch: &mut Batch<'_>, _: &mut Context<'_>) {
            let udp = batch.columns().udp;
            for lane in 0..batch.len() {
                batch.transmit(lane, PortIndex::P0);
                if udp & 1 << lane != 0 {
                    batch.drop(lane, DropReason::Handler);
                }
            }
            self.0 = !self.0;
        }
    }

    #[test]
    fn handler_without_columns_gets_empty_columns() {
        let end = |text: &str| Endpoint::from(text.parse::<std::net::SocketAddr>().unwrap());
        let flow = Flow { source: end("192.0.2.1:9"), destination: end("192.0.2.2:7") };
        let packet = UdpFrame::new(flow, b"a packet").to_vec().unwrap();
        let mut harness = Harness::new(Harness::info(1), Tables::default(), |_| Reader(true)).unwrap();
        for read in [true, false, true] {
            let dropped = harness.feed(0, &[&packet]) == [HandlerOutcome::Drop(DropReason::Handler)];
            assert_eq!(dropped, read);
        }
    }
}
