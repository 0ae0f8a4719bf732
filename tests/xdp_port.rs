//! Tests the AF_XDP port with the real kernel: the contract of every port, and behaviour that only a kernel has.
//!
//! ```text
//!   near --------- far      two ends of a veth pair in one namespace, an AF_XDP port on each;
//!   under test     helper   a second pair for tests with two ports on one memory
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod contract;
#[path = "common/netns.rs"]
mod netns;

use std::time::{Duration, Instant};

use contract::{DESTINATION, Rig, number, packet};
use netns::{Lab, in_namespace, skip_unless_root};
use oxide::port::{Backend, Burst, Mode, Port, QueueId};
use oxide::umem::{PageKind, PortIndex, RingSizes, Umem};
use oxide::xdp::steering::{Steering, SteeringOptions};
use oxide::xdp::{PortOpenParams, XdpBackend, XdpOptions, XdpPort};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

const RINGS: RingSizes = RingSizes { fill: 256, rx: 128, tx: 128, completion: 128 };

fn options() -> XdpOptions {
    XdpOptions { rings: RINGS, pages: PageKind::Base, ..XdpOptions::default() }
}

/// An interface's program, with the packets of [`packet`] on its list.
fn steering(interface: &str) -> Steering {
    let mut steering = Steering::attach(interface, &SteeringOptions::default()).unwrap();
    let (address, port) = DESTINATION;
    steering.allow(address.into(), [port..=port]).unwrap();
    steering
}

fn request(steering: &Steering, interface: &str, queue: u32) -> PortOpenParams {
    PortOpenParams { id: QueueId::new(interface, queue), slot: Some(steering.slot(queue).unwrap()), generic: None }
}

fn pair(lab: &Lab, near: &str, far: &str, queues: u32) {
    lab.veth(near, far, queues, "02:00:00:00:00:02", "02:00:00:00:00:01");
}

/// Holds one port with its own memory, steering on.
struct Alone {
    port: XdpPort,
    umem: Umem,
}

impl Alone {
    fn open(request: PortOpenParams) -> Self {
        let (umem, mut ports) = XdpBackend::new(options(), vec![request]).open().unwrap();
        let mut port = ports.remove(0);
        port.steer(true).unwrap();
        Self { port, umem }
    }

    fn send(&mut self, packet: &[u8]) {
        send(&mut self.port, &mut self.umem, packet);
    }

    fn receive(&mut self) -> Vec<Vec<u8>> {
        receive(&mut self.port, &mut self.umem)
    }
}

fn send(port: &mut XdpPort, umem: &mut Umem, packet: &[u8]) {
    let mut frame = umem.take().unwrap();
    assert!(umem.set_length(&mut frame, packet.len() as u16));
    umem.bytes_mut(&mut frame).copy_from_slice(packet);
    let mut burst = Burst::new();
    burst.push(frame).unwrap();
    finish(port, umem, &mut burst);
}

/// Sends the packets of `burst` and waits until its frames are back.
fn finish(port: &mut XdpPort, umem: &mut Umem, burst: &mut Burst) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let before = port.counters();
    let count = burst.len() as u64;
    while !burst.is_empty() || port.counters().completions < before.completions + count {
        assert!(Instant::now() < deadline, "not sent");
        port.transmit(umem, burst);
        port.kick().unwrap();
        port.reclaim(umem);
    }
}

fn receive(port: &mut XdpPort, umem: &mut Umem) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    loop {
        let mut burst = Burst::new();
        if port.receive(umem, &mut burst, usize::MAX) == 0 {
            return packets;
        }
        for frame in burst.drain() {
            packets.push(umem.bytes(&frame).to_vec());
            umem.give(frame);
        }
        port.fill(umem);
    }
}

struct XdpRig {
    near: Alone,
    far: Alone,
}

impl Rig for XdpRig {
    type Port = XdpPort;

    fn port(&mut self) -> (&mut Umem, &mut XdpPort) {
        (&mut self.near.umem, &mut self.near.port)
    }

    fn inject(&mut self, packet: &[u8]) {
        self.far.send(packet);
    }

    /// Does nothing, because the kernel works by itself.
    fn kernel(&mut self) {}

    fn sent(&mut self) -> Vec<Vec<u8>> {
        self.far.receive()
    }

    fn close(self) -> Umem {
        self.near.umem
    }
}

#[test]
fn contract_holds() {
    if skip_unless_root("contract_holds") {
        return;
    }
    in_namespace(|lab| {
        pair(lab, "near", "far", 1);
        let (near, far) = (steering("near"), steering("far"));
        contract::all(|| {
            let near = Alone::open(request(&near, "near", 0));
            assert_eq!(near.port.info().mode, Mode::Copy);
            // Each has its own memory, as on two machines.
            XdpRig { near, far: Alone::open(request(&far, "far", 0)) }
        });
    });
}

#[test]
fn one_port_rebinds_while_other_runs() {
    if skip_unless_root("one_port_rebinds_while_other_runs") {
        return;
    }
    in_namespace(|lab| {
        pair(lab, "near", "far", 1);
        pair(lab, "left", "right", 1);
        let steerings = ["near", "far", "left", "right"].map(steering);
        let mut far = Alone::open(request(&steerings[1], "far", 0));
        let mut right = Alone::open(request(&steerings[3], "right", 0));
        let requests = vec![request(&steerings[0], "near", 0), request(&steerings[2], "left", 0)];
        let mut backend = XdpBackend::new(options(), requests);
        let (mut umem, mut ports) = backend.open().unwrap();
        ports.iter_mut().for_each(|port| port.steer(true).unwrap());
        let mut sent = 0;
        // From each end to the other port's far end: in by one port, out by the other.
        for victim in [0, 1, 0, 1] {
            // Leave some of its frames on every ring: received but not read, sent but not reclaimed.
            for number in 0..10 {
                if victim == 0 { far.send(&packet(number, 60)) } else { right.send(&packet(number, 60)) }
            }
            let mut burst = Burst::new();
            ports[victim].receive(&mut umem, &mut burst, 5);
            ports[victim].transmit(&mut umem, &mut burst);
            ports[victim].kick().unwrap();

            let other = 1 - victim;
            let mut keep = ports.remove(other);
            let closing = Instant::now();
            drop(ports.remove(0));
            let closed = closing.elapsed();
            let (mut busy, deadline) = (0, Instant::now() + Duration::from_secs(10));
            let again = loop {
                match backend.reopen(PortIndex::new(victim).unwrap(), &mut umem) {
                    Ok(port) => break port,
                    Err(error) => assert!(error.is_busy() && Instant::now() < deadline, "{error}"),
                }
                busy += 1;
                let census = umem.census();
                assert!(census.balanced() && census.written_off > RINGS.fill - 64, "{census:?}");
                // The fill ring is filled although the port is not bound.
                assert_eq!(umem.at_port(PortIndex::new(victim).unwrap()), (RINGS.fill, 0));
                // The other port continues with the same memory.
                sent += 1;
                let neighbour = if other == 0 { &mut far } else { &mut right };
                neighbour.send(&packet(sent, 200));
                let mut burst = Burst::new();
                while keep.receive(&mut umem, &mut burst, 64) == 0 {}
                finish(&mut keep, &mut umem, &mut burst);
                keep.fill(&mut umem);
                let back = neighbour.receive();
                assert_eq!(back, [packet(sent, 200)]);
            };
            eprintln!("port {victim}: closed in {closed:?}, bound again after {:?} ({busy} tries)", closing.elapsed());
            let census = umem.census();
            assert!(census.balanced() && census.written_off == 0 && census.app == 0, "{census:?}");
            ports.push(keep);
            ports.insert(victim, again);
            ports[victim].steer(true).unwrap();
            let mine = if victim == 0 { &mut far } else { &mut right };
            mine.receive();
            mine.send(&packet(77, 1500));
            let mut burst = Burst::new();
            while ports[victim].receive(&mut umem, &mut burst, 64) == 0 {}
            assert_eq!(umem.bytes(&burst[0]), packet(77, 1500));
            // Send by the other port: both use one memory.
            finish(&mut ports[other], &mut umem, &mut burst);
            for port in &mut ports {
                port.fill(&mut umem);
            }
        }
    });
}

/// Uses only frames that were posted before bind; nothing is posted after it.
#[test]
fn port_filled_before_bind_receives() {
    if skip_unless_root("port_filled_before_bind_receives") {
        return;
    }
    in_namespace(|lab| {
        pair(lab, "near", "far", 1);
        let (near, far) = (steering("near"), steering("far"));
        let mut near = Alone::open(request(&near, "near", 0));
        let mut far = Alone::open(request(&far, "far", 0));
        assert_eq!(near.umem.at_port(PortIndex::P0), (RINGS.fill, 0));
        let mut numbers = Vec::new();
        for i in 0..RINGS.fill + 10 {
            far.send(&packet(i, 60));
            let mut burst = Burst::new();
            near.port.receive(&mut near.umem, &mut burst, 64);
            for frame in burst.drain() {
                numbers.push(number(near.umem.bytes(&frame)));
                near.umem.give(frame);
            }
        }
        assert_eq!(numbers, (0..RINGS.fill).collect::<Vec<_>>());
        let kernel = near.port.kernel_counters().unwrap();
        assert!(kernel.fill_empty > 0 && kernel.rx_invalid == 0, "{kernel:?}");
    });
}

#[test]
fn moved_start_is_transmitted() {
    if skip_unless_root("moved_start_is_transmitted") {
        return;
    }
    in_namespace(|lab| {
        pair(lab, "near", "far", 1);
        let (near, far) = (steering("near"), steering("far"));
        let mut near = Alone::open(request(&near, "near", 0));
        let mut far = Alone::open(request(&far, "far", 0));
        let wanted = packet(5, 300);
        let mut expected = 0;
        // From the first byte of the frame to the last position where the packet fits, moved in both directions.
        for start in [0, 1, 100, 255, 256, 257, 1000, 1748] {
            for received in [false, true] {
                let umem = &mut near.umem;
                let mut frame = if received {
                    far.send(&packet(9, 1514));
                    let mut burst = Burst::new();
                    while near.port.receive(umem, &mut burst, 1) == 0 {}
                    burst.pop().unwrap()
                } else {
                    umem.take().unwrap()
                };
                assert!(umem.set_length(&mut frame, 1792));
                let by = start - frame.offset() as i16;
                assert!(umem.move_start(&mut frame, by));
                assert!(umem.set_length(&mut frame, 300));
                umem.bytes_mut(&mut frame).copy_from_slice(&wanted);
                let mut burst = Burst::new();
                burst.push(frame).unwrap();
                finish(&mut near.port, umem, &mut burst);
                near.port.fill(umem);
                assert_eq!(far.receive(), [wanted.as_slice()], "start {start}");
                expected += 1;
            }
        }
        assert_eq!(near.port.counters().completions, expected);
        assert_eq!(near.port.counters().bad_descriptors, 0);
        assert_eq!(near.port.kernel_counters().unwrap().tx_invalid, 0);
        let census = near.umem.census();
        assert!(census.balanced() && census.app == 0 && census.transmit == 0, "{census:?}");
    });
}

#[test]
fn busy_queue_is_waited_for_in_bounded_time() {
    if skip_unless_root("busy_queue_is_waited_for_in_bounded_time") {
        return;
    }
    in_namespace(|lab| {
        pair(lab, "near", "far", 1);
        let near = steering("near");
        let holder = Alone::open(request(&near, "near", 0));
        let impatient = XdpOptions { busy_deadline: Duration::ZERO, ..options() };
        let error =
            XdpBackend::new(impatient, vec![request(&near, "near", 0)]).open().err().expect("two sockets on one queue");
        assert!(error.is_busy() && error.to_string().contains("ss --xdp"), "{error}");
        let patient = XdpOptions { busy_deadline: Duration::from_secs(30), ..options() };
        let waiting = request(&near, "near", 0);
        let (umem, mut ports) = std::thread::scope(|scope| {
            let waiter = scope.spawn(move || XdpBackend::new(patient, vec![waiting]).open().unwrap());
            std::thread::sleep(Duration::from_millis(100));
            drop(holder);
            waiter.join().unwrap()
        });
        ports[0].steer(true).unwrap();
        assert!(umem.census().balanced());
    });
}

/// Returns descriptors, and mappings with their bytes, of this process.
fn held() -> (usize, usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let bytes = maps.lines().map(|line| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        usize::from_str_radix(end, 16).unwrap() - usize::from_str_radix(start, 16).unwrap()
    });
    let xsk = maps.lines().filter(|line| line.contains("socket:")).count();
    (std::fs::read_dir("/proc/self/fd").unwrap().count(), xsk, bytes.sum())
}

/// Opens and closes many times without CAP_IPC_LOCK and with a low memlock limit: a leak ends the test. It runs in its
/// own process, because limits and descriptors belong to the process.
#[test]
fn thousand_opens_and_closes_leak_nothing() {
    if skip_unless_root("thousand_opens_and_closes_leak_nothing") {
        return;
    }
    const QUEUES: u32 = 16;
    if std::env::var_os("OXIDE_TEST_ALONE").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "thousand_opens_and_closes_leak_nothing", "--nocapture"])
            .env("OXIDE_TEST_ALONE", "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    in_namespace(|lab| {
        pair(lab, "near", "far", QUEUES);
        let steering = steering("near");
        let mut sets = capabilities(None).unwrap();
        for set in [&mut sets.effective, &mut sets.permitted] {
            set.remove(CapabilitySet::IPC_LOCK);
        }
        set_capabilities(None, sets).unwrap();
        // Allow for some: the kernel frees memory late, as it does queues.
        let limit = getrlimit(Resource::Memlock).maximum.map_or(32 << 20, |hard| hard.min(32 << 20));
        setrlimit(Resource::Memlock, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
        let rings = RingSizes { fill: 128, rx: 64, tx: 64, completion: 64 };
        let small = XdpOptions { rings, ..options() };
        let mut before = None;
        for round in 0..1000 {
            let deadline = Instant::now() + Duration::from_secs(10);
            loop {
                let request = request(&steering, "near", round % QUEUES);
                match XdpBackend::new(small.clone(), vec![request]).open() {
                    Ok(_) => break,
                    // ENOBUFS: the memlock limit is exceeded.
                    Err(error) => assert!(Instant::now() < deadline, "round {round}: {error}"),
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            if round == QUEUES {
                before = Some(held());
            }
        }
        let (fds, xsk, bytes) = before.unwrap();
        let after = held();
        assert_eq!((after.0, after.1), (fds, xsk), "descriptors and mapped rings");
        assert_eq!(xsk, 0);
        // The allocator may keep a little; each round maps 0.9 MiB.
        assert!(after.2 < bytes + (1 << 20), "{} bytes mapped, {bytes} before", after.2);
    });
}
