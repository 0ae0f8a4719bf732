//! Traffic through the relay: an echo server behind it and a client that checks every answer.

use crate::process::{Error, Result, failed, io_error};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two packets of the client: the emulated machine is slow.
const PACE: Duration = Duration::from_millis(4);
/// For packets under way when the last one was sent.
const GRACE: Duration = Duration::from_secs(3);
const SERVERS: [&str; 2] = ["198.19.0.2:6000", "[2001:db8:2::2]:6000"];

/// An entry of the relay's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Four,
    Six,
    FourToSix,
}

impl Entry {
    pub(super) const ALL: [Entry; 3] = [Entry::Four, Entry::Six, Entry::FourToSix];

    const fn listen(self) -> &'static str {
        match self {
            Entry::Four => "198.18.0.1:5000",
            Entry::Six => "[2001:db8:1::1]:5000",
            Entry::FourToSix => "198.18.0.1:5001",
        }
    }

    const fn client(self) -> &'static str {
        match self {
            Entry::Six => "[2001:db8:1::2]:0",
            _ => "198.18.0.2:0",
        }
    }

    /// The configuration's `[[relay]]` tables.
    pub(super) fn configuration() -> String {
        let server = |entry| if entry == Entry::Four { SERVERS[0] } else { SERVERS[1] };
        let table = |entry: Entry| {
            let name = format!("{entry:?}").to_lowercase();
            let (listen, server) = (entry.listen(), server(entry));
            format!(
                "[[relay]]\nname = \"{name}\"\nlisten = \"{listen}\"\nupstreams = [\"{server}\"]\nallow_private = true\n"
            )
        };
        Self::ALL.into_iter().map(table).collect()
    }
}

/// Opens UDP sockets inside a network namespace; they stay there.
pub(super) fn sockets(namespace: &str, addresses: &[&str]) -> Result<Vec<UdpSocket>> {
    let path = format!("/run/netns/{namespace}");
    let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    let thread = std::thread::spawn(move || {
        let file = File::open(&path).map_err(io_error(&path))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| Error::Failed(format!("cannot enter {path}: {e}")))?;
        let open = |address: &String| {
            let socket = UdpSocket::bind(address).map_err(io_error(address))?;
            socket.set_nonblocking(true).map_err(io_error(address))?;
            set_socket_recv_buffer_size_force(&socket, 4 << 20)
                .map_err(|e| Error::Failed(format!("{address}: {e}")))?;
            Ok(socket)
        };
        addresses.iter().map(open).collect::<Result<Vec<_>>>()
    });
    thread.join().unwrap_or_else(|_| failed("the thread that opens sockets panicked"))
}

/// First bytes of every packet of the client.
const MAGIC: [u8; 4] = *b"oxge";

/// What the echo server received.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// Packets that no client of these tests sent.
    pub(super) foreign: u64,
    pub(super) sources: BTreeSet<SocketAddr>,
}

/// The echo server, which runs until the guest ends.
#[derive(Clone, Debug)]
pub(super) struct Server(Arc<Mutex<Received>>);

impl Server {
    pub(super) fn start() -> Result<Self> {
        let sockets = sockets("s", &SERVERS)?;
        let server = Self(Arc::default());
        let shared = server.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 2048];
            loop {
                let mut idle = true;
                for socket in &sockets {
                    while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                        idle = false;
                        let known = bytes[..length].starts_with(&MAGIC);
                        let mut received = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
                        received.foreign += u64::from(!known);
                        received.sources.insert(from);
                        drop(received);
                        let _ = socket.send_to(&bytes[..length], from);
                    }
                }
                if idle {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Ok(server)
    }

    /// Returns what came since the last call.
    pub(super) fn take(&self) -> Received {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Result of one exchange.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) sent: usize,
    /// Answers that were right in every byte.
    pub(super) answered: usize,
    /// Answers with other bytes, or of another flow.
    pub(super) wrong: usize,
    /// Flows that got at least one answer, and all of them.
    pub(super) flows_alive: usize,
    pub(super) flows: usize,
}

impl Counted {
    /// Fails unless every flow lives, nothing is wrong and at most one packet in twenty is lost: an emulated NIC
    /// loses single packets.
    pub(super) fn check(self, what: &str) -> Result<()> {
        let good = self.flows_alive == self.flows && self.wrong == 0 && self.answered * 20 >= self.sent * 19;
        if good && self.sent > 0 { Ok(()) } else { failed(format!("{what}: {self:?}")) }
    }
}

/// Sends `packets` payloads of `size` bytes over `flows` sockets and counts the right answers.
pub(super) fn exchange(entry: Entry, flows: usize, packets: usize, size: usize) -> Result<Counted> {
    let clients = sockets("c", &vec![entry.client(); flows])?;
    for client in &clients {
        client.connect(entry.listen()).map_err(io_error(entry.listen()))?;
    }
    let mut counted = Counted { flows, ..Counted::default() };
    let mut alive = BTreeSet::new();
    let mut answered = BTreeSet::new();
    let mut last = Instant::now();
    while counted.sent < packets || (last.elapsed() < GRACE && answered.len() < counted.sent) {
        if counted.sent < packets {
            let flow = counted.sent % flows;
            // Refused while the relay's table fills or a link is down: counts as sent and lost.
            let _ = clients[flow].send(&payload(counted.sent, size));
            counted.sent += 1;
            last = Instant::now();
        }
        let mut bytes = [0; 2048];
        for (flow, client) in clients.iter().enumerate() {
            while let Ok(length) = client.recv(&mut bytes) {
                let number = bytes.get(4..8).map_or(0, |n| u32::from_be_bytes([n[0], n[1], n[2], n[3]]) as usize);
                if bytes[..length] != payload(number, size)[..] || number % flows != flow {
                    counted.wrong += 1;
                } else if answered.insert(number) {
                    alive.insert(flow);
                }
            }
        }
        std::thread::sleep(PACE);
    }
    (counted.answered, counted.flows_alive) = (answered.len(), alive.len());
    Ok(counted)
}

/// A payload that names its number and whose other bytes depend on it.
fn payload(number: usize, size: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..size).map(|i| (number.wrapping_mul(31) + i.wrapping_mul(7) + (i >> 8)) as u8).collect();
    let head = [MAGIC, (number as u32).to_be_bytes()].concat();
    for (to, from) in bytes.iter_mut().zip(head) {
        *to = from;
    }
    bytes
}

/// Sends datagrams to a port that no entry has, whose last bytes are a whole packet to an entry from a client that
/// does not exist. Starts at payload byte 982, where a NIC that splits after 1,024 bytes cuts.
pub(super) fn send_hidden_packets(relay_mac: [u8; 6], count: usize) -> Result<()> {
    let clients = sockets("c", &["198.18.0.2:0"])?;
    let mut bytes = vec![0; 982];
    bytes.extend_from_slice(&hidden_packet(relay_mac));
    for _ in 0..count {
        let _ = clients[0].send_to(&bytes, "198.18.0.1:9");
        std::thread::sleep(PACE);
    }
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// Ethernet, IPv4 (RFC 791) and UDP from 198.18.0.77:7777 to the first entry, without a UDP checksum.
fn hidden_packet(relay_mac: [u8; 6]) -> Vec<u8> {
    let text = b"hidden";
    let (udp_length, length) = (8 + text.len() as u16, 28 + text.len() as u16);
    let mut ip = [0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 198, 18, 0, 77, 198, 18, 0, 1];
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    let sum: u32 = ip.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = !(((sum & 0xffff) + (sum >> 16)) as u16);
    ip[10..12].copy_from_slice(&folded.to_be_bytes());
    let ports = [7777_u16.to_be_bytes(), 5000_u16.to_be_bytes(), udp_length.to_be_bytes(), [0, 0]].concat();
    [&relay_mac[..], &[0x52, 0x54, 0, 0, 0, 1], &[8, 0], &ip, &ports, text].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_packet_has_a_right_header_sum() {
        let packet = hidden_packet([2, 0, 0, 0, 0, 1]);
        let sum: u32 = packet[14..34].chunks_exact(2).map(|p| u32::from(u16::from_be_bytes([p[0], p[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(packet.len(), 48);
    }

    #[test]
    fn exchange_fails_if_one_flow_is_silent_or_one_answer_is_wrong() {
        let good = Counted { sent: 100, answered: 96, wrong: 0, flows_alive: 8, flows: 8 };
        assert!(good.check("x").is_ok());
        assert!(Counted { flows_alive: 7, ..good }.check("x").is_err());
        assert!(Counted { wrong: 1, ..good }.check("x").is_err());
        assert!(Counted { answered: 94, ..good }.check("x").is_err());
    }
}
