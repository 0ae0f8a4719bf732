//! Defines the status of served links and listed addresses, as the kernel reports it.

use std::net::IpAddr;

use serde::Serialize;

/// Reports the link of a served interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkStatus {
    /// Interface.
    pub interface: String,
    /// Whether the link is up with carrier.
    pub up: bool,
}

/// Reports whether this host receives packets to a listed address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddressStatus {
    /// Address to which clients or upstreams send.
    pub address: IpAddr,
    /// Whether an interface has it or a local route covers it.
    pub present: bool,
}
