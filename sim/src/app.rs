//! What handles packets in the simulation, and the little it needs of a host around it.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::SimOptions;
use super::forward::{CLIENTS, Forwarder, SERVERS, host_mac};
use super::replay::{Replay, ends};
use crate::reference::{Reference, Seen};
use oxide::net::{Route, RouteKind, Tables};
use oxide::packet::{Endpoint, Flow};
use oxide::port::sim::SimNet;
use oxide::queue::{Batch, Context, Handler, HandlerOutcome, QueueInfo, Replaced, Verdict};
use oxide_relay::config::Config;
use oxide_relay::{RelayPlan, UdpRelay};

/// Who handles the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Application {
    /// From one port to the other, addresses untouched: the engine by itself.
    #[default]
    Forward,
    /// The UDP relay.
    Relay,
    /// The UDP relay, each decision held against the slow reference relay. Several times slower.
    CheckedRelay,
}

/// Frames as the handlers made them and the reference approved, by port and flow, in the order they were
/// made. What leaves takes those before it with it: they were lost.
#[derive(Clone, Default)]
pub(super) struct Made(Arc<Mutex<ByFlow>>);

type ByFlow = HashMap<(u8, Flow), Frames>;

type Frames = VecDeque<Vec<u8>>;

impl Made {
    fn add(&self, port: u8, frame: &[u8]) {
        if let Some(flow) = ends(frame) {
            lock(&self.0).entry((port, flow)).or_default().push_back(frame.to_vec());
        }
    }

    /// Whether `frame` was made for `port`, and neither it nor one made after it has left.
    pub(super) fn take(&self, port: u8, frame: &[u8]) -> bool {
        let mut made = lock(&self.0);
        let of_flow = ends(frame).and_then(|flow| made.get_mut(&(port, flow)));
        of_flow.is_some_and(|frames| std::iter::from_fn(|| frames.pop_front()).any(|made| made == frame))
    }
}

/// A handler's panic is not in the middle of a change here.
fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the judge knows what has to leave for a packet that came.
pub(super) enum Rule {
    /// By [`forward`](super::forward::forward).
    Forwarded,
    /// As the relay must have it, but for the source port, which it may choose.
    Relayed,
    /// As the handler made it, which was held against the reference.
    Made(Made),
}

/// Whether a relayed packet's ends are right: from one of our addresses to the upstream, or from the
/// listen address to the client.
pub(super) fn relayed(there: bool, client: Endpoint, ends: &Flow) -> bool {
    let at = usize::from(!ends.destination.is_ipv4());
    if there {
        ends.destination == FORWARDED[at].into() && ends.source.ip() == SOURCES[at]
    } else {
        ends.source == LISTENS[at].into() && ends.destination == client
    }
}

/// Where clients send to when packets are only forwarded; the relay's upstreams.
pub(super) const FORWARDED: [SocketAddr; 2] = upstreams(SERVER_NETS[0]);
/// The relay's listen addresses, on the clients' interface.
const LISTENS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 255, 254)), 7000),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1)), 7000),
];
/// Its addresses on the servers' interface.
const SOURCES: [IpAddr; 2] = hosts(SERVER_NETS[0], 1);

/// Networks that the servers may be in: 24 bits of IPv4, and the third word of 2001:db8::/32. A capture that
/// is replayed may have addresses in the first ones.
type ServerNet = ([u8; 3], u16);
const SERVER_NETS: [ServerNet; 3] = [([198, 51, 100], 2), ([203, 0, 113], 3), ([192, 0, 2], 4)];

const fn hosts(([a, b, c], third): ServerNet, host: u8) -> [IpAddr; 2] {
    let six = Ipv6Addr::new(0x2001, 0xdb8, third, 0, 0, 0, 0, host as u16);
    [IpAddr::V4(Ipv4Addr::new(a, b, c, host)), IpAddr::V6(six)]
}

const fn upstreams(net: ServerNet) -> [SocketAddr; 2] {
    let [four, six] = hosts(net, 2);
    [SocketAddr::new(four, 7000), SocketAddr::new(six, 7000)]
}

/// Who is where.
struct Addresses {
    listens: [SocketAddr; 2],
    servers: ServerNet,
    /// Clients may be anywhere.
    anywhere: bool,
}

impl Addresses {
    fn new(replay: Option<&Replay>) -> Self {
        let Some(replay) = replay else {
            return Self { listens: LISTENS, servers: SERVER_NETS[0], anywhere: false };
        };
        let [four, six] = replay.listens();
        let taken = |net: &ServerNet| {
            (0..replay.len() as u64).filter_map(|n| ends(replay.frame(n))).any(|flow| {
                [flow.source.ip(), flow.destination.ip()].into_iter().any(|ip| match ip {
                    IpAddr::V4(four) => four.octets()[..3] == net.0,
                    IpAddr::V6(six) => six.segments()[..3] == [0x2001, 0xdb8, net.1],
                })
            })
        };
        let servers = SERVER_NETS.into_iter().find(|net| !taken(net)).unwrap_or(SERVER_NETS[0]);
        Self { listens: [four.unwrap_or(LISTENS[0]), six.unwrap_or(LISTENS[1])], servers, anywhere: true }
    }
}

pub(super) struct App {
    plan: Option<RelayPlan>,
    /// Only where the relay is held against the reference.
    made: Option<Made>,
    complaint: Arc<Mutex<Option<String>>>,
    /// Next hops' addresses are known.
    known: AtomicBool,
    generation: AtomicU64,
    addresses: Addresses,
}

impl App {
    pub(super) fn new(options: &SimOptions) -> Self {
        let application = options.application;
        let addresses = Addresses::new(options.replay.as_ref());
        Self {
            plan: (application != Application::Forward).then(|| plan(options.queues, &addresses)),
            addresses,
            made: (application == Application::CheckedRelay).then(Made::default),
            complaint: Arc::default(),
            known: AtomicBool::new(true),
            generation: AtomicU64::new(0),
        }
    }

    /// Where clients send to, by IPv4 and by IPv6.
    pub(super) fn service(&self) -> [SocketAddr; 2] {
        if self.plan.is_some() { self.addresses.listens } else { FORWARDED }
    }

    /// How the judge knows what has to leave.
    pub(super) fn rule(&self) -> Rule {
        match (&self.plan, &self.made) {
            (_, Some(made)) => Rule::Made(made.clone()),
            (Some(_), None) => Rule::Relayed,
            (None, None) => Rule::Forwarded,
        }
    }

    pub(super) fn set_known(&self, known: bool) {
        self.known.store(known, Ordering::Relaxed);
    }

    /// What the reference would have done otherwise, first.
    pub(super) fn complaint(&self) -> Option<String> {
        lock(&self.complaint).take()
    }

    /// Packets that were made and have not left by now never will.
    pub(super) fn forget(&self) {
        if let Some(made) = &self.made {
            lock(&made.0).clear();
        }
    }

    pub(super) fn handler(&self, info: &QueueInfo) -> AppHandler {
        match (&self.plan, &self.made) {
            (Some(plan), None) => AppHandler::Relay(Box::new(UdpRelay::new(plan, info))),
            (Some(plan), Some(made)) => AppHandler::Checked(Box::new(CheckedRelay {
                inner: UdpRelay::new(plan, info),
                reference: Reference::new(plan, info),
                made: made.clone(),
                complaint: self.complaint.clone(),
                packets: Vec::new(),
            })),
            (None, _) => AppHandler::Forward(Forwarder),
        }
    }

    /// Links as they are, routes to both sides' networks, and one neighbour for all hosts of a side.
    pub(super) fn tables(&self, net: &SimNet) -> Tables {
        let generation = 1 + self.generation.fetch_add(1, Ordering::Relaxed);
        let Addresses { listens, servers, anywhere } = &self.addresses;
        let ([a, b, c], third) = servers;
        let clients = if *anywhere { ["0.0.0.0/0", "::/0"] } else { ["10.1.0.0/16", "fd00:1::/32"] };
        let clients = clients.map(str::to_owned);
        let servers_nets = [format!("{a}.{b}.{c}.0/24"), format!("2001:db8:{third:x}::/64")];
        let mut links = net.links();
        let mut routes = Vec::new();
        let mut neighbours = HashMap::new();
        for link in &mut links {
            let (port, own, nets) = if link.name == "clients" {
                (CLIENTS, listens.map(|at| at.ip()), &clients)
            } else {
                (SERVERS, hosts(*servers, 1), &servers_nets)
            };
            for (text, own) in nets.iter().zip(own) {
                let parts = text.split_once('/').and_then(|(at, prefix)| at.parse().ok().zip(prefix.parse().ok()));
                let Some((destination, prefix)) = parts else { continue };
                link.addresses.push((own, prefix));
                let gateway = Some(gateway(port, own.is_ipv4()));
                let (kind, interface) = (RouteKind::Unicast, link.index);
                routes.push(Route { destination, prefix, kind, gateway, interface, preferred_source: None, metric: 0 });
                if let (true, Some(gateway)) = (self.known.load(Ordering::Relaxed), gateway) {
                    neighbours.insert((link.index, gateway), host_mac(port));
                }
            }
        }
        Tables::new(generation, links, routes, neighbours)
    }
}

/// All hosts of a side are behind one router.
fn gateway(port: u8, ipv4: bool) -> IpAddr {
    match (port, ipv4) {
        (CLIENTS, true) => Ipv4Addr::new(10, 1, 255, 253).into(),
        (CLIENTS, false) => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2).into(),
        (_, true) => hosts(SERVER_NETS[0], 254)[0],
        (_, false) => hosts(SERVER_NETS[0], 254)[1],
    }
}

#[allow(clippy::panic)] // written here, and read by every test of the simulation
fn plan(queues: u32, addresses: &Addresses) -> RelayPlan {
    let (listens, upstreams) = (addresses.listens, upstreams(addresses.servers));
    let entry = |name: &str, at: usize| {
        format!("[[relay]]\nname = \"{name}\"\nlisten = \"{}\"\nupstreams = [\"{}\"]\n", listens[at], upstreams[at])
    };
    // One of the three has neither of the two ports.
    let ranges = [(20_000, 59_999), (1024, 19_999), (60_000, 65_535)];
    let free = |&(first, last): &(u16, u16)| !listens.iter().any(|at| (first..=last).contains(&at.port()));
    let (first, last) = ranges.into_iter().find(free).unwrap_or(ranges[0]);
    // Made clients fill a table of 64 to the last place, and the reference is exact for as many. Clients of a
    // capture may be more.
    let capacity = if addresses.anywhere { 16_384 * queues } else { 64 * queues };
    let text = format!(
        "engine.interfaces = [\"clients\", \"servers\"]\n[sessions]\ncapacity = {capacity}\nidle_timeout_s = 120\n\
         source_ports = \"{first}-{last}\"\n{}{}",
        entry("four", 0),
        entry("six", 1)
    );
    match Config::from_toml(&text)
        .map_err(|e| e.to_string())
        .and_then(|c| RelayPlan::new(&c, &[]).map_err(|e| e.to_string()))
    {
        Ok(plan) => plan,
        Err(error) => panic!("the simulation's own configuration: {error}"),
    }
}

/// The handler of an application.
pub(super) enum AppHandler {
    Forward(Forwarder),
    Relay(Box<UdpRelay>),
    Checked(Box<CheckedRelay>),
}

impl Handler for AppHandler {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        match self {
            Self::Forward(it) => it.handle(batch, cx),
            Self::Relay(it) => it.handle(batch, cx),
            Self::Checked(it) => it.handle(batch, cx),
        }
    }

    fn tick(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Forward(it) => it.tick(cx),
            Self::Relay(it) => it.tick(cx),
            Self::Checked(it) => it.tick(cx),
        }
    }

    fn sessions(&self) -> u64 {
        match self {
            Self::Forward(it) => it.sessions(),
            Self::Relay(it) => it.sessions(),
            Self::Checked(it) => it.inner.sessions(),
        }
    }

    fn inherit(&mut self, former: &mut Self, why: Replaced) -> Result<u64, String> {
        match (self, former) {
            (Self::Relay(it), Self::Relay(former)) => it.inherit(former, why),
            (Self::Checked(it), Self::Checked(former)) => {
                let kept = it.inner.inherit(&mut former.inner, why)?;
                // The reference never panics: what it knows is what the relay must have kept.
                std::mem::swap(&mut it.reference, &mut former.reference);
                Ok(kept)
            }
            _ => Err("the forwarder has nothing to hand over".to_owned()),
        }
    }
}

/// The relay, with the reference beside it: each packet is shown to both.
pub(super) struct CheckedRelay {
    inner: UdpRelay,
    reference: Reference,
    made: Made,
    complaint: Arc<Mutex<Option<String>>>,
    packets: Vec<Vec<u8>>,
}

impl CheckedRelay {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        self.packets.resize_with(self.packets.len().max(batch.len()), Vec::new);
        for (lane, packet) in self.packets.iter_mut().enumerate().take(batch.len()) {
            packet.clear();
            packet.extend_from_slice(batch.packet(lane));
        }
        self.inner.handle(batch, cx);
        for lane in 0..batch.len() {
            let frame = batch.packet(lane);
            let did = match batch.verdict(lane) {
                Verdict::None => HandlerOutcome::Drop(oxide::telemetry::DropReason::NoVerdict),
                Verdict::Transmit(port) => {
                    self.made.add(port.number(), frame);
                    HandlerOutcome::Transmit(port.number(), frame.to_vec())
                }
                Verdict::Drop(reason) => HandlerOutcome::Drop(reason),
                Verdict::Hold | Verdict::HoldFor(_) => HandlerOutcome::Hold(frame.to_vec()),
                Verdict::HandOver(queue) => HandlerOutcome::HandOver(queue, frame.to_vec()),
            };
            let packet = &self.packets[lane];
            let (now, ports) = (cx.now(), cx.info().ports.as_slice());
            let seen = Seen { now, tables: cx.tables(), ports, draining: cx.draining(), packet };
            if let Err(text) = self.reference.check(&seen, &did) {
                let text = format!("queue {}: {text}, for {packet:02x?}", cx.info().queue);
                lock(&self.complaint).get_or_insert(text);
            }
        }
    }

    fn tick(&mut self, cx: &mut Context<'_>) {
        self.inner.tick(cx);
        self.reference.advance(cx.now());
    }
}
