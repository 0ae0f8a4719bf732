//! Fuzzes a history of packets, time and changes through the whole path: NIC queue, rings, UMEM, datapath, relay. At
//! its end no frame is outstanding, every packet is accounted for, and the kernel's side saw no rule violated.
//!
//! The input is a list of operations: a byte for the kind, then its arguments; see [`Op`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use oxide::net::{Route, RouteKind, Tables};
use oxide::packet::build::UdpFrame;
use oxide::packet::{Flow, MacAddr, parse};
use oxide::port::sim::{KernelFaultRates, SimBackend, SimInterface, SimNet};
use oxide::port::{Backend, Port, QueueId};
use oxide::queue::{Datapath, DatapathParts, QueueInfo, QueuePeers};
use oxide::simd::Processor;
use oxide_relay::config::Config;
use oxide_relay::{RelayPlan, UdpRelay};

use super::live::{LiveBackend, LivePort};

const LISTENS: [&str; 2] = ["192.0.2.1:53", "[2001:db8:1::1]:53"];
const UPSTREAMS: [&str; 2] = ["198.51.100.7:53", "[2001:db8:2::7]:53"];
const SOURCES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1))];

static PLAN: LazyLock<RelayPlan> = LazyLock::new(|| {
    let entry = |n: usize| {
        format!("[[relay]]\nname = \"r{n}\"\nlisten = \"{}\"\nupstreams = [\"{}\"]\n", LISTENS[n], UPSTREAMS[n])
    };
    let text = "engine.interfaces = [\"in\", \"out\"]\n[sessions]\ncapacity = 64\nsource_ports = \"20000-20063\"\n";
    RelayPlan::new(&Config::from_toml(&format!("{text}{}{}", entry(0), entry(1))).unwrap(), &[]).unwrap()
});

/// Is one operation of the input.
enum Op<'a> {
    /// Receives a frame from the input on a port.
    Raw(usize, &'a [u8]),
    /// Receives a client's packet with changed bytes.
    Client(u8, &'a [u8]),
    /// Receives a server's answer to this source port with changed bytes.
    Answer(u8, &'a [u8]),
    /// Advances the time in units of 10 ms.
    Wait(u8),
    /// Makes next hops known or unknown, and adds or removes routes.
    Tables(u8),
    Draining(bool),
    /// Sets the faults of the kernel.
    Faults(u8),
    /// Replaces the handler, with or without inheritance.
    Restart(bool),
}

fn next<'a>(bytes: &mut &'a [u8]) -> Option<Op<'a>> {
    let (&[kind, value], rest) = bytes.split_first_chunk::<2>()?;
    *bytes = rest;
    let mut take = |most: usize| {
        let (taken, rest) = bytes.split_at(most.min(bytes.len()));
        *bytes = rest;
        taken
    };
    Some(match kind % 16 {
        0 => Op::Raw(0, take(usize::from(value))),
        1 => Op::Raw(1, take(usize::from(value))),
        2..=5 => Op::Client(value, take(0)),
        6 => Op::Client(value, take(4)),
        7..=9 => Op::Answer(value, take(0)),
        10 => Op::Answer(value, take(4)),
        11 => Op::Wait(value),
        12 => Op::Tables(value),
        13 => Op::Draining(value % 4 == 0),
        14 => Op::Faults(value),
        _ => Op::Restart(value % 2 == 0),
    })
}

struct Path {
    net: SimNet,
    ids: [QueueId; 2],
    datapath: Datapath<LivePort, UdpRelay>,
    info: QueueInfo,
    now: Instant,
    generation: u64,
    came: u64,
}

impl Path {
    fn new() -> Self {
        let net = SimNet::new(&["in", "out"].map(|name| SimInterface::new(name, 1)), 1);
        let ids = ["in", "out"].map(|name| QueueId::new(name, 0));
        let (umem, ports) = LiveBackend(SimBackend::new(&net, &ids)).open().unwrap();
        let ports_info = ports.iter().map(|port| port.info().clone()).collect();
        let processor = Processor::detect();
        let info = QueueInfo {
            queue: 0,
            queues: 1,
            place: 0,
            ports: ports_info,
            rss: Vec::new(),
            changes: 0,
            seed: 1,
            processor,
        };
        let now = Instant::now();
        let parts = DatapathParts {
            umem,
            ports: ports.into_iter().map(Some).collect(),
            handler: UdpRelay::new(&PLAN, &info),
            processor,
            info: info.clone(),
            peers: QueuePeers::none(),
            batch_size: 64,
        };
        let mut path = Self { net, ids, datapath: Datapath::new(parts, now), info, now, generation: 0, came: 0 };
        path.tables(0);
        path.datapath.steer(true).unwrap();
        path
    }

    fn tables(&mut self, value: u8) {
        self.generation += 1;
        let mut links = self.net.links();
        let (mut routes, mut neighbours) = (Vec::new(), std::collections::HashMap::new());
        for link in &mut links {
            let own =
                if link.name == "in" { LISTENS.map(|at| at.parse::<SocketAddr>().unwrap().ip()) } else { SOURCES };
            for address in own {
                let (destination, prefix): (IpAddr, u8) = match (link.name.as_str(), address) {
                    ("in", IpAddr::V4(_)) => (Ipv4Addr::UNSPECIFIED.into(), 0),
                    ("in", IpAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED.into(), 0),
                    (_, IpAddr::V4(_)) => (Ipv4Addr::new(198, 51, 100, 0).into(), 24),
                    (_, IpAddr::V6(_)) => (Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0).into(), 64),
                };
                let gateway: IpAddr = match destination {
                    IpAddr::V4(_) => Ipv4Addr::new(203, 0, 113, 1).into(),
                    IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1).into(),
                };
                link.addresses.push((address, prefix));
                let (kind, interface) = (RouteKind::Unicast, link.index);
                if value % 8 != 7 {
                    let gateway = Some(gateway);
                    routes.push(Route {
                        destination,
                        prefix,
                        kind,
                        gateway,
                        interface,
                        preferred_source: None,
                        metric: 0,
                    });
                }
                if value.is_multiple_of(2) {
                    neighbours.insert((link.index, gateway), MacAddr([2, 0, 0, 0, 9, 9]));
                }
            }
        }
        self.datapath.set_tables(Box::new(Tables::new(self.generation, links, routes, neighbours)));
    }

    fn datagram(&mut self, port: usize, from: SocketAddr, to: SocketAddr, size: u8, changes: &[u8]) {
        let flow = Flow { source: from.into(), destination: to.into() };
        let mut frame = UdpFrame::new(flow, &vec![size; usize::from(size) * 5]).to_vec().unwrap();
        for change in changes.chunks_exact(2) {
            if let Some(byte) = frame.get_mut(usize::from(change[0])) {
                *byte ^= change[1];
            }
        }
        self.inject(port, &frame);
    }

    fn inject(&mut self, port: usize, frame: &[u8]) {
        self.net.inject(&self.ids[port], frame);
        self.came += 1;
    }

    fn apply(&mut self, op: &Op<'_>) {
        match *op {
            Op::Raw(port, frame) => self.inject(port, frame),
            Op::Client(value, changes) => {
                let six = usize::from(value % 3 == 2);
                let from = [format!("192.0.2.{}:4000", 2 + value % 16), format!("[2001:db8:1::{value:x}]:4000")];
                self.datagram(0, from[six].parse().unwrap(), LISTENS[six].parse().unwrap(), value, changes);
            }
            Op::Answer(value, changes) => {
                let six = usize::from(value % 3 == 2);
                let to = SocketAddr::new(SOURCES[six], 20_000 + u16::from(value % 64));
                self.datagram(1, UPSTREAMS[six].parse().unwrap(), to, value, changes);
            }
            Op::Wait(value) => self.wait(Duration::from_millis(10 * u64::from(value))),
            Op::Tables(value) => self.tables(value),
            Op::Draining(draining) => self.datapath.set_draining(draining),
            Op::Faults(value) => {
                let all = [
                    KernelFaultRates::none(),
                    KernelFaultRates::legal(),
                    KernelFaultRates::all(),
                    KernelFaultRates::none(),
                ];
                self.net.set_all_faults(all[usize::from(value) % all.len()]);
            }
            Op::Restart(inherit) => {
                self.info.seed += 1;
                let info = self.info.clone();
                let _ = self.datapath.replace_handler(|| UdpRelay::new(&PLAN, &info), inherit).unwrap();
            }
        }
    }

    fn wait(&mut self, by: Duration) {
        self.now += by;
        self.net.advance(by);
    }

    fn turn(&mut self) {
        self.wait(Duration::from_micros(50));
        self.datapath.turn(self.now).unwrap();
        assert!(self.datapath.balanced(), "frame accounting failed");
    }
}

pub(crate) fn body(mut input: &[u8]) {
    let mut path = Path::new();
    while let Some(op) = next(&mut input) {
        path.apply(&op);
        path.turn();
    }
    // Faults end, next hops become known, and waiting packets time out.
    path.net.set_all_faults(KernelFaultRates::none());
    path.tables(0);
    for turn in 0..200 {
        if turn > 20 {
            path.wait(Duration::from_millis(20));
        }
        path.turn();
    }
    let census = path.datapath.umem().census();
    assert!(path.datapath.quiescent() && census.app == 0 && census.transmit == 0, "frames are outstanding: {census:?}");
    let (mut arrived, mut left) = (0, 0);
    for id in &path.ids {
        assert_eq!(path.net.violations(id), [], "the kernel got frames that it does not own");
        let nic = path.net.counters(id);
        assert_eq!(nic.arrived, nic.passed + nic.dropped + nic.refused + nic.delivered, "{nic:?}");
        arrived += nic.arrived;
        left += nic.sent;
        path.net.drain_sent(id, |frame| {
            let head = std::array::from_fn(|at| frame.get(at).copied().unwrap_or(0));
            assert!(parse(&head, frame.len() as u16).is_ok(), "a malformed packet left: {frame:02x?}");
        });
    }
    assert_eq!(arrived, path.came);
    assert!(left <= path.came, "more packets left than arrived");
}
