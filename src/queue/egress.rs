//! Where a packet leaves, in one question.

use std::net::IpAddr;

use super::batch::Verdict;
use super::handler::Context;
use crate::net::Resolution;
use crate::packet::MacAddr;
use crate::telemetry::DropReason;
use crate::umem::PortIndex;

/// Where packets for an address leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Egress {
    /// By this port.
    pub port: PortIndex,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Ethernet source.
    pub source_mac: MacAddr,
    /// Ethernet destination: the next hop's.
    pub destination_mac: MacAddr,
}

impl Context<'_> {
    /// The way to `to`, by the routes and neighbours of the moment.
    ///
    /// # Errors
    /// What to do with the packet otherwise: hold it, the next hop having been asked for, or drop it,
    /// because there is no route or it leaves by an interface that is not served.
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
