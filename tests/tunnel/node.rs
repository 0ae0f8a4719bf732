//! One device with one peer: the control side and the data side of the crate under test.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use oxide_tunnel::{
    HandshakeLimits, HandshakeOutput, Handshakes, IndexOwner, Message, Peer, PeerConfig, PeerId, PresharedKey,
    PrivateKey, PublicKey, Time,
};

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Returns an IPv4 packet whose last bytes are `number`, so that packets can be told apart.
pub(crate) fn packet(number: u64) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 48, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet.extend([0; 20]);
    packet.extend(number.to_be_bytes());
    packet
}

pub(crate) struct Node {
    pub(crate) handshakes: Handshakes,
    pub(crate) peer: Peer,
    pub(crate) id: PeerId,
    pub(crate) time: Time,
    /// Datagrams to the network since the last [`take`](Self::take).
    sent: Vec<(Vec<u8>, SocketAddr)>,
}

impl Node {
    pub(crate) fn new(own: &PrivateKey, peer: PublicKey, psk: [u8; 32], per_second: u32) -> Self {
        let time = Time { now: Instant::now(), unix: Duration::from_secs(1_700_000_000) };
        let owner = IndexOwner::new(1).unwrap();
        let limits = HandshakeLimits { per_second, ..HandshakeLimits::default() };
        let mut handshakes = Handshakes::new(own.clone(), owner, limits, time.now).unwrap();
        let endpoint = Some(address("192.0.2.2:2"));
        let psk = PresharedKey::from_bytes(psk);
        let id = handshakes.add_peer(PeerConfig { public: peer, psk, endpoint, owner: 0 }).unwrap();
        Self { handshakes, peer: Peer::new(endpoint, None, time.now), id, time, sent: Vec::new() }
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.time = Time { now: self.time.now + by, unix: self.time.unix + by };
    }

    /// Returns the datagrams to the network.
    pub(crate) fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sent).into_iter().map(|(datagram, _)| datagram).collect()
    }

    pub(crate) fn take_with_destination(&mut self) -> Vec<(Vec<u8>, SocketAddr)> {
        std::mem::take(&mut self.sent)
    }

    /// Receives a datagram; returns the packet in it.
    pub(crate) fn receive(&mut self, datagram: &[u8], source: SocketAddr) -> Result<Option<Vec<u8>>, String> {
        let message = Message::parse(datagram).map_err(|error| error.to_string())?;
        let packet = if let Message::Data(header) = message {
            let mut payload = datagram[16..].to_vec();
            let opened = self.peer.open(header, &mut payload, source, self.time.now);
            let length = opened.map_err(|error| error.to_string())?;
            payload.truncate(length);
            (length > 0).then_some(payload)
        } else {
            let mut out = Vec::new();
            let result = self.handshakes.receive(datagram, source, self.time, &mut out);
            self.apply(out);
            result.map_err(|error| error.to_string())?;
            None
        };
        self.serve();
        Ok(packet)
    }

    /// Sends a packet, or begins a handshake.
    pub(crate) fn send(&mut self, packet: &[u8]) {
        let mut message = [&[0; 16][..], packet, &[0; 16]].concat();
        if self.peer.seal(&mut message, self.time.now).is_ok() {
            self.push(message);
        }
        self.serve();
    }

    /// Looks at all timers.
    pub(crate) fn poll(&mut self) {
        self.peer.poll(self.time.now);
        let mut out = Vec::new();
        self.handshakes.poll(self.time, &mut out);
        self.apply(out);
        self.serve();
    }

    fn serve(&mut self) {
        let wants = self.peer.take_wants();
        if wants.keepalive
            && let Ok(message) = self.peer.keepalive(self.time.now)
        {
            self.push(message.to_vec());
        }
        if wants.handshake || self.peer.take_wants().handshake {
            let mut out = Vec::new();
            // Running already, or no address.
            let _ = self.handshakes.initiate(self.id, self.time, &mut out);
            self.apply(out);
        }
        for index in self.peer.take_released() {
            self.handshakes.release(index);
        }
    }

    fn apply(&mut self, out: Vec<HandshakeOutput>) {
        for output in out {
            match output {
                HandshakeOutput::Send { to, datagram } => self.sent.push((datagram.as_bytes().to_vec(), to)),
                HandshakeOutput::Established { session, endpoint, .. } => {
                    self.peer.install(*session, endpoint, self.time.now);
                }
                HandshakeOutput::GaveUp { .. } => {}
            }
        }
    }

    fn push(&mut self, message: Vec<u8>) {
        let endpoint = self.peer.endpoint().expect("a peer with a session has an endpoint");
        self.sent.push((message, endpoint));
    }
}
