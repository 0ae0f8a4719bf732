//! What the steering program counts: one number per verdict, so that no packet passes in silence.

use serde::Serialize;

macro_rules! verdicts {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// What the steering program decided for a packet. Numbers are those of `enum verdict` in
        /// `bpf/steer.bpf.c`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum Verdict { $($(#[doc = $doc])+ $variant,)+ }

        impl Verdict {
            /// Every verdict, in the order of the counters.
            pub const ALL: &'static [Verdict] = &[$(Verdict::$variant,)+];

            /// The name in metrics and reports: lower case, words joined by `_`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Verdict::$variant => $name,)+ }
            }
        }
    };
}

verdicts! {
    /// Listed, and handed to the queue's socket. The socket may still drop it: RX ring full, fill ring
    /// empty, longer than a frame (see its `XDP_STATISTICS`).
    Redirected = "redirected",
    /// Listed, but the queue has no socket: the fallback was taken.
    NoSocket = "no_socket",
    /// Headers cut short, a wrong IP version, or a length field below the headers' size. To the kernel.
    Malformed = "malformed",
    /// Destination MAC is a group address, broadcast included. To the kernel.
    Multicast = "multicast",
    /// Neither IPv4 nor IPv6: ARP, LLDP and the like. To the kernel.
    OtherEthertype = "other_ethertype",
    /// A VLAN tag. To the kernel.
    Vlan = "vlan",
    /// IPv4 with options. To the kernel.
    Ipv4Options = "ipv4_options",
    /// IPv6 with extension headers. To the kernel.
    Ipv6Extension = "ipv6_extension",
    /// A fragment, first or later. To the kernel.
    Fragment = "fragment",
    /// Not UDP: TCP, ICMP, neighbour discovery. To the kernel.
    NotUdp = "not_udp",
    /// UDP to an address or port that is not listed. To the kernel.
    NotListed = "not_listed",
}

/// Packets by verdict since the program was attached, summed over all CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SteeringCounters(pub(super) [u64; Verdict::ALL.len()]);

impl SteeringCounters {
    /// The counter of one verdict.
    #[must_use]
    pub fn of(&self, verdict: Verdict) -> u64 {
        // `verdict as usize` is below ALL.len() by construction: the variants number from zero.
        self.0[verdict as usize]
    }

    /// Every packet the program has seen.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The verdicts that occurred, with their counts.
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
