//! Implements the data path of a TURN server (RFC 8656 section 12.4 to 12.6): one client with one channel to one peer,
//! as ALLOCATE and CHANNEL-BIND would have set them up.
//!
//! ```text
//!  client <-- ChannelData: number, length, data --> server:3478 | relayed address <-- data --> peer
//! ```
//!
//! The payload is not copied. Four bytes are added or removed, and new headers are written before the payload.
//!
//! `cargo run --release --example turn_channel_data -- eth0 192.0.2.1:3478 203.0.113.9:4000 0x4001 192.0.2.1:50000
//! 198.51.100.7:7000`

use std::error::Error;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use oxide::config::EngineConfig;
use oxide::engine::Engine;
use oxide::packet::build::UdpFrame;
use oxide::packet::{Endpoint, Flow};
use oxide::queue::{Batch, Context, Handler, Verdict};
use oxide::telemetry::DropReason;

/// Counts the bytes of channel number and length, two each.
const CHANNEL_HEADER: usize = 4;

/// Describes a bound channel.
#[derive(Debug, Clone, Copy)]
pub struct Channel {
    /// Address to which the client sends ChannelData.
    pub server: Endpoint,
    /// The client that may send.
    pub client: Endpoint,
    /// Channel number, 0x4000 to 0x4fff.
    pub number: u16,
    /// Address that the peer sees.
    pub relayed: Endpoint,
    /// Address of the peer.
    pub peer: Endpoint,
}

impl Channel {
    fn serve(&self, batch: &mut Batch<'_>, lane: usize, cx: &mut Context<'_>) -> Result<Verdict, Verdict> {
        let drop = |reason| Err(Verdict::Drop(reason));
        let columns = batch.columns();
        if columns.udp & 1 << lane == 0 {
            return drop(columns.reject_reason[lane]);
        }
        let header = usize::from(columns.l4[lane]);
        let packet = batch.packet(lane);
        // The length field of the datagram limits its data. The parser has checked that the frame holds them.
        let length = packet.get(header + 4..).and_then(|field| field.first_chunk()).copied().unwrap_or([0, 8]);
        let (start, end) = (header + 8, header + usize::from(u16::from_be_bytes(length)));
        let Flow { source, destination } = columns.flow[lane];
        if (source, destination) == (self.client, self.server) {
            let Some(&[n, m, l, k]) = packet.get(start..end).and_then(|data| data.first_chunk()) else {
                return drop(DropReason::Handler);
            };
            let data = start + CHANNEL_HEADER..start + CHANNEL_HEADER + usize::from(u16::from_be_bytes([l, k]));
            // Another channel, a STUN message, or a length beyond the data is silently discarded (section 12.6).
            if u16::from_be_bytes([n, m]) != self.number || data.end > end {
                return drop(DropReason::Handler);
            }
            send(batch, lane, cx, &[], data, Flow { source: self.relayed, destination: self.peer })
        } else if (source, destination) == (self.peer, self.relayed) {
            let ([n, m], [l, k]) = (self.number.to_be_bytes(), ((end - start) as u16).to_be_bytes());
            send(batch, lane, cx, &[n, m, l, k], start..end, Flow { source: self.server, destination: self.client })
        } else {
            drop(DropReason::NoSession)
        }
    }
}

/// Sends `prefix` and the bytes `data` of the packet as a datagram of `flow`.
fn send(
    batch: &mut Batch<'_>,
    lane: usize,
    cx: &mut Context<'_>,
    prefix: &[u8],
    data: Range<usize>,
    flow: Flow,
) -> Result<Verdict, Verdict> {
    let way = cx.egress_to(flow.destination.ip())?;
    let (source_mac, destination_mac) = (way.source_mac, way.destination_mac);
    let headers = UdpFrame { source_mac, destination_mac, ..UdpFrame::new(flow, &[]) };
    if headers.len() - 14 + prefix.len() + data.len() > usize::from(way.mtu) {
        return Err(Verdict::Drop(DropReason::TooBig));
    }
    batch.reframe(lane, &headers, prefix, data).map_err(Verdict::Drop)?;
    Ok(Verdict::Transmit(way.port))
}

impl Handler for Channel {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        for lane in 0..batch.len() {
            let (Ok(verdict) | Err(verdict)) = self.serve(batch, lane, cx);
            batch.decide(lane, verdict);
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, interface, server, client, number, relayed, peer] = arguments.as_slice() else {
        return Err("usage: turn_channel_data INTERFACE SERVER CLIENT NUMBER RELAYED PEER".into());
    };
    let [server, client, relayed, peer] = [server, client, relayed, peer].map(|at| at.parse::<SocketAddr>());
    let (server, client, relayed, peer) = (server?, client?, relayed?, peer?);
    let number = u16::from_str_radix(number.trim_start_matches("0x"), 16)?;
    let channel =
        Channel { server: server.into(), client: client.into(), number, relayed: relayed.into(), peer: peer.into() };
    let engine = Engine::builder(EngineConfig::new([interface.as_str()]), move |_| channel)
        .destinations(move |_| [server, relayed].map(|own| (own.ip(), own.port()..=own.port())).to_vec())
        .start()?;
    println!("{}", engine.plan());
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let status = engine.status();
        println!("{:?}: {} in, {} out", status.state, status.totals.rx_packets, status.totals.tx_packets);
    }
}
