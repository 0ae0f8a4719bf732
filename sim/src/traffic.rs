//! Generates the packets of clients and servers. Every payload has a label, so the invariant checker can compute
//! the frame that must leave.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::forward::{CLIENTS, SERVERS, host_mac, owner};
use oxide::packet::build::UdpFrame;
use oxide::packet::{Endpoint, Flow};
use oxide::port::sim::Rng;

/// States the direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    /// From the client to its server.
    There,
    /// From the server to its client.
    Back,
}

/// Identifies a packet; stored in its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Label {
    pub(super) flow: u32,
    pub(super) sequence: u64,
    pub(super) direction: Direction,
}

/// Starts every payload.
const MAGIC: [u8; 4] = *b"OXSM";
/// Length of magic, flow, sequence and direction, bytes.
const LABEL: usize = 4 + 4 + 8 + 1;
/// Hop limit of a packet when it arrives.
pub(super) const HOPS: u8 = 64;
/// Number of flows of each queue.
const FLOWS_PER_QUEUE: u32 = 64;
/// Number of additional clients per queue that send rarely: many more than a queue's session table holds.
const ONE_TIME_CLIENTS_PER_QUEUE: u32 = 512;
/// One flow in this many always arrives at a queue that does not own it.
const ASTRAY: u32 = 16;
/// Longest payload, bytes: an Ethernet MTU minus IPv6 and UDP headers.
const LONGEST: usize = 1500 - 48;

pub(super) struct Traffic {
    queues: u32,
    /// IPv4 and IPv6 address that clients send to.
    service: [SocketAddr; 2],
    /// Next sequence number of each flow: first the regular flows, then those of one-time clients.
    next: Vec<u64>,
    /// Index of the last one-time client that sent.
    one_time_clients: u32,
    payload: Vec<u8>,
}

impl Traffic {
    pub(super) fn new(queues: u32, service: [SocketAddr; 2]) -> Self {
        let flows = (FLOWS_PER_QUEUE + ONE_TIME_CLIENTS_PER_QUEUE) * queues;
        Self { queues, service, next: vec![0; flows as usize], one_time_clients: 0, payload: Vec::with_capacity(2048) }
    }

    pub(super) fn flows(&self) -> usize {
        self.next.len()
    }

    /// Returns the next packet of a random flow that arrives at `queue`.
    pub(super) fn pick(&mut self, queue: u32, rng: &mut Rng) -> Label {
        self.label(queue + self.queues * rng.below(u64::from(FLOWS_PER_QUEUE)) as u32)
    }

    /// Returns a packet of the next one-time client at `queue`.
    pub(super) fn one_time_client(&mut self, queue: u32) -> Label {
        self.one_time_clients = (self.one_time_clients + 1) % ONE_TIME_CLIENTS_PER_QUEUE;
        self.label(queue + self.queues * (FLOWS_PER_QUEUE + self.one_time_clients))
    }

    /// Returns true if all queues that handle packets of this flow are fault-free.
    pub(super) fn stays_within(&self, flow: u32, fault_free: impl Fn(u32) -> bool) -> bool {
        let owner = owner(self.ends(flow).source.port, self.queues);
        let at = flow % self.queues;
        // The forwarder sends from the port of the flow's owner, the relay from the queue where the packet arrived.
        [at, owner, self.answered_at(flow, at), self.answered_at(flow, owner)].into_iter().all(fault_free)
    }

    /// Returns true if packets of `client` arrive at the same queue as those of `flow`.
    pub(super) fn is_fellow(&self, flow: u32, client: Endpoint) -> bool {
        let fellows = (flow % self.queues..self.flows() as u32).step_by(self.queues as usize);
        fellows.into_iter().any(|fellow| self.ends(fellow).source == client)
    }

    fn label(&mut self, flow: u32) -> Label {
        let next = &mut self.next[flow as usize];
        let label = Label { flow, sequence: *next, direction: Direction::There };
        *next += 1;
        label
    }

    /// Returns the queue where the answer to a packet that `queue` sent arrives. RSS does not know sessions, so the
    /// answers of some flows always arrive at another queue.
    pub(super) fn answered_at(&self, flow: u32, queue: u32) -> u32 {
        let astray = flow / self.queues % ASTRAY == ASTRAY / 2;
        if astray { (queue + 1) % self.queues } else { queue }
    }

    /// Returns the addresses of a flow. Flow numbers are assigned to queues in turn; misdirected flows have the client
    /// port of another queue.
    pub(super) fn ends(&self, flow: u32) -> Flow {
        let arrives_at = flow % self.queues;
        let astray = flow / self.queues % ASTRAY == ASTRAY - 1;
        let belongs_to = if astray { (arrives_at + 1) % self.queues } else { arrives_at };
        // Ports above 1024 whose remainder is the owner.
        let base = 1024u32.next_multiple_of(self.queues);
        let port = (base + belongs_to + self.queues * (flow / self.queues % 512)) as u16;
        debug_assert_eq!(owner(port, self.queues), belongs_to);
        // At most 64 queues: 36,864 flows.
        let (low, high) = ((flow + 1) as u8, ((flow + 1) >> 8) as u8);
        let [ipv4, ipv6] = self.service;
        let (client, service): (IpAddr, _) = if flow % 3 == 2 {
            (Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, flow as u16, 1).into(), ipv6)
        } else {
            (Ipv4Addr::new(10, 1, high, low).into(), ipv4)
        };
        Flow { source: SocketAddr::new(client, port).into(), destination: Endpoint::from(service) }
    }

    /// Replaces `out` by the packet as it arrives at the engine. An answer has the reversed addresses of its request.
    pub(super) fn write(&mut self, label: Label, out: &mut Vec<u8>) {
        let ends = self.ends(label.flow);
        let ends = match label.direction {
            Direction::There => ends,
            Direction::Back => Flow { source: ends.destination, destination: ends.source },
        };
        self.write_between(ends, label, HOPS, out);
    }

    /// Writes the packet with other addresses and another hop limit.
    pub(super) fn write_between(&mut self, ends: Flow, label: Label, hop_limit: u8, out: &mut Vec<u8>) {
        let Label { flow, sequence, direction } = label;
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        payload.extend_from_slice(&MAGIC);
        payload.extend_from_slice(&flow.to_be_bytes());
        payload.extend_from_slice(&sequence.to_be_bytes());
        payload.push(u8::from(direction == Direction::Back));
        payload.resize(length(flow, sequence), flow as u8 ^ sequence as u8);
        let from = if direction == Direction::There { CLIENTS } else { SERVERS };
        let frame = UdpFrame {
            source_mac: host_mac(from),
            destination_mac: host_mac(0x80 | from),
            hop_limit,
            ..UdpFrame::new(ends, &payload)
        };
        out.resize(frame.len(), 0);
        let written = frame.write(out);
        debug_assert_eq!(written, Some(out.len()));
        self.payload = payload;
    }
}

/// Returns a payload length: mostly short, as in most relay traffic, and sometimes up to the MTU.
fn length(flow: u32, sequence: u64) -> usize {
    let draw = (u64::from(flow) << 20 ^ sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    match draw % 32 {
        0 => LABEL + (draw as usize >> 8) % (LONGEST - LABEL + 1),
        1 => LONGEST,
        _ => LABEL + (draw as usize >> 8) % 64,
    }
}

/// Reads the label of a frame; `None` if the simulation did not generate it.
pub(super) fn read(frame: &[u8]) -> Option<Label> {
    let l4 = match frame.get(12..15)? {
        [0x08, 0x00, 0x45] => 34,
        [0x86, 0xdd, _] => 54,
        _ => return None,
    };
    let label = frame.get(l4 + 8..)?.first_chunk::<LABEL>()?;
    let (magic, rest) = label.split_first_chunk::<4>()?;
    let (flow, rest) = rest.split_first_chunk::<4>()?;
    let (sequence, direction) = rest.split_first_chunk::<8>()?;
    let direction = if direction == [0] { Direction::There } else { Direction::Back };
    let label = Label { flow: u32::from_be_bytes(*flow), sequence: u64::from_be_bytes(*sequence), direction };
    (*magic == MAGIC).then_some(label)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::app::FORWARDED;
    use oxide::packet::{parse, verify_udp};

    #[test]
    fn generated_packets_are_valid_and_numbered() {
        let mut traffic = Traffic::new(3, FORWARDED);
        let mut rng = Rng::new(1);
        let mut frame = Vec::new();
        let mut longest = 0;
        for i in 0..3000 {
            let label = Label {
                direction: if i % 2 == 0 { Direction::There } else { Direction::Back },
                ..traffic.pick(i % 3, &mut rng)
            };
            traffic.write(label, &mut frame);
            assert_eq!(read(&frame), Some(label));
            let head = std::array::from_fn(|at| frame.get(at).copied().unwrap_or(0));
            let parsed = parse(&head, frame.len() as u16).unwrap();
            assert_eq!(verify_udp(&frame, &parsed), Ok(()));
            longest = longest.max(frame.len());
        }
        assert_eq!(longest, 1514);
    }

    #[test]
    fn flows_go_to_their_queue_except_misdirected() {
        let traffic = Traffic::new(4, FORWARDED);
        let owners = |flow: u32| owner(traffic.ends(flow).source.port, 4);
        let at_home = (0..256).filter(|&flow| owners(flow) == flow % 4).count();
        assert_eq!(at_home, 256 - 16);
        for queues in [1, 3, 4, 64] {
            let traffic = Traffic::new(queues, FORWARDED);
            let all: std::collections::HashSet<_> =
                (0..traffic.flows() as u32).map(|flow| traffic.ends(flow)).collect();
            assert_eq!(all.len(), traffic.flows(), "two flows have the same ends");
        }
    }
}
