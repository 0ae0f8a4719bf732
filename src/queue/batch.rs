//! A batch as a handler sees it: packets to read and rewrite, columns to decide by, one verdict each.

use std::net::IpAddr;

use crate::packet::{Columns, LANES};
use crate::telemetry::DropReason;
use crate::umem::{Frame, PortIndex, Umem};

/// Names what a held packet waits for. Different things may have one key, which costs them fairness and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HoldKey(u16);

impl HoldKey {
    /// Keys that are told apart: half of them next hops, half the handler's own.
    pub(crate) const BUCKETS: usize = 512;

    /// Makes a key of the handler's own. Numbers that are equal modulo 256 are not told apart.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(256 + (number % 256) as u16)
    }

    /// Makes the key of a next hop.
    pub(crate) fn next_hop(interface: u32, address: IpAddr) -> Self {
        let words = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let mixed =
            (words as u64 ^ (words >> 64) as u64 ^ u64::from(interface) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self((mixed >> 56) as u16)
    }

    pub(crate) const fn bucket(self) -> usize {
        self.0 as usize % Self::BUCKETS
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// Nothing was said: dropped as [`DropReason::NoVerdict`].
    #[default]
    None,
    /// Sent by this port of the same actor.
    Transmit(PortIndex),
    /// Dropped and counted.
    Drop(DropReason),
    /// Kept, and shown again in a later batch: when the tables change, or after a short while.
    /// Bounded in number and time.
    Hold,
    /// As [`Hold`](Self::Hold), until what the key names is there: packets that wait for one thing leave room for those
    /// that wait for another.
    HoldFor(HoldKey),
    /// Copied to the actor at this [place](super::QueueInfo::place), which sees it as if it had come in there by
    /// the same interface.
    HandOver(u32),
}

/// Up to 64 packets from one port. Lane `i` is packet `i`, in the order of arrival.
pub struct Batch<'a> {
    umem: &'a Umem,
    frames: &'a mut [Frame],
    columns: &'a Columns,
    verdicts: &'a mut [Verdict; LANES],
    from: PortIndex,
    was_held: bool,
}

impl<'a> Batch<'a> {
    /// Puts a batch together. `frames` beyond [`LANES`] are not seen.
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

    /// Packets in the batch, at most [`LANES`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// One bit for each packet.
    #[must_use]
    pub fn live(&self) -> u64 {
        // A shift by 64 would overflow: 64 lanes are all ones.
        u64::MAX.checked_shr(64 - self.frames.len() as u32).unwrap_or(0)
    }

    /// The port all of them came in by.
    #[must_use]
    pub fn from(&self) -> PortIndex {
        self.from
    }

    /// Whether these packets were held before: they come for the second time.
    #[must_use]
    pub fn was_held(&self) -> bool {
        self.was_held
    }

    /// What the batch processor found.
    #[must_use]
    pub fn columns(&self) -> &'a Columns {
        self.columns
    }

    /// The whole frame of `lane`, Ethernet header first; empty for a lane beyond the batch.
    #[must_use]
    pub fn packet(&self, lane: usize) -> &[u8] {
        self.frames.get(lane).map_or(&[], |frame| self.umem.bytes(frame))
    }

    /// The whole frame of `lane`, to rewrite; empty for a lane beyond the batch.
    pub fn packet_mut(&mut self, lane: usize) -> &mut [u8] {
        match self.frames.get_mut(lane) {
            Some(frame) => self.umem.bytes_mut(frame),
            None => &mut [],
        }
    }

    /// Sends `lane` by `port`, `length` bytes long if it is as long. Returns the first 64 bytes of its frame, to
    /// rewrite, however long its packet is; `None` for a lane beyond the batch. A header that the columns speak of
    /// begins at a fixed place in it.
    #[inline(always)]
    pub fn transmit_headers(&mut self, lane: usize, length: u16, port: PortIndex) -> Option<&mut [u8; 64]> {
        let frame = self.frames.get_mut(lane)?;
        *self.verdicts.get_mut(lane)? = Verdict::Transmit(port);
        if length < frame.length() {
            let _ = self.umem.set_length(frame, length);
        }
        Some(self.umem.header_bytes_mut(frame))
    }

    /// Sets the length of the frame of `lane`, bytes; `false`, and no change, if it would not fit.
    #[must_use]
    #[inline]
    pub fn set_length(&mut self, lane: usize, length: u16) -> bool {
        self.frames.get_mut(lane).is_some_and(|frame| self.umem.set_length(frame, length))
    }

    /// Moves the start of the frame of `lane` by `by` bytes, its end staying where it is: towards the front
    /// to make room for a header, towards the end to take one off. `false`, and no change, if it would
    /// leave the frame or the packet ([`Umem::move_start`]).
    #[must_use]
    pub fn move_start(&mut self, lane: usize, by: i16) -> bool {
        self.frames.get_mut(lane).is_some_and(|frame| self.umem.move_start(frame, by))
    }

    /// Decides for one packet; the last word counts.
    #[inline]
    pub fn decide(&mut self, lane: usize, verdict: Verdict) {
        if lane < self.frames.len() {
            self.verdicts[lane] = verdict;
        }
    }

    /// What was said last; [`Verdict::None`] for a lane beyond the batch.
    #[must_use]
    pub fn verdict(&self, lane: usize) -> Verdict {
        if lane < self.frames.len() { self.verdicts[lane] } else { Verdict::None }
    }

    /// Sends `lane` by `port`.
    pub fn transmit(&mut self, lane: usize, port: PortIndex) {
        self.decide(lane, Verdict::Transmit(port));
    }

    /// Drops `lane`.
    pub fn drop(&mut self, lane: usize, reason: DropReason) {
        self.decide(lane, Verdict::Drop(reason));
    }
}
