//! Finds the egress for an address with one call.

use std::net::IpAddr;

use super::batch::Verdict;
use super::handler::Context;
use crate::net::Resolution;
use crate::packet::MacAddr;
use crate::telemetry::DropReason;
use crate::umem::PortIndex;

/// Describes how packets for an address leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Egress {
    /// Port that sends them.
    pub port: PortIndex,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Ethernet source address.
    pub source_mac: MacAddr,
    /// Ethernet destination address, which is the next hop's.
    pub destination_mac: MacAddr,
}

impl Context<'_> {
    /// Returns the egress for `to`, from the current routes and neighbours.
    ///
    /// # Errors
    /// Returns the verdict for the packet. It is a hold if the next hop is being resolved. It is a drop if there is no
    /// route, or if the actor does not serve the interface.
    pub fn egress_to(&mut self, to: IpAddr) -> Result<Egress, Verdict> {
        const NO_ROUTE: Verdict = Verdict::Drop(DropReason::NoRoute);
        match self.tables().resolve(to) {
            Resolution::NoRoute => Err(NO_ROUTE),
            Resolution::Hop(hop) => {
                let port = self.port_of(hop.interface).ok_or(NO_ROUTE)?;
                Ok(Egress { port, mtu: hop.mtu, source_mac: hop.source, destination_mac: hop.destination })
            }
            Resolution::Unresolved { interface, next_hop } => {
                self.port_of(interface).ok_or(NO_ROUTE)?;
                Err(Verdict::HoldFor(self.resolve(interface, next_hop)))
            }
        }
    }
}
