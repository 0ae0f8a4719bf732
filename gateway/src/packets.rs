//! The way of one packet through the gateway. Its bytes stay in their frame: only the start of the packet moves.

use oxide::packet::Flow;
use oxide::packet::build::UdpFrame;
use oxide::queue::{Batch, Context, Verdict};
use oxide::telemetry::DropReason;
use oxide_tunnel::inner::{self, Inner};
use oxide_tunnel::message::{DATA_HEADER_LEN, DATA_OVERHEAD, INITIATION_LEN, TAG_LEN};
use oxide_tunnel::{Message, OpenError};

use crate::control::{ControlMessage, PeerRef};
use crate::handler::{Lane, Tunnels};

const ETHERNET: usize = 14;

impl Tunnels {
    /// Decides about a lane; `None` if it is not the gateway's.
    pub(crate) fn serve(
        &mut self,
        batch: &mut Batch<'_>,
        lane: usize,
        kind: Lane,
        cx: &mut Context<'_>,
    ) -> Option<Verdict> {
        let (Ok(verdict) | Err(verdict)) = match kind {
            Lane::Other => return None,
            Lane::Tunnel => self.open(batch, lane, cx),
            Lane::ToPeer(peer, inner) => self.seal(batch, lane, peer, inner, cx),
            Lane::Out(inner) => self.forward(batch, lane, inner, cx),
        };
        Some(verdict)
    }

    /// Handles a datagram to the listen port.
    fn open(&mut self, batch: &mut Batch<'_>, lane: usize, cx: &mut Context<'_>) -> Result<Verdict, Verdict> {
        let columns = batch.columns();
        let (start, end) = (usize::from(columns.l4[lane]) + 8, usize::from(columns.length[lane]));
        let source = columns.flow[lane].source;
        let source = std::net::SocketAddr::new(source.ip(), source.port);
        let class = outer_class(batch.packet(lane), usize::from(columns.l3[lane]));
        let message = batch.packet(lane).get(start..end).unwrap_or(&[]);
        let header = match Message::parse(message) {
            Ok(Message::Data(header)) => header,
            Ok(_) => return Err(self.pass_handshake(message, source)),
            Err(_) => return Err(self.refuse()),
        };
        let owner = self.shared.owner.owner(header.receiver);
        if owner != self.place {
            return Ok(Verdict::HandOver(owner));
        }
        let unknown = Verdict::Drop(DropReason::NoSession);
        let id = *self.by_index.get(&header.receiver).ok_or(unknown)?;
        let peer = self.peers.get_mut(&id).ok_or(unknown)?;
        let packet_start = start + DATA_HEADER_LEN;
        let payload = batch.packet_mut(lane).get_mut(packet_start..end).ok_or(unknown)?;
        let opened = peer.open(header, payload, source, cx.now());
        let inner = opened.map(|length| (length, Inner::parse(&payload[..length])));
        self.flush(id, cx.now());
        let inner = match inner {
            Ok((0, _)) => {
                self.counters.keepalives += 1;
                return Err(Verdict::Drop(DropReason::Handler));
            }
            Ok((_, inner)) => inner.map_err(|_| self.refuse())?,
            Err(OpenError::Replayed(_)) => {
                self.counters.replayed += 1;
                return Err(Verdict::Drop(DropReason::Handler));
            }
            Err(_) => return Err(self.refuse()),
        };
        if self.shared.allowed.owner(inner.source).is_none_or(|owner| owner.id != id) {
            self.counters.spoofed += 1;
            return Err(Verdict::Drop(DropReason::BadSource));
        }
        let no_room = Verdict::Drop(DropReason::NoHeadroom);
        // A frame has at most 4096 bytes.
        let fits = batch.set_length(lane, (packet_start + inner.length) as u16);
        if !(fits && batch.move_start(lane, (packet_start - ETHERNET) as i16)) {
            return Err(no_room);
        }
        let frame = batch.packet_mut(lane);
        let (ethernet, packet) = frame.split_first_chunk_mut::<ETHERNET>().ok_or(no_room)?;
        ethernet[12..].copy_from_slice(if inner.source.is_ipv4() { &[0x08, 0x00] } else { &[0x86, 0xdd] });
        if !inner::apply_outer_ecn(packet, class) {
            return Err(Verdict::Drop(DropReason::Handler));
        }
        match self.shared.allowed.owner(inner.destination) {
            Some(peer) => self.seal(batch, lane, peer, inner, cx),
            None => self.forward(batch, lane, inner, cx),
        }
    }

    /// Sends a packet that was taken out of a tunnel. It may be held before it is changed, and comes here again.
    fn forward(
        &mut self,
        batch: &mut Batch<'_>,
        lane: usize,
        inner: Inner,
        cx: &mut Context<'_>,
    ) -> Result<Verdict, Verdict> {
        let way = cx.egress_to(inner.destination)?;
        if inner.length > usize::from(way.mtu) {
            return Err(Verdict::Drop(DropReason::TooBig));
        }
        let frame = batch.packet_mut(lane);
        let (ethernet, packet) =
            frame.split_first_chunk_mut::<ETHERNET>().ok_or(Verdict::Drop(DropReason::Truncated))?;
        decrement_hop_limit(packet)?;
        ethernet[..6].copy_from_slice(&way.destination_mac.0);
        ethernet[6..12].copy_from_slice(&way.source_mac.0);
        self.counters.opened += 1;
        Ok(Verdict::Transmit(way.port))
    }

    /// Seals a packet to an inner address in its frame: headers go into the headroom, padding and tag behind it.
    fn seal(
        &mut self,
        batch: &mut Batch<'_>,
        lane: usize,
        to: PeerRef,
        inner: Inner,
        cx: &mut Context<'_>,
    ) -> Result<Verdict, Verdict> {
        if to.place != self.place {
            return Ok(Verdict::HandOver(to.place));
        }
        let no_session = Verdict::Drop(DropReason::NoSession);
        let peer = self.peers.get_mut(&to.id).ok_or(no_session)?;
        let endpoint = peer.endpoint().filter(|_| peer.has_session(cx.now()));
        let Some(endpoint) = endpoint else {
            // There is no session: this asks for one.
            let _ = peer.keepalive(cx.now());
            self.flush(to.id, cx.now());
            return Err(no_session);
        };
        let way = cx.egress_to(endpoint.ip())?;
        let flow = Flow { source: self.listen, destination: endpoint.into() };
        let headers = UdpFrame {
            source_mac: way.source_mac,
            destination_mac: way.destination_mac,
            traffic_class: inner::outer_class(inner.traffic_class, self.shared.dscp),
            ..UdpFrame::new(flow, &[])
        };
        let bare = headers.len();
        let room = usize::from(way.mtu).saturating_sub(bare - ETHERNET + DATA_OVERHEAD);
        if inner.length > room {
            return Err(Verdict::Drop(DropReason::TooBig));
        }
        let packet = batch.packet_mut(lane).get_mut(ETHERNET..).ok_or(no_session)?;
        decrement_hop_limit(packet)?;
        let padded = inner::padded(inner.length, room);
        // A frame has at most 4096 bytes.
        let moved = batch.set_length(lane, (ETHERNET + padded + TAG_LEN) as u16)
            && batch.move_start(lane, -((bare + DATA_HEADER_LEN - ETHERNET) as i16));
        if !moved {
            return Err(Verdict::Drop(DropReason::NoHeadroom));
        }
        let frame = batch.packet_mut(lane);
        let packet = bare + DATA_HEADER_LEN;
        frame[packet + inner.length..packet + padded].fill(0);
        peer.seal(&mut frame[bare..], cx.now()).map_err(|_| no_session)?;
        headers.write_around(frame).ok_or(Verdict::Drop(DropReason::UdpLength))?;
        self.flush(to.id, cx.now());
        self.counters.sealed += 1;
        Ok(Verdict::Transmit(way.port))
    }

    /// Copies a handshake message to the control thread. The packet itself ends here.
    fn pass_handshake(&mut self, message: &[u8], source: std::net::SocketAddr) -> Verdict {
        let mut bytes = [0; INITIATION_LEN];
        // The longest handshake message has 148 bytes.
        let length = message.len().min(INITIATION_LEN);
        bytes[..length].copy_from_slice(&message[..length]);
        let sent = self.control.try_send(ControlMessage::Handshake { bytes, length: length as u8, source });
        self.counters.handshakes += u64::from(sent.is_ok());
        Verdict::Drop(if sent.is_ok() { DropReason::Handler } else { DropReason::RateLimited })
    }

    fn refuse(&mut self) -> Verdict {
        self.counters.refused += 1;
        Verdict::Drop(DropReason::Handler)
    }
}

/// Returns the TOS byte or traffic class of the IP header at `l3`.
fn outer_class(frame: &[u8], l3: usize) -> u8 {
    match frame.get(l3..) {
        Some([version, class, ..]) if *version >> 4 == 4 => *class,
        Some([version, class, ..]) => *version << 4 | *class >> 4,
        _ => 0,
    }
}

/// Takes one from the TTL or the hop limit, with the checksum of IPv4.
fn decrement_hop_limit(packet: &mut [u8]) -> Result<(), Verdict> {
    let expired = Verdict::Drop(DropReason::TtlExpired);
    let (at, ipv4) = if packet.first().is_some_and(|version| version >> 4 == 4) { (8, true) } else { (7, false) };
    let hops = packet.get_mut(at).filter(|hops| **hops > 1).ok_or(expired)?;
    *hops -= 1;
    if let Some(checksum) = packet.get_mut(10..12).filter(|_| ipv4) {
        // The word of the TTL falls by 0x0100, so the checksum rises by it (RFC 1624).
        let sum = u32::from(u16::from_be_bytes([checksum[0], checksum[1]])) + 0x0100;
        checksum.copy_from_slice(&((sum + (sum >> 16)) as u16).to_be_bytes());
    }
    Ok(())
}
