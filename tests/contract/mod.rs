//! Tests the contract of every port, real or simulated. A port's tests pass a [`Rig`] to [`all`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, missing_docs, unreachable_pub)]

use std::net::{Ipv4Addr, SocketAddr};

use oxide::packet::Flow;
use oxide::packet::build::UdpFrame;
use oxide::port::{Burst, Kick, Port};
use oxide::umem::{Frame, PortIndex, Umem};

/// Is a port with a peer at the other end of its wire.
pub trait Rig {
    type Port: Port;

    /// Returns the memory and its port 0; steering is off.
    fn port(&mut self) -> (&mut Umem, &mut Self::Port);

    /// Sends a packet on the wire towards the port.
    fn inject(&mut self, packet: &[u8]);

    /// Lets the kernel work for a while.
    fn kernel(&mut self);

    /// Returns the packets that left since the last call, in order.
    fn sent(&mut self) -> Vec<Vec<u8>>;

    /// Closes the port and returns the memory, to which nothing writes any more.
    fn close(self) -> Umem;
}

/// Limits every loop that waits for the kernel.
const PATIENCE: usize = 10_000;

/// Runs every part of the contract, each on its own rig.
pub fn all<R: Rig>(mut make: impl FnMut() -> R) {
    packets_arrive_whole_and_in_order(make());
    receive_stops_at_the_limit_and_at_a_full_burst(make());
    transmit_takes_a_prefix_and_leaves_the_rest_in_order(make());
    what_is_sent_is_what_was_written_and_every_frame_comes_back(make());
    an_idle_port_does_nothing(make());
    an_empty_pool_is_no_error(make());
    steering_off_lets_nothing_new_in_and_keeps_what_is_there(make());
    a_closed_port_gives_every_frame_back(make());
}

/// Destination of the packets of [`packet`]; a port's rig must steer them to its socket.
pub const DESTINATION: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 7);

/// Length of the headers of a packet, bytes.
const HEADERS: usize = 42;

/// Returns a UDP packet of `length` bytes, at least 46, whose payload repeats its number.
pub fn packet(number: u32, length: usize) -> Vec<u8> {
    let mut payload = vec![number as u8; length - HEADERS];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    let source: SocketAddr = "192.0.2.1:4000".parse().unwrap();
    let flow = Flow { source: source.into(), destination: SocketAddr::from(DESTINATION).into() };
    UdpFrame::new(flow, &payload).to_vec().unwrap()
}

pub fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[HEADERS..HEADERS + 4].try_into().unwrap())
}

fn check_accounting<R: Rig>(rig: &mut R, in_hand: usize) {
    let (umem, _) = rig.port();
    let census = umem.census();
    assert!(census.balanced(), "{census:?}");
    assert_eq!(census.app as usize, in_hand, "{census:?}");
}

fn open<R: Rig>(rig: &mut R) {
    let (umem, port) = rig.port();
    port.fill(umem);
    assert!(umem.census().receive > 0, "a new port requests frames or already has them");
    port.steer(true).unwrap();
    port.kick().unwrap();
    check_accounting(rig, 0);
}

/// Receives until there are `count` packets.
fn gather<R: Rig>(rig: &mut R, count: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    for _ in 0..PATIENCE {
        rig.kernel();
        let (umem, port) = rig.port();
        let mut burst = Burst::new();
        let received = port.receive(umem, &mut burst, usize::MAX);
        assert_eq!(received, burst.len());
        frames.extend(burst.drain());
        port.fill(umem);
        port.kick().unwrap();
        check_accounting(rig, frames.len());
        if frames.len() >= count {
            return frames;
        }
    }
    panic!("{} of {count} packets received", frames.len());
}

/// Kicks and reclaims until no frame is in transmission.
fn finish<R: Rig>(rig: &mut R) {
    for _ in 0..PATIENCE {
        assert_ne!(rig.port().1.kick().unwrap(), Kick::LinkDown);
        rig.kernel();
        let (umem, port) = rig.port();
        port.reclaim(umem);
        if umem.census().transmit == 0 {
            return;
        }
    }
    panic!("frames are still in transmission");
}

fn take<R: Rig>(rig: &mut R, bytes: &[u8]) -> Frame {
    let (umem, _) = rig.port();
    let mut frame = umem.take().expect("a free frame");
    assert!(umem.set_length(&mut frame, bytes.len() as u16));
    umem.bytes_mut(&mut frame).copy_from_slice(bytes);
    frame
}

fn give<R: Rig>(rig: &mut R, frames: impl IntoIterator<Item = Frame>) {
    let (umem, _) = rig.port();
    frames.into_iter().for_each(|frame| umem.give(frame));
}

fn packets_arrive_whole_and_in_order<R: Rig>(mut rig: R) {
    open(&mut rig);
    // More packets than any ring holds, in groups that fit, from the shortest Ethernet packet to the MTU.
    for group in 0..20 {
        let packets: Vec<_> = (0..50).map(|i| packet(group * 50 + i, 60 + (i as usize * 29) % 1455)).collect();
        packets.iter().for_each(|packet| rig.inject(packet));
        let frames = gather(&mut rig, packets.len());
        let (umem, port) = rig.port();
        for (frame, packet) in frames.iter().zip(&packets) {
            assert_eq!(umem.bytes(frame), packet);
        }
        assert_eq!(frames.len(), packets.len());
        assert_eq!(port.counters().rx_packets, u64::from(group + 1) * 50);
        give(&mut rig, frames);
    }
    check_accounting(&mut rig, 0);
}

fn receive_stops_at_the_limit_and_at_a_full_burst<R: Rig>(mut rig: R) {
    open(&mut rig);
    (0..100).for_each(|i| rig.inject(&packet(i, 60)));
    for _ in 0..PATIENCE {
        rig.kernel();
        let (_, port) = rig.port();
        port.kick().unwrap();
        if port.occupancy().rx >= 100 {
            break;
        }
    }
    let (umem, port) = rig.port();
    let mut burst = Burst::new();
    assert_eq!(port.receive(umem, &mut burst, 0), 0);
    assert_eq!(port.receive(umem, &mut burst, 5), 5);
    assert_eq!(port.receive(umem, &mut burst, 64), 59, "only as many as fit the burst");
    assert_eq!(port.receive(umem, &mut burst, 64), 0);
    let mut frames: Vec<_> = burst.drain().collect();
    assert_eq!(port.receive(umem, &mut burst, 64), 36, "the rest stayed on the ring");
    frames.extend(burst.drain());
    let numbers: Vec<_> = frames.iter().map(|frame| number(umem.bytes(frame))).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    give(&mut rig, frames);
    check_accounting(&mut rig, 0);
}

fn transmit_takes_a_prefix_and_leaves_the_rest_in_order<R: Rig>(mut rig: R) {
    open(&mut rig);
    // Without a kick the TX ring fills up.
    let mut next = 0;
    for _ in 0..PATIENCE {
        let mut burst = Burst::new();
        while burst.room() > 0 {
            let frame = take(&mut rig, &packet(next, 60));
            next += 1;
            burst.push(frame).unwrap();
        }
        let (umem, port) = rig.port();
        let taken = port.transmit(umem, &mut burst);
        assert_eq!(taken + burst.len(), 64);
        let left: Vec<_> = burst.iter().map(|frame| number(umem.bytes(frame))).collect();
        let first = next - left.len() as u32;
        assert_eq!(left, (first..next).collect::<Vec<_>>());
        next = first;
        let full = !burst.is_empty();
        let frames: Vec<_> = burst.drain().collect();
        give(&mut rig, frames);
        if full {
            break;
        }
    }
    let (_, port) = rig.port();
    assert_eq!(port.counters().tx_packets, u64::from(next));
    assert!(next >= 64);
    finish(&mut rig);
    let numbers: Vec<_> = rig.sent().iter().map(|packet| number(packet)).collect();
    assert_eq!(numbers, (0..next).collect::<Vec<_>>());
    check_accounting(&mut rig, 0);
}

fn what_is_sent_is_what_was_written_and_every_frame_comes_back<R: Rig>(mut rig: R) {
    open(&mut rig);
    let mut sent = Vec::new();
    let packets: Vec<_> = (0..1000).map(|i| packet(i, 60 + (i as usize * 31) % 1455)).collect();
    for group in packets.chunks(40) {
        let mut burst = Burst::new();
        for bytes in group {
            let frame = take(&mut rig, bytes);
            burst.push(frame).unwrap();
        }
        while !burst.is_empty() {
            let (umem, port) = rig.port();
            port.transmit(umem, &mut burst);
            finish(&mut rig);
        }
        sent.extend(rig.sent());
        check_accounting(&mut rig, 0);
    }
    assert!(sent == packets, "{} packets left of {}", sent.len(), packets.len());
    let counters = rig.port().1.counters();
    assert_eq!((counters.tx_packets, counters.completions, counters.bad_descriptors), (1000, 1000, 0));
    assert_eq!(counters.tx_bytes, packets.iter().map(|p| p.len() as u64).sum::<u64>());
}

fn an_idle_port_does_nothing<R: Rig>(mut rig: R) {
    open(&mut rig);
    for _ in 0..10 {
        rig.kernel();
        let (umem, port) = rig.port();
        let before = umem.census();
        let mut burst = Burst::new();
        assert_eq!(port.receive(umem, &mut burst, 64), 0);
        assert_eq!(port.transmit(umem, &mut burst), 0);
        assert_eq!(port.reclaim(umem), 0);
        assert_eq!(port.kick().unwrap(), Kick::Done);
        assert_eq!(umem.census(), before);
    }
    let (_, port) = rig.port();
    let occupancy = port.occupancy();
    assert_eq!((occupancy.rx, occupancy.tx, occupancy.completion), (0, 0, 0));
}

fn an_empty_pool_is_no_error<R: Rig>(mut rig: R) {
    let (umem, port) = rig.port();
    let before = umem.census().receive;
    let mut all = Vec::new();
    while let Some(frame) = umem.take() {
        all.push(frame);
    }
    assert_eq!(port.fill(umem), 0);
    let half = all.len() / 2;
    all.drain(..half).for_each(|frame| umem.give(frame));
    let posted = port.fill(umem);
    assert!(posted <= half);
    let receive = umem.census().receive;
    assert!(receive > 0 && receive as usize == before as usize + posted);
    give(&mut rig, all);
    check_accounting(&mut rig, 0);
}

fn steering_off_lets_nothing_new_in_and_keeps_what_is_there<R: Rig>(mut rig: R) {
    open(&mut rig);
    (0..10).for_each(|i| rig.inject(&packet(i, 60)));
    for _ in 0..PATIENCE {
        rig.kernel();
        if rig.port().1.occupancy().rx == 10 {
            break;
        }
    }
    let (_, port) = rig.port();
    port.steer(false).unwrap();
    port.steer(false).unwrap();
    (10..20).for_each(|i| rig.inject(&packet(i, 60)));
    rig.kernel();
    let frames = gather(&mut rig, 10);
    assert_eq!(frames.len(), 10);
    give(&mut rig, frames);
    let (_, port) = rig.port();
    port.steer(true).unwrap();
    rig.inject(&packet(20, 60));
    let frames = gather(&mut rig, 1);
    let (umem, _) = rig.port();
    assert_eq!(number(umem.bytes(&frames[0])), 20);
    give(&mut rig, frames);
}

fn a_closed_port_gives_every_frame_back<R: Rig>(mut rig: R) {
    open(&mut rig);
    (0..30).for_each(|i| rig.inject(&packet(i, 60)));
    let frames = gather(&mut rig, 30);
    let mut burst = Burst::new();
    frames.into_iter().for_each(|frame| burst.push(frame).unwrap());
    let (umem, port) = rig.port();
    assert_eq!(port.transmit(umem, &mut burst), 30);
    let at_kernel = umem.census();
    assert!(at_kernel.receive > 0 && at_kernel.transmit > 0, "{at_kernel:?}");
    let mut umem = rig.close();
    // SAFETY: the rig has closed the port, its wire is silent, and no frame is taken from the memory any more.
    let recalled = unsafe { umem.recall(PortIndex::P0) };
    assert_eq!(recalled, (at_kernel.receive, at_kernel.transmit));
    assert_eq!(umem.census().free, umem.census().total);
    assert_eq!(umem.at_port(PortIndex::P0), (0, 0));
}
