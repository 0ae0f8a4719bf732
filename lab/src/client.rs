//! Implements a client on AF_XDP: one socket on an interface of the outer namespace, which receives the answers.

use crate::frame::{self, CLIENT, CLIENT_PORT, HEADERS};
use crate::{Error, Result};
use oxide::port::Burst;
use oxide::xdp::{Socket, SocketConfig};
use std::net::{IpAddr, Ipv4Addr};

/// Maximum number of packets in one call. A veth's ring holds 256, and all packets of a call are sent before it
/// returns.
pub(crate) const BURST: usize = 32;

/// Destination of the client's packets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ends {
    /// Back to the clients, through va.
    Back,
    /// On to the upstream, through vd.
    Across,
}

/// Holds an open socket.
pub(crate) struct Client {
    socket: Socket,
    received: Burst,
    outgoing: Burst,
}

impl Client {
    /// Opens queue `queue` of `interface` for packets that end there.
    pub(crate) fn open(interface: &str, queue: u32, ends: Ends) -> Result<Self> {
        let (address, ports) = match ends {
            Ends::Back => (CLIENT, CLIENT_PORT..=CLIENT_PORT + 16383),
            Ends::Across => (frame::UPSTREAM, 6000..=6000),
        };
        let socket = Socket::open(SocketConfig::new(interface, queue, IpAddr::V4(address), ports))?;
        Ok(Self { socket, received: Burst::new(), outgoing: Burst::new() })
    }

    /// Queues one packet: `template` with `payload` after the mark. Returns `false` if no frame is free.
    pub(crate) fn queue(&mut self, template: &[u8], payload: &[u8]) -> bool {
        let Some(mut frame) = self.socket.take() else { return false };
        let length = u16::try_from(template.len()).unwrap_or(0);
        if !self.socket.set_length(&mut frame, length) {
            self.socket.give(frame);
            return false;
        }
        let bytes = self.socket.packet_mut(&mut frame);
        bytes.copy_from_slice(template);
        let at = HEADERS + frame::MARK.len();
        if let Some(room) = bytes.get_mut(at..at + payload.len()) {
            room.copy_from_slice(payload);
        }
        match self.outgoing.push(frame) {
            Ok(()) => true,
            Err(frame) => {
                self.socket.give(frame);
                false
            }
        }
    }

    /// Sends the queued packets.
    pub(crate) fn send(&mut self) -> Result<()> {
        while !self.outgoing.is_empty() {
            self.socket.send_batch(&mut self.outgoing)?;
        }
        Ok(())
    }

    /// Calls `each` with the payload after the mark of every received packet.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(&[u8])) -> Result<usize> {
        let came = self.socket.recv_batch(&mut self.received)?;
        while let Some(frame) = self.received.pop() {
            let packet = self.socket.packet(&frame);
            if packet.get(HEADERS..HEADERS + 4) == Some(&frame::MARK) {
                each(packet.get(HEADERS + 4..).unwrap_or_default());
            }
            self.socket.give(frame);
        }
        Ok(came)
    }

    /// Returns the number of packets that this client's own socket could not store.
    pub(crate) fn missed(&self) -> Result<u64> {
        let kernel = self.socket.stats()?.kernel;
        Ok(kernel.rx_dropped + kernel.rx_ring_full)
    }
}

/// Returns frames of `flows` clients. They have no UDP checksum (allowed over IPv4 by RFC 768), because the payload
/// changes.
pub(crate) fn templates(length: usize, flows: u16, port: u16, ports: u16) -> Result<Vec<Vec<u8>>> {
    (0..flows)
        .map(|n| {
            let mut frame = frame::from(CLIENT, CLIENT_PORT + n, length.max(HEADERS + 20), port + n % ports.max(1))?;
            frame[40..42].fill(0);
            Ok(frame)
        })
        .collect()
}

/// Returns the interface's IPv4 address in the testbed, for kernel sockets.
pub(crate) fn address() -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 1)
}

/// Builds the error of a closed loop whose wait has timed out.
pub(crate) fn no_answer(what: &str) -> Error {
    Error::Text(format!("no answer {what}"))
}
