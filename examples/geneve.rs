//! Implements one end of a Geneve tunnel (RFC 8926) that carries Ethernet frames.
//!
//! ```text
//!   inside                                        outside
//!   frames for SERVICE  --> Ethernet, IP, UDP 6081, Geneve, the frame --> REMOTE
//!   the frame in it     <-- Ethernet, IP, UDP 6081, Geneve, the frame <-- REMOTE
//! ```
//!
//! A frame is not copied: headers are written before it, or its start is moved after them.
//!
//! `cargo run --release --example geneve -- eth0 eth1 192.0.2.1 198.51.100.7 100 10.0.0.5 7000`
//! (interfaces inside and outside, this end, the other end, network, and destination of the packets for the tunnel)

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use oxide::config::EngineConfig;
use oxide::engine::Engine;
use oxide::packet::build::UdpFrame;
use oxide::packet::{Endpoint, Flow};
use oxide::queue::{Batch, Context, Handler, Verdict};
use oxide::telemetry::DropReason;
use oxide::umem::PortIndex;

/// Holds the UDP port of Geneve, assigned by IANA.
pub const GENEVE: u16 = 6081;
/// Counts the bytes of the header without options.
const HEADER: usize = 8;
/// Holds the protocol type of Ethernet frames ("transparent Ethernet bridging").
const ETHERNET: [u8; 2] = [0x65, 0x58];

/// Describes this end of the tunnel.
#[derive(Debug, Clone, Copy)]
pub struct TunnelEnd {
    /// Address and port of this end.
    pub local: Endpoint,
    /// Address and port of the other end.
    pub remote: Endpoint,
    /// Virtual network identifier, 24 bits.
    pub network: u32,
    /// Port of the frames outside of the tunnel.
    pub inside: PortIndex,
}

impl TunnelEnd {
    /// Creates an end at `local` of a tunnel to `remote`.
    pub fn new(local: IpAddr, remote: IpAddr, network: u32, inside: PortIndex) -> Self {
        let [local, remote] = [local, remote].map(|ip| SocketAddr::new(ip, GENEVE).into());
        Self { local, remote, network: network & 0xff_ffff, inside }
    }

    fn serve(&self, batch: &mut Batch<'_>, lane: usize, cx: &mut Context<'_>) -> Result<Verdict, Verdict> {
        let columns = batch.columns();
        if columns.udp & 1 << lane == 0 {
            return Err(Verdict::Drop(columns.reject_reason[lane]));
        }
        if columns.flow[lane].destination == self.local {
            self.unwrap(batch, lane)
        } else if batch.from() == self.inside {
            self.wrap(batch, lane, cx)
        } else {
            Err(Verdict::Drop(DropReason::NoSession))
        }
    }

    fn wrap(&self, batch: &mut Batch<'_>, lane: usize, cx: &mut Context<'_>) -> Result<Verdict, Verdict> {
        let way = cx.egress_to(self.remote.ip())?;
        let inner = batch.columns().flow[lane];
        // The source port is a hash of the inner flow, so that load sharing by ports keeps flows together (section
        // 3.3).
        let bytes = inner.source.address.iter().chain(&inner.destination.address);
        let ports = u32::from(inner.source.port) << 16 | u32::from(inner.destination.port);
        let hash = bytes.fold(ports, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let source = Endpoint { port: 0xc000 | (hash >> 16) as u16, ..self.local };
        let flow = Flow { source, destination: self.remote };
        let (source_mac, destination_mac) = (way.source_mac, way.destination_mac);
        let headers = UdpFrame { source_mac, destination_mac, ..UdpFrame::new(flow, &[]) };

        let [_, a, b, c] = self.network.to_be_bytes();
        let geneve = [0, 0, ETHERNET[0], ETHERNET[1], a, b, c, 0];
        let frame = 0..usize::from(batch.columns().length[lane]);
        if headers.len() - 14 + HEADER + frame.len() > usize::from(way.mtu) {
            return Err(Verdict::Drop(DropReason::TooBig));
        }
        batch.reframe(lane, &headers, &geneve, frame).map_err(Verdict::Drop)?;
        Ok(Verdict::Transmit(way.port))
    }

    fn unwrap(&self, batch: &mut Batch<'_>, lane: usize) -> Result<Verdict, Verdict> {
        let drop = |reason| Err(Verdict::Drop(reason));
        let columns = batch.columns();
        if columns.flow[lane].source.address != self.remote.address {
            return drop(DropReason::WrongPeer);
        }
        let start = usize::from(columns.l4[lane]) + 8;
        let packet = batch.packet(lane).get(start..usize::from(columns.length[lane])).unwrap_or(&[]);
        let Some(&[first, flags, p, q, a, b, c, _]) = packet.first_chunk::<HEADER>() else {
            return drop(DropReason::Truncated);
        };
        // Version 0 without control and critical options is required; other packets are unknown (section 3.5).
        let known = u32::from_be_bytes([0, a, b, c]) == self.network && [p, q] == ETHERNET;
        if first >> 6 != 0 || flags & 0xc0 != 0 || !known {
            return drop(DropReason::Handler);
        }
        let skip = start + HEADER + 4 * usize::from(first & 0x3f);
        // An Ethernet header must remain.
        let fits = usize::from(columns.length[lane]) >= skip + 14 && batch.set_length(lane, columns.length[lane]);
        match fits && batch.move_start(lane, skip as i16) {
            true => Ok(Verdict::Transmit(self.inside)),
            false => drop(DropReason::Truncated),
        }
    }
}

impl Handler for TunnelEnd {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        for lane in 0..batch.len() {
            let (Ok(verdict) | Err(verdict)) = self.serve(batch, lane, cx);
            batch.decide(lane, verdict);
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, inside, outside, local, remote, network, service, port] = arguments.as_slice() else {
        return Err("usage: geneve INSIDE OUTSIDE LOCAL REMOTE NETWORK SERVICE PORT".into());
    };
    let (local, service, port): (IpAddr, IpAddr, u16) = (local.parse()?, service.parse()?, port.parse()?);
    let end = TunnelEnd::new(local, remote.parse()?, network.parse()?, PortIndex::P0);
    let engine = Engine::builder(EngineConfig::new([inside.as_str(), outside.as_str()]), move |_| end)
        .destinations(move |_| vec![(local, GENEVE..=GENEVE), (service, port..=port)])
        .start()?;
    println!("{}", engine.plan());
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let status = engine.status();
        println!("{:?}: {} in, {} out", status.state, status.totals.rx_packets, status.totals.tx_packets);
    }
}
