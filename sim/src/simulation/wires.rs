//! Carries packets on the wires: clients' packets, packets that left, servers' answers, over links with delay and loss.

use std::time::Duration;

use super::{INTERFACES, Simulation};
use crate::forward::{CLIENTS, SERVERS, host_mac};
use crate::replay::ends;
use crate::traffic::{Direction, HOPS, Label, read};
use crate::{InjectedFault, SimOptions, Watch, malformed};
use oxide::packet::Flow;
use oxide::packet::build::UdpFrame;
use oxide::port::Port;
use oxide::port::sim::{LinkCounters, LinkSpec, Rng, SimLink};

/// Limits the packets in flight at a queue: above it clients pause, except during an overload fault.
const BACKLOG: u64 = 96;
/// Limits the packets that clients send to a queue in one step.
const BURST: u64 = 64;
/// Limits the kept buffers, which avoid allocations in a long run.
const SPARE_BUFFERS: usize = 4096;

/// Holds the two links of one queue's port: towards the engine and away from it.
type DirectionLinks = [SimLink<Vec<u8>>; 2];

pub(crate) struct Wires {
    /// Counts packets that clients sent.
    pub(super) sent: u64,
    /// Counts answers that servers sent.
    pub(super) answers: u64,
    /// Counts packets that the links delivered to the engine: of clients, of servers.
    pub(crate) came: [u64; 2],
    pub(super) malformed: u64,
    pub(super) one_time_clients: u64,
    /// Holds the links by queue and port; empty if no link has delay or loss.
    links: Vec<[DirectionLinks; 2]>,
    buffers: Vec<Vec<u8>>,
    frame: Vec<u8>,
    asked: Vec<Vec<u8>>,
}

impl Wires {
    pub(super) fn new(options: &SimOptions) -> Self {
        let direction = |queue: u32, port: usize, direction: u64| {
            let part = 1 << 62 | u64::from(queue) << 8 | (port as u64) << 1 | direction;
            SimLink::new(options.links[port], Rng::part(options.seed, part))
        };
        let plain = options.links == [LinkSpec::default(); 2];
        let queues = if plain { 0 } else { options.queues };
        Self {
            sent: 0,
            answers: 0,
            came: [0; 2],
            malformed: 0,
            one_time_clients: 0,
            links: (0..queues).map(|queue| [0, 1].map(|port| [0, 1].map(|to| direction(queue, port, to)))).collect(),
            buffers: Vec::new(),
            frame: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// Returns the sum of all links' counters.
    pub(crate) fn counters(&self) -> LinkCounters {
        self.links.iter().flatten().flatten().fold(LinkCounters::default(), |sum, link| sum.plus(link.counters()))
    }

    fn under_way(&self, queue: usize) -> u64 {
        self.links.get(queue).into_iter().flatten().flatten().map(|link| link.counters().under_way).sum()
    }

    /// Returns a buffer with a copy of `packet`.
    fn copy(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut buffer = self.buffers.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(packet);
        buffer
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        if self.buffers.len() < SPARE_BUFFERS {
            self.buffers.push(buffer);
        }
    }
}

impl Simulation {
    pub(super) fn clients_send(&mut self) {
        if self.options.replay.is_some() {
            return self.clients_send_again();
        }
        for queue in 0..self.actors.len() {
            let count = self.rng.below(BURST);
            let overload = self.strikes(InjectedFault::Overload, queue);
            // Clients of a queue that is down send rarely.
            let down = self.actors[queue].run_actor().is_none() && !self.rng.chance(20_000);
            let count = match self.backlog(queue) {
                _ if down => 0,
                _ if overload => 400,
                backlog if backlog < BACKLOG => count,
                _ => 0,
            };
            for _ in 0..count.min(self.options.packets - self.wires.sent) {
                let label = self.traffic.pick(queue as u32, &mut self.rng);
                self.client_sends(queue, label);
            }
            if self.strikes(InjectedFault::OneTimeClients, queue) {
                for _ in 0..BURST.min(self.options.packets - self.wires.sent) {
                    let label = self.traffic.one_time_client(queue as u32);
                    self.client_sends(queue, label);
                    self.wires.one_time_clients += 1;
                }
            }
            if self.strikes(InjectedFault::Malformed, queue) {
                let port = if self.rng.chance(500_000) { CLIENTS } else { SERVERS };
                malformed::write(port, &mut self.traffic, &mut self.rng, &mut self.wires.frame);
                self.net.inject(&self.actors[queue].ids[usize::from(port)], &self.wires.frame);
                self.wires.malformed += 1;
            }
        }
    }

    fn client_sends(&mut self, queue: usize, label: Label) {
        let mut frame = std::mem::take(&mut self.wires.frame);
        self.traffic.write(label, &mut frame);
        self.wires.sent += 1;
        self.send_to(queue, CLIENTS, &frame, Some(label));
        self.wires.frame = frame;
    }

    /// Sends the next packets of the capture in order. A flow arrives at one queue, as with RSS.
    fn clients_send_again(&mut self) {
        let Some(replay) = self.options.replay.clone() else { return };
        let count = self.rng.below(BURST * self.actors.len() as u64);
        for _ in 0..count.min(self.options.packets - self.wires.sent) {
            let frame = replay.frame(self.wires.sent);
            let queue = (spread(ends(frame)) % self.actors.len() as u64) as usize;
            if self.backlog(queue) >= BACKLOG {
                break;
            }
            self.wires.sent += 1;
            self.send_to(queue, CLIENTS, frame, None);
        }
    }

    /// Puts a packet of a host on the wire towards the engine.
    fn send_to(&mut self, queue: usize, port: u8, frame: &[u8], label: Option<Label>) {
        let Some(links) = self.wires.links.get(queue) else { return self.comes(queue, port, frame, label) };
        debug_assert_eq!(links.len(), INTERFACES.len());
        let (now_ns, buffer) = (self.now_ns(), self.wires.copy(frame));
        let lost = self.wires.links[queue][usize::from(port)][0].offer(now_ns, frame.len(), buffer).err();
        lost.into_iter().for_each(|buffer| self.wires.recycle(buffer));
    }

    /// Delivers a packet from the wire to the NIC.
    fn comes(&mut self, queue: usize, port: u8, frame: &[u8], label: Option<Label>) {
        self.wires.came[usize::from(port)] += 1;
        if let Some(label) = label {
            self.invariants.came(label);
        }
        self.net.inject(&self.actors[queue].ids[usize::from(port)], frame);
    }

    /// Delivers all packets that have passed their links, at both ends.
    pub(super) fn come_off_links(&mut self) {
        let now_ns = self.now_ns();
        for queue in 0..self.wires.links.len() {
            for port in [CLIENTS, SERVERS] {
                let at = usize::from(port);
                while let Some(frame) = self.wires.links[queue][at][0].next(now_ns) {
                    let label = if self.options.replay.is_some() { None } else { read(&frame) };
                    self.comes(queue, port, &frame, label);
                    self.wires.recycle(frame);
                }
                while let Some(frame) = self.wires.links[queue][at][1].next(now_ns) {
                    if port == SERVERS {
                        self.server_answers(queue, &frame);
                    }
                    self.wires.recycle(frame);
                }
            }
        }
    }

    /// Checks the packets that left and passes them to clients and servers.
    pub(super) fn go_onto_links(&mut self, queue: usize, watch: &mut dyn Watch) {
        let (at, now_ns) = (self.net.now(), self.now_ns());
        let replayed = self.options.replay.is_some();
        for port in [CLIENTS, SERVERS] {
            let place = usize::from(port);
            let Self { actors, net, invariants, traffic, wires, .. } = self;
            let mut asked = std::mem::take(&mut wires.asked);
            net.drain_sent(&actors[queue].ids[place], |packet| {
                watch.left(at, packet);
                if replayed {
                    invariants.left_replayed(port, packet);
                } else if invariants.left(port, packet, traffic).is_none() {
                    return;
                }
                if !wires.links.is_empty() {
                    let buffer = wires.copy(packet);
                    let lost = wires.links[queue][place][1].offer(now_ns, packet.len(), buffer).err();
                    lost.into_iter().for_each(|buffer| wires.recycle(buffer));
                } else if port == SERVERS {
                    asked.push(wires.copy(packet));
                }
            });
            for packet in asked.drain(..) {
                self.server_answers(queue, &packet);
                self.wires.recycle(packet);
            }
            self.wires.asked = asked;
        }
    }

    /// Makes a server answer a packet from `queue`.
    fn server_answers(&mut self, queue: usize, packet: &[u8]) {
        let Some(Flow { source, destination }) = ends(packet) else { return };
        let back = Flow { source: destination, destination: source };
        let mut frame = std::mem::take(&mut self.wires.frame);
        self.wires.answers += 1;
        if self.options.replay.is_some() {
            echo(packet, back, &mut frame);
            let astray = spread(Some(back)) % 16 == 8;
            let at = (queue + usize::from(astray)) % self.actors.len();
            self.send_to(at, SERVERS, &frame, None);
        } else if let Some(label) = read(packet) {
            let label = Label { direction: Direction::Back, ..label };
            self.traffic.write_between(back, label, HOPS, &mut frame);
            let at = self.traffic.answered_at(label.flow, queue as u32);
            self.send_to(at as usize, SERVERS, &frame, Some(label));
        }
        self.wires.frame = frame;
    }

    /// Returns the packets that wait at a queue: on its links, and at the NIC and the rings of its busiest port.
    fn backlog(&mut self, queue: usize) -> u64 {
        let Self { actors, net, wires, .. } = self;
        let actor = &mut actors[queue];
        let waiting = actor.ids.iter().map(|id| net.waiting(id)).max().unwrap_or(0) + wires.under_way(queue);
        let Some(queue_actor) = actor.run_actor() else { return waiting };
        let rings = queue_actor.datapath.kernel_side().1.map(|port| port.occupancy());
        waiting + rings.map(|at| u64::from(at.rx.max(at.tx))).max().unwrap_or(0)
    }

    fn now_ns(&self) -> u64 {
        self.net.now().as_nanos() as u64
    }

    /// Returns the maximum round-trip time of the links.
    pub(super) fn round_trip(&self) -> Duration {
        self.options.links.iter().map(|link| 2 * link.delay).sum::<Duration>() + 2 * Duration::from_millis(100)
    }
}

/// Writes an answer with the same payload.
fn echo(packet: &[u8], back: Flow, out: &mut Vec<u8>) {
    let payload = packet.get(if back.source.is_ipv4() { 42 } else { 62 }..).unwrap_or(&[]);
    let (source_mac, destination_mac) = (host_mac(SERVERS), host_mac(0x80 | SERVERS));
    let frame = UdpFrame { source_mac, destination_mac, hop_limit: HOPS, ..UdpFrame::new(back, payload) };
    out.resize(frame.len(), 0);
    let written = frame.write(out);
    debug_assert_eq!(written, Some(out.len()));
}

/// Hashes a flow for the choice of a queue; packets without a flow get 0.
fn spread(flow: Option<Flow>) -> u64 {
    let Some(Flow { source, .. }) = flow else { return 0 };
    let bytes = source.address.into_iter().chain(source.port.to_be_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)) >> 20
}

impl Wires {
    /// Returns true if no packet is on a link.
    pub(super) fn are_empty(&self) -> bool {
        self.counters().under_way == 0
    }
}
