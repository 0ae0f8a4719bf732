//! Holds the data of one queue's sessions, found by client, and the data that sessions of one upstream share.

use std::num::NonZeroU16;

use oxide::flow::{FlowKey, FlowTable, Keyed};
use oxide::net::ResolvedHop;
use oxide::packet::{Endpoint, FlowChecksumDelta, MacAddr};
use oxide::umem::PortIndex;

/// Length of the Ethernet header, bytes.
const ETHERNET: u16 = 14;

/// Holds a next hop, copied from the tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct CachedNextHop {
    /// The relay's generation when the next hop was copied. It wraps after 2^32 generations.
    pub(super) generation: u32,
    /// Largest IP packet, bytes; 0 in [`CachedNextHop::UNKNOWN`].
    pub(super) mtu: u16,
    /// Largest untagged frame, bytes; 0 if packets change the IP version.
    pub(super) frame: u16,
    /// Ethernet destination and source address, as in the frame.
    pub(super) macs: [u8; 12],
    /// Outgoing port; unused in [`CachedNextHop::UNKNOWN`].
    pub(super) port: PortIndex,
}

impl CachedNextHop {
    pub(super) const UNKNOWN: Self = Self { generation: 0, mtu: 0, frame: 0, macs: [0; 12], port: PortIndex::P0 };

    /// Copies a next hop. `changes_family` states that packets leave with the other IP version.
    pub(super) fn new(generation: u32, to: &ResolvedHop, port: PortIndex, changes_family: bool) -> Self {
        let frame = if changes_family { 0 } else { to.mtu.saturating_add(ETHERNET) };
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&to.destination.0);
        macs[6..].copy_from_slice(&to.source.0);
        Self { generation, mtu: to.mtu, frame, macs, port }
    }

    /// Returns the Ethernet destination and source address.
    pub(super) fn macs(&self) -> [MacAddr; 2] {
        let [a, b, c, d, e, f, own @ ..] = self.macs;
        [MacAddr([a, b, c, d, e, f]), MacAddr(own)]
    }

    /// Returns true if the copy is valid in this generation.
    #[inline]
    pub(super) fn fresh(&self, generation: u32) -> bool {
        self.generation == generation && self.mtu != 0
    }
}

/// Holds one pair of upstream and source address, with the next hop of all its sessions. It is one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Upstream {
    pub(super) server: Endpoint,
    /// Index of the source address that `hop` is for; `address` is that address.
    pub(super) source: u8,
    pub(super) address: [u8; 16],
    /// Index of the upstream in the plan's list.
    pub(super) place: u32,
    pub(super) hop: CachedNextHop,
}

const _: () = assert!(size_of::<Upstream>() == 64);

impl Upstream {
    /// Makes the upstream with index `place` of the plan's list, without a source address.
    pub(super) fn new(server: Endpoint, place: u32) -> Self {
        Self { server, source: u8::MAX, address: [0; 16], place, hop: CachedNextHop::UNKNOWN }
    }
}

/// Holds the session of one client at one entry. It is one cache line, also as a slot of the table.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Session {
    /// Client, and index of the entry in the configuration.
    pub(super) key: FlowKey,
    /// Source port towards the upstream.
    pub(super) port: NonZeroU16,
    /// Index of the source address.
    pub(super) source: u8,
    /// States that the last packet was an answer; recorded only for entries with an answer grace time.
    pub(super) answered: bool,
    /// Slot in the relay's list of upstreams and source addresses.
    pub(super) upstream: u32,
    /// Time of the client's last packet, or of the last recorded answer, in ticks of the relay's clock.
    pub(super) last_seen: u32,
    /// Checksum change of the client's packets; answers use the reverse.
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

/// Is the session table of one queue.
pub(super) type Sessions = FlowTable<Session>;

/// Returns the size of a table for `sessions` sessions, bytes; all of it is allocated at start.
#[must_use]
pub fn table_bytes(sessions: u32) -> usize {
    Sessions::bytes_for(sessions)
}
