//! Defines the batch that a handler processes: packets to read and rewrite, their columns, and one verdict each.

use std::net::IpAddr;

use crate::packet::{Columns, LANES};
use crate::telemetry::DropReason;
use crate::umem::{Frame, PortIndex, Umem};

/// Names the reason why a packet is held. Two reasons may share one key; this affects fairness only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HoldKey(u16);

impl HoldKey {
    /// Counts the distinct keys: half of them for next hops, half for the handler.
    pub(crate) const BUCKETS: usize = 512;

    /// Creates a key for the handler's own use. Numbers that are equal modulo 256 give the same key.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(256 + (number % 256) as u16)
    }

    /// Creates the key of a next hop.
    pub(crate) fn next_hop(interface: u32, address: IpAddr) -> Self {
        let bits = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let mixed =
            (bits as u64 ^ (bits >> 64) as u64 ^ u64::from(interface) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self((mixed >> 56) as u16)
    }

    pub(crate) const fn bucket(self) -> usize {
        self.0 as usize % Self::BUCKETS
    }
}

/// States the decision about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// Means that the handler decided nothing. The packet is dropped as [`DropReason::NoVerdict`].
    #[default]
    None,
    /// Sends the packet through this port of the same actor.
    Transmit(PortIndex),
    /// Drops and counts the packet.
    Drop(DropReason),
    /// Keeps the packet and shows it again in a later batch: when the tables change, or after 100 ms.
    /// Number and time are limited.
    Hold,
    /// Holds the packet like [`Hold`](Self::Hold), under a key. Packets with one key cannot use up the space of packets
    /// with another key.
    HoldFor(HoldKey),
    /// Copies the packet to the actor at this [place](super::QueueInfo::place). That actor handles it as if it had
    /// arrived there through the same interface.
    HandOver(u32),
}

/// Holds up to 64 packets from one port. Lane `i` is packet `i`, in the order of arrival.
pub struct Batch<'a> {
    umem: &'a Umem,
    frames: &'a mut [Frame],
    columns: &'a Columns,
    verdicts: &'a mut [Verdict; LANES],
    from: PortIndex,
    was_held: bool,
}

impl<'a> Batch<'a> {
    /// Creates a batch. It ignores `frames` beyond [`LANES`].
    #[doc(hidden)]
    pub fn new(
        umem: &'a Umem,
        frames: &'a mut [Frame],
        columns: &'a Columns,
        verdicts: &'a mut [Verdict; LANES],
        from: PortIndex,
        was_held: bool,
    ) -> Self {
        let length = frames.len().min(LANES);
        Self { umem, frames: &mut frames[..length], columns, verdicts, from, was_held }
    }

    /// Returns the number of packets in the batch, at most [`LANES`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Returns whether the batch has no packets.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Returns a mask with one bit for each packet.
    #[must_use]
    pub fn live(&self) -> u64 {
        // A shift by 64 would overflow: 64 lanes are all ones.
        u64::MAX.checked_shr(64 - self.frames.len() as u32).unwrap_or(0)
    }

    /// Returns the port through which all packets of the batch arrived.
    #[must_use]
    pub fn from(&self) -> PortIndex {
        self.from
    }

    /// Returns whether these packets were held before, so that the handler gets them again.
    #[must_use]
    pub fn was_held(&self) -> bool {
        self.was_held
    }

    /// Returns the columns that the batch processor filled.
    #[must_use]
    pub fn columns(&self) -> &'a Columns {
        self.columns
    }

    /// Returns the whole frame of `lane`, from the Ethernet header on. It is empty for a lane beyond the batch.
    #[must_use]
    pub fn packet(&self, lane: usize) -> &[u8] {
        self.frames.get(lane).map_or(&[], |frame| self.umem.bytes(frame))
    }

    /// Returns the whole frame of `lane` for rewriting. It is empty for a lane beyond the batch.
    pub fn packet_mut(&mut self, lane: usize) -> &mut [u8] {
        match self.frames.get_mut(lane) {
            Some(frame) => self.umem.bytes_mut(frame),
            None => &mut [],
        }
    }

    /// Sends `lane` through `port` and shortens it to `length` bytes if it is longer. Returns the first 64 bytes of the
    /// frame for rewriting, whatever the packet's length, or `None` for a lane beyond the batch. Every header that the
    /// columns describe begins at a fixed offset in these bytes.
    #[inline(always)]
    pub fn transmit_headers(&mut self, lane: usize, length: u16, port: PortIndex) -> Option<&mut [u8; 64]> {
        let frame = self.frames.get_mut(lane)?;
        *self.verdicts.get_mut(lane)? = Verdict::Transmit(port);
        if length < frame.length() {
            let _ = self.umem.set_length(frame, length);
        }
        Some(self.umem.header_bytes_mut(frame))
    }

    /// Sets the frame length of `lane` in bytes. Returns `false` and changes nothing if the length does not fit.
    #[must_use]
    #[inline]
    pub fn set_length(&mut self, lane: usize, length: u16) -> bool {
        self.frames.get_mut(lane).is_some_and(|frame| self.umem.set_length(frame, length))
    }

    /// Moves the start of the frame of `lane` by `by` bytes; its end does not move. A negative value makes space for a
    /// header, a positive value removes one. Returns `false` and changes nothing if the new start would be outside the
    /// frame or the packet ([`Umem::move_start`]).
    #[must_use]
    pub fn move_start(&mut self, lane: usize, by: i16) -> bool {
        self.frames.get_mut(lane).is_some_and(|frame| self.umem.move_start(frame, by))
    }

    /// Sets the verdict of one packet. A later call replaces it.
    #[inline]
    pub fn decide(&mut self, lane: usize, verdict: Verdict) {
        if lane < self.frames.len() {
            self.verdicts[lane] = verdict;
        }
    }

    /// Returns the current verdict of `lane`, or [`Verdict::None`] for a lane beyond the batch.
    #[must_use]
    pub fn verdict(&self, lane: usize) -> Verdict {
        if lane < self.frames.len() { self.verdicts[lane] } else { Verdict::None }
    }

    /// Sends `lane` through `port`.
    pub fn transmit(&mut self, lane: usize, port: PortIndex) {
        self.decide(lane, Verdict::Transmit(port));
    }

    /// Drops `lane`.
    pub fn drop(&mut self, lane: usize, reason: DropReason) {
        self.decide(lane, Verdict::Drop(reason));
    }
}
