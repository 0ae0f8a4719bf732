//! One consistent view of links, addresses, routes and neighbours: built aside, handed to each actor
//! as its own copy, never changed in place.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

use super::prefix;
use crate::packet::MacAddr;

/// What can be sent on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkKind {
    /// Ethernet frames to neighbours that answer ARP or neighbour discovery.
    #[default]
    Ethernet,
    /// Ethernet frames, but nobody answers (`ip link set arp off`): only neighbours somebody has entered.
    NoArp,
    /// This host.
    Loopback,
    /// No Ethernet header: tunnels and other point-to-point links. The kernel's, not ours.
    Other,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel's number of the interface. Can be any: never an index of an array.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: MacAddr,
    /// Largest IP packet it sends, bytes.
    pub mtu: u32,
    /// Administratively up and with carrier.
    pub up: bool,
    /// What can be sent on it.
    pub kind: LinkKind,
    /// Its addresses with prefix lengths: global scope first, among them the kernel's order.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl Link {
    /// Whether `destination` is the directed broadcast address of one of this link's networks.
    fn broadcasts(&self, destination: IpAddr) -> bool {
        // /31 and /32 have none (RFC 3021).
        destination.is_ipv4()
            && self
                .addresses
                .iter()
                .any(|&(own, length)| own.is_ipv4() && length <= 30 && prefix::last(own, length) == destination)
    }
}

/// What a route says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub enum RouteKind {
    /// Send it on.
    #[default]
    Unicast,
    /// Do not: blackhole, unreachable, prohibit, throw, or an encapsulation this engine does not do.
    /// A less specific route must not catch it.
    Reject,
}

/// One route of the main table; a multipath route is one of these for each next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Network address.
    pub destination: IpAddr,
    /// Prefix length, bits.
    pub prefix: u8,
    /// What it says.
    pub kind: RouteKind,
    /// Next hop; `None` where the destination is on the link. May be IPv6 for an IPv4 destination (RFC 8950).
    pub gateway: Option<IpAddr>,
    /// Interface it leaves by; 0 for [`RouteKind::Reject`].
    pub interface: u32,
    /// Source address the kernel would prefer.
    pub preferred_source: Option<IpAddr>,
    /// Lower wins among equal prefixes.
    pub metric: u32,
}

/// Where and how a packet leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolvedHop {
    /// Interface it leaves by.
    pub interface: u32,
    /// That interface's MTU, bytes of IP packet.
    pub mtu: u16,
    /// Ethernet source.
    pub source: MacAddr,
    /// Ethernet destination.
    pub destination: MacAddr,
    /// Whose MAC that is.
    pub next_hop: IpAddr,
}

/// What the tables say of a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Everything is known.
    Hop(ResolvedHop),
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

/// The tables of one moment, made by [`Tables::new`].
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Rises by one with every change.
    pub generation: u64,
    /// All interfaces, by number.
    pub links: Vec<Link>,
    /// Routes: IPv4 before IPv6, longest prefix first, by destination, lowest metric first.
    pub routes: Vec<Route>,
    /// (interface, address) to MAC, usable entries only.
    pub neighbours: HashMap<(u32, IpAddr), MacAddr>,
    /// Where in `routes` each prefix length begins and ends; the order of `routes`.
    sections: Vec<Section>,
    /// Our own addresses, sorted.
    own: Vec<IpAddr>,
}

#[derive(Debug, Clone)]
struct Section {
    ipv6: bool,
    prefix: u8,
    routes: Range<usize>,
}

/// The order of [`Tables::routes`]: family, longest prefix, destination, metric. What is left makes each
/// next hop its own, and the order of equals the same every time.
pub(super) type Order = (bool, Reverse<u8>, IpAddr, u32, RouteKind, u32, Option<IpAddr>);

pub(super) fn order(r: &Route) -> Order {
    (r.destination.is_ipv6(), Reverse(r.prefix), r.destination, r.metric, r.kind, r.interface, r.gateway)
}

impl Tables {
    /// Sorts and indexes. Routes whose prefix is longer than an address are left out.
    #[must_use]
    pub fn new(
        generation: u64,
        mut links: Vec<Link>,
        mut routes: Vec<Route>,
        neighbours: HashMap<(u32, IpAddr), MacAddr>,
    ) -> Self {
        links.sort_by_key(|link| link.index);
        routes.retain(|route| route.prefix <= prefix::width(route.destination));
        for route in &mut routes {
            route.destination = prefix::first(route.destination, route.prefix);
        }
        // From the service they come sorted.
        if !routes.is_sorted_by_key(order) {
            routes.sort_by_cached_key(order);
        }
        let mut own: Vec<IpAddr> = links.iter().flat_map(|l| l.addresses.iter().map(|a| a.0.to_canonical())).collect();
        own.sort_unstable();
        own.dedup();
        let sections = sections(&routes);
        Self { generation, links, routes, neighbours, sections, own }
    }

    /// Where a packet to `destination` leaves, as the kernel's main table has it: longest prefix, then
    /// lowest metric, over links that are up. Never multicast, broadcast, loopback, one of our own
    /// addresses, or a link-local IPv6 address (which needs an interface to mean anything).
    ///
    /// Policy rules (`ip rule`), type of service and multipath weights are not followed: of equal
    /// next hops the first one that is up takes all.
    #[must_use]
    pub fn resolve(&self, destination: IpAddr) -> Resolution {
        let destination = destination.to_canonical();
        if self.local(destination) {
            return Resolution::NoRoute;
        }
        let Some((route, link)) = self.way(destination) else { return Resolution::NoRoute };
        let next_hop = route.gateway.unwrap_or(destination);
        match (link.kind, self.neighbours.get(&(link.index, next_hop))) {
            (LinkKind::Ethernet | LinkKind::NoArp, Some(&mac)) => Resolution::Hop(ResolvedHop {
                interface: link.index,
                mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
                source: link.mac,
                destination: mac,
                next_hop,
            }),
            (LinkKind::Ethernet, None) => Resolution::Unresolved { interface: link.index, next_hop },
            _ => Resolution::NoRoute,
        }
    }

    /// The source address the kernel would use towards `destination`: the route's preferred one, else
    /// of the outgoing link's global addresses the one that shares the next hop's network, else its
    /// first; if it has none, one of another link that is up. `None` without a route.
    #[must_use]
    pub fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        let destination = destination.to_canonical();
        if self.local(destination) {
            return Some(destination);
        }
        let (route, link) = self.way(destination)?;
        if route.preferred_source.is_some() {
            return route.preferred_source;
        }
        let next_hop = route.gateway.unwrap_or(destination);
        let fits = |&&(own, _): &&(IpAddr, u8)| own.is_ipv4() == destination.is_ipv4() && prefix::is_global(own);
        let mut here = link.addresses.iter().filter(fits);
        let near = here.clone().find(|&&(own, length)| prefix::contains(own, length, next_hop));
        near.or_else(|| here.next())
            .or_else(|| self.links.iter().filter(|l| l.up).flat_map(|l| &l.addresses).find(fits))
            .map(|&(own, _)| own)
    }

    /// Whether `address` is this host's: assigned to any link, up or not, or a loopback address.
    #[must_use]
    pub fn local(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.own.binary_search(&address).is_ok()
    }

    /// The interface of this number.
    #[must_use]
    pub fn link(&self, index: u32) -> Option<&Link> {
        let at = self.links.binary_search_by_key(&index, |link| link.index).ok()?;
        self.links.get(at)
    }

    /// The interface of this name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The route and the link to a canonical address. One binary search for each prefix length in use:
    /// with 50 000 routes of 17 lengths 2 us (`cost_with_50_000_routes`), and a copy of the tables is flat.
    fn way(&self, destination: IpAddr) -> Option<(&Route, &Link)> {
        if !prefix::is_unicast(destination) {
            return None;
        }
        for section in self.sections.iter().filter(|s| s.ipv6 == destination.is_ipv6()) {
            let routes = self.routes.get(section.routes.clone()).unwrap_or_default();
            let network = prefix::first(destination, section.prefix);
            let start = routes.partition_point(|route| route.destination < network);
            for route in routes.iter().skip(start).take_while(|route| route.destination == network) {
                if route.kind == RouteKind::Reject {
                    return None;
                }
                // A link that is down: the next candidate. Any other obstacle is an answer: what is
                // routed into a tunnel must not leave by the default route.
                if let Some(link) = self.link(route.interface).filter(|link| link.up) {
                    let broadcast = route.gateway.is_none() && link.broadcasts(destination);
                    return (!broadcast).then_some((route, link));
                }
            }
        }
        None
    }
}

fn sections(routes: &[Route]) -> Vec<Section> {
    let mut start = 0;
    routes
        .chunk_by(|a, b| (a.destination.is_ipv6(), a.prefix) == (b.destination.is_ipv6(), b.prefix))
        .filter_map(|chunk| {
            let first = chunk.first()?;
            let range = start..start + chunk.len();
            start = range.end;
            Some(Section { ipv6: first.destination.is_ipv6(), prefix: first.prefix, routes: range })
        })
        .collect()
}

#[cfg(test)]
mod tests;
