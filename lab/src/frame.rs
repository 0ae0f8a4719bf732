//! Defines the addresses and frames of the testbed.
//!
//! ```text
//!   outer namespace                                inner namespace
//!   va 10.77.0.1 02:..:0a  ======= veth =======  vb 10.77.0.2 02:..:0b
//!   vd 10.78.0.2 02:..:0d  ======= veth =======  vc 10.78.0.1 02:..:0c
//! ```
//!
//! Clients are in 10.79.0.0/16, behind va. Each flow is one of their addresses and ports.

use crate::{Error, Result};
use oxide::packet::build::UdpFrame;
use oxide::packet::{Endpoint, Flow, MacAddr};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// First bytes of every payload, by which the counter recognizes the testbed's packets.
pub(crate) const MARK: [u8; 4] = *b"OXBE";
/// Listen address of the forwarder.
pub(crate) const LISTEN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Address of a relay's upstream.
pub(crate) const UPSTREAM: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
/// Address of the first client.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
/// Source port of flow 0.
pub(crate) const CLIENT_PORT: u16 = 16384;
pub(crate) const VA: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0a]);
pub(crate) const VB: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0b]);
pub(crate) const VC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0c]);
pub(crate) const VD: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0d]);

/// Size of the headers before the payload.
pub(crate) const HEADERS: usize = 42;

fn end(address: Ipv4Addr, port: u16) -> Endpoint {
    SocketAddr::new(IpAddr::V4(address), port).into()
}

/// Builds a frame of `length` bytes (without FCS) from client flow 0 to `port` of the forwarder.
pub(crate) fn request(length: usize, port: u16) -> Result<Vec<u8>> {
    from(CLIENT, CLIENT_PORT, length, port)
}

/// Builds a [`request`] from any client.
pub(crate) fn from(client: Ipv4Addr, client_port: u16, length: usize, port: u16) -> Result<Vec<u8>> {
    let mut payload = vec![0; length.saturating_sub(HEADERS).max(MARK.len())];
    payload[..MARK.len()].copy_from_slice(&MARK);
    let flow = Flow { source: end(client, client_port), destination: end(LISTEN, port) };
    let frame = UdpFrame { source_mac: VA, destination_mac: VB, ..UdpFrame::new(flow, &payload) };
    frame.to_vec().ok_or_else(|| Error::Text(format!("no frame of {length} bytes")))
}
