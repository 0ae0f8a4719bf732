//! One queue's sessions: what each of them keeps, found by client.

use std::num::NonZeroU16;

use crate::flow::{FlowKey, FlowTable, Keyed};
use crate::packet::{AddressChange, MacAddr};
use crate::umem::PortIndex;

/// Where a direction of a session leaves, a copy from the tables; and what its addresses do to checksums.
#[derive(Debug, Clone, Copy)]
pub(super) struct NextHop {
    /// When it was copied from the tables, by the relay's count: one that is missed would have to be 2^32
    /// counts away.
    pub(super) generation: u32,
    /// Largest IP packet, bytes.
    pub(super) mtu: u16,
    pub(super) addresses: AddressChange,
    /// Next hop's MAC.
    pub(super) mac: MacAddr,
    /// Outgoing port; [`NextHop::UNKNOWN`] has none.
    pub(super) port: PortIndex,
}

impl NextHop {
    pub(super) const UNKNOWN: Self =
        Self { generation: 0, mtu: 0, addresses: AddressChange::NONE, mac: MacAddr([0; 6]), port: PortIndex::MAX };

    /// Whether it may be used at this count.
    #[inline]
    pub(super) fn fresh(&self, generation: u32) -> bool {
        self.generation == generation && self.port != PortIndex::MAX
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
    /// Place in the relay's list of all upstreams.
    pub(super) upstream: u32,
    /// When the client was last heard, in ticks of the relay's clock.
    pub(super) last_seen: u32,
    pub(super) to_upstream: NextHop,
    pub(super) to_client: NextHop,
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
