//! Why a packet was not sent on. One counter each; the list is complete, so that
//! received = forwarded + sum of drops holds at every quiescent point.

use serde::Serialize;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// The name in metrics and reports: lower case, words joined by `_`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    // The frame itself.
    /// Shorter than the headers it must have.
    Truncated = "truncated",
    /// More than one descriptor long (multi-buffer), or longer than a frame holds.
    Oversized = "oversized",
    /// A VLAN tag: the steering program passes these to the kernel, whose VLAN interfaces take the tag off.
    VlanTag = "vlan_tag",
    /// Neither IPv4 nor IPv6: the steering program passes these to the kernel.
    EtherType = "ether_type",
    /// IP version field does not match the EtherType.
    IpVersion = "ip_version",
    /// IPv4 header length below 20 bytes, or past the end of the packet.
    IpHeaderLength = "ip_header_length",
    /// IPv4 options or IPv6 extension headers: the kernel's.
    IpOptions = "ip_options",
    /// IP total or payload length smaller than its headers, or larger than the frame.
    IpLength = "ip_length",
    /// IPv4 header checksum is wrong.
    IpChecksum = "ip_checksum",
    /// A fragment: the kernel's.
    Fragment = "fragment",
    /// TTL or hop limit would reach zero.
    TtlExpired = "ttl_expired",
    /// Not UDP.
    Protocol = "protocol",
    /// UDP length field below 8, or larger than the IP payload.
    UdpLength = "udp_length",
    /// UDP over IPv6 with checksum zero (RFC 8200 section 8.1).
    UdpChecksumZero = "udp_checksum_zero",
    /// UDP checksum is wrong, where it was verified.
    UdpChecksum = "udp_checksum",
    /// A source address or port that no datagram may carry: multicast, loopback, unspecified, port 0.
    BadSource = "bad_source",

    // The relay's decision.
    /// No relay entry and no session knows this packet.
    NoSession = "no_session",
    /// The answer came from somewhere else than the session's upstream.
    WrongPeer = "wrong_peer",
    /// The session table is full.
    SessionsFull = "sessions_full",
    /// More than a client prefix or an entry may send, or a prefix may be sent.
    RateLimited = "rate_limited",
    /// The gate in front of new sessions refused the client.
    Refused = "refused",
    /// No source port left for this upstream.
    PortsExhausted = "ports_exhausted",
    /// No route to the next hop, or it leaves by an interface that is not served.
    NoRoute = "no_route",
    /// The next hop did not answer in time.
    NeighbourTimeout = "neighbour_timeout",
    /// Too many packets already wait for a next hop.
    HoldFull = "hold_full",
    /// Longer than the outgoing interface's MTU.
    TooBig = "too_big",
    /// No room in front of the packet for a longer header.
    NoHeadroom = "no_headroom",
    /// The handler said neither forward nor drop.
    NoVerdict = "no_verdict",
    /// The handler dropped it.
    Handler = "handler",
    /// The handler panicked while it had the batch.
    HandlerPanic = "handler_panic",

    // The machinery.
    /// TX ring full for longer than allowed.
    TxFull = "tx_full",
    /// The outgoing port is not open.
    PortClosed = "port_closed",
    /// Another queue's inbox was full.
    InboxFull = "inbox_full",
    /// No free frame for a packet handed over by another queue.
    NoFrame = "no_frame",
    /// The engine is draining and takes no new sessions.
    Draining = "draining",
    /// In the actor's hands when it ended.
    Restart = "restart",
}

impl DropReason {
    /// Who dropped it: `packet` (it is malformed), `handler` (the application's decision), `engine` (the
    /// machinery could not send it on).
    #[must_use]
    pub const fn stage(self) -> &'static str {
        // The list above is in this order.
        if self as u8 <= Self::BadSource as u8 {
            "packet"
        } else if self as u8 <= Self::HandlerPanic as u8 {
            "handler"
        } else {
            "engine"
        }
    }
}

/// One counter for each [`DropReason`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropCounters([u64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// Counts one packet.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts `packets` packets.
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        // `reason as usize` is below ALL.len() by construction: the variants number from zero.
        self.0[reason as usize] += packets;
    }

    /// The counter of one reason.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Sum over all reasons.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that occurred, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&r| (r, self.of(r))).filter(|&(_, n)| n > 0)
    }

    /// Adds another set of counters to this one.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

impl Serialize for DropCounters {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.nonzero().map(|(r, n)| (r.name(), n)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_one_to_one() {
        let mut names = std::collections::HashSet::new();
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(names.insert(reason.name()), "{} twice", reason.name());
        }
    }

    #[test]
    fn counters_add_up() {
        let mut a = DropCounters::default();
        a.count(DropReason::Truncated);
        a.add(DropReason::Draining, 2);
        let mut b = a.clone();
        b.merge(&a);
        assert_eq!((b.of(DropReason::Draining), b.total()), (4, 6));
        assert_eq!(b.nonzero().count(), 2);
    }
}
