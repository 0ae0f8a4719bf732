//! Independent implementations behind one interface.

use std::sync::Arc;

use boringtun::noise::{Tunn, TunnResult, rate_limiter::RateLimiter};
use gotatun::noise as gota;
use gotatun::packet::{Packet, WgKind};

use crate::node::address;

/// Where datagrams come from, for cookies.
const SOURCE: &str = "192.0.2.1:1";

/// What an implementation makes of a datagram.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) to_network: Vec<Vec<u8>>,
    pub(crate) to_tunnel: Vec<Vec<u8>>,
    pub(crate) refused: bool,
}

pub(crate) trait Oracle {
    /// Makes a device; `per_second` handshakes per second are answered without a cookie.
    fn make(own: [u8; 32], peer: [u8; 32], psk: [u8; 32], per_second: u64) -> Self;
    fn initiate(&mut self) -> Vec<u8>;
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>>;
    fn receive(&mut self, datagram: &[u8]) -> Received;
}

pub(crate) struct Boringtun(Tunn);

impl Oracle for Boringtun {
    fn make(own: [u8; 32], peer: [u8; 32], psk: [u8; 32], per_second: u64) -> Self {
        let own = boringtun::x25519::StaticSecret::from(own);
        let limiter = Arc::new(RateLimiter::new(&(&own).into(), per_second));
        Self(Tunn::new(own, peer.into(), Some(psk), None, 7, Some(limiter)))
    }

    fn initiate(&mut self) -> Vec<u8> {
        match self.0.format_handshake_initiation(&mut [0; 256], true) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        match self.0.encapsulate(packet, &mut [0; 2048]) {
            TunnResult::WriteToNetwork(datagram) => vec![datagram.to_vec()],
            _ => Vec::new(),
        }
    }

    fn receive(&mut self, datagram: &[u8]) -> Received {
        let mut received = Received::default();
        let mut datagram = datagram;
        loop {
            match self.0.decapsulate(Some(address(SOURCE).ip()), datagram, &mut [0; 2048]) {
                TunnResult::WriteToNetwork(bytes) => received.to_network.push(bytes.to_vec()),
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    received.to_tunnel.push(packet.to_vec());
                    break;
                }
                TunnResult::Err(_) => {
                    received.refused = true;
                    break;
                }
                TunnResult::Done => break,
            }
            // What it queued follows.
            datagram = &[];
        }
        received
    }
}

pub(crate) struct Gotatun {
    tunnel: gota::Tunn,
    limiter: Arc<gota::rate_limiter::RateLimiter>,
}

fn bytes(kind: WgKind) -> Vec<u8> {
    Packet::from(kind).to_vec()
}

impl Oracle for Gotatun {
    fn make(own: [u8; 32], peer: [u8; 32], psk: [u8; 32], per_second: u64) -> Self {
        let own = gotatun::x25519::StaticSecret::from(own);
        let limiter = Arc::new(gota::rate_limiter::RateLimiter::new(&(&own).into(), per_second));
        let indices = gota::index_table::IndexTable::from_os_rng();
        let tunnel = gota::Tunn::new(own, peer.into(), Some(psk), None, indices, Arc::clone(&limiter));
        Self { tunnel, limiter }
    }

    fn initiate(&mut self) -> Vec<u8> {
        bytes(self.tunnel.format_handshake_initiation(true).expect("forced").into())
    }

    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        self.tunnel.handle_outgoing_packet(Packet::copy_from(packet), None).into_iter().map(bytes).collect()
    }

    fn receive(&mut self, datagram: &[u8]) -> Received {
        let mut received = Received::default();
        let result = match self.limiter.verify_packet(address(SOURCE), Packet::copy_from(datagram)) {
            Ok(kind) => self.tunnel.handle_incoming_packet(kind),
            Err(result) => result,
        };
        match result {
            gota::TunnResult::Done => {}
            gota::TunnResult::Err(_) => received.refused = true,
            gota::TunnResult::WriteToNetwork(kind) => received.to_network.push(bytes(kind)),
            gota::TunnResult::WriteToTunnel(packet) if packet.is_empty() => {}
            gota::TunnResult::WriteToTunnel(packet) => received.to_tunnel.push(packet.to_vec()),
        }
        received
    }
}
