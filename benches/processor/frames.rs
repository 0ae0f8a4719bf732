//! Builds packets of each kind.

use std::net::SocketAddr;

use oxide::packet::build::UdpFrame;
use oxide::packet::{Endpoint, Flow};

pub(crate) fn end(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().map(Endpoint::from).unwrap_or_default()
}

pub(crate) fn flow(n: u32, ipv4: bool) -> Flow {
    let (from, to) =
        if ipv4 { ("192.0.2.7:0", "198.51.100.1:5000") } else { ("[2001:db8::7]:0", "[2001:db8:1::1]:5000") };
    let mut source = Endpoint { port: 1024 + (n % 60_000) as u16, ..end(from) };
    source.address[13..15].copy_from_slice(&((n / 60_000) as u16).to_be_bytes());
    Flow { source, destination: end(to) }
}

/// Builds an Ethernet frame of 64 bytes.
pub(crate) fn udp(n: u32, ipv4: bool) -> [u8; 64] {
    let payload = if ipv4 { &[7; 22][..] } else { &[7; 2] };
    padded(&UdpFrame::new(flow(n, ipv4), payload).to_vec().unwrap_or_default())
}

fn padded(frame: &[u8]) -> [u8; 64] {
    std::array::from_fn(|at| frame.get(at).copied().unwrap_or(0))
}

/// Builds frame `n` of a mix: 60 % IPv4/UDP, 20 % IPv6/UDP, 10 % with a VLAN tag, 5 % TCP, 5 % ARP.
pub(crate) fn mixed(n: u32, dice: u64) -> [u8; 64] {
    let mut frame = udp(n, true);
    match dice % 100 {
        0..60 => {}
        60..80 => frame = udp(n, false),
        80..90 => {
            frame.copy_within(12..60, 16);
            frame[12..16].copy_from_slice(&[0x81, 0, 0, 5]);
        }
        90..95 => {
            // The protocol becomes 6, and the header checksum is updated by the difference.
            frame[23] = 6;
            let sum = u32::from(u16::from_be_bytes([frame[24], frame[25]])) + 11;
            frame[24..26].copy_from_slice(&((sum + (sum >> 16)) as u16).to_be_bytes());
        }
        _ => frame[12..14].copy_from_slice(&[8, 6]),
    }
    frame
}
