//! Fuzzes a frame: the parser agrees with an independent one, for any memory after the frame, and accepted frames can
//! be rewritten and parsed again.

use oxide::packet::{
    Endpoint, Flow, MacAddr, Recognised, Rewrite, Translation, Transport, parse, recognise, verify_udp,
};

use super::oracle;

pub(crate) fn body(frame: &[u8]) {
    let Ok(length) = u16::try_from(frame.len()) else { return };
    let over = |stale: u8| parse(&std::array::from_fn(|at| frame.get(at).copied().unwrap_or(stale)), length);
    let ours = over(0);
    assert_eq!(ours, over(0xff), "memory after the frame changes the result");
    assert_eq!(ours.ok(), oracle::parse(frame), "an independent parser disagrees");
    let recognised = recognise(frame);
    // etherparse requires exactly 20 bytes for an ICMP timestamp.
    let timestamp = |found: Recognised| {
        found.transport == Transport::Icmp && matches!(frame.get(usize::from(found.l4)), Some(13 | 14))
    };
    if !recognised.is_some_and(timestamp) {
        assert_eq!(recognised, oracle::recognise(frame), "an independent parser disagrees");
    }
    let Ok(parsed) = ours else { return };
    let sound = verify_udp(frame, &parsed);

    let Flow { source, destination } = parsed.flow;
    let new = Rewrite {
        source_mac: MacAddr([2; 6]),
        destination_mac: MacAddr([4; 6]),
        source: Endpoint { port: source.port ^ 0x5555, ..destination },
        destination: source,
    };
    // The next parser correctly refuses port 0 and forged addresses.
    let (Ok(translation), true) = (Translation::new(&parsed.flow, &new), new.source.port != 0) else { return };
    let mut after = frame.to_vec();
    if translation.apply(&mut after, parsed.l3, parsed.l4, parsed.ipv4).is_err() {
        assert_eq!(after, frame, "a refused frame must not change");
        return;
    }
    let body = usize::from(parsed.l4) + 8;
    assert_eq!(after[body..], frame[body..], "bytes after the headers changed");
    let head = std::array::from_fn(|at| after.get(at).copied().unwrap_or(0));
    if let Ok(again) = parse(&head, length) {
        assert_eq!((again.flow.source, again.flow.destination), (new.source, new.destination));
        assert_eq!(verify_udp(&after, &again), sound, "the rewrite changed the validity of the checksum");
    }
}
