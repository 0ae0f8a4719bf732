//! Lists the reasons why a packet was not forwarded, with one counter each. The list is complete:
//! received = forwarded + sum of drops holds at every quiescent point.

use serde::Serialize;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal {
        cause: $cause:literal, remedy: $remedy:literal, log: $log:literal $(,)?
    })+) => {
        /// States why a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// Lists all reasons in the order of the counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// Returns the name in metrics and reports, in lower case with `_`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }

            /// Explains the reason in a sentence.
            #[must_use]
            pub const fn explanation(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// Names the most likely cause in a sentence.
            #[must_use]
            pub const fn cause(self) -> &'static str {
                match self { $(DropReason::$variant => $cause,)+ }
            }

            /// Returns the remedy for an operator: an action, or "none needed".
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(DropReason::$variant => $remedy,)+ }
            }

            /// Returns whether such drops are logged at a bounded rate, because an operator may have to act.
            #[must_use]
            pub const fn is_logged(self) -> bool {
                match self { $(DropReason::$variant => $log,)+ }
            }
        }
    };
}

// Documentation, `oxide ctl drops`, `oxide top` and the log use only these texts.
reasons! {
    // Reasons of malformed packets.
    /// The packet is shorter than its headers.
    Truncated = "truncated" {
        cause: "A sender or a device on the way damages packets.",
        remedy: "capture at the sender (`tcpdump -e -X`) and repair the sender",
        log: false,
    }
    /// The packet has several descriptors (multi-buffer), or is longer than a frame holds.
    Oversized = "oversized" {
        cause: "The interface's MTU is larger than a frame, or the sender offloads segmentation.",
        remedy: "lower the MTU, set engine.frame_size = 4096, or on a veth peer `ethtool -K PEER gso off tso off`",
        log: true,
    }
    /// The packet has a VLAN tag. The steering program passes such packets to the kernel, whose VLAN interfaces remove
    /// it.
    VlanTag = "vlan_tag" {
        cause: "A tagged packet reached the socket past the steering program.",
        remedy: "serve the VLAN interface itself (engine.interfaces = [\"eth0.7\"])",
        log: false,
    }
    /// The packet is neither IPv4 nor IPv6. The steering program passes such packets to the kernel.
    EtherType = "ether_type" {
        cause: "Another program steers packets to this queue.",
        remedy: "see `bpftool net show`",
        log: false,
    }
    /// The IP version field does not match the EtherType.
    IpVersion = "ip_version" {
        cause: "A sender damages or forges packets.",
        remedy: "none needed; capture at the sender to find the sender",
        log: false,
    }
    /// The IPv4 header length is below 20 bytes, or exceeds the packet.
    IpHeaderLength = "ip_header_length" {
        cause: "A sender damages or forges packets.",
        remedy: "none needed; capture at the sender to find the sender",
        log: false,
    }
    /// The packet has IPv4 options or IPv6 extension headers, which the kernel handles.
    IpOptions = "ip_options" {
        cause: "A sender uses IP options, which the relay does not forward.",
        remedy: "send without options",
        log: false,
    }
    /// The IP total or payload length is smaller than the headers, or larger than the frame.
    IpLength = "ip_length" {
        cause: "The sender offloads segmentation, or damages packets.",
        remedy: "on a veth peer `ethtool -K PEER gso off tso off`; else capture at the sender",
        log: false,
    }
    /// The IPv4 header checksum is wrong.
    IpChecksum = "ip_checksum" {
        cause: "The sender offloads the checksum, which a veth pair cannot compute, or the wire damages packets.",
        remedy: "on a veth peer `ethtool -K PEER tx off`; else check cable and errors (`ethtool -S`)",
        log: true,
    }
    /// The packet is a fragment that the relay cannot carry: malformed, or for an upstream of the other family.
    Fragment = "fragment" {
        cause: "A datagram longer than the path MTU goes to an upstream of the other family, or a sender forges fragments.",
        remedy: "use an upstream of the clients' family, or lower the sender's datagram size",
        log: true,
    }
    /// TTL or hop limit would become zero.
    TtlExpired = "ttl_expired" {
        cause: "A routing loop, or a traceroute.",
        remedy: "look for a loop between the relay and its neighbours (`traceroute`)",
        log: false,
    }
    /// The packet is not UDP.
    Protocol = "protocol" {
        cause: "Another program steers packets to this queue.",
        remedy: "see `bpftool net show`",
        log: false,
    }
    /// The UDP length field is below 8, or larger than the IP payload.
    UdpLength = "udp_length" {
        cause: "A sender damages or forges packets.",
        remedy: "none needed; capture at the sender to find the sender",
        log: false,
    }
    /// The packet is UDP over IPv6 with checksum zero (RFC 8200 section 8.1).
    UdpChecksumZero = "udp_checksum_zero" {
        cause: "A sender omits the checksum, which IPv6 does not allow.",
        remedy: "repair the sender",
        log: false,
    }
    /// The UDP checksum is wrong (only where it is verified).
    UdpChecksum = "udp_checksum" {
        cause: "The sender offloads the checksum, which a veth pair cannot compute, or the wire damages packets.",
        remedy: "on a veth peer `ethtool -K PEER tx off`; else check cable and errors (`ethtool -S`)",
        log: true,
    }
    /// The source cannot be answered: multicast, loopback, unspecified, port 0, or an address of this host.
    BadSource = "bad_source" {
        cause: "A forged source address, or a client on the relay host itself.",
        remedy: "filter forged sources at the edge (BCP 38); clients must run on another host",
        log: false,
    }

    // Decisions of the relay.
    /// No relay entry and no session matches this packet.
    NoSession = "no_session" {
        cause: "An answer came after its session had ended, or a scan hits the source ports.",
        remedy: "if answers are late, raise idle_timeout_s of the entry",
        log: false,
    }
    /// The answer came from another address or port than the session's upstream.
    WrongPeer = "wrong_peer" {
        cause: "The server answers from a new port (TFTP) or from another of its addresses; or a sender probes the \
            source ports.",
        remedy: "bind the server to the address and port that upstreams names; the log names the sender; protocols \
            that change ports cannot be relayed",
        log: true,
    }
    /// The session table is full.
    SessionsFull = "sessions_full" {
        cause: "More clients within the idle timeout than sessions.capacity allows.",
        remedy: "raise sessions.capacity, or shorten idle_timeout_s of the entry",
        log: true,
    }
    /// A client prefix or an entry exceeds its rate, or a prefix exceeds the rate of answers.
    RateLimited = "rate_limited" {
        cause: "A client or an entry exceeds its configured rate.",
        remedy: "raise the rate in [limits] or in the [[relay]] entry, if the traffic is legitimate",
        log: false,
    }
    /// The gate in front of new sessions refused the client.
    Refused = "refused" {
        cause: "A client did not prove its address, or a flood comes from forged addresses.",
        remedy: "none needed; clients must follow the protocol of the gate",
        log: false,
    }
    /// There is no source port left for this upstream.
    PortsExhausted = "ports_exhausted" {
        cause: "More clients within the idle timeout than source ports for one upstream and source address.",
        remedy: "widen sessions.source_ports, add sessions.sources, or shorten idle_timeout_s of the entry",
        log: true,
    }
    /// There is no route to the next hop, or the route leaves through an interface that is not served.
    NoRoute = "no_route" {
        cause: "A route or an address is missing, or engine.interfaces lacks the outgoing interface.",
        remedy: "see `ip route get ADDRESS`; add the interface to engine.interfaces",
        log: true,
    }
    /// The next hop did not answer in time.
    NeighbourTimeout = "neighbour_timeout" {
        cause: "The next hop is down, or does not answer ARP or neighbour discovery.",
        remedy: "see `ip neigh show`; check the router or server behind it",
        log: true,
    }
    /// Too many packets already wait for a next hop.
    HoldFull = "hold_full" {
        cause: "Next hops do not answer, while clients continue to send.",
        remedy: "see `ip neigh show`; check the routers or servers in state FAILED",
        log: true,
    }
    /// The packet is a later fragment whose first fragment did not come within 100 ms.
    FragmentOrphan = "fragment_orphan" {
        cause: "The network lost the first fragment, or more datagrams are fragmented at once than a queue tracks.",
        remedy: "look for packet loss before the relay, or lower the sender's datagram size",
        log: true,
    }
    /// The packet is longer than the MTU of the outgoing interface.
    TooBig = "too_big" {
        cause: "The MTU towards the receiver is smaller than that towards the sender.",
        remedy: "use one MTU on both sides, or lower the datagram size of the sender",
        log: true,
    }
    /// The packet has too little headroom for a longer header.
    NoHeadroom = "no_headroom" {
        cause: "A frame had no headroom for the translation to IPv6.",
        remedy: "please report it: frames have 256 bytes of headroom",
        log: true,
    }
    /// The handler gave no verdict.
    NoVerdict = "no_verdict" {
        cause: "A defect of the handler.",
        remedy: "decide about every lane of a batch",
        log: true,
    }
    /// The handler dropped it.
    Handler = "handler" {
        cause: "A decision of the application.",
        remedy: "see the documentation of the application",
        log: false,
    }
    /// The handler panicked while it had the batch.
    HandlerPanic = "handler_panic" {
        cause: "A defect of the handler; the supervisor replaces it.",
        remedy: "please report the message in the log",
        log: false,
    }

    // Conditions of the engine.
    /// The TX ring was full for too long.
    TxFull = "tx_full" {
        cause: "The outgoing interface is slower than the incoming packets, or its link is down.",
        remedy: "check the link; raise engine.ring_size; use more queues",
        log: true,
    }
    /// The packet waited on the RX ring of a paused port until the port was resumed.
    Paused = "paused" {
        cause: "An operator paused the port; packets that waited on its RX ring are too old at the resume.",
        remedy: "none needed",
        log: false,
    }
    /// The outgoing port is not open.
    PortClosed = "port_closed" {
        cause: "The interface is down, deleted or taken by another program, or its queue restarts.",
        remedy: "`oxide ctl queues` names the port and what it waits for",
        log: true,
    }
    /// Another queue's inbox was full.
    InboxFull = "inbox_full" {
        cause: "Packets reach other queues than those that own their flows, faster than these take them.",
        remedy: "let the NIC hash addresses and ports of UDP (`ethtool -N IF rx-flow-hash udp4 sdfn`); give each \
            queue a core",
        log: true,
    }
    /// No free frame for a packet handed over by another queue.
    NoFrame = "no_frame" {
        cause: "All packet memory of the queue is in use.",
        remedy: "raise engine.frame_count",
        log: true,
    }
    /// The engine is draining and takes no new sessions.
    Draining = "draining" {
        cause: "An operator drained the relay or this queue.",
        remedy: "none needed",
        log: false,
    }
    /// The actor held the packet when it ended.
    Restart = "restart" {
        cause: "The queue was restarted or stopped.",
        remedy: "none needed; the log names the cause of the restart",
        log: false,
    }
}

impl DropReason {
    /// Finds a reason by its [name](Self::name).
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }

    /// Returns the stage that dropped the packet: `packet` (malformed), `handler` (decision of the application) or
    /// `engine` (could not be sent on).
    #[must_use]
    pub const fn stage(self) -> &'static str {
        // The list above has this order.
        if self as u8 <= Self::BadSource as u8 {
            "packet"
        } else if self as u8 <= Self::HandlerPanic as u8 {
            "handler"
        } else {
            "engine"
        }
    }
}

/// Holds one counter for each [`DropReason`].
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
        // `reason as usize` is below ALL.len(), because the variants are numbered from zero.
        self.0[reason as usize] += packets;
    }

    /// Returns the counter of one reason.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Returns the sum over all reasons.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns the reasons that occurred, with their counts.
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
    fn every_reason_is_explained() {
        for reason in DropReason::ALL {
            for text in [reason.explanation(), reason.cause()] {
                assert!(text.len() > 10 && text.ends_with('.') && !text.starts_with(' '), "{reason:?}: {text:?}");
            }
            let remedy = reason.remedy();
            assert!(remedy.len() > 10 && !remedy.ends_with('.'), "{reason:?}: {remedy:?}");
            assert!(
                !reason.is_logged() || !remedy.starts_with("none needed"),
                "{reason:?} is logged, so it needs an action"
            );
        }
        assert_eq!(DropReason::by_name("wrong_peer"), Some(DropReason::WrongPeer));
        assert_eq!(DropReason::by_name("wrong"), None);
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
