//! Status of served links and of listed addresses, as the kernel reports them.

use std::net::IpAddr;

use serde::Serialize;

/// Reports the link of a served interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkStatus {
    /// Interface.
    pub interface: String,
    /// Up, with carrier.
    pub up: bool,
}

/// Reports whether packets to a listed address are this host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddressStatus {
    /// Address that clients, or answers, are sent to.
    pub address: IpAddr,
    /// An interface has it, or a local route takes it.
    pub present: bool,
}
