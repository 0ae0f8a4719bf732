//! One consistent view of links, addresses, routes and neighbours: built aside, handed to each actor
//! as its own copy, never changed in place.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::packet::MacAddr;

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel's number of the interface.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: MacAddr,
    /// Largest IP packet it sends, bytes.
    pub mtu: u32,
    /// Administratively up and with carrier.
    pub up: bool,
    /// Its addresses with prefix lengths, global scope first.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// One unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Network address.
    pub destination: IpAddr,
    /// Prefix length, bits.
    pub prefix: u8,
    /// Next hop; `None` where the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Interface it leaves by.
    pub interface: u32,
    /// Source address the kernel would prefer.
    pub preferred_source: Option<IpAddr>,
    /// Lower wins among equal prefixes.
    pub metric: u32,
}

/// Where and how a packet leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Interface it leaves by.
    pub interface: u32,
    /// That interface's MTU, bytes of IP packet.
    pub mtu: u16,
    /// Ethernet source.
    pub source: MacAddr,
    /// Ethernet destination.
    pub destination: MacAddr,
}

/// What the tables say of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Everything is known.
    Hop(Hop),
    /// The route is known, the next hop's MAC is not: ask the kernel to resolve it.
    Unresolved {
        /// Interface it will leave by.
        interface: u32,
        /// Whose MAC is wanted.
        next_hop: IpAddr,
    },
    /// There is no route.
    NoRoute,
}

/// The tables of one moment.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Rises by one with every change.
    pub generation: u64,
    /// All interfaces.
    pub links: Vec<Link>,
    /// Routes, longest prefix first, then lowest metric.
    pub routes: Vec<Route>,
    /// (interface, address) to MAC, usable entries only.
    pub neighbours: HashMap<(u32, IpAddr), MacAddr>,
}
