//! Netlink messages (RFC 3549, rtnetlink(7)) to facts the tables are made of. Pure functions: what the
//! kernel says is not believed further than its types go.

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType, RouteVia,
};

use super::tables::{LinkKind, Route, RouteKind};
use crate::packet::MacAddr;

/// One thing the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TableUpdate {
    /// A link is there, or has changed. What is `None` was not in the message.
    Link { index: u32, up: bool, kind: LinkKind, name: Option<String>, mac: Option<MacAddr>, mtu: Option<u32> },
    /// A link is gone from this namespace.
    LinkGone { index: u32 },
    /// An address is there, or has changed.
    Address { index: u32, address: Address },
    /// An address is gone.
    AddressGone { index: u32, address: IpAddr, prefix: u8 },
    /// Routes of one message: one for each next hop.
    Routes { routes: Vec<Route>, replace: bool },
    /// These are gone.
    RoutesGone { routes: Vec<Route> },
    /// What is known of a neighbour.
    Neighbour { key: (u32, IpAddr), standing: Standing },
    /// The kernel has forgotten a neighbour.
    NeighbourGone { key: (u32, IpAddr) },
}

/// One address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
    /// Lower is a better source.
    pub(super) rank: u8,
    /// `false` while duplicate address detection has not let it through: not ours yet (RFC 4862).
    pub(super) assigned: bool,
}

/// A neighbour's NUD state, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// REACHABLE, STALE, DELAY, PROBE: what the kernel itself would send to.
    Usable(MacAddr),
    /// PERMANENT, NOARP: entered by somebody, never to be asked for.
    Fixed(MacAddr),
    /// NONE, INCOMPLETE: being asked for.
    Unknown,
    /// FAILED: nobody answers.
    Failed,
}

/// The fact in a message; `None` for what the tables do not hold.
pub(super) fn table_update(message: RouteNetlinkMessage, replace: bool) -> Option<TableUpdate> {
    match message {
        RouteNetlinkMessage::NewLink(m) => link(m),
        RouteNetlinkMessage::DelLink(m) => {
            // A port that leaves its bridge is told as a DELLINK of the bridge family: the link is still there.
            (m.header.interface_family == AddressFamily::Unspec)
                .then_some(TableUpdate::LinkGone { index: m.header.index })
        }
        RouteNetlinkMessage::NewAddress(m) => {
            Some(TableUpdate::Address { index: m.header.index, address: address(&m)? })
        }
        RouteNetlinkMessage::DelAddress(m) => {
            let Address { address, prefix, .. } = address(&m)?;
            Some(TableUpdate::AddressGone { index: m.header.index, address, prefix })
        }
        RouteNetlinkMessage::NewRoute(m) => Some(TableUpdate::Routes { routes: routes(m)?, replace }),
        RouteNetlinkMessage::DelRoute(m) => Some(TableUpdate::RoutesGone { routes: routes(m)? }),
        RouteNetlinkMessage::NewNeighbour(m) => neighbour(m),
        RouteNetlinkMessage::DelNeighbour(m) => Some(TableUpdate::NeighbourGone { key: neighbour_key(&m)? }),
        _ => None,
    }
}

fn link(message: LinkMessage) -> Option<TableUpdate> {
    let header = &message.header;
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = header.flags;
    let kind = if flags.contains(LinkFlags::Loopback) {
        LinkKind::Loopback
    } else if header.link_layer_type != LinkLayerType::Ether || flags.contains(LinkFlags::Pointopoint) {
        LinkKind::Other
    } else if flags.contains(LinkFlags::Noarp) {
        LinkKind::NoArp
    } else {
        LinkKind::Ethernet
    };
    // RUNNING is up and with carrier (RFC 2863 operational state, kernel's netif_oper_up).
    let up = flags.contains(LinkFlags::Up | LinkFlags::Running);
    let (mut name, mut mac, mut mtu) = (None, None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text),
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes).ok().map(MacAddr),
            LinkAttribute::Mtu(bytes) => mtu = Some(bytes),
            _ => {}
        }
    }
    Some(TableUpdate::Link { index: message.header.index, up, kind, name, mac, mtu })
}

fn address(message: &AddressMessage) -> Option<Address> {
    // On a point-to-point link ADDRESS is the other end's, LOCAL is ours; else LOCAL is the same or missing.
    let (mut own, mut peer, mut flags) =
        (None, None, AddressFlags::from_bits_retain(message.header.flags.bits().into()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => own = Some(*ip),
            AddressAttribute::Address(ip) => peer = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let rank = match message.header.scope {
        AddressScope::Universe | AddressScope::Site if flags.contains(AddressFlags::Deprecated) => 2,
        AddressScope::Universe | AddressScope::Site if flags.contains(AddressFlags::Secondary) => 1,
        AddressScope::Universe | AddressScope::Site => 0,
        AddressScope::Link => 3,
        _ => 4,
    };
    let tentative = flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    let assigned = !tentative && !flags.contains(AddressFlags::Dadfailed);
    Some(Address { address: own.or(peer)?, prefix: message.header.prefix_len, rank, assigned })
}

/// One route for each next hop; `None` for other tables and what is not a route to somewhere.
fn routes(message: RouteMessage) -> Option<Vec<Route>> {
    let header = message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => [0; 4].into(),
        AddressFamily::Inet6 => [0; 16].into(),
        _ => return None,
    };
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => RouteKind::Reject,
        _ => return None,
    };
    // Clones are cached answers; routes for one type of service or one source network are not general.
    if header.flags.contains(RouteFlags::Cloned) || header.tos != 0 || header.source_prefix_length != 0 {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut route = Route {
        destination: unspecified,
        prefix: header.destination_prefix_length,
        kind,
        gateway: None,
        interface: 0,
        preferred_source: None,
        metric: 0,
    };
    let mut hops = Vec::new();
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = number,
            RouteAttribute::Destination(to) => route.destination = ip(&to)?,
            RouteAttribute::PrefSource(from) => route.preferred_source = ip(&from),
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::MultiPath(list) => hops = list,
            other => next_hop(&mut route, &other),
        }
    }
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let mut routes: Vec<Route> = hops
        .iter()
        .map(|hop| {
            let mut route = Route { interface: hop.interface_index, ..route.clone() };
            hop.attributes.iter().for_each(|attribute| next_hop(&mut route, attribute));
            route
        })
        .collect();
    if routes.is_empty() {
        routes.push(route);
    }
    for route in routes.iter_mut().filter(|route| route.kind == RouteKind::Reject) {
        // IPv6 hangs rejecting routes on lo; that says nothing.
        (route.interface, route.gateway) = (0, None);
    }
    Some(routes)
}

fn next_hop(route: &mut Route, attribute: &RouteAttribute) {
    match attribute {
        RouteAttribute::Oif(index) => route.interface = *index,
        RouteAttribute::Gateway(by) => route.gateway = ip(by),
        RouteAttribute::Via(RouteVia::Inet(by)) => route.gateway = Some((*by).into()),
        RouteAttribute::Via(RouteVia::Inet6(by)) => route.gateway = Some((*by).into()),
        // MPLS, segment routing, a tunnel of the kernel's: none of them is a plain packet to a next hop.
        RouteAttribute::Via(_) | RouteAttribute::EncapType(_) => route.kind = RouteKind::Reject,
        _ => {}
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

fn neighbour_key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    // Proxy entries are what we answer for, not whom we can reach.
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::from(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::from(*v6)),
        _ => None,
    })?;
    // The kernel keeps its multicast groups there too.
    (!address.is_multicast()).then_some((message.header.ifindex, address))
}

fn neighbour(message: NeighbourMessage) -> Option<TableUpdate> {
    let key = neighbour_key(&message)?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr),
        _ => None,
    });
    let standing = match (message.header.state, mac) {
        (NeighbourState::Failed, _) => Standing::Failed,
        // Of a NOARP entry the kernel makes for itself (loopback, tunnels) the address is all zeroes.
        (_, None | Some(MacAddr([0, 0, 0, 0, 0, 0]))) => Standing::Unknown,
        (NeighbourState::Permanent | NeighbourState::Noarp, Some(mac)) => Standing::Fixed(mac),
        (
            NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe,
            Some(mac),
        ) => Standing::Usable(mac),
        _ => Standing::Unknown,
    };
    Some(TableUpdate::Neighbour { key, standing })
}

#[cfg(test)]
mod tests;
