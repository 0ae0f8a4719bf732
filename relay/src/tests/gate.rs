#![allow(clippy::unwrap_used, clippy::panic)]
//! Tests the admission gate.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{CLIENTS, SERVERS, World, at, config, datagram, ends, one, parsed, sent};
use crate::gate::{Admission, AdmissionRequest, CookieGate, Cookies, Gate, LABEL};
use crate::{RelayPlan, UdpRelay};
use oxide::packet::build::UdpFrame;
use oxide::packet::{self, Flow};
use oxide::queue::{Handler, HandlerOutcome, Harness, Replaced};
use oxide::telemetry::DropReason;

const CLIENT: &str = "192.0.2.7:4000";
const ENTRY: &str = "192.0.2.1:53";

fn relay(gate: impl Gate + 'static) -> Harness<UdpRelay> {
    let plan = RelayPlan::new(&config(""), &[]).unwrap();
    Harness::new(Harness::info(2), World::default().tables(1), |info| UdpRelay::new(&plan, info).with_gate(gate))
        .unwrap()
}

fn cookies() -> CookieGate {
    CookieGate::new(Cookies::new([7; 16], Duration::from_secs(10), Instant::now()))
}

fn payload(frame: &[u8]) -> &[u8] {
    &frame[usize::from(parsed(frame).l4) + 8..]
}

#[test]
fn proved_client_is_admitted_and_upstream_sees_data_only() {
    for (client, entry, servers) in [(CLIENT, ENTRY, SERVERS), ("[2001:db8:1::7]:4000", "[2001:db8:1::1]:53", SERVERS)]
    {
        let mut harness = relay(cookies());
        let first = datagram(client, entry, &[1; 24]);
        let (port, challenge) = sent(one(&mut harness, CLIENTS, &first));
        assert_eq!((port, ends(&challenge), challenge.len()), (CLIENTS, (at(entry), at(client)), first.len()));
        assert_eq!((&challenge[..6], &challenge[6..12]), (&first[6..12], &first[..6]));
        assert_eq!(harness.handler().sessions(), 0);
        assert!(payload(&challenge).starts_with(&LABEL));

        // Use data of odd and even length, followed by padding.
        for data in [&b"question"[..], b"question?", b""] {
            let mut again = datagram(client, entry, &[payload(&challenge), data].concat());
            again.resize(again.len() + 5, 0xee);
            let mut harness = relay(cookies_of(&harness));
            let (port, out) = sent(one(&mut harness, CLIENTS, &again));
            ends(&out);
            assert_eq!((port, payload(&out)), (servers, data));
            assert_eq!(harness.handler().sessions(), 1);
            // From now on the gate is not asked.
            let (_, out) = sent(one(&mut harness, CLIENTS, &datagram(client, entry, b"x")));
            assert_eq!(payload(&out), b"x");
            assert_eq!(harness.handler().counters().challenged, 0);
        }
        assert_eq!(harness.handler().counters().challenged, 1);
    }
}

/// Returns a gate that accepts the cookies of another one with the same start time.
fn cookies_of(harness: &Harness<UdpRelay>) -> CookieGate {
    CookieGate::new(Cookies::new([7; 16], Duration::from_secs(10), harness.now()))
}

#[test]
fn short_old_damaged_or_foreign_cookie_is_refused() {
    let mut harness = relay(cookies());
    let refused = HandlerOutcome::Drop(DropReason::Refused);
    assert_eq!(one(&mut harness, CLIENTS, &datagram(CLIENT, ENTRY, &[1; 23])), refused);
    let (_, challenge) = sent(one(&mut harness, CLIENTS, &datagram(CLIENT, ENTRY, &[1; 24])));
    let cookie = payload(&challenge).to_vec();
    // A challenge gets no challenge, or two relays would challenge each other endlessly.
    assert_eq!(one(&mut harness, CLIENTS, &datagram("192.0.2.8:4000", ENTRY, &cookie)), refused);
    assert_eq!(one(&mut harness, CLIENTS, &datagram(CLIENT, "192.0.2.1:54", &cookie)), refused);
    assert_eq!(one(&mut harness, CLIENTS, &datagram(CLIENT, ENTRY, &cookie[..23])), refused);
    let mut damaged = datagram(CLIENT, ENTRY, &[1; 24]);
    damaged[50] ^= 1;
    assert_eq!(one(&mut harness, CLIENTS, &damaged), HandlerOutcome::Drop(DropReason::UdpChecksum));
    harness.advance(Duration::from_secs(21));
    assert_eq!(one(&mut harness, CLIENTS, &datagram(CLIENT, ENTRY, &cookie)), refused);
    // The gate is not asked about clients that cannot get a session.
    let forged = datagram("198.51.100.1:4000", ENTRY, &[1; 24]);
    assert_eq!(one(&mut harness, CLIENTS, &forged), HandlerOutcome::Drop(DropReason::BadSource));
    harness.set_draining(true);
    let late = datagram(CLIENT, ENTRY, &[1; 24]);
    assert_eq!(one(&mut harness, CLIENTS, &late), HandlerOutcome::Drop(DropReason::Draining));
    assert_eq!(harness.handler().sessions(), 0);
}

#[test]
fn held_packet_passes_gate_once() {
    let mut harness = relay(cookies());
    let (_, challenge) = sent(one(&mut harness, CLIENTS, &datagram(CLIENT, ENTRY, &[1; 24])));
    harness.set_tables(World { known: false, ..World::default() }.tables(2));
    let request = datagram(CLIENT, ENTRY, &[payload(&challenge), b"data"].concat());
    let held = match one(&mut harness, CLIENTS, &request) {
        HandlerOutcome::Hold(bytes) => bytes,
        other => panic!("{other:?}"),
    };
    harness.set_tables(World::default().tables(3));
    let (_, out) = sent(harness.feed_again(CLIENTS, &[held]).remove(0));
    ends(&out);
    assert_eq!(payload(&out), b"data");
}

/// Makes the configured decision with a message of the configured length.
struct Whim {
    message: Vec<u8>,
    cut: Option<usize>,
}

impl Gate for Whim {
    fn ask(&mut self, request: &mut AdmissionRequest<'_>) -> Admission {
        match self.cut {
            Some(cut) => request.admit_without(cut),
            None => request.challenge(&self.message),
        }
    }
}

proptest! {
    /// For any answer of a gate, a client without a session gets no more bytes than it sent.
    #[test]
    fn challenge_is_never_longer_than_request(
        six: bool, message in prop::collection::vec(any::<u8>(), 0..400), request in prop::collection::vec(any::<u8>(), 0..400),
        padding in 0usize..30, options in 0usize..9,
    ) {
        let fits = message.len() <= request.len() && message.len() <= 256;
        let mut harness = relay(Whim { message: message.clone(), cut: None });
        let (client, entry) = if six { ("[2001:db8:1::7]:9", "[2001:db8:1::1]:53") } else { (CLIENT, ENTRY) };
        let flow = Flow { source: at(client).into(), destination: at(entry).into() };
        let mut frame = UdpFrame::new(flow, &request).to_vec().unwrap();
        let whole = frame.len();
        frame.resize(whole + padding, 0xee);
        if options > 0 && six {
            // Bytes after the datagram that belong to the IP packet (RFC 9868).
            let room = padding.min(options) as u16;
            let length = u16::from_be_bytes([frame[18], frame[19]]) + room;
            frame[18..20].copy_from_slice(&length.to_be_bytes());
        }
        match one(&mut harness, CLIENTS, &frame) {
            HandlerOutcome::Transmit(port, out) => {
                prop_assert!(fits);
                prop_assert!(out.len() <= whole);
                prop_assert_eq!((port, ends(&out)), (CLIENTS, (at(entry), at(client))));
                prop_assert_eq!(payload(&out), &message[..]);
            }
            outcome => {
                prop_assert!(!fits);
                prop_assert_eq!(outcome, HandlerOutcome::Drop(DropReason::Refused));
            }
        }
        prop_assert_eq!(harness.handler().sessions(), 0);
    }

    /// After removal of any prefix, the rest is sent as a valid datagram.
    #[test]
    fn stripped_prefix_leaves_valid_datagram(
        six: bool, cut in 0usize..60, request in prop::collection::vec(any::<u8>(), 0..60), no_checksum: bool,
    ) {
        let mut harness = relay(Whim { message: Vec::new(), cut: Some(cut) });
        let (client, entry) = if six { ("[2001:db8:1::7]:9", "[2001:db8:1::1]:53") } else { (CLIENT, ENTRY) };
        let mut frame = datagram(client, entry, &request);
        if no_checksum && !six {
            frame[40..42].fill(0);
        }
        match one(&mut harness, CLIENTS, &frame) {
            HandlerOutcome::Transmit(SERVERS, out) => {
                prop_assert_eq!(packet::verify_udp(&out, &parsed(&out)), Ok(()));
                prop_assert_eq!(payload(&out), &request[cut..]);
                prop_assert_eq!(!six && out[40..42] == [0, 0], no_checksum && !six);
            }
            outcome => {
                prop_assert!(cut > request.len());
                prop_assert_eq!(outcome, HandlerOutcome::Drop(DropReason::Refused));
            }
        }
    }
}

/// The configuration sets a gate for one entry; other entries admit every client. Cookies stay valid over a reload.
#[test]
fn gate_is_an_option_of_an_entry() {
    let mut config = config("");
    config.relays[0].gate = crate::config::GateKind::Cookie;
    let plan = RelayPlan::new(&config, &[]).unwrap();
    let made = |info: &_| UdpRelay::new(&plan, info);
    let mut harness = Harness::new(Harness::info(2), World::default().tables(1), made).unwrap();
    sent(one(&mut harness, CLIENTS, &datagram(CLIENT, "192.0.2.1:54", b"?")));
    let (port, challenge) = sent(one(&mut harness, CLIENTS, &datagram(CLIENT, ENTRY, &[1; 24])));
    assert_eq!((port, harness.handler().sessions()), (CLIENTS, 1));
    let proof = datagram(CLIENT, ENTRY, &[payload(&challenge), b"question"].concat());
    let next = RelayPlan::new(&config, &[]).unwrap();
    let stranger = Harness::new(Harness::info(2), World::default().tables(1), |info| UdpRelay::new(&next, info));
    assert_eq!(one(&mut stranger.unwrap(), CLIENTS, &proof), HandlerOutcome::Drop(DropReason::Refused));
    let next = next.following(&plan);
    harness.restart_handler(Replaced::Asked, |info| UdpRelay::new(&next, info)).unwrap();
    let (port, out) = sent(one(&mut harness, CLIENTS, &proof));
    assert_eq!((port, payload(&out)), (SERVERS, &b"question"[..]));
}
