//! What handles packets in the simulation, and the little it needs of a host around it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use serde::Serialize;

use super::SimOptions;
use super::forward::{CLIENTS, Forwarder, SERVERS, host_mac};
use super::traffic::{Label, read};
use crate::config::Config;
use crate::net::{Route, RouteKind, Tables};
use crate::packet::{Endpoint, Flow};
use crate::port::sim::SimNet;
use crate::queue::{Batch, Context, Handler, Outcome, QueueInfo, Verdict};
use crate::relay::reference::{Reference, Seen};
use crate::relay::{RelayPlan, UdpRelay};

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

/// Frames by what they say of themselves, as the handlers made them.
pub(super) type Made = Rc<RefCell<HashMap<Label, Vec<u8>>>>;

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

/// Where clients send to when packets are only forwarded.
pub(super) const FORWARDED: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)), 7000),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2)), 7000),
];
/// The relay's listen addresses, on the clients' interface.
const LISTENS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 1, 255, 254)), 7000),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1)), 7000),
];
/// Its addresses on the servers' interface.
const SOURCES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1))];

pub(super) struct App {
    plan: Option<RelayPlan>,
    /// Only where the relay is held against the reference.
    made: Option<Made>,
    complaint: Rc<RefCell<Option<String>>>,
    /// Next hops' addresses are known.
    known: Cell<bool>,
    generation: Cell<u64>,
}

impl App {
    pub(super) fn new(options: &SimOptions) -> Self {
        let application = options.application;
        Self {
            plan: (application != Application::Forward).then(|| plan(options.queues)),
            made: (application == Application::CheckedRelay).then(Made::default),
            complaint: Rc::default(),
            known: Cell::new(true),
            generation: Cell::new(0),
        }
    }

    /// Where clients send to, by IPv4 and by IPv6.
    pub(super) fn service(&self) -> [SocketAddr; 2] {
        if self.plan.is_some() { LISTENS } else { FORWARDED }
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
        self.known.set(known);
    }

    /// What the reference would have done otherwise, first.
    pub(super) fn complaint(&self) -> Option<String> {
        self.complaint.borrow_mut().take()
    }

    /// Packets that were made and have not left by now never will.
    pub(super) fn forget(&self) {
        if let Some(made) = &self.made {
            made.borrow_mut().clear();
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
        self.generation.set(self.generation.get() + 1);
        let mut links = net.links();
        let mut routes = Vec::new();
        let mut neighbours = HashMap::new();
        for link in &mut links {
            let (port, own, nets) = if link.name == "clients" {
                (CLIENTS, LISTENS.map(|at| at.ip()), [("10.1.0.0", 16), ("fd00:1::", 32)])
            } else {
                (SERVERS, SOURCES, [("198.51.100.0", 24), ("2001:db8:2::", 64)])
            };
            for ((text, prefix), own) in nets.into_iter().zip(own) {
                let Ok(destination) = text.parse() else { continue };
                link.addresses.push((own, prefix));
                let gateway = Some(gateway(port, own.is_ipv4()));
                let (kind, interface) = (RouteKind::Unicast, link.index);
                routes.push(Route { destination, prefix, kind, gateway, interface, preferred_source: None, metric: 0 });
                if let (true, Some(gateway)) = (self.known.get(), gateway) {
                    neighbours.insert((link.index, gateway), host_mac(port));
                }
            }
        }
        Tables::new(self.generation.get(), links, routes, neighbours)
    }
}

/// All hosts of a side are behind one router.
fn gateway(port: u8, ipv4: bool) -> IpAddr {
    match (port, ipv4) {
        (CLIENTS, true) => Ipv4Addr::new(10, 1, 255, 253).into(),
        (CLIENTS, false) => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2).into(),
        (_, true) => Ipv4Addr::new(198, 51, 100, 254).into(),
        (_, false) => Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0xfe).into(),
    }
}

#[allow(clippy::panic)] // written here, and read by every test of the simulation
fn plan(queues: u32) -> RelayPlan {
    let entry = |name: &str, at: usize| {
        format!("[[relay]]\nname = \"{name}\"\nlisten = \"{}\"\nupstreams = [\"{}\"]\n", LISTENS[at], FORWARDED[at])
    };
    let text = format!(
        "engine.interfaces = [\"clients\", \"servers\"]\n[sessions]\ncapacity = {}\nidle_timeout_s = 120\n\
         source_ports = \"20000-59999\"\n{}{}",
        1024 * queues,
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
}

/// The relay, with the reference beside it: each packet is shown to both.
pub(super) struct CheckedRelay {
    inner: UdpRelay,
    reference: Reference,
    made: Made,
    complaint: Rc<RefCell<Option<String>>>,
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
                Verdict::None => Outcome::Drop(crate::telemetry::DropReason::NoVerdict),
                Verdict::Transmit(port) => {
                    if let Some(label) = read(frame) {
                        self.made.borrow_mut().insert(label, frame.to_vec());
                    }
                    Outcome::Transmit(port, frame.to_vec())
                }
                Verdict::Drop(reason) => Outcome::Drop(reason),
                Verdict::Hold => Outcome::Hold(frame.to_vec()),
                Verdict::HandOver(queue) => Outcome::HandOver(queue, frame.to_vec()),
            };
            let packet = &self.packets[lane];
            let seen = Seen { now: cx.now(), tables: cx.tables(), draining: cx.draining(), packet };
            if let Err(text) = self.reference.check(&seen, &did) {
                let text = format!("queue {}: {text}, for {packet:02x?}", cx.info().queue);
                self.complaint.borrow_mut().get_or_insert(text);
            }
        }
    }

    fn tick(&mut self, cx: &mut Context<'_>) {
        self.inner.tick(cx);
        self.reference.advance(cx.now());
    }
}
