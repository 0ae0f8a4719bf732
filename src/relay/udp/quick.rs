//! What nearly every packet needs, and no more.
//!
//! A packet is ordinary if its session was found and holds, the next hop is known, the packet stays in its
//! family, fits, has hops left, and is without VLAN tag, so that its headers are where they always are. For such
//! a packet this does what [`serve_client`](UdpRelay::serve_client) and [`serve_answer`](UdpRelay::serve_answer)
//! would do, in the same order. Of any other it changes nothing and says so: first come all checks, then all
//! that has an effect.

use super::life::is_over;
use super::{LIMITED, UdpRelay, Ways};
use crate::packet::{Columns, HeadRewrite, LANES};
use crate::queue::{Batch, Verdict};
use crate::relay::session::NextHop;
use crate::umem::PortIndex;

/// Where the headers of a packet without VLAN tag and extension headers are, bytes from its start.
const IP: u8 = 14;
const UDP_BEHIND_IPV6: u8 = IP + 40;

impl UdpRelay {
    /// Serves the packet in `lane` if it is ordinary; `None`, and nothing changed, if it is not.
    #[inline]
    pub(super) fn quick(&mut self, batch: &mut Batch<'_>, lane: usize, ways: &Ways) -> Option<Verdict> {
        #[cfg(test)]
        if self.plain {
            return None;
        }
        // The compiler knows no bound of its own for the columns.
        if lane >= LANES {
            return None;
        }
        let slot = ways.slot(lane)?;
        if ways.clients & 1 << lane != 0 {
            self.quick_client(batch, lane, slot)
        } else {
            self.quick_answer(batch, lane, ways.sources[lane], slot)
        }
    }

    /// An ordinary packet of the client whose session is in `slot`, as this batch's look-up found it.
    #[inline]
    fn quick_client(&mut self, batch: &mut Batch<'_>, lane: usize, slot: u32) -> Option<Verdict> {
        // Another session may have its slot.
        if self.ended {
            return None;
        }
        let (columns, again) = (batch.columns(), batch.again());
        let session = self.sessions.get_mut(slot)?;
        let (hop, entry) = (&session.to_upstream, session.key.local);
        if !hop.fresh(self.generation) || is_over(&self.entries, session, self.now) {
            return None;
        }
        if self.health.as_ref().is_some_and(|health| !health.stays(entry, session.upstream)) {
            return None;
        }
        let new = HeadRewrite {
            source_mac: self.macs.get(usize::from(hop.port))?,
            destination_mac: &hop.mac,
            source: (&self.sources.get(usize::from(session.source))?.address, session.port.get()),
            destination: self.upstreams.get(session.upstream as usize)?,
            addresses: hop.addresses,
        };
        let head = batch.head_mut(lane)?;
        let (ipv4, ip_bytes) = ordinary(columns, lane, head, hop)?;

        if let Some(limits) = self.limits.as_mut().filter(|_| !again)
            && !limits.admit(&session.key.remote, entry, self.now_ns, ip_bytes)
        {
            return Some(LIMITED);
        }
        if let Some(health) = &mut self.health {
            health.sent(entry, session.upstream, slot, self.now);
        }
        new.apply(head, ipv4);
        let port = hop.port;
        session.last_seen = self.now;
        Some(sent(batch, lane, columns, port))
    }

    /// An ordinary answer to the session in `slot`, which has the source address at place `source`.
    #[inline]
    fn quick_answer(&mut self, batch: &mut Batch<'_>, lane: usize, source: u8, slot: u32) -> Option<Verdict> {
        let (columns, again) = (batch.columns(), batch.again());
        let old = &columns.flow[lane];
        let session = self.sessions.get(slot)?;
        let hop = &session.to_client;
        // Another session may have its slot.
        if session.source != source || session.port.get() != old.destination.port {
            return None;
        }
        if !hop.fresh(self.generation) || is_over(&self.entries, session, self.now) {
            return None;
        }
        if *self.upstreams.get(session.upstream as usize)? != old.source {
            return None;
        }
        let listen = &self.entries.get(usize::from(session.key.local))?.listen;
        let new = HeadRewrite {
            source_mac: self.macs.get(usize::from(hop.port))?,
            destination_mac: &hop.mac,
            source: (&listen.address, listen.port),
            destination: &session.key.remote,
            addresses: hop.addresses,
        };
        let head = batch.head_mut(lane)?;
        let (ipv4, ip_bytes) = ordinary(columns, lane, head, hop)?;

        if let Some(health) = &mut self.health {
            health.answered(session.upstream);
        }
        if let Some(limits) = self.limits.as_mut().filter(|_| !again)
            && !limits.admit_reply(&session.key.remote, self.now_ns, ip_bytes)
        {
            return Some(LIMITED);
        }
        new.apply(head, ipv4);
        Some(sent(batch, lane, columns, hop.port))
    }
}

/// Whether the packet itself is ordinary, `hop` being the way it goes: its family, and its length without
/// Ethernet header.
#[inline(always)]
fn ordinary(columns: &Columns, lane: usize, head: &[u8; 64], hop: &NextHop) -> Option<(bool, u16)> {
    let ipv4 = columns.ipv4 & 1 << lane != 0;
    // IPv4 options are refused by the parser.
    let usual = columns.l3[lane] == IP && (ipv4 || columns.l4[lane] == UDP_BEHIND_IPV6);
    let ip_bytes = columns.length[lane].wrapping_sub(u16::from(IP));
    let goes = !hop.crosses && ip_bytes <= hop.mtu && HeadRewrite::hops(head, ipv4) > 1;
    (usual && goes).then_some((ipv4, ip_bytes))
}

/// The packet is as long as its headers say: without Ethernet padding.
#[inline(always)]
fn sent(batch: &mut Batch<'_>, lane: usize, columns: &Columns, port: PortIndex) -> Verdict {
    // Never longer than the frame, so it fits.
    let _ = batch.set_length(lane, columns.length[lane]);
    Verdict::Transmit(port)
}
