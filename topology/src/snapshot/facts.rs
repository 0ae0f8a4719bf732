//! Holds grouped facts of a NIC: RSS, offloads, veth peer.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Describes how a NIC spreads received packets over its queues (`ethtool -x`, `ethtool -n NIC rx-flow-hash udp4`).
/// With all parts the queue of a packet can be computed. A part is `None` if the driver or kernel does not report it.
///
/// The queue of a packet is `table[hash & (table.len() - 1)]`. The hash is computed with `key` over source address,
/// destination address, source port and destination port, in network order. A table whose length is not a power of
/// two is indexed modulo its length.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RssView {
    /// Hash key of the NIC, usually 40 or 52 bytes. The JSON form is `6d:5a:..`, as in ethtool.
    #[serde(with = "hex", default)]
    pub key: Option<Vec<u8>>,
    /// Indirection table: the receive queue for each value of the hash's low bits.
    pub table: Option<Vec<u32>>,
    /// Hash function: `toeplitz`, `xor`, `crc32`, or another by its bit in `ETHTOOL_A_RSS_HFUNC`.
    pub function: Option<String>,
    /// Transformation of the fields before the hash: `symmetric-xor`, `symmetric-or-xor`. `None` if there is none, or
    /// the kernel is older than 6.8.
    pub transform: Option<String>,
    /// Hashed fields of a UDP packet over IPv4.
    pub fields_udp4: Option<HashFields>,
    /// Hashed fields of a UDP packet over IPv6.
    pub fields_udp6: Option<HashFields>,
}

/// Lists the parts of a packet that RSS hashes (`RXH_*`, include/uapi/linux/ethtool.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashFields {
    /// Bit `RXH_IP_SRC`.
    pub source_address: bool,
    /// Bit `RXH_IP_DST`.
    pub destination_address: bool,
    /// Bit `RXH_L4_B_0_1`.
    pub source_port: bool,
    /// Bit `RXH_L4_B_2_3`.
    pub destination_port: bool,
    /// Any other field (VLAN, Ethernet address, IPv6 flow label). Then the four fields above do not determine the
    /// queue.
    pub others: bool,
}

impl HashFields {
    /// Converts the kernel's bits.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self {
            source_address: bits & 1 << 4 != 0,
            destination_address: bits & 1 << 5 != 0,
            source_port: bits & 1 << 6 != 0,
            destination_port: bits & 1 << 7 != 0,
            others: bits & !(0b1111 << 4) != 0,
        }
    }

    /// Returns whether ports are hashed, so that flows between the same two hosts spread over queues.
    #[must_use]
    pub fn has_ports(self) -> bool {
        self.source_port && self.destination_port
    }
}

/// Prints ethtool's letters, such as `sdfn`.
impl fmt::Display for HashFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [
            (self.source_address, "s"),
            (self.destination_address, "d"),
            (self.source_port, "f"),
            (self.destination_port, "n"),
            (self.others, "+"),
        ];
        let text: String = letters.into_iter().filter_map(|(on, letter)| on.then_some(letter)).collect();
        f.write_str(if text.is_empty() { "nothing" } else { &text })
    }
}

/// Holds the offloads in use (`ethtool -k`). An offload that the kernel does not know is off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offloads {
    /// Feature `rx-checksum`.
    pub rx_checksum: bool,
    /// Any feature `tx-checksum-*` for IP: the device computes the checksums of local sockets.
    pub tx_checksum: bool,
    /// Feature `tx-tcp-segmentation` or `tx-tcp6-segmentation`.
    pub tso: bool,
    /// Feature `tx-generic-segmentation`.
    pub gso: bool,
    /// Feature `tx-udp-segmentation`.
    pub udp_segmentation: bool,
    /// Feature `rx-gro`.
    pub gro: bool,
    /// Feature `rx-udp-gro-forwarding`.
    pub udp_gro_forwarding: bool,
    /// Feature `rx-gro-hw`.
    pub hw_gro: bool,
    /// Feature `rx-lro`.
    pub lro: bool,
    /// Feature `rx-vlan-hw-parse`: the device removes the tag from the packet.
    pub rx_vlan: bool,
    /// Feature `rx-ntuple-filter`.
    pub ntuple: bool,
    /// Feature `rx-hashing`.
    pub rx_hash: bool,
}

impl Offloads {
    /// Converts the names of the active features.
    #[must_use]
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut on = Self::default();
        for name in names {
            match name {
                "rx-checksum" => on.rx_checksum = true,
                "tx-checksum-ipv4" | "tx-checksum-ipv6" | "tx-checksum-ip-generic" => on.tx_checksum = true,
                "tx-tcp-segmentation" | "tx-tcp6-segmentation" => on.tso = true,
                "tx-generic-segmentation" => on.gso = true,
                "tx-udp-segmentation" => on.udp_segmentation = true,
                "rx-gro" => on.gro = true,
                "rx-udp-gro-forwarding" => on.udp_gro_forwarding = true,
                "rx-gro-hw" => on.hw_gro = true,
                "rx-lro" => on.lro = true,
                "rx-vlan-hw-parse" => on.rx_vlan = true,
                "rx-ntuple-filter" => on.ntuple = true,
                "rx-hashing" => on.rx_hash = true,
                _ => {}
            }
        }
        on
    }
}

/// Describes the other end of a veth in the same network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VethPeer {
    /// Name of the peer.
    pub name: String,
    /// Offloads of the peer.
    pub offloads: Option<Offloads>,
    /// Whether an XDP program is attached to it.
    pub has_program: bool,
}

/// Serializes bytes as `6d:5a`.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => to.serialize_str(&bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let pair = |word: &str| word.len() == 2 && word.bytes().all(|b| b.is_ascii_hexdigit());
        let byte = |word: &str| u8::from_str_radix(word, 16).ok().filter(|_| pair(word));
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        bytes
            .map(Some)
            .ok_or_else(|| D::Error::custom(format!("hash key {text:?} is not pairs of hex digits with colons")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hash_fields_use_ethtool_letters() {
        assert_eq!(HashFields::from_bits(0xf0).to_string(), "sdfn");
        assert_eq!(HashFields::from_bits(0x30).to_string(), "sd");
        assert_eq!(HashFields::from_bits(0x34).to_string(), "sd+");
        assert_eq!(HashFields::from_bits(0).to_string(), "nothing");
    }

    #[test]
    fn rss_view_survives_json() {
        let view = RssView {
            key: Some(vec![0x6d, 0x5a, 0]),
            table: Some(vec![0, 1]),
            function: Some("toeplitz".into()),
            fields_udp4: Some(HashFields::from_bits(0xf0)),
            ..RssView::default()
        };
        let json = serde_json::to_string(&view).unwrap();
        assert!(json.contains("\"6d:5a:00\""), "{json}");
        assert_eq!(serde_json::from_str::<RssView>(&json).unwrap(), view);
        assert_eq!(serde_json::from_str::<RssView>("{}").unwrap(), RssView::default());
        for bad in ["6d5a", "6d:", "xx", "+1", ""] {
            let error = serde_json::from_str::<RssView>(&format!("{{\"key\":\"{bad}\"}}")).unwrap_err().to_string();
            assert!(error.contains("hex digits"), "{bad}: {error}");
        }
    }
}
