//! Reads facts of an interface with ethtool netlink (net/ethtool, include/uapi/linux/ethtool_netlink.h). No request
//! needs a privilege. If the kernel or driver does not support a request, its facts are unknown.

use super::netlink::{Netlink, attributes, find, put, text_of, u32_of, u64_of};
use super::{HashFields, Nic, Offloads, RssView};

const LINKMODES_GET: u8 = 4;
const A_LINKMODES_SPEED: u16 = 5;
const FEATURES_GET: u8 = 11;
const A_FEATURES_ACTIVE: u16 = 4;
const A_BITSET_BITS: u16 = 3;
const A_BITSET_BITS_BIT: u16 = 1;
const A_BITSET_BIT_NAME: u16 = 2;
const RINGS_GET: u8 = 15;
const A_RINGS_RX: u16 = 6;
const A_RINGS_TX: u16 = 9;
const CHANNELS_GET: u8 = 17;
const A_CHANNELS_RX_MAX: u16 = 2;
const A_CHANNELS_COMBINED_MAX: u16 = 5;
const A_CHANNELS_RX_COUNT: u16 = 6;
const A_CHANNELS_TX_COUNT: u16 = 7;
const A_CHANNELS_COMBINED_COUNT: u16 = 9;
/// Available since Linux 6.3.
const RSS_GET: u8 = 38;
const A_RSS_HFUNC: u16 = 3;
const A_RSS_INDIR: u16 = 4;
const A_RSS_HKEY: u16 = 5;
const A_RSS_INPUT_XFRM: u16 = 6;
/// Available since Linux 6.17. Before, only an ioctl (ETHTOOL_GRXFH) reports the fields.
const A_RSS_FLOW_HASH: u16 = 8;
const A_FLOW_UDP4: u16 = 6;
const A_FLOW_UDP6: u16 = 7;
const A_HEADER: u16 = 1;
const A_HEADER_DEV_INDEX: u16 = 1;

/// Sends requests of the `ethtool` family of generic netlink for one interface.
pub(super) struct Ethtool<'a> {
    pub(super) generic: &'a mut Netlink,
    pub(super) family: u16,
    pub(super) ifindex: u32,
}

impl Ethtool<'_> {
    /// Returns the attributes of the answer, after its 4-byte header.
    fn ask(&mut self, command: u8) -> Option<Vec<u8>> {
        let mut header = Vec::new();
        put(&mut header, A_HEADER_DEV_INDEX, &self.ifindex.to_ne_bytes());
        let mut payload = vec![command, 1, 0, 0];
        put(&mut payload, 0x8000 | A_HEADER, &header);
        let answers = self.generic.get(self.family, &payload).ok()?;
        Some(answers.first()?.get(4..)?.to_vec())
    }

    /// Adds everything that this family reports to `nic`.
    pub(super) fn add_to(&mut self, nic: &mut Nic) {
        if let Some(answer) = self.ask(CHANNELS_GET) {
            let get = |kind| number(&answer, kind).unwrap_or(0);
            let combined = get(A_CHANNELS_COMBINED_COUNT);
            let (rx, tx) = (get(A_CHANNELS_RX_COUNT), get(A_CHANNELS_TX_COUNT));
            let max = get(A_CHANNELS_RX_MAX).saturating_add(get(A_CHANNELS_COMBINED_MAX));
            nic.max_queues = (max > 0).then_some(max);
            nic.rx_queues = nic.rx_queues.or((combined + rx > 0).then_some(combined + rx));
            nic.tx_queues = nic.tx_queues.or((combined + tx > 0).then_some(combined + tx));
        }
        if let Some(answer) = self.ask(RINGS_GET) {
            nic.rx_ring = number(&answer, A_RINGS_RX);
            nic.tx_ring = number(&answer, A_RINGS_TX);
        }
        if let Some(answer) = self.ask(LINKMODES_GET) {
            // u32::MAX is SPEED_UNKNOWN. The 10000 of veth is a constant and not a measurement, but veth reports it.
            nic.speed_mbps = number(&answer, A_LINKMODES_SPEED).filter(|&s| s != u32::MAX && s != 0);
        }
        nic.offloads = self.offloads();
        nic.rss = self.ask(RSS_GET).and_then(|answer| rss(&answer));
    }

    pub(super) fn offloads(&mut self) -> Option<Offloads> {
        offloads(&self.ask(FEATURES_GET)?)
    }
}

fn number(answer: &[u8], kind: u16) -> Option<u32> {
    find(answer, kind).and_then(u32_of)
}

/// Returns the offloads in the list of active features; the kernel lists only those that are on.
fn offloads(answer: &[u8]) -> Option<Offloads> {
    let bits = find(find(answer, A_FEATURES_ACTIVE)?, A_BITSET_BITS)?;
    let bits = attributes(bits).filter(|(kind, _)| *kind == A_BITSET_BITS_BIT);
    let names: Vec<String> = bits.filter_map(|(_, bit)| find(bit, A_BITSET_BIT_NAME).and_then(text_of)).collect();
    Some(Offloads::from_names(names.iter().map(String::as_str)))
}

/// Returns `None` if the answer is empty: some drivers have the call and report nothing.
fn rss(answer: &[u8]) -> Option<RssView> {
    let function = number(answer, A_RSS_HFUNC).map(|bits| match bits {
        1 => "toeplitz".to_owned(),
        2 => "xor".to_owned(),
        4 => "crc32".to_owned(),
        other => format!("function {other:#x}"),
    });
    let transform = number(answer, A_RSS_INPUT_XFRM).filter(|bits| *bits != 0).map(|bits| match bits {
        1 => "symmetric-xor".to_owned(),
        2 => "symmetric-or-xor".to_owned(),
        other => format!("transform {other:#x}"),
    });
    let table = find(answer, A_RSS_INDIR).filter(|bytes| !bytes.is_empty());
    let fields = find(answer, A_RSS_FLOW_HASH);
    // The type is NLA_UINT: 4 bytes, or 8 if the value needs them.
    let fields = |flow| {
        let value = find(fields?, flow)?;
        Some(HashFields::from_bits(u64_of(value).or(u32_of(value).map(u64::from))?))
    };
    let view = RssView {
        key: find(answer, A_RSS_HKEY).filter(|bytes| !bytes.is_empty()).map(<[u8]>::to_vec),
        table: table.map(|bytes| bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_ne_bytes(*entry)).collect()),
        function,
        transform,
        fields_udp4: fields(A_FLOW_UDP4),
        fields_udp6: fields(A_FLOW_UDP6),
    };
    (view != RssView::default()).then_some(view)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rss_answer_is_decoded() {
        let mut answer = Vec::new();
        put(&mut answer, A_RSS_HFUNC, &1_u32.to_ne_bytes());
        let table: Vec<u8> = [0_u32, 1, 2, 3].iter().flat_map(|queue| queue.to_ne_bytes()).collect();
        put(&mut answer, A_RSS_INDIR, &table);
        put(&mut answer, A_RSS_HKEY, &[7; 40]);
        put(&mut answer, A_RSS_INPUT_XFRM, &1_u32.to_ne_bytes());
        let mut flows = Vec::new();
        put(&mut flows, A_FLOW_UDP4, &0xf0_u32.to_ne_bytes());
        put(&mut flows, A_FLOW_UDP6, &0x30_u64.to_ne_bytes());
        put(&mut answer, 0x8000 | A_RSS_FLOW_HASH, &flows);
        let view = rss(&answer).unwrap();
        assert_eq!((view.function.as_deref(), view.transform.as_deref()), (Some("toeplitz"), Some("symmetric-xor")));
        assert_eq!((view.table, view.key), (Some(vec![0, 1, 2, 3]), Some(vec![7; 40])));
        assert_eq!(view.fields_udp4.map(HashFields::has_ports), Some(true));
        assert_eq!(view.fields_udp6.map(HashFields::has_ports), Some(false));
        assert_eq!(rss(&[]), None);
    }

    #[test]
    fn active_features_are_read_by_name() {
        let mut list = Vec::new();
        for name in ["rx-gro\0", "tx-checksum-ip-generic\0", "a-later-one\0"] {
            let mut bit = Vec::new();
            put(&mut bit, 1, &3_u32.to_ne_bytes());
            put(&mut bit, A_BITSET_BIT_NAME, name.as_bytes());
            put(&mut list, 0x8000 | A_BITSET_BITS_BIT, &bit);
        }
        let mut set = Vec::new();
        put(&mut set, 0x8000 | A_BITSET_BITS, &list);
        let mut answer = Vec::new();
        put(&mut answer, 0x8000 | A_FEATURES_ACTIVE, &set);
        let on = offloads(&answer).unwrap();
        assert_eq!(on, Offloads { gro: true, tx_checksum: true, ..Offloads::default() });
        assert_eq!(offloads(&[]), None);
    }

    proptest! {
        #[test]
        fn random_answers_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (rss(&bytes), offloads(&bytes));
        }
    }
}
