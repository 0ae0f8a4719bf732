//! Counts the packets of the steering program by verdict. Every packet is counted.

use serde::Serialize;

macro_rules! verdicts {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Names the decision of the steering program about a packet. Numbers are those of `enum verdict` in
        /// `bpf/steer.bpf.c`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Verdict { $($(#[doc = $doc])+ $variant,)+ }

        impl Verdict {
            /// Lists all verdicts in the order of the counters.
            pub const ALL: &'static [Verdict] = &[$(Verdict::$variant,)+];

            /// Returns the name in metrics and reports, in lower case with `_`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Verdict::$variant => $name,)+ }
            }
        }
    };
}

verdicts! {
    /// Redirected to the queue's socket, because its destination is listed. The socket may still drop it: RX ring full,
    /// fill ring empty, or longer than a frame (see its `XDP_STATISTICS`).
    Redirected = "redirected",
    /// Sent to the fallback: its destination is listed, but the queue has no socket.
    NoSocket = "no_socket",
    /// Passed to the kernel: truncated headers, a wrong IP version, or a length field below the size of the headers.
    Malformed = "malformed",
    /// Passed to the kernel: the destination MAC is a group address, broadcast included.
    Multicast = "multicast",
    /// Passed to the kernel: neither IPv4 nor IPv6, for example ARP or LLDP.
    OtherEthertype = "other_ethertype",
    /// Passed to the kernel: it has a VLAN tag.
    Vlan = "vlan",
    /// Passed to the kernel: IPv4 with options.
    Ipv4Options = "ipv4_options",
    /// Passed to the kernel: IPv6 with extension headers.
    Ipv6Extension = "ipv6_extension",
    /// Passed to the kernel: a fragment, first or later.
    Fragment = "fragment",
    /// Passed to the kernel: not UDP, for example TCP, ICMP or neighbour discovery.
    NotUdp = "not_udp",
    /// Passed to the kernel: UDP to an address or port that is not listed.
    NotListed = "not_listed",
}

/// Counts packets by verdict since the program was attached, summed over all CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SteeringCounters(pub(super) [u64; Verdict::ALL.len()]);

impl SteeringCounters {
    /// Returns the counter of one verdict.
    #[must_use]
    pub fn of(&self, verdict: Verdict) -> u64 {
        // `verdict as usize` is below ALL.len(), because the variants are numbered from zero.
        self.0[verdict as usize]
    }

    /// Returns the number of packets that the program has seen.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns the verdicts that occurred, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (Verdict, u64)> + '_ {
        Verdict::ALL.iter().map(|&v| (v, self.of(v))).filter(|&(_, n)| n > 0)
    }
}

impl Serialize for SteeringCounters {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Verdict::ALL.iter().map(|&v| (v.name(), self.of(v))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn numbers_are_those_of_the_program() {
        let source = include_str!("../../../bpf/steer.bpf.c");
        let (_, list) = source.split_once("enum verdict {").unwrap();
        let (list, _) = list.split_once('}').unwrap();
        let names: Vec<String> =
            list.split(',').map(|name| name.trim().to_lowercase()).take_while(|name| name != "listed_udp").collect();
        let ours: Vec<&str> = Verdict::ALL.iter().map(|v| v.name()).collect();
        assert_eq!(names, ours);
        assert!(Verdict::ALL.iter().enumerate().all(|(i, &v)| v as usize == i));
        assert!(source.contains(&format!("BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, {},", ours.len())), "counter map size");
    }
}
