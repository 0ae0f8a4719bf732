//! Builds the frames of each row of `docs/malformed.md`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use oxide::packet::build::UdpFrame;
use oxide::packet::{Flow, checksum};
use oxide::telemetry::DropReason::{self, *};

pub(crate) const L3: usize = 14;
const PAYLOAD: &[u8] = b"sixteen bytes 16";
/// Length of the valid frames.
pub(crate) const V4: usize = 14 + 20 + 8 + PAYLOAD.len();
pub(crate) const V6: usize = 14 + 40 + 8 + PAYLOAD.len();

/// Holds a row: text, verdict (`None`: accepted), frames.
pub(crate) struct Form {
    pub(crate) text: &'static str,
    pub(crate) reason: Option<DropReason>,
    pub(crate) frames: Vec<Vec<u8>>,
}

fn refused(text: &'static str, reason: DropReason, frames: impl IntoIterator<Item = Vec<u8>>) -> Form {
    Form { text, reason: Some(reason), frames: frames.into_iter().collect() }
}

fn accepted(text: &'static str, frames: impl IntoIterator<Item = Vec<u8>>) -> Form {
    Form { text, reason: None, frames: frames.into_iter().collect() }
}

pub(crate) fn flow(ipv4: bool) -> Flow {
    let end = |at: &str| at.parse::<SocketAddr>().unwrap().into();
    if ipv4 {
        Flow { source: end("192.0.2.1:4000"), destination: end("198.51.100.7:53") }
    } else {
        Flow { source: end("[2001:db8::1]:4000"), destination: end("[2001:db8:7::7]:53") }
    }
}

pub(crate) fn v4() -> Vec<u8> {
    UdpFrame::new(flow(true), PAYLOAD).to_vec().unwrap()
}

pub(crate) fn v6() -> Vec<u8> {
    UdpFrame::new(flow(false), PAYLOAD).to_vec().unwrap()
}

/// Returns `frame` with `bytes` at `at` and unchanged checksums.
fn put(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// Returns `frame` with a corrected IPv4 header checksum.
pub(crate) fn summed(mut frame: Vec<u8>) -> Vec<u8> {
    if let Some(sum) = frame.get(L3..).and_then(checksum::ipv4_header) {
        frame[L3 + 10..L3 + 12].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// Returns an IPv4 frame with `bytes` at `at` of the IP header and a correct checksum.
fn v4_with(at: usize, bytes: &[u8]) -> Vec<u8> {
    summed(put(v4(), L3 + at, bytes))
}

fn v6_with(at: usize, bytes: &[u8]) -> Vec<u8> {
    put(v6(), L3 + at, bytes)
}

/// Returns frames of both IP versions with `bytes` at `at` of the UDP header.
fn udp_with(at: usize, bytes: &[u8]) -> [Vec<u8>; 2] {
    [put(v4(), L3 + 20 + at, bytes), put(v6(), L3 + 40 + at, bytes)]
}

/// Inserts `tag` between the MAC addresses and the EtherType.
fn tagged(frame: Vec<u8>, tag: &[u8]) -> Vec<u8> {
    [&frame[..12], tag, &frame[12..]].concat()
}

/// Inserts `headers`, each (type, bytes), between the IPv6 header and UDP, with correct types and lengths.
fn v6_chain(headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let (mut head, udp) = (v6()[..L3 + 40].to_vec(), v6()[L3 + 40..].to_vec());
    let mut next_at = L3 + 6;
    for (kind, bytes) in headers {
        head[next_at] = *kind;
        next_at = head.len();
        head.extend(bytes);
    }
    head[next_at] = 17;
    let payload = (head.len() - L3 - 40 + udp.len()) as u16;
    put([head, udp].concat(), L3 + 4, &payload.to_be_bytes())
}

/// Returns an extension header of `units` times eight bytes, filled with PadN.
fn extension(kind: u8, units: u8) -> (u8, Vec<u8>) {
    let mut bytes = vec![0; usize::from(units) * 8];
    bytes[1] = if kind == 51 { units * 2 - 2 } else { units - 1 };
    (kind, bytes)
}

fn fragment_header(offset_and_more: u16) -> (u8, Vec<u8>) {
    let [a, b] = offset_and_more.to_be_bytes();
    (44, vec![0, 0, a, b, 0, 0, 0, 9])
}

/// Returns an IPv4 frame with `size` bytes of no-operation options.
fn v4_options(size: usize) -> Vec<u8> {
    let frame = v4();
    let mut frame = [&frame[..L3 + 20], &vec![1; size][..], &frame[L3 + 20..]].concat();
    frame[L3] = 0x45 + (size / 4) as u8;
    let total = (frame.len() - L3) as u16;
    summed(put(frame, L3 + 2, &total.to_be_bytes()))
}

/// Returns a valid frame that carries `protocol`: over IPv4 with `options` times four bytes of options, over IPv6 with
/// `headers`, each (type, units of eight bytes).
pub(crate) fn carrying(ipv4: bool, protocol: u8, options: usize, headers: &[(u8, u8)]) -> Vec<u8> {
    let headers: Vec<_> = headers.iter().map(|&(kind, units)| extension(kind, units)).collect();
    let mut frame = if ipv4 { v4_options(options * 4) } else { v6_chain(&headers) };
    // Replace the UDP header, which ends 16 bytes before the frame: a TCP header is as long as both.
    let payload = frame.len() - PAYLOAD.len() - 8;
    if protocol == 6 {
        frame[payload + 12] = 0x50;
    }
    if ipv4 {
        return summed(put(frame, L3 + 9, &[protocol]));
    }
    // The last header names the protocol that follows.
    let mut next = L3 + 6;
    let mut at = L3 + 40;
    for (_, bytes) in &headers {
        next = at;
        at += bytes.len();
    }
    put(frame, next, &[protocol])
}

fn padded(mut frame: Vec<u8>, by: usize) -> Vec<u8> {
    frame.resize(frame.len() + by, 0xee);
    frame
}

/// Returns a selection of lengths from one above `right` to the maximum.
fn longer_than(right: usize) -> impl Iterator<Item = [u8; 2]> {
    (1..=64).chain([256, 1024, 0x7fff, 0xffff]).map(move |by| (right + by).min(0xffff) as u16).map(u16::to_be_bytes)
}

pub(crate) fn forms() -> Vec<Form> {
    [ethernet(), ipv4(), ipv4_sources(), ipv6(), ipv6_addresses(), udp()].into_iter().flatten().collect()
}

fn ethernet() -> Vec<Form> {
    let both = || [v4(), v6()];
    let typed = |kind: u16| both().map(|frame| put(frame, 12, &kind.to_be_bytes()));
    let tags = |tag: &'static [u8]| both().map(|frame| tagged(frame, tag));
    let big = vec![7; 8900];
    let jumbo = [true, false].map(|ipv4| UdpFrame::new(flow(ipv4), &big).to_vec().unwrap());
    vec![
        refused(
            "empty, or cut at any byte of the Ethernet header",
            Truncated,
            both().into_iter().flat_map(|frame| (0..14).map(move |at| frame[..at].to_vec())),
        ),
        refused(
            "ARP, an 802.3 length instead of a type, an unknown type",
            EtherType,
            [0x0806, 0x0026, 0x88b5, 0xffff, 0x0000].into_iter().flat_map(typed),
        ),
        refused(
            "VLAN tags: one, two (802.1ad and 802.1Q), three, a priority tag",
            VlanTag,
            [
                tags(&[0x81, 0, 0, 7]),
                tags(&[0x88, 0xa8, 0, 9, 0x81, 0, 0, 7]),
                tags(&[0x91, 0, 0, 1, 0x88, 0xa8, 0, 9, 0x81, 0, 0, 7]),
                tags(&[0x81, 0, 0xe0, 0]),
            ]
            .concat(),
        ),
        refused(
            "MPLS or PPPoE around an IP packet",
            EtherType,
            [tags(&[0x88, 0x47, 0, 1, 0x01, 64]), tags(&[0x88, 0x64, 0x11, 0, 0, 1, 0, 60, 0, 0x21])].concat(),
        ),
        refused("type IPv4 around an IPv6 packet", IpVersion, [put(v6(), 12, &[0x08, 0x00])]),
        refused("type IPv6 around an IPv4 packet", IpVersion, [put(v4(), 12, &[0x86, 0xdd])]),
        accepted(
            "padding or a trailer after the IP packet",
            both().into_iter().flat_map(|frame| [1, 2, 4, 500].map(|by| padded(frame.clone(), by))),
        ),
        accepted("a jumbo frame whose lengths agree", jumbo),
    ]
}

fn ipv4() -> Vec<Form> {
    let flags = |words: &[u16]| words.iter().map(|word| v4_with(6, &word.to_be_bytes())).collect::<Vec<_>>();
    let total = |length: u16| v4_with(2, &length.to_be_bytes());
    vec![
        refused("cut at any byte of the IPv4 header", Truncated, (L3..L3 + 20).map(|at| v4()[..at].to_vec())),
        refused("cut at any later byte", IpLength, (L3 + 20..V4).map(|at| v4()[..at].to_vec())),
        refused(
            "version 0 to 3, 5 to 15",
            IpVersion,
            (0..16).filter(|&version| version != 4).map(|version| v4_with(0, &[version << 4 | 5])),
        ),
        refused("header length 0 to 16 bytes", IpHeaderLength, (0..5).map(|words| v4_with(0, &[0x40 | words]))),
        refused("header length past the end of the frame", IpHeaderLength, {
            let short = || UdpFrame::new(flow(true), b"").to_vec().unwrap();
            (8..16).map(move |words| summed(put(short(), L3, &[0x40 | words])))
        }),
        refused("options of 4 to 40 bytes", IpOptions, (1..=10).map(|words| v4_options(words * 4))),
        refused(
            "header length 24 to 60 bytes over a header of 20",
            IpOptions,
            (6..12).map(|words| v4_with(0, &[0x40 | words])).chain([summed(put(padded(v4(), 60), L3, &[0x4f]))]),
        ),
        refused("any single bit of the header checksum wrong", IpChecksum, {
            let right = u16::from_be_bytes([v4()[L3 + 10], v4()[L3 + 11]]);
            (0..16).map(move |bit| put(v4(), L3 + 10, &(right ^ 1 << bit).to_be_bytes()))
        }),
        refused("header checksum left to an offload (zero)", IpChecksum, [put(v4(), L3 + 10, &[0, 0])]),
        refused("total length zero (segmentation offload)", IpLength, [total(0)]),
        refused("total length below 20 bytes", IpLength, (1..20).map(total)),
        refused(
            "total length past the end of the frame, by one byte up to 65535",
            IpLength,
            longer_than(V4 - L3).map(|length| v4_with(2, &length)),
        ),
        refused("total length that leaves less than a UDP header", UdpLength, (20..28).map(total)),
        refused(
            "fragment: first, middle, last, with and without DF",
            Fragment,
            flags(&[0x2000, 0x2001, 0x2010, 0x0010, 0x1fff, 0x6000, 0x4001, 0x5fff, 0xe000]),
        ),
        accepted("DF, the reserved flag, any identification", {
            let ids = [0u16, 1, 0xffff].map(|id| v4_with(4, &id.to_be_bytes()));
            [flags(&[0x0000, 0x4000, 0x8000, 0xc000]), ids.to_vec()].concat()
        }),
        refused(
            "TCP, ICMP, SCTP, UDP-Lite, AH, ESP, protocol 0 and 255",
            Protocol,
            [6, 1, 132, 136, 51, 50, 0, 255].map(|protocol| v4_with(9, &[protocol])),
        ),
        refused("TTL zero", TtlExpired, [v4_with(8, &[0])]),
        accepted("TTL one", [v4_with(8, &[1])]),
    ]
}

fn ipv4_sources() -> Vec<Form> {
    let from = |source: [u8; 4]| v4_with(12, &source);
    vec![
        refused("source 0.0.0.0/8", BadSource, [[0, 0, 0, 0], [0, 0, 0, 1], [0, 255, 255, 255]].map(from)),
        refused("source 127.0.0.0/8", BadSource, [[127, 0, 0, 1], [127, 255, 255, 255]].map(from)),
        refused(
            "source multicast (224.0.0.0/4)",
            BadSource,
            [[224, 0, 0, 1], [232, 1, 2, 3], [239, 255, 255, 250]].map(from),
        ),
        refused("source 255.255.255.255", BadSource, [from(Ipv4Addr::BROADCAST.octets())]),
    ]
}

fn ipv6() -> Vec<Form> {
    let payload = |length: u16| v6_with(4, &length.to_be_bytes());
    let jumbo = (0, vec![0, 0, 0xc2, 4, 0, 1, 0, 0]);
    let kinds = [0, 43, 60, 51, 50, 135, 139, 140, 253, 254];
    vec![
        refused("cut at any byte of the IPv6 header", Truncated, (L3..L3 + 40).map(|at| v6()[..at].to_vec())),
        refused("cut at any byte after the IPv6 header", IpLength, (L3 + 40..V6).map(|at| v6()[..at].to_vec())),
        refused(
            "version 0 to 5, 7 to 15",
            IpVersion,
            (0..16).filter(|&version| version != 6).map(|version| v6_with(0, &[version << 4])),
        ),
        refused(
            "payload length past the end of the frame, by one byte up to 65535",
            IpLength,
            longer_than(V6 - L3 - 40).map(|length| v6_with(4, &length)),
        ),
        refused("payload length of 0 to 7 bytes", UdpLength, (0..8).map(payload)),
        refused(
            "jumbogram (payload length zero, hop-by-hop option)",
            IpOptions,
            [put(v6_chain(&[jumbo]), L3 + 4, &[0, 0])],
        ),
        refused(
            "one extension header: hop-by-hop, routing, destination options, AH, ESP, mobility, HIP, shim6, experimental",
            IpOptions,
            kinds.into_iter().flat_map(|kind| [1, 2, 8].map(|units| v6_chain(&[extension(kind, units)]))),
        ),
        refused(
            "chain of extension headers, as long as a frame or repeated",
            IpOptions,
            [
                v6_chain(&[extension(0, 1), extension(60, 1), extension(43, 3), extension(51, 3), extension(60, 1)]),
                v6_chain(&vec![extension(60, 1); 170]),
                v6_chain(&vec![extension(0, 1); 3]),
            ],
        ),
        refused(
            "fragment header: first, middle, last, atomic",
            Fragment,
            [0x0001, 0x0581, 0x0580, 0x0000].map(|word| v6_chain(&[fragment_header(word)])),
        ),
        refused(
            "fragment header behind another extension header",
            IpOptions,
            [0, 43, 60].map(|kind| v6_chain(&[extension(kind, 1), fragment_header(1)])),
        ),
        refused(
            "TCP, ICMPv6, no next header, an unknown one",
            Protocol,
            [6, 58, 59, 200, 255].map(|next| v6_with(6, &[next])),
        ),
        refused("hop limit zero", TtlExpired, [v6_with(7, &[0])]),
        accepted("hop limit one", [v6_with(7, &[1])]),
    ]
}

fn ipv6_addresses() -> Vec<Form> {
    let from = |source: &str| v6_with(8, &source.parse::<Ipv6Addr>().unwrap().octets());
    vec![
        refused("source ::, ::1, and the rest of ::/64", BadSource, ["::", "::1", "::2", "::1:2:3:4"].map(from)),
        refused(
            "source IPv4-mapped or IPv4-compatible",
            BadSource,
            ["::ffff:192.0.2.1", "::ffff:127.0.0.1", "::192.0.2.1"].map(from),
        ),
        refused("source multicast (ff00::/8)", BadSource, ["ff02::1", "ff0e::1234", "ff00::"].map(from)),
        refused(
            "destination IPv4-mapped",
            BadSource,
            ["::ffff:198.51.100.7", "::ffff:0.0.0.0"].map(|to| v6_with(24, &to.parse::<Ipv6Addr>().unwrap().octets())),
        ),
    ]
}

fn udp() -> Vec<Form> {
    let length = |length: u16| udp_with(4, &length.to_be_bytes());
    let empty = [true, false].map(|ipv4| UdpFrame::new(flow(ipv4), b"").to_vec().unwrap());
    let right = 8 + PAYLOAD.len();
    vec![
        refused("UDP length 0 to 7", UdpLength, (0..8).flat_map(length)),
        refused(
            "UDP length past the IP payload, by one byte up to 65535",
            UdpLength,
            longer_than(right).flat_map(|length| udp_with(4, &length)).chain(
                // Within the frame, but not within the IP packet.
                udp_with(4, &(right as u16 + 1).to_be_bytes()).map(|frame| padded(frame, 40)),
            ),
        ),
        accepted("UDP length below the IP payload: UDP options, RFC 9868", (8..right as u16).flat_map(length)),
        accepted("no payload", empty),
        accepted("checksum zero over IPv4", [put(v4(), L3 + 26, &[0, 0])]),
        refused("checksum zero over IPv6", UdpChecksumZero, [put(v6(), L3 + 46, &[0, 0])]),
        accepted("checksum wrong", udp_with(6, &[0xde, 0xad])),
        refused("source port 0", BadSource, udp_with(0, &[0, 0])),
        accepted("destination port 0", udp_with(2, &[0, 0])),
    ]
}
