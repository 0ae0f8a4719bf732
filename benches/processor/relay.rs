//! Measures the whole step of a queue on the simulated port: reclaim, fill, receive, parse, look up, rewrite, transmit.
//! The simulated kernel works between the steps and is not included in the times.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use oxide::net::{Link, LinkKind, Route, RouteKind, Tables};
use oxide::packet::build::UdpFrame;
use oxide::packet::{Endpoint, Flow, LANES, MacAddr};
use oxide::port::sim::{SimBackend, SimInterface, SimNet, SimPort};
use oxide::port::{Backend, Burst, Port, QueueId};
use oxide::queue::{Datapath, DatapathParts, Harness, QueueInfo, QueuePeers};
use oxide::simd::Processor;
use oxide::umem::Umem;
use oxide_relay::config::Config;
use oxide_relay::{RelayPlan, UdpRelay};

use crate::comparison::{Bench, random};

/// Sets the number of upstreams, each with its own source address, because a million sessions need so many ports.
const UPSTREAMS: u8 = 32;
const NAMES: [&str; 2] = ["sim0", "sim1"];

type Error = Box<dyn std::error::Error>;

pub(crate) fn run(bench: &mut Bench) {
    const MEASURE: &str = "whole relay step";
    if bench.wants(MEASURE)
        && let Err(error) = step(bench, MEASURE)
    {
        println!("{MEASURE}: NOT MEASURED: {error}");
    }
}

fn step(bench: &mut Bench, measure: &str) -> Result<(), Error> {
    let (mut small, mut large, mut l2) = (Relay::new(1 << 12)?, Relay::new(1 << 20)?, L2::new()?);
    let mut times = [vec![], vec![], vec![]];
    for _ in 0..25 {
        let turn = |step: &mut dyn FnMut() -> Result<f64, Error>| -> Result<f64, Error> {
            let times = (0..64).map(|_| step()).collect::<Result<Vec<f64>, Error>>()?;
            Ok(times.iter().sum::<f64>() / (64 * LANES) as f64)
        };
        times[0].push(turn(&mut || small.step(measured_relay))?);
        times[1].push(turn(&mut || large.step(measured_relay))?);
        times[2].push(turn(&mut || l2.step(measured_l2))?);
    }
    let [small, large, l2] = times;
    let name = |text: &str, bound| (text.to_owned(), bound);
    bench.add(
        measure,
        "64 B on the simulated port, batches of 64",
        vec![
            (name("relay, 4 Ki sessions", None), small),
            (name("l2fwd loop on the same port", Some(2.0)), l2),
            (name("relay, 1 Mi sessions", None), large),
        ],
    );
    Ok(())
}

/// Runs a fixed number of packets and prints it, for `valgrind --tool=callgrind --toggle-collect='*measured_*'`.
pub(crate) fn for_callgrind(what: &str) {
    let steps = 64;
    let done = match what {
        "relay-4Ki" => {
            Relay::new(1 << 12).and_then(|mut it| (0..steps).try_for_each(|_| it.step(measured_relay).map(|_| ())))
        }
        "relay-1Mi" => {
            Relay::new(1 << 20).and_then(|mut it| (0..steps).try_for_each(|_| it.step(measured_relay).map(|_| ())))
        }
        "l2fwd" => L2::new().and_then(|mut it| (0..steps).try_for_each(|_| it.step(measured_l2).map(|_| ()))),
        other => Err(format!("no `{other}`: relay-4Ki, relay-1Mi or l2fwd").into()),
    };
    match done {
        Ok(()) => println!("packets: {}", steps * LANES),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

#[inline(never)]
fn measured_relay(datapath: &mut Datapath<SimPort, UdpRelay>, now: Instant) -> usize {
    datapath.work(now)
}

#[inline(never)]
fn measured_l2(umem: &mut Umem, ports: &mut [SimPort], burst: &mut Burst) -> usize {
    let [from, to] = ports else { return 0 };
    for port in [&mut *from, &mut *to] {
        port.reclaim(umem);
        port.fill(umem);
    }
    let received = from.receive(umem, burst, LANES);
    for frame in burst.iter_mut() {
        if let Some(macs) = umem.bytes_mut(frame).first_chunk_mut::<12>() {
            macs[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
            macs[6..].copy_from_slice(&[2, 0, 0, 0, 0, 8]);
        }
    }
    to.transmit(umem, burst);
    received
}

fn upstream(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 100 + n)
}

fn source(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 1 + n)
}

fn client(n: u32) -> Endpoint {
    let [_, a, b, c] = (n / 50_000 + (1 << 16)).to_be_bytes();
    let mut address = [0; 16];
    address[10..].copy_from_slice(&[0xff, 0xff, 10, a, b, c]);
    Endpoint { address, port: 2000 + (n % 50_000) as u16 }
}

fn net() -> (SimNet, [QueueId; 2]) {
    (SimNet::new(&NAMES.map(|name| SimInterface::new(name, 1)), 1), NAMES.map(|name| QueueId::new(name, 0)))
}

/// Delivers 64 frames to a port as the kernel does.
fn arrive(net: &SimNet, id: &QueueId, frames: impl Iterator<Item = Vec<u8>>) {
    frames.for_each(|frame| net.inject(id, &frame));
}

struct Relay {
    net: SimNet,
    ids: [QueueId; 2],
    datapath: Datapath<SimPort, UdpRelay>,
    sessions: u32,
    dice: Box<dyn FnMut() -> u64>,
    now: Instant,
}

impl Relay {
    /// Creates a relay with all its sessions.
    fn new(sessions: u32) -> Result<Self, Error> {
        let (net, ids) = net();
        let (umem, ports) = SimBackend::new(&net, &ids).open()?;
        let processor = Processor::detect();
        let infos = ports.iter().map(|port| port.info().clone()).collect();
        let info = QueueInfo { ports: infos, processor, ..Harness::info(2) };
        let upstreams: Vec<String> = (0..UPSTREAMS).map(|n| format!("\"{}:53\"", upstream(n))).collect();
        let config = Config::from_toml(&format!(
            "engine.interfaces = [\"sim0\", \"sim1\"]\n[sessions]\ncapacity = {sessions}\nsource_ports = \
             \"1024-65535\"\n[[relay]]\nname = \"a\"\nlisten = \"192.0.2.1:53\"\nupstreams = [{}]\n",
            upstreams.join(", ")
        ))?;
        let plan = RelayPlan::new(&config, &[])?;
        let handler = UdpRelay::new(&plan, &info);
        let parts = DatapathParts {
            umem,
            ports: ports.into_iter().map(Some).collect(),
            handler,
            processor,
            info,
            peers: QueuePeers::none(),
            batch_size: LANES,
        };
        let now = Instant::now();
        let mut datapath = Datapath::new(parts, now);
        datapath.set_tables(Box::new(tables(&net)));
        datapath.steer(true)?;
        // The first turn fills the rings.
        datapath.work(now);
        let mut relay = Self { net, ids, datapath, sessions, dice: Box::new(random(4)), now };
        for first in (0..sessions).step_by(LANES) {
            relay.batch(first..first + LANES as u32, |datapath, now| datapath.work(now))?;
        }
        let made = relay.datapath.handler().counters().created;
        if made != u64::from(sessions) {
            return Err(format!("{made} sessions of {sessions}").into());
        }
        Ok(relay)
    }

    /// Sends one batch of packets from random clients. Returns the time in nanoseconds.
    fn step(&mut self, work: impl Fn(&mut Datapath<SimPort, UdpRelay>, Instant) -> usize) -> Result<f64, Error> {
        let clients: Vec<u32> = (0..LANES).map(|_| ((self.dice)() % u64::from(self.sessions)) as u32).collect();
        self.batch(clients, work)
    }

    fn batch(
        &mut self,
        clients: impl IntoIterator<Item = u32>,
        work: impl Fn(&mut Datapath<SimPort, UdpRelay>, Instant) -> usize,
    ) -> Result<f64, Error> {
        let listen = Endpoint { address: Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets(), port: 53 };
        let frame = |n| UdpFrame::new(Flow { source: client(n), destination: listen }, &[7; 22]).to_vec();
        arrive(&self.net, &self.ids[0], clients.into_iter().filter_map(frame));
        self.kernel()?;
        let start = Instant::now();
        let packets = work(&mut self.datapath, self.now);
        let time = start.elapsed().as_nanos() as f64;
        // One kick sends at most 32 packets.
        (0..4).try_for_each(|_| self.kernel())?;
        let mut sent = 0;
        self.net.drain_sent(&self.ids[1], |_| sent += 1);
        if packets != LANES || sent != LANES {
            let drops = self.datapath.counters().drops.total();
            return Err(format!(
                "{packets} packets received, {sent} sent, {drops} dropped; expected 64 received and sent"
            )
            .into());
        }
        Ok(time)
    }

    fn kernel(&mut self) -> Result<(), Error> {
        self.datapath.kick().map_err(|error| format!("{error:?}"))?;
        let (umem, ports) = self.datapath.kernel_side();
        for port in ports {
            port.run_kernel(umem);
        }
        Ok(())
    }
}

fn tables(net: &SimNet) -> Tables {
    let links = NAMES.iter().map(|name| Link {
        index: net.ifindex(name).unwrap_or(0),
        name: (*name).to_owned(),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        up: true,
        kind: LinkKind::Ethernet,
        addresses: match *name {
            "sim0" => vec![(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 24)],
            _ => (0..UPSTREAMS).map(|n| (IpAddr::V4(source(n)), 24)).collect(),
        },
    });
    let servers = net.ifindex(NAMES[1]).unwrap_or(0);
    let route = |n| Route {
        destination: IpAddr::V4(upstream(n)),
        prefix: 32,
        kind: RouteKind::Unicast,
        gateway: None,
        interface: servers,
        preferred_source: Some(IpAddr::V4(source(n))),
        metric: 0,
    };
    let neighbours: HashMap<_, _> =
        (0..UPSTREAMS).map(|n| ((servers, IpAddr::V4(upstream(n))), MacAddr([2, 0, 0, 0, 9, n]))).collect();
    Tables::new(1, links.collect(), (0..UPSTREAMS).map(route).collect(), neighbours)
}

/// Replaces the MAC addresses and transmits, as the smallest handler.
struct L2 {
    net: SimNet,
    ids: [QueueId; 2],
    umem: Umem,
    ports: Vec<SimPort>,
    burst: Burst,
}

impl L2 {
    fn new() -> Result<Self, Error> {
        let (net, ids) = net();
        let (mut umem, mut ports) = SimBackend::new(&net, &ids).open()?;
        for port in &mut ports {
            port.steer(true)?;
            port.fill(&mut umem);
        }
        Ok(Self { net, ids, umem, ports, burst: Burst::new() })
    }

    fn step(&mut self, work: impl Fn(&mut Umem, &mut [SimPort], &mut Burst) -> usize) -> Result<f64, Error> {
        let frame = |n| UdpFrame::new(crate::frames::flow(n, true), &[7; 22]).to_vec();
        arrive(&self.net, &self.ids[0], (0..LANES as u32).filter_map(frame));
        self.kernel()?;
        let start = Instant::now();
        let packets = work(&mut self.umem, &mut self.ports, &mut self.burst);
        let time = start.elapsed().as_nanos() as f64;
        // One kick sends at most 32 packets.
        (0..4).try_for_each(|_| self.kernel())?;
        let mut sent = 0;
        self.net.drain_sent(&self.ids[1], |_| sent += 1);
        if packets != LANES || sent != LANES {
            return Err(format!("{packets} packets received, {sent} sent; expected 64 of each").into());
        }
        Ok(time)
    }

    fn kernel(&mut self) -> Result<(), Error> {
        for port in &mut self.ports {
            port.kick()?;
            port.run_kernel(&mut self.umem);
        }
        Ok(())
    }
}
