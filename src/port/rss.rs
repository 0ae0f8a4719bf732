//! Computes the queue to which a NIC brings a UDP flow.

use crate::packet::Flow;
use crate::simd::{Processor, Toeplitz};

/// Describes a NIC's receive-side scaling: the Toeplitz hash of addresses and ports with the device's key, and the
/// indirection table. From these, the queue of a flow is known in advance.
#[derive(Debug, Clone)]
pub struct Rss {
    toeplitz: Toeplitz,
    /// Queue for each value of the low bits of the hash.
    table: Vec<u32>,
    /// Whether the hash of UDP over IPv4 covers both addresses and both ports, and nothing else.
    udp4: bool,
    /// Whether the same holds for IPv6.
    udp6: bool,
}

impl Rss {
    /// Creates the description of a device with this key and table. `udp4` and `udp6` state whether it hashes addresses
    /// and ports of UDP over IPv4 and IPv6. Returns `None` if the key is shorter than 40 bytes, the table is empty, or
    /// both are false.
    #[must_use]
    pub fn new(processor: Processor, key: &[u8], table: &[u32], udp4: bool, udp6: bool) -> Option<Self> {
        let toeplitz = Toeplitz::new(processor, key).filter(|_| !table.is_empty() && (udp4 || udp6))?;
        Some(Self { toeplitz, table: table.to_vec(), udp4, udp6 })
    }

    /// Returns whether the queue of UDP flows is known, for IPv4 or for IPv6.
    #[must_use]
    pub fn covers(&self, ipv4: bool) -> bool {
        if ipv4 { self.udp4 } else { self.udp6 }
    }

    /// Returns the queue at which packets of `flow` arrive, or `None` if it is unknown for its family.
    #[must_use]
    pub fn queue_of(&self, flow: &Flow) -> Option<u32> {
        let at = self.toeplitz.one(flow) as usize % self.table.len();
        self.table.get(at).copied().filter(|_| self.covers(flow.source.is_ipv4()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::SocketAddr;

    /// Holds Microsoft's key, with two test vectors of "Verifying the RSS hash calculation".
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    fn flow(source: &str, destination: &str) -> Flow {
        let end = |text: &str| text.parse::<SocketAddr>().unwrap().into();
        Flow { source: end(source), destination: end(destination) }
    }

    #[test]
    fn queue_is_indirection_entry_of_low_hash_bits() {
        let table: Vec<u32> = (0..128).map(|n| n % 5).collect();
        let rss = |udp4, udp6| Rss::new(Processor::detect(), &KEY, &table, udp4, udp6);
        let four = flow("66.9.149.187:2794", "161.142.100.80:1766");
        let six = flow("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766");
        assert_eq!(rss(true, true).unwrap().queue_of(&four), Some((0x51cc_c178 % 128) % 5));
        assert_eq!(rss(true, true).unwrap().queue_of(&six), Some((0x4020_7d3d % 128) % 5));
        assert_eq!(rss(true, false).unwrap().queue_of(&six), None);
        assert_eq!(rss(false, true).unwrap().queue_of(&four), None);
        assert!(rss(false, false).is_none());
        assert!(Rss::new(Processor::detect(), &KEY[..39], &table, true, true).is_none());
        assert!(Rss::new(Processor::detect(), &KEY, &[], true, true).is_none());
    }
}
