//! Holds the packet handlers of the simulation and the addresses, routes and neighbours that they need.

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
use oxide::queue::{Batch, Context, Handler, HandlerOutcome, QueueInfo, Replaced, SessionInfo, Verdict};
use oxide_relay::config::Config;
use oxide_relay::{RelayPlan, UdpRelay};

/// Selects the packet handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Application {
    /// Forwards from one port to the other without changing addresses: tests the engine alone.
    #[default]
    Forward,
    /// Runs the UDP relay.
    Relay,
    /// Runs the UDP relay and compares each decision with the slow reference relay. Several times slower.
    CheckedRelay,
}

/// Holds frames that handlers made and the reference approved, by port and flow, in order. When a frame leaves,
/// earlier frames of its flow are removed as lost.
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

    /// Returns true if `frame` was made for `port` and neither it nor a later frame of its flow has left.
    pub(super) fn take(&self, port: u8, frame: &[u8]) -> bool {
        let mut made = lock(&self.0);
        let of_flow = ends(frame).and_then(|flow| made.get_mut(&(port, flow)));
        of_flow.is_some_and(|frames| std::iter::from_fn(|| frames.pop_front()).any(|made| made == frame))
    }
}

/// Locks `it`, also after a panic: no handler panics in the middle of a change of these values.
fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

/// States how the invariant checker knows the frame that must leave for a received packet.
pub(super) enum Rule {
    /// Applies [`forward`](super::forward::forward) to the received frame.
    Forwarded,
    /// Rewrites the received frame as the relay must; the relay may choose the source port.
    Relayed,
    /// Takes the frame that the handler made and the reference approved.
    Made(Made),
}

/// Returns true if a relayed packet has the right addresses: from one of the relay's addresses to the upstream, or
/// from the listen address to the client.
pub(super) fn relayed(there: bool, client: Endpoint, ends: &Flow) -> bool {
    let at = usize::from(!ends.destination.is_ipv4());
    if there {
        ends.destination == FORWARDED[at].into() && ends.source.ip() == SOURCES[at]
    } else {
        ends.source == LISTENS[at].into() && ends.destination == client
    }
}

/// Lists the addresses that clients send to without a relay; they are also the relay's upstreams.
pub(super) const FORWARDED: [SocketAddr; 2] = upstreams(SERVER_NETS[0]);
/// Lists the relay's listen addresses, on the clients' interface.
const LISTENS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 255, 254)), 7000),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1)), 7000),
];
/// Lists the relay's addresses on the servers' interface.
const SOURCES: [IpAddr; 2] = hosts(SERVER_NETS[0], 1);

/// Identifies a network of servers: 24 bits of IPv4, and the third group of an address in 2001:db8::/32.
type ServerNet = ([u8; 3], u16);
/// Lists possible server networks. A replayed capture may use addresses of the first ones.
const SERVER_NETS: [ServerNet; 3] = [([198, 51, 100], 2), ([203, 0, 113], 3), ([192, 0, 2], 4)];

const fn hosts(([a, b, c], third): ServerNet, host: u8) -> [IpAddr; 2] {
    let six = Ipv6Addr::new(0x2001, 0xdb8, third, 0, 0, 0, 0, host as u16);
    [IpAddr::V4(Ipv4Addr::new(a, b, c, host)), IpAddr::V6(six)]
}

const fn upstreams(net: ServerNet) -> [SocketAddr; 2] {
    let [four, six] = hosts(net, 2);
    [SocketAddr::new(four, 7000), SocketAddr::new(six, 7000)]
}

/// Holds the addresses of relay, servers and clients.
struct Addresses {
    listens: [SocketAddr; 2],
    servers: ServerNet,
    /// Allows any client address.
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
    /// Holds approved frames; `None` without the reference.
    made: Option<Made>,
    complaint: Arc<Mutex<Option<String>>>,
    /// States whether the MAC addresses of next hops are known.
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

    /// Returns the IPv4 and the IPv6 address that clients send to.
    pub(super) fn service(&self) -> [SocketAddr; 2] {
        if self.plan.is_some() { self.addresses.listens } else { FORWARDED }
    }

    /// Returns how the invariant checker knows the frame that must leave.
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

    /// Takes the first difference between relay and reference.
    pub(super) fn complaint(&self) -> Option<String> {
        lock(&self.complaint).take()
    }

    /// Forgets approved frames that have not left: at a quiescent point they were lost.
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

    /// Returns tables with the current links, routes to both networks, and one neighbour for all hosts of a side.
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

/// Returns the router of a side; all hosts of a side are behind it.
fn gateway(port: u8, ipv4: bool) -> IpAddr {
    match (port, ipv4) {
        (CLIENTS, true) => Ipv4Addr::new(10, 1, 255, 253).into(),
        (CLIENTS, false) => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2).into(),
        (_, true) => hosts(SERVER_NETS[0], 254)[0],
        (_, false) => hosts(SERVER_NETS[0], 254)[1],
    }
}

#[allow(clippy::panic)] // the text is a constant, and every test of the simulation reads it
fn plan(queues: u32, addresses: &Addresses) -> RelayPlan {
    let (listens, upstreams) = (addresses.listens, upstreams(addresses.servers));
    let entry = |name: &str, at: usize| {
        format!("[[relay]]\nname = \"{name}\"\nlisten = \"{}\"\nupstreams = [\"{}\"]\n", listens[at], upstreams[at])
    };
    // At least one of the three ranges contains neither listen port.
    let ranges = [(20_000, 59_999), (1024, 19_999), (60_000, 65_535)];
    let free = |&(first, last): &(u16, u16)| !listens.iter().any(|at| (first..=last).contains(&at.port()));
    let (first, last) = ranges.into_iter().find(free).unwrap_or(ranges[0]);
    // Generated clients fill a table of 64 completely, and the reference is exact up to 64. A capture may have
    // more clients.
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
        Err(error) => panic!("the configuration of the simulation is invalid: {error}"),
    }
}

/// Dispatches to the handler of an application.
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

    fn describe_sessions(&self, limit: usize, into: &mut Vec<SessionInfo>) {
        match self {
            Self::Forward(_) => {}
            Self::Relay(it) => it.describe_sessions(limit, into),
            Self::Checked(it) => it.inner.describe_sessions(limit, into),
        }
    }

    fn inherit(&mut self, former: &mut Self, why: Replaced) -> Result<u64, String> {
        match (self, former) {
            (Self::Relay(it), Self::Relay(former)) => it.inherit(former, why),
            (Self::Checked(it), Self::Checked(former)) => {
                let kept = it.inner.inherit(&mut former.inner, why)?;
                // The reference never panics, so its sessions are those that the relay must keep.
                std::mem::swap(&mut it.reference, &mut former.reference);
                Ok(kept)
            }
            _ => Err("the forwarder has no state to inherit".to_owned()),
        }
    }
}

/// Runs the relay and the reference on the same packets.
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
