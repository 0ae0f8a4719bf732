//! One queue's sessions: what each of them keeps, found by client; and what those of one upstream have in common.

use std::num::NonZeroU16;

use oxide::flow::{FlowKey, FlowTable, Keyed};
use oxide::net::ResolvedHop;
use oxide::packet::{Endpoint, FlowChecksumDelta, MacAddr};
use oxide::umem::PortIndex;

/// Ethernet header, bytes.
const ETHERNET: u16 = 14;

/// Where packets leave, a copy from the tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct CachedNextHop {
    /// When it was copied from the tables, by the relay's count: one that is missed would have to be 2^32
    /// counts away.
    pub(super) generation: u32,
    /// Largest IP packet, bytes; 0 in [`CachedNextHop::UNKNOWN`].
    pub(super) mtu: u16,
    /// Largest frame without VLAN tag that stays in its family on the way, bytes; 0 if packets cross to the other.
    pub(super) frame: u16,
    /// Ethernet destination and source, as in the frame.
    pub(super) macs: [u8; 12],
    /// Outgoing port; without meaning in [`CachedNextHop::UNKNOWN`].
    pub(super) port: PortIndex,
}

impl CachedNextHop {
    pub(super) const UNKNOWN: Self = Self { generation: 0, mtu: 0, frame: 0, macs: [0; 12], port: PortIndex::P0 };

    /// `crosses`: the packets are of the other family afterwards.
    pub(super) fn new(generation: u32, to: &ResolvedHop, port: PortIndex, changes_family: bool) -> Self {
        let frame = if changes_family { 0 } else { to.mtu.saturating_add(ETHERNET) };
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&to.destination.0);
        macs[6..].copy_from_slice(&to.source.0);
        Self { generation, mtu: to.mtu, frame, macs, port }
    }

    /// Ethernet destination and source.
    pub(super) fn macs(&self) -> [MacAddr; 2] {
        let [a, b, c, d, e, f, own @ ..] = self.macs;
        [MacAddr([a, b, c, d, e, f]), MacAddr(own)]
    }

    /// Whether it may be used at this count.
    #[inline]
    pub(super) fn fresh(&self, generation: u32) -> bool {
        self.generation == generation && self.mtu != 0
    }
}

/// One upstream as it is reached from one source address, and how the packets of all sessions with both leave.
/// Exactly one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Upstream {
    pub(super) server: Endpoint,
    /// Which of the relay's source addresses `hop` is for, and that address.
    pub(super) source: u8,
    pub(super) address: [u8; 16],
    /// Place of the upstream in the plan's list of all.
    pub(super) place: u32,
    pub(super) hop: CachedNextHop,
}

const _: () = assert!(size_of::<Upstream>() == 64);

impl Upstream {
    /// The upstream at `place` of the plan's list; no source address yet.
    pub(super) fn new(server: Endpoint, place: u32) -> Self {
        Self { server, source: u8::MAX, address: [0; 16], place, hop: CachedNextHop::UNKNOWN }
    }
}

/// One client at one entry. Exactly one cache line, also as a slot of the table.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Session {
    /// The client, and the entry's place in the configuration.
    pub(super) key: FlowKey,
    /// Source port toward the upstream.
    pub(super) port: NonZeroU16,
    /// Which of the relay's source addresses.
    pub(super) source: u8,
    /// The last packet was an answer; noted only where the entry's sessions end soon after one.
    pub(super) answered: bool,
    /// Slot in the relay's list of upstreams and source addresses.
    pub(super) upstream: u32,
    /// When the client was last heard, or answered where that is noted, in ticks of the relay's clock.
    pub(super) last_seen: u32,
    /// Of the client's packets; the answers' is the reverse.
    pub(super) change: FlowChecksumDelta,
    pub(super) to_client: CachedNextHop,
}

const _: () = assert!(size_of::<Option<Session>>() == 64);

impl Keyed for Session {
    #[inline]
    fn key(&self) -> &FlowKey {
        &self.key
    }
}

/// A queue's sessions.
pub(super) type Sessions = FlowTable<Session>;

/// Bytes of the table that holds `sessions` sessions, all taken at start.
#[must_use]
pub fn table_bytes(sessions: u32) -> usize {
    Sessions::bytes_for(sessions)
}
