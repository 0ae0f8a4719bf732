//! Forwards UDP without sessions. A client of LISTEN is forwarded to TARGET from a source port to which its
//! address hashes. An answer of TARGET to that port goes to the client that used the port last. The state is one
//! address per port: no timers, no table that fills. Two clients on one port disturb each other; a blind forwarder
//! leaves that to the end points, whose traffic is encrypted.
//!
//! `cargo run --release --example blind_forwarder -- eth0 192.0.2.1:51820 198.51.100.7:51820` (root)

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Duration;

use oxide::config::EngineConfig;
use oxide::engine::Engine;
use oxide::packet::{Endpoint, Rewrite, rewrite};
use oxide::queue::{Batch, Context, Handler, QueueInfo, Verdict};
use oxide::telemetry::DropReason;

/// Holds the source ports of all queues; each queue has an equal part.
pub const PORTS: std::ops::RangeInclusive<u16> = 61_000..=65_095;

/// Forwards the packets of one queue.
pub struct BlindForwarder {
    listen: Endpoint,
    target: Endpoint,
    /// Last client of each port in this queue's part; port 0 means no client.
    clients: Vec<Endpoint>,
    first: u16,
    hash: RandomState,
}

impl BlindForwarder {
    /// Creates the forwarder with a client entry for each port of `queue`, which is all of its memory.
    pub fn new(listen: SocketAddr, target: SocketAddr, queue: &QueueInfo) -> Self {
        let part = (PORTS.len() as u32 / queue.queues.max(1)) as u16;
        let first = PORTS.start() + part * queue.place as u16;
        let clients = vec![Endpoint::default(); usize::from(part)];
        Self { listen: listen.into(), target: target.into(), clients, first, hash: RandomState::new() }
    }

    fn serve(&mut self, batch: &mut Batch<'_>, lane: usize, cx: &mut Context<'_>) -> Result<Verdict, Verdict> {
        let drop = |reason| Err(Verdict::Drop(reason));
        let columns = batch.columns();
        if columns.udp & 1 << lane == 0 {
            return drop(columns.reject_reason[lane]);
        }
        let flow = columns.flow[lane];
        let part = self.clients.len() as u64;
        let (source, destination) = if flow.destination == self.listen {
            let at = self.hash.hash_one((flow.source.address, flow.source.port)) % part.max(1);
            let client = self.clients.get_mut(at as usize).ok_or(Verdict::Drop(DropReason::PortsExhausted))?;
            *client = flow.source;
            let own = cx.tables().source_for(self.target.ip()).ok_or(Verdict::Drop(DropReason::NoRoute))?;
            (SocketAddr::new(own, self.first + at as u16).into(), self.target)
        } else if flow.source == self.target {
            // RSS may bring an answer to a port of another queue here. The other queue knows the client.
            let at = u64::from(flow.destination.port.wrapping_sub(*PORTS.start()));
            let owner = (at / part.max(1)) as u32;
            if owner != cx.info().place && owner < cx.info().queues {
                return Ok(Verdict::HandOver(owner));
            }
            let client = self.clients.get(usize::from(flow.destination.port.wrapping_sub(self.first)));
            match client.filter(|client| client.port != 0) {
                Some(client) => (self.listen, *client),
                None => return drop(DropReason::NoSession),
            }
        } else {
            return drop(DropReason::NoSession);
        };
        let way = cx.egress_to(destination.ip())?;
        let (l3, l4, length) = (columns.l3[lane], columns.l4[lane], columns.length[lane]);
        if length - u16::from(l3) > way.mtu {
            return drop(DropReason::TooBig);
        }
        let new = Rewrite { source_mac: way.source_mac, destination_mac: way.destination_mac, source, destination };
        let ipv4 = columns.ipv4 & 1 << lane != 0;
        rewrite::apply(batch.packet_mut(lane), l3, l4, ipv4, &flow, &new).map_err(Verdict::Drop)?;
        // The new length excludes Ethernet padding, so it never exceeds the old one.
        let _ = batch.set_length(lane, length);
        Ok(Verdict::Transmit(way.port))
    }
}

impl Handler for BlindForwarder {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        for lane in 0..batch.len() {
            let (Ok(verdict) | Err(verdict)) = self.serve(batch, lane, cx);
            batch.decide(lane, verdict);
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, interface, listen, target] = arguments.as_slice() else {
        return Err("usage: blind_forwarder INTERFACE LISTEN:PORT TARGET:PORT".into());
    };
    let (listen, target): (SocketAddr, SocketAddr) = (listen.parse()?, target.parse()?);
    let config = EngineConfig::new([interface.as_str()]);
    let engine = Engine::builder(config, move |queue| BlindForwarder::new(listen, target, queue))
        .destinations(move |tables| {
            let own = tables.source_for(target.ip()).map(|own| (own, PORTS));
            own.into_iter().chain([(listen.ip(), listen.port()..=listen.port())]).collect()
        })
        .start()?;
    println!("{}", engine.plan());
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let status = engine.status();
        println!("{:?}: {} in, {} out", status.state, status.totals.rx_packets, status.totals.tx_packets);
    }
}
