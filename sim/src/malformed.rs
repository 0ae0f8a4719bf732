//! Makes malformed packets, each wrong in one way. None of them may leave the engine.

use std::net::Ipv4Addr;

use super::forward::CLIENTS;
use super::traffic::{Direction, Label, Traffic};
use oxide::packet::checksum;
use oxide::port::sim::Rng;

/// Names the change that makes a valid frame malformed.
#[derive(Debug, Clone, Copy)]
enum Form {
    Cut,
    Garbage,
    TooLong,
    OtherEthertype,
    Vlan,
    WrongVersion,
    NoHopLeft,
    UdpLength,
    IpLength,
    NotUdp,
    WrongHeaderSum,
    Options,
    Fragment,
    Loopback,
    Extension,
    NoChecksum,
}

/// Lists the forms for any frame, for IPv4 and for IPv6.
const ANY: [Form; 10] = [
    Form::Cut,
    Form::Garbage,
    Form::TooLong,
    Form::OtherEthertype,
    Form::Vlan,
    Form::WrongVersion,
    Form::NoHopLeft,
    Form::UdpLength,
    Form::IpLength,
    Form::NotUdp,
];
const IPV4: [Form; 4] = [Form::WrongHeaderSum, Form::Options, Form::Fragment, Form::Loopback];
const IPV6: [Form; 2] = [Form::Extension, Form::NoChecksum];

/// Writes a malformed frame, as it arrives at `port`, to `out`.
pub(super) fn write(port: u8, traffic: &mut Traffic, rng: &mut Rng, out: &mut Vec<u8>) {
    let flow = rng.below(traffic.flows() as u64) as u32;
    // No valid packet has this sequence number, so a frame that leaves cannot be mistaken for a valid one.
    let label =
        Label { flow, sequence: u64::MAX, direction: if port == CLIENTS { Direction::There } else { Direction::Back } };
    traffic.write(label, out);
    let ipv4 = out.get(12..14) == Some(&[8, 0]);
    let more: &[Form] = if ipv4 { &IPV4 } else { &IPV6 };
    let at = rng.below((ANY.len() + more.len()) as u64) as usize;
    let form = ANY.get(at).or_else(|| more.get(at - ANY.len())).copied().unwrap_or(Form::Cut);
    spoil(form, ipv4, rng, out);
}

fn spoil(form: Form, ipv4: bool, rng: &mut Rng, frame: &mut Vec<u8>) {
    let l4 = if ipv4 { 34 } else { 54 };
    let draw = rng.next();
    let sum = frame.get(24).copied().unwrap_or(0);
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = frame.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    match form {
        Form::Cut => frame.truncate(14 + draw as usize % (frame.len() - 14)),
        Form::TooLong => frame.resize(3000, 0),
        Form::Garbage => {
            frame.truncate(12);
            // An EtherType other than IP, followed by random bytes.
            frame.extend_from_slice(&[0x88, 0xb5]);
            frame.extend((0..draw % 200).map(|_| rng.next() as u8));
        }
        Form::OtherEthertype => put(12, &[0x08, 0x06]),
        Form::Vlan => drop(frame.splice(12..12, [0x81, 0, 0, 1])),
        Form::WrongVersion => put(14, &[if ipv4 { 0x55 } else { 0x50 }]),
        Form::NoHopLeft => put(if ipv4 { 22 } else { 21 }, &[0]),
        Form::UdpLength => put(l4 + 4, &[0, (draw % 8) as u8]),
        Form::IpLength => put(if ipv4 { 16 } else { 18 }, &[0xff, 0xff]),
        Form::NotUdp => put(if ipv4 { 23 } else { 20 }, &[6]),
        Form::WrongHeaderSum => put(24, &[sum ^ (1 + (draw % 255) as u8)]),
        Form::Options => put(14, &[0x46]),
        // It would end behind the largest datagram. A well-formed one is relayed.
        Form::Fragment => put(20, &[0x1f, 0xff]),
        Form::Loopback => put(26, &Ipv4Addr::LOCALHOST.octets()),
        Form::Extension => put(20, &[[0, 43, 44, 60][draw as usize % 4]]),
        Form::NoChecksum => put(l4 + 6, &[0, 0]),
    }
    let valid = !matches!(form, Form::WrongHeaderSum | Form::Garbage | Form::Cut | Form::Vlan);
    if ipv4
        && valid
        && let Some(sum) = frame.get(14..).and_then(checksum::ipv4_header)
        && let Some(place) = frame.get_mut(24..26)
    {
        // Repair the header checksum, so that the frame is wrong in one way only.
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;
    use crate::app::FORWARDED;
    use oxide::packet::parse;

    #[test]
    fn every_malformed_form_is_malformed() {
        let (mut traffic, mut rng, mut frame) = (Traffic::new(2, FORWARDED), Rng::new(3), Vec::new());
        let mut reasons = std::collections::HashSet::new();
        for n in 0..20_000u32 {
            write((n % 2) as u8, &mut traffic, &mut rng, &mut frame);
            // The kernel refuses packets that are too long for a frame, so the parser never gets them.
            if frame.len() == 3000 {
                continue;
            }
            let head = std::array::from_fn(|at| frame.get(at).copied().unwrap_or(0));
            match parse(&head, frame.len() as u16) {
                Ok(_) => panic!("this frame is valid: {frame:02x?}"),
                Err(reason) => _ = reasons.insert(reason.name()),
            }
        }
        assert!(reasons.len() >= 12, "{reasons:?}");
    }
}
