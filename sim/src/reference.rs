//! Holds a slow, simple relay that the fast one is compared with, in tests and in the simulator.
//! It does not implement rate limits, the gate or upstream health, so its configurations must leave them off.
//!
//! The reference keeps sessions in a map, handles packets one by one, and computes full checksums. The fast relay
//! may choose the source port of a new session; the reference checks that the choice is allowed and takes it from
//! the first packet. It predicts everything else.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use oxide::net::{Resolution, Tables};
use oxide::packet::{self, Endpoint, Flow, checksum};
use oxide::port::PortInfo;
use oxide::queue::{HandlerOutcome, QueueInfo};
use oxide::telemetry::DropReason;
use oxide::umem::PortIndex;
use oxide_relay::RelayPlan;

#[derive(Debug, Clone)]
struct Session {
    upstream: Endpoint,
    source: IpAddr,
    /// Source port; unknown until a packet has left.
    port: Option<u16>,
    /// Time of the client's last packet, or of its last answer if a grace time applies; tenths of a second.
    last_seen: u32,
    answered: bool,
}

/// Holds the relay's input for one packet.
pub struct Seen<'a> {
    /// Time of the batch.
    pub now: Instant,
    /// The tables in force.
    pub tables: &'a Tables,
    /// Current ports of the queue; a reopened port may have another interface index.
    pub ports: &'a [PortInfo],
    /// Whether the engine drains.
    pub draining: bool,
    /// The whole frame.
    pub packet: &'a [u8],
}

impl Seen<'_> {
    fn port_of(&self, interface: u32) -> Option<PortIndex> {
        self.ports.iter().position(|port| port.ifindex == interface).and_then(PortIndex::new)
    }
}

/// Is the reference relay of one queue. It is exact for tables of at most 64 sessions per queue. A larger table of
/// the fast relay may refuse a new session while an expired one is not removed yet, which the reference ignores.
pub struct Reference {
    plan: RelayPlan,
    info: QueueInfo,
    sessions: HashMap<(Endpoint, usize), Session>,
    epoch: Option<Instant>,
}

/// States what must happen: the new frame or another verdict.
enum Wanted {
    Transmit {
        port: PortIndex,
        frame: Vec<u8>,
        flow: Flow,
        learn: Option<(Endpoint, usize)>,
    },
    Other(HandlerOutcome),
    /// The packet may meet a session whose port is not known yet.
    Unknown,
}

impl Reference {
    /// Returns a reference without sessions.
    #[must_use]
    pub fn new(plan: &RelayPlan, info: &QueueInfo) -> Self {
        Self { plan: plan.clone(), info: info.clone(), sessions: HashMap::new(), epoch: None }
    }

    /// Returns the number of sessions that have not expired.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Advances the time to `now` and expires sessions. Call it at each tick, including the first.
    pub fn advance(&mut self, now: Instant) -> u32 {
        let epoch = *self.epoch.get_or_insert(now);
        let ticks = tenths(now.duration_since(epoch));
        let entries = self.plan.entries();
        self.sessions.retain(|(_, entry), session| {
            let (idle, grace) = (entries[*entry].idle_timeout, entries[*entry].answer_grace);
            let lasts = grace.filter(|_| session.answered).unwrap_or(idle);
            ticks - session.last_seen <= tenths(lasts)
        });
        ticks
    }

    /// Checks that `did` is the right outcome for `seen`.
    ///
    /// # Errors
    /// Returns the expected and the actual outcome.
    pub fn check(&mut self, seen: &Seen<'_>, did: &HandlerOutcome) -> Result<(), String> {
        let ticks = self.advance(seen.now);
        match (self.decide(seen, ticks, did), did) {
            (Wanted::Unknown, _) => Ok(()),
            (Wanted::Other(wanted), did) if wanted == *did => Ok(()),
            (Wanted::Transmit { port, frame, flow, learn }, HandlerOutcome::Transmit(to, sent))
                if port.number() == *to =>
            {
                match learn {
                    None => same(&frame, sent),
                    Some(key) => {
                        let chosen = source_port(sent).ok_or("the sent frame has no UDP header")?;
                        self.learn(key, chosen)?;
                        // The port is known now, so all bytes are.
                        let new = Flow { source: Endpoint { port: chosen, ..flow.source }, ..flow };
                        let mut wanted = seen.packet.to_vec();
                        wanted[..12].copy_from_slice(&frame[..12]);
                        rewrite(&mut wanted, &new).ok_or("the reference cannot rewrite the packet")?;
                        same(&wanted, sent)
                    }
                }
            }
            (Wanted::Transmit { port, flow, .. }, did) => {
                Err(format!("expected {flow:?} by port {port}, observed {did:?}"))
            }
            (Wanted::Other(wanted), did) => Err(format!("expected {wanted:?}, observed {did:?}")),
        }
    }

    fn decide(&mut self, seen: &Seen<'_>, ticks: u32, did: &HandlerOutcome) -> Wanted {
        let drop = |reason| Wanted::Other(HandlerOutcome::Drop(reason));
        let mut head = [0; 64];
        let n = seen.packet.len().min(64);
        head[..n].copy_from_slice(&seen.packet[..n]);
        let flow = match packet::parse(&head, seen.packet.len() as u16) {
            Ok(parsed) => parsed.flow,
            Err(reason) => return drop(reason),
        };
        if let Some(entry) = self.plan.entries().iter().position(|entry| entry.listen == flow.destination) {
            // The queues agree on the home of a flow, which this queue's reference cannot predict.
            if let HandlerOutcome::HandOver(place, _) = did
                && !self.sessions.contains_key(&(flow.source, entry))
                && self.plan.home_of(&flow.source, &flow.destination) == Some(*place)
                && *place != self.info.place
            {
                return Wanted::Other(HandlerOutcome::HandOver(*place, seen.packet.to_vec()));
            }
            return match self.client(seen, flow.source, entry, ticks) {
                Ok(session) => {
                    let learn = session.port.is_none().then_some((flow.source, entry));
                    let source = Endpoint::from(SocketAddr::new(session.source, session.port.unwrap_or(0)));
                    self.send(seen, Flow { source, destination: session.upstream }, learn)
                }
                Err(reason) => drop(reason),
            };
        }
        let (space, port) = (self.plan.port_space(self.info.queues), flow.destination.port);
        if !space.contains(port) {
            return drop(DropReason::NoSession);
        }
        if space.owner(port) != self.info.place {
            return Wanted::Other(HandlerOutcome::HandOver(space.owner(port), seen.packet.to_vec()));
        }
        let source = flow.destination.ip();
        let at_port = |s: &Session| s.source == source && s.port == Some(port);
        let unknown =
            self.sessions.values().any(|s| s.source == source && s.upstream == flow.source && s.port.is_none());
        match self.sessions.iter().find(|(_, s)| at_port(s) && s.upstream == flow.source) {
            Some((&(client, entry), _)) => {
                let planned = &self.plan.entries()[entry];
                let wanted = self.send(seen, Flow { source: planned.listen, destination: client }, None);
                let graced = planned.answer_grace.is_some() && matches!(wanted, Wanted::Transmit { .. });
                if let Some(session) = self.sessions.get_mut(&(client, entry)).filter(|_| graced) {
                    (session.last_seen, session.answered) = (ticks, true);
                }
                wanted
            }
            None if unknown => Wanted::Unknown,
            None if self.sessions.values().any(at_port) => drop(DropReason::WrongPeer),
            None if self.sessions.values().any(|s| s.source == source && s.port.is_none()) => Wanted::Unknown,
            None => drop(DropReason::NoSession),
        }
    }

    fn client(&mut self, seen: &Seen<'_>, client: Endpoint, entry: usize, ticks: u32) -> Result<Session, DropReason> {
        let key = (client, entry);
        if let Some(session) = self.sessions.get_mut(&key) {
            let other = |source| source != session.source;
            if seen.tables.local(session.source) || !seen.tables.source_for(session.upstream.ip()).is_some_and(other) {
                (session.last_seen, session.answered) = (ticks, false);
                return Ok(session.clone());
            }
            self.sessions.remove(&key);
        }
        if seen.draining {
            return Err(DropReason::Draining);
        }
        let planned = &self.plan.entries()[entry];
        if seen.tables.local(client.ip()) || planned.upstreams.contains(&client) {
            return Err(DropReason::BadSource);
        }
        let upstream = planned.upstreams[planned.upstream_for(&client)];
        let leaves_by = match seen.tables.resolve(upstream.ip()) {
            Resolution::Hop(hop) => hop.interface,
            Resolution::Unresolved { interface, .. } => interface,
            Resolution::NoRoute => return Err(DropReason::NoRoute),
        };
        seen.port_of(leaves_by).ok_or(DropReason::NoRoute)?;
        let source = seen.tables.source_for(upstream.ip()).ok_or(DropReason::NoRoute)?;
        let queues = self.info.queues;
        if self.sessions.len() >= self.plan.capacity_per_queue(queues) as usize {
            return Err(DropReason::SessionsFull);
        }
        let taken = self.sessions.values().filter(|s| s.source == source && s.upstream == upstream).count();
        if taken >= self.plan.port_space(queues).count_of(self.info.place) as usize {
            return Err(DropReason::PortsExhausted);
        }
        let session = Session { upstream, source, port: None, last_seen: ticks, answered: false };
        self.sessions.insert(key, session.clone());
        Ok(session)
    }

    fn send(&self, seen: &Seen<'_>, new: Flow, learn: Option<(Endpoint, usize)>) -> Wanted {
        let drop = |reason| Wanted::Other(HandlerOutcome::Drop(reason));
        let hop = match seen.tables.resolve(new.destination.ip()) {
            Resolution::NoRoute => return drop(DropReason::NoRoute),
            Resolution::Unresolved { interface, .. } => {
                return match seen.port_of(interface) {
                    Some(_) => Wanted::Other(HandlerOutcome::Hold(seen.packet.to_vec())),
                    None => drop(DropReason::NoRoute),
                };
            }
            Resolution::Hop(hop) => hop,
        };
        let Some(port) = seen.port_of(hop.interface) else { return drop(DropReason::NoRoute) };
        let mut frame = seen.packet.to_vec();
        let Some(ip_length) = ip_length(&frame) else { return drop(DropReason::IpLength) };
        let crossed = match (ipv4(&frame), new.destination.is_ipv4()) {
            (true, false) => ip_length + 20,
            (false, true) => ip_length - 20,
            _ => ip_length,
        };
        if crossed > usize::from(hop.mtu) {
            return drop(DropReason::TooBig);
        }
        frame[..6].copy_from_slice(&hop.destination.0);
        frame[6..12].copy_from_slice(&hop.source.0);
        match rewrite(&mut frame, &new) {
            Some(()) => Wanted::Transmit { port, frame, flow: new, learn },
            None => drop(DropReason::TtlExpired),
        }
    }

    fn learn(&mut self, key: (Endpoint, usize), port: u16) -> Result<(), String> {
        let space = self.plan.port_space(self.info.queues);
        if !space.contains(port) || space.owner(port) != self.info.place {
            return Err(format!("source port {port} is not this queue's"));
        }
        let path = self.sessions.get(&key).map(|session| (session.source, session.upstream));
        if self.sessions.values().any(|other| Some((other.source, other.upstream)) == path && other.port == Some(port))
        {
            return Err(format!("source port {port} has a session to this upstream already"));
        }
        if let Some(session) = self.sessions.get_mut(&key) {
            session.port = Some(port);
        }
        Ok(())
    }
}

fn tenths(time: std::time::Duration) -> u32 {
    (time.as_millis() / 100) as u32
}

fn ipv4(frame: &[u8]) -> bool {
    frame[12..14] == [0x08, 0x00]
}

fn ip_length(frame: &[u8]) -> Option<usize> {
    let field = |at: usize| Some(usize::from(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?])));
    if ipv4(frame) { field(16) } else { field(18).map(|payload| 40 + payload) }
}

fn source_port(frame: &[u8]) -> Option<u16> {
    let at = if ipv4(frame) { 34 } else { 54 };
    Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
}

/// Sets the addresses of a well-formed datagram, removes padding, decrements the hop limit, and computes the checksums
/// in full. A UDP checksum of zero (IPv4) stays. A wrong checksum stays wrong: this function does not change it, and
/// [`same`] accepts any wrong value. Returns `None` if the hop limit is used up.
fn rewrite(frame: &mut Vec<u8>, new: &Flow) -> Option<()> {
    let length = 14 + ip_length(frame)?;
    frame.truncate(length);
    let (l4, hops, addresses, width) = if ipv4(frame) { (34, 22, 26, 4) } else { (54, 21, 22, 16) };
    let right = udp_is_right(frame);
    if ipv4(frame) != new.destination.is_ipv4() {
        return translate_family(frame, new, right);
    }
    let hops = frame.get_mut(hops)?;
    *hops = hops.checked_sub(1).filter(|&left| left > 0)?;
    frame[addresses..addresses + width].copy_from_slice(&new.source.address[16 - width..]);
    frame[addresses + width..addresses + 2 * width].copy_from_slice(&new.destination.address[16 - width..]);
    frame[l4..l4 + 2].copy_from_slice(&new.source.port.to_be_bytes());
    frame[l4 + 2..l4 + 4].copy_from_slice(&new.destination.port.to_be_bytes());
    if ipv4(frame) {
        let header = checksum::ipv4_header(&frame[14..34])?;
        frame[24..26].copy_from_slice(&header.to_be_bytes());
    }
    if right && frame[l4 + 6..l4 + 8] != [0, 0] {
        let sum = udp_checksum(frame)?;
        frame[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
    }
    Some(())
}

/// Rewrites to addresses of the other IP version: a new IP header (RFC 7915) followed by the datagram.
fn translate_family(frame: &mut Vec<u8>, new: &Flow, right: bool) -> Option<()> {
    let datagram = frame.split_off(if ipv4(frame) { 34 } else { 54 });
    let length = datagram.len() as u16;
    let (class, hops) = if ipv4(frame) { (frame[15], frame[22]) } else { (frame[14] << 4 | frame[15] >> 4, frame[21]) };
    let hops = hops.checked_sub(1).filter(|&left| left > 0)?;
    frame.truncate(12);
    if new.destination.is_ipv4() {
        let [total, length] = (length + 20).to_be_bytes();
        frame.extend([0x08, 0x00, 0x45, class, total, length, 0, 0, 0x40, 0, hops, 17, 0, 0]);
        frame.extend(&new.source.address[12..]);
        frame.extend(&new.destination.address[12..]);
        let header = checksum::ipv4_header(&frame[14..34])?;
        frame[24..26].copy_from_slice(&header.to_be_bytes());
    } else {
        let [high, low] = length.to_be_bytes();
        frame.extend([0x86, 0xdd, 0x60 | class >> 4, class << 4, 0, 0, high, low, 17, hops]);
        frame.extend(new.source.address);
        frame.extend(new.destination.address);
    }
    let l4 = frame.len();
    frame.extend(datagram);
    frame[l4..l4 + 2].copy_from_slice(&new.source.port.to_be_bytes());
    frame[l4 + 2..l4 + 4].copy_from_slice(&new.destination.port.to_be_bytes());
    if right {
        let sum = udp_checksum(frame)?;
        frame[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
    }
    Some(())
}

/// Returns the UDP checksum of a whole datagram, with the checksum field as zero.
fn udp_checksum(frame: &[u8]) -> Option<u16> {
    let l4 = if ipv4(frame) { 34 } else { 54 };
    let length = u16::from_be_bytes([*frame.get(l4 + 4)?, *frame.get(l4 + 5)?]);
    let mut datagram = frame.get(l4..l4 + usize::from(length))?.to_vec();
    datagram[6..8].fill(0);
    let sum = if ipv4(frame) {
        checksum::Sum::pseudo_ipv4(*frame[26..].first_chunk()?, *frame[30..].first_chunk()?, length)
    } else {
        checksum::Sum::pseudo_ipv6(*frame[22..].first_chunk()?, *frame[38..].first_chunk()?, length)
    };
    checksum::udp(sum, &datagram)
}

fn udp_is_right(frame: &[u8]) -> bool {
    let l4 = if ipv4(frame) { 34 } else { 54 };
    let field = u16::from_be_bytes([frame[l4 + 6], frame[l4 + 7]]);
    (field == 0 && ipv4(frame)) || udp_checksum(frame) == Some(field)
}

/// Compares two frames. If the UDP checksum of `wanted` is wrong, any wrong checksum is accepted.
fn same(wanted: &[u8], sent: &[u8]) -> Result<(), String> {
    let l4 = if ipv4(wanted) { 34 } else { 54 };
    let damaged = !udp_is_right(wanted);
    let mut sent_like = sent.to_vec();
    if damaged && sent.len() == wanted.len() {
        if udp_is_right(sent) {
            return Err("a datagram with a wrong checksum left with a correct one".to_owned());
        }
        sent_like[l4 + 6..l4 + 8].copy_from_slice(&wanted[l4 + 6..l4 + 8]);
    }
    if sent_like == wanted {
        return Ok(());
    }
    Err(format!("expected {wanted:02x?}, sent {sent:02x?}"))
}
