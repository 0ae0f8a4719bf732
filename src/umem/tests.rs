#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;
use proptest::prelude::*;

fn umem(frames: u32) -> Umem {
    let rings = RingSizes { fill: 128, rx: 64, tx: 64, completion: 64 };
    let wanted = UmemLayout::frames_for(&rings, 1).max(frames);
    let layout = UmemLayout::new(2048, wanted, 0, &rings, 1, 1500).unwrap();
    Umem::new(Region::map(layout.bytes(), PageKind::Base, None).unwrap(), layout).unwrap()
}

/// Creates a memory with two simulated ports.
fn ported() -> (Umem, Vec<PortKey>) {
    let mut umem = umem(0);
    let keys = PortIndex::first(2).map(|port| umem.simulated_port(port).unwrap()).collect();
    (umem, keys)
}

#[test]
fn bytes_written_are_read_back_and_sent_from_the_same_place() {
    let (mut umem, keys) = ported();
    let mut frame = umem.take().unwrap();
    assert!(umem.set_length(&mut frame, 5));
    umem.bytes_mut(&mut frame).copy_from_slice(b"hello");
    assert_eq!(umem.bytes(&frame), b"hello");
    assert_eq!(umem.header_bytes(&frame)[..5], *b"hello");
    // Bytes written past the length are not part of the packet.
    umem.header_bytes_mut(&mut frame)[4..].fill(b'!');
    assert_eq!((umem.bytes(&frame), umem.header_bytes(&frame)[63]), (&b"hell!"[..], b'!'));
    let index = frame.index();
    let (address, length) = umem.post_transmit(&keys[0], frame);
    assert_eq!((address, length), (u64::from(index) * 2048 + 256, 5));
    assert_eq!(umem.census().transmit, 1);
    umem.completed(&keys[0], address).unwrap();
    assert_eq!(umem.census().free, umem.census().total);
}

#[test]
fn length_past_the_frame_is_refused() {
    let mut umem = umem(0);
    let mut frame = umem.take().unwrap();
    assert!(umem.set_length(&mut frame, 2048 - 256));
    assert!(!umem.set_length(&mut frame, 2048 - 255));
    assert_eq!(frame.length(), 2048 - 256);
    umem.give(frame);
}

/// Checks that the simulated kernel cannot use bytes after a frame, like the real one.
#[test]
fn simulated_kernel_stays_within_its_frame() {
    let (mut umem, keys) = ported();
    let index = umem.post_fill(&keys[0]).unwrap();
    let at = u64::from(index) * 2048 + 256;
    assert_eq!(umem.kernel_write(&keys[0], at, &[7; 2048 - 256]), Ok(()));
    let past = umem.kernel_write(&keys[0], at, &[7; 2048 - 255]);
    assert!(matches!(past, Err(BadDescriptor::PastFrame { .. })), "{past:?}");
    assert!(umem.kernel_read(&keys[0], at, 1).is_err(), "the frame is not on the TX ring");
}

#[test]
fn packet_start_moves_and_end_stays() {
    let (mut umem, keys) = ported();
    let mut frame = umem.take().unwrap();
    assert!(umem.set_length(&mut frame, 100));
    umem.bytes_mut(&mut frame).copy_from_slice(&std::array::from_fn::<u8, 100, _>(|i| i as u8));
    assert!(umem.move_start(&mut frame, 14));
    assert_eq!((frame.offset(), frame.length(), umem.bytes(&frame)[0]), (270, 86, 14));
    assert!(umem.move_start(&mut frame, -70));
    assert_eq!((frame.offset(), frame.length(), umem.bytes(&frame)[70]), (200, 156, 14));
    assert!(!umem.move_start(&mut frame, -201) && !umem.move_start(&mut frame, 157));
    assert!(umem.move_start(&mut frame, -200) && frame.offset() == 0);
    let index = u64::from(frame.index());
    let (address, length) = umem.post_transmit(&keys[0], frame);
    assert_eq!((address, length), (index * 2048, 356));
    umem.completed(&keys[0], address).unwrap();
    // `header_bytes` reads 64 bytes from the start.
    let mut frame = umem.take().unwrap();
    assert!(umem.set_length(&mut frame, 1792));
    assert!(umem.move_start(&mut frame, 1728) && !umem.move_start(&mut frame, 1));
    assert_eq!(umem.header_bytes(&frame).len(), 64);
    umem.give(frame);
}

#[test]
fn kernel_addresses_are_checked() {
    let (mut umem, keys) = ported();
    let posted = u64::from(umem.post_fill(&keys[0]).unwrap()) * 2048;
    let other = if posted == 0 { 2048 } else { 0 };
    assert!(matches!(umem.received(&keys[0], 1 << 40, 60), Err(BadDescriptor::OutOfRegion { .. })));
    assert!(matches!(umem.received(&keys[0], other + 256, 60), Err(BadDescriptor::WrongPlace { .. })));
    assert!(
        matches!(umem.received(&keys[1], posted + 256, 60), Err(BadDescriptor::WrongPlace { .. })),
        "the frame belongs to another port"
    );
    assert!(matches!(umem.received(&keys[0], posted + 256, 1793), Err(BadDescriptor::PastFrame { .. })));
    assert!(
        matches!(umem.received(&keys[0], posted + 2040, 1), Err(BadDescriptor::PastFrame { .. })),
        "the frame ends before 64 header bytes"
    );
    assert!(matches!(umem.completed(&keys[0], posted), Err(BadDescriptor::WrongPlace { .. })));
    let frame = umem.received(&keys[0], posted + 256, 1792).unwrap();
    assert!(matches!(umem.received(&keys[0], posted + 256, 60), Err(BadDescriptor::WrongPlace { .. })), "twice");
    let (address, _) = umem.post_transmit(&keys[0], frame);
    umem.completed(&keys[0], address).unwrap();
    assert!(matches!(umem.completed(&keys[0], address), Err(BadDescriptor::WrongPlace { .. })), "completed twice");
    assert!(umem.census().balanced() && umem.census().free == umem.census().total);
}

#[test]
#[should_panic(expected = "port of another UMEM")]
fn key_of_another_umem_is_refused() {
    let ((_, keys), mut other) = (ported(), umem(0));
    let _ = other.post_fill(&keys[0]);
}

#[test]
fn port_has_one_key_and_a_kernels_port_is_never_simulated() {
    let mut umem = umem(0);
    // SAFETY: nothing is posted with the key, so no kernel gets an address.
    let key = unsafe { umem.kernel_port(PortIndex::P0) }.unwrap();
    assert_eq!(umem.simulated_port(PortIndex::P0).unwrap_err(), PortTaken::Kernel(PortIndex::P0));
    // SAFETY: nothing is posted with the key, so no kernel gets an address.
    assert_eq!(unsafe { umem.kernel_port(PortIndex::P0) }.unwrap_err(), PortTaken::Open(PortIndex::P0));
    assert!(umem.check_closed(PortIndex::P0).is_err());
    drop(key);
    assert!(umem.check_closed(PortIndex::P0).is_ok());
    assert!(umem.simulated_port(PortIndex::P0).is_err(), "a kernel may still work on its frames");
    let other = umem.simulated_port(PortIndex::P1).unwrap();
    assert_eq!(umem.simulated_port(PortIndex::P1).unwrap_err(), PortTaken::Open(PortIndex::P1));
    drop(other);
    assert!(umem.simulated_port(PortIndex::P1).is_ok());
}

#[test]
#[should_panic(expected = "a kernel's port is not simulated")]
fn simulated_kernel_does_not_write_to_frames_of_a_real_one() {
    let mut umem = umem(0);
    // SAFETY: no kernel gets the addresses that are posted with the key.
    let key = unsafe { umem.kernel_port(PortIndex::P0) }.unwrap();
    let at = u64::from(umem.post_fill(&key).unwrap()) * 2048 + 256;
    let _ = umem.kernel_write(&key, at, &[0; 60]);
}

#[test]
#[should_panic(expected = "frame of another UMEM")]
fn frame_of_other_umem_is_refused() {
    let (mut a, mut b) = (umem(0), umem(0));
    let frame = a.take().unwrap();
    b.give(frame);
}

#[test]
fn impossible_layouts_are_refused_with_remedy() {
    let rings = RingSizes::from_ring_size(1024).unwrap();
    assert_eq!(rings.fill, 2048);
    let enough = UmemLayout::frames_for(&rings, 2);
    assert!(UmemLayout::new(2048, enough, 0, &rings, 2, 1500).is_ok());
    let text = |r: Result<UmemLayout, LayoutError>| r.unwrap_err().to_string();
    assert!(text(UmemLayout::new(2048, enough - 1, 0, &rings, 2, 1500)).contains(&format!("frame_count to {enough}")));
    assert!(text(UmemLayout::new(3000, enough, 0, &rings, 2, 1500)).contains("2048 or 4096"));
    assert!(text(UmemLayout::new(2048, enough, 0, &rings, 2, 1775)).contains("mtu 1774"));
    assert!(UmemLayout::new(2048, enough, 0, &rings, 2, 1774).is_ok());
    assert!(UmemLayout::new(4096, enough, 0, &rings, 2, 3800).is_ok());
    let thin = RingSizes { fill: 1024, ..rings };
    assert!(text(UmemLayout::new(2048, enough, 0, &thin, 1, 1500)).contains("twice RX"));
    assert!(RingSizes::from_ring_size(1000).unwrap_err().to_string().contains("power of two"));
    assert!(RingSizes::from_ring_size(32).is_err() && RingSizes::from_ring_size(65_536).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, failure_persistence: None, ..Default::default() })]

    /// Checks that the accounting matches and every frame is in exactly one state, for any order of takes, gives,
    /// fills, receives, sends, completions, invalid completions and recalls.
    #[test]
    fn frames_are_conserved(steps in prop::collection::vec((0u8..11, any::<u16>()), 1..400)) {
        let (mut umem, mut keys) = ported();
        let total = umem.census().total;
        let mut off = [0, 0];
        let (mut app, mut at_rx, mut at_tx) = (Vec::new(), [Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for (step, pick) in steps {
            let port = if pick & 1 == 1 { PortIndex::P1 } else { PortIndex::P0 };
            let p = usize::from(port);
            let nth = |n: usize| usize::from(pick) % n.max(1);
            match step {
                0 => app.extend(umem.take()),
                1 if !app.is_empty() => { let f = app.swap_remove(nth(app.len())); umem.give(f); }
                2 => at_rx[p].extend(umem.post_fill(&keys[p]).map(|i| u64::from(i) * 2048 + 256)),
                3 if !at_rx[p].is_empty() => {
                    let n = nth(at_rx[p].len());
                    let address = at_rx[p].swap_remove(n);
                    app.push(umem.received(&keys[p], address, u32::from(pick) % 1793).unwrap());
                }
                4 if !app.is_empty() => { let f = app.swap_remove(nth(app.len())); at_tx[p].push(umem.post_transmit(&keys[p], f).0); }
                5 if !at_tx[p].is_empty() => {
                    let n = nth(at_tx[p].len());
                    let address = at_tx[p].swap_remove(n);
                    umem.completed(&keys[p], address).unwrap();
                }
                6 => { let _ = umem.completed(&keys[p], u64::from(pick) * 7919).is_ok_and(|()| unreachable_if_unknown(&mut at_tx[p], u64::from(pick) * 7919)); }
                7 => {
                    // SAFETY: the ports are simulated, and no kernel uses their frames.
                    let (rx, tx) = unsafe { umem.recall(port) };
                    prop_assert_eq!((rx as usize, tx as usize), (at_rx[p].len(), at_tx[p].len()));
                    at_rx[p].clear(); at_tx[p].clear();
                }
                8 => {
                    let frames = umem.write_off(port) as usize;
                    prop_assert_eq!(frames, at_rx[p].len() + at_tx[p].len());
                    off[p] += frames;
                    for late in at_rx[p].iter().chain(&at_tx[p]) {
                        prop_assert!(umem.received(&keys[p], *late, 60).is_err() && umem.completed(&keys[p], *late).is_err());
                    }
                    at_rx[p].clear(); at_tx[p].clear();
                }
                9 => {
                    prop_assert_eq!(umem.take_back_simulated(&keys[p]) as usize, off[p]);
                    off[p] = 0;
                }
                10 => {
                    // A port that is closed and reopened has its posted frames written off.
                    prop_assert!(umem.simulated_port(port).is_err());
                    drop(keys.remove(p));
                    keys.insert(p, umem.simulated_port(port).unwrap());
                    off[p] += at_rx[p].len() + at_tx[p].len();
                    at_rx[p].clear(); at_tx[p].clear();
                }
                _ => {}
            }
            let census = umem.census();
            prop_assert!(census.balanced());
            prop_assert_eq!(census.total, total);
            prop_assert_eq!(census.app as usize, app.len());
            prop_assert_eq!(census.receive as usize, at_rx[0].len() + at_rx[1].len());
            prop_assert_eq!(census.transmit as usize, at_tx[0].len() + at_tx[1].len());
            prop_assert_eq!(census.written_off as usize, off[0] + off[1]);
        }
        let mut seen = std::collections::HashSet::new();
        prop_assert!(app.iter().all(|f| seen.insert(f.index())), "two tokens for one frame");
    }
}

/// Checks an accepted random completion: it must name a frame that was with the kernel. Returns `true`.
fn unreachable_if_unknown(at_tx: &mut Vec<u64>, address: u64) -> bool {
    let frame = address / 2048;
    let known = at_tx.iter().position(|a| a / 2048 == frame);
    at_tx.swap_remove(known.expect("a completion without a sent frame was accepted"));
    true
}
