//! Sends packets: resolves the next hop and writes the new addresses.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::super::session::{CachedNextHop, Upstream};
use super::family_translation::translate_family;
use super::session_lifecycle::{SOURCES, address_bytes};
use super::{NO_ROUTE, NO_SESSION, RESOLVE_EARLY, UdpRelay};
use oxide::net::Resolution;
use oxide::packet::{Endpoint, Flow, FlowChecksumDelta, Rewrite, Translation, translate};
use oxide::queue::{Batch, Context, Verdict};
use oxide::telemetry::DropReason;
use oxide::umem::PortIndex;

impl UdpRelay {
    /// Writes the new addresses and returns the outgoing port. `length` is the packet's length without Ethernet padding.
    #[inline]
    pub(super) fn send(
        &mut self,
        batch: &mut Batch<'_>,
        lane: usize,
        length: u16,
        new: &Flow,
        (hop, change): (CachedNextHop, FlowChecksumDelta),
    ) -> Result<PortIndex, Verdict> {
        let columns = batch.columns();
        let (l3, l4) = (columns.l3[lane], columns.l4[lane]);
        // A fragment is in none of the masks of whole datagrams.
        let ipv4 = columns.flow[lane].source.is_ipv4();
        self.egress_mtu = hop.mtu;
        let Flow { source, destination } = *new;
        let changes_family = destination.is_ipv4() != ipv4;
        if changes_family && columns.fragments & 1 << lane != 0 {
            return Err(Verdict::Drop(DropReason::Fragment));
        }
        let growth = match (changes_family, ipv4) {
            (false, _) => 0,
            (true, true) => translate::GROWTH,
            (true, false) => -translate::GROWTH,
        };
        if length.saturating_sub(u16::from(l3)).saturating_add_signed(growth) > hop.mtu {
            return Err(Verdict::Drop(DropReason::TooBig));
        }
        let [destination_mac, source_mac] = hop.macs();
        let new = Rewrite { source_mac, destination_mac, source, destination };
        if changes_family {
            translate_family(batch, lane, length, &new, change).map_err(Verdict::Drop)?;
            return Ok(hop.port);
        }
        let translation = Translation::with(&new, change, ipv4);
        translation.apply(batch.packet_mut(lane), l3, l4, ipv4).map_err(Verdict::Drop)?;
        // Remove Ethernet padding. The length is never longer than the frame, so it fits.
        let _ = batch.set_length(lane, length);
        Ok(hop.port)
    }

    /// Requests the next hops of some upstreams in each tick, so that first packets do not wait for them.
    pub(super) fn resolve_next_hops_early(&mut self, cx: &mut Context<'_>) {
        let mut sources = ArrayVec::<IpAddr, SOURCES>::new();
        for Upstream { server, .. } in self.upstreams.iter().skip(self.resolved_early).take(RESOLVE_EARLY) {
            let (interface, next_hop) = match cx.tables().resolve(server.ip()) {
                Resolution::Hop(hop) => (hop.interface, hop.next_hop),
                Resolution::Unresolved { interface, next_hop } => (interface, next_hop),
                Resolution::NoRoute => continue,
            };
            if cx.port_of(interface).is_some() {
                cx.resolve(interface, next_hop);
                for source in self.plan.sources_for(server.ip(), cx.tables()) {
                    if !sources.contains(&source) {
                        let _ = sources.try_push(source);
                    }
                }
            }
        }
        self.resolved_early = self.upstreams.len().min(self.resolved_early + RESOLVE_EARLY);
        // Their ports take memory, which a client's packet should find in place.
        for source in sources {
            self.source(address_bytes(source));
        }
    }

    /// Returns upstream and next hop for packets with source address `source`, an index of `sources`.
    pub(super) fn upstream_next_hop(
        &mut self,
        upstream: u32,
        source: u8,
        ipv4: bool,
        cx: &mut Context<'_>,
    ) -> Result<Upstream, Verdict> {
        let known = *self.upstreams.get(upstream).ok_or(NO_SESSION)?;
        if known.source == source && known.hop.fresh(self.generation) {
            return Ok(known);
        }
        let address = self.sources.get(usize::from(source)).ok_or(NO_SESSION)?.address;
        let hop = self.resolve(ipv4, &known.server, cx)?;
        self.batch_invalidated |= known.hop.fresh(self.generation);
        let target = Upstream { source, address, hop, ..known };
        *self.upstreams.get_mut(upstream).ok_or(NO_SESSION)? = target;
        Ok(target)
    }

    /// Resolves the next hop for packets to `to`. `ipv4` is the IP version in which they arrive.
    pub(super) fn resolve(
        &mut self,
        ipv4: bool,
        to: &Endpoint,
        cx: &mut Context<'_>,
    ) -> Result<CachedNextHop, Verdict> {
        match cx.tables().resolve(to.ip()) {
            Resolution::NoRoute => Err(NO_ROUTE),
            Resolution::Hop(hop) => {
                let port = cx.port_of(hop.interface).ok_or(NO_ROUTE)?;
                // The kernel does not see our traffic, so it forgets neighbours that nobody requests.
                if !self.asked.contains(&(hop.interface, hop.next_hop)) {
                    let _ = self.asked.try_push((hop.interface, hop.next_hop));
                    cx.resolve(hop.interface, hop.next_hop);
                }
                Ok(CachedNextHop::new(self.generation, &hop, port, ipv4 != to.is_ipv4()))
            }
            Resolution::Unresolved { interface, next_hop } => {
                cx.port_of(interface).ok_or(NO_ROUTE)?;
                Err(Verdict::HoldFor(cx.resolve(interface, next_hop)))
            }
        }
    }
}
