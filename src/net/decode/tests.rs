//! What messages mean, without a kernel: those that are easily misread.
#![allow(clippy::unwrap_used)]

use rtnetlink::packet_route::route::{RouteLwEnCapType, RouteNextHop};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn new_link(family: AddressFamily, layer: LinkLayerType, flags: LinkFlags) -> LinkMessage {
    let mut m = LinkMessage::default();
    (m.header.index, m.header.interface_family, m.header.link_layer_type, m.header.flags) = (7, family, layer, flags);
    m.attributes = vec![LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1])];
    m
}

#[test]
fn port_leaving_its_bridge_stays_a_link() {
    let message = |family| new_link(family, LinkLayerType::Ether, LinkFlags::empty());
    assert_eq!(table_update(RouteNetlinkMessage::DelLink(message(AddressFamily::Bridge)), false), None);
    assert_eq!(table_update(RouteNetlinkMessage::NewLink(message(AddressFamily::Bridge)), false), None);
    let gone = table_update(RouteNetlinkMessage::DelLink(message(AddressFamily::Unspec)), false);
    assert_eq!(gone, Some(TableUpdate::LinkGone { index: 7 }));
}

#[test]
fn link_kinds_and_carrier_are_decoded() {
    use LinkFlags as F;
    for (layer, flags, wanted_kind, wanted_up) in [
        (LinkLayerType::Ether, F::Up | F::Running, LinkKind::Ethernet, true),
        (LinkLayerType::Ether, F::Up, LinkKind::Ethernet, false), // no carrier
        (LinkLayerType::Ether, F::Running, LinkKind::Ethernet, false), // switched off
        (LinkLayerType::Ether, F::Up | F::Running | F::Noarp, LinkKind::NoArp, true),
        (LinkLayerType::Ether, F::Pointopoint, LinkKind::Other, false),
        (LinkLayerType::None, F::Noarp, LinkKind::Other, false), // WireGuard, tun
        (LinkLayerType::Loopback, F::Loopback | F::Up | F::Running, LinkKind::Loopback, true),
    ] {
        let message = new_link(AddressFamily::Unspec, layer, flags);
        let Some(TableUpdate::Link { kind, up, mac, .. }) = table_update(RouteNetlinkMessage::NewLink(message), false)
        else {
            unreachable!()
        };
        assert_eq!((kind, up, mac), (wanted_kind, wanted_up, Some(MacAddr([2, 0, 0, 0, 0, 1]))));
    }
}

fn new_address(flags: AddressFlags, attributes: Vec<AddressAttribute>) -> Address {
    let mut m = AddressMessage::default();
    (m.header.index, m.header.prefix_len) = (7, 32);
    m.attributes = attributes;
    m.attributes.push(AddressAttribute::Flags(flags));
    address(&m).unwrap()
}

#[test]
fn point_to_point_peer_is_not_own_address() {
    let (own, peer) = (AddressAttribute::Local(ip("10.0.0.1")), AddressAttribute::Address(ip("10.0.0.2")));
    for order in [vec![own.clone(), peer.clone()], vec![peer.clone(), own]] {
        assert_eq!(new_address(AddressFlags::empty(), order).address, ip("10.0.0.1"));
    }
    assert_eq!(new_address(AddressFlags::empty(), vec![peer]).address, ip("10.0.0.2"), "IPv6 says it so");
}

#[test]
fn tentative_and_deprecated_addresses_are_marked() {
    let ranked = |flags| {
        let a = new_address(flags, vec![AddressAttribute::Address(ip("fd00::1"))]);
        (a.assigned, a.rank)
    };
    use AddressFlags as F;
    assert_eq!(ranked(F::Permanent), (true, 0));
    assert_eq!(ranked(F::Tentative), (false, 0));
    assert_eq!(ranked(F::Tentative | F::Optimistic), (true, 0));
    assert_eq!(ranked(F::Tentative | F::Dadfailed), (false, 0));
    assert_eq!((ranked(F::Secondary), ranked(F::Deprecated)), ((true, 1), (true, 2)));
}

fn new_route(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut m = RouteMessage::default();
    m.header.address_family = AddressFamily::Inet;
    m.header.table = RouteHeader::RT_TABLE_MAIN;
    m.header.kind = kind;
    m.header.destination_prefix_length = 8;
    m.attributes = attributes;
    m.attributes.push(RouteAttribute::Destination(RouteAddress::Inet([10, 0, 0, 0].into())));
    m
}

fn via(last: u8) -> RouteAttribute {
    RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, last].into()))
}

#[test]
fn only_general_routes_of_the_main_table() {
    let plain = || new_route(RouteType::Unicast, vec![RouteAttribute::Oif(7), via(1)]);
    assert_eq!(routes(plain()).unwrap().len(), 1);
    let mut others = vec![plain(); 5];
    others[0].attributes.push(RouteAttribute::Table(1000));
    others[1].header.kind = RouteType::Local;
    others[2].header.tos = 8;
    others[3].header.source_prefix_length = 1;
    others[4].header.flags = RouteFlags::Cloned;
    for other in others {
        assert_eq!(routes(other.clone()), None, "{other:?}");
    }
}

#[test]
fn every_next_hop_of_a_multipath_route() {
    let hop = |interface, last| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = interface;
        hop.attributes = vec![via(last)];
        hop
    };
    let list = RouteAttribute::MultiPath(vec![hop(7, 1), hop(8, 2)]);
    let found = routes(new_route(RouteType::Unicast, vec![list, RouteAttribute::Priority(9)])).unwrap();
    let seen: Vec<_> = found.iter().map(|r| (r.interface, r.gateway, r.metric, r.destination)).collect();
    let to = ip("10.0.0.0");
    assert_eq!(seen, [(7, Some(ip("192.0.2.1")), 9, to), (8, Some(ip("192.0.2.2")), 9, to)]);
}

#[test]
fn unsupported_routes_reject() {
    let encap = RouteAttribute::EncapType(RouteLwEnCapType::Mpls);
    for message in [
        new_route(RouteType::BlackHole, vec![]),
        new_route(RouteType::Unreachable, vec![RouteAttribute::Oif(1)]),
        new_route(RouteType::Throw, vec![]),
        new_route(RouteType::Unicast, vec![RouteAttribute::Oif(7), via(1), encap]),
    ] {
        let found = routes(message).unwrap();
        assert!(found.iter().all(|r| (r.kind, r.interface, r.gateway) == (RouteKind::Reject, 0, None)), "{found:?}");
    }
    let by_ipv6 = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
    let found = routes(new_route(RouteType::Unicast, vec![RouteAttribute::Oif(7), by_ipv6])).unwrap();
    assert_eq!((found[0].kind, found[0].gateway), (RouteKind::Unicast, Some(ip("fe80::1"))));
}

#[test]
fn usable_neighbours_are_kept() {
    use NeighbourState as S;
    let standing = |state, mac: &[u8]| {
        let mut m = NeighbourMessage::default();
        (m.header.ifindex, m.header.state) = (7, state);
        m.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 2].into()))];
        m.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        match neighbour(m) {
            Some(TableUpdate::Neighbour { standing, .. }) => standing,
            _ => unreachable!(),
        }
    };
    let mac = [2, 0, 0, 0, 0, 9];
    for state in [S::Reachable, S::Stale, S::Delay, S::Probe] {
        assert_eq!(standing(state, &mac), Standing::Usable(MacAddr(mac)), "{state:?}");
        assert_eq!(standing(state, &[0; 6]), Standing::Unknown, "{state:?}: no address");
        assert_eq!(standing(state, &[1; 20]), Standing::Unknown, "{state:?}: InfiniBand's");
    }
    for state in [S::Permanent, S::Noarp] {
        assert_eq!(standing(state, &mac), Standing::Fixed(MacAddr(mac)), "{state:?}");
    }
    for state in [S::None, S::Incomplete, S::Other(0x300)] {
        assert_eq!(standing(state, &mac), Standing::Unknown, "{state:?}");
    }
    assert_eq!(standing(S::Failed, &mac), Standing::Failed);
}

#[test]
fn unusable_neighbours_are_ignored() {
    let message = |address: IpAddr, flags| {
        let mut m = NeighbourMessage::default();
        m.header.flags = flags;
        m.attributes = vec![NeighbourAttribute::Destination(address.into())];
        m
    };
    assert!(neighbour_key(&message(ip("10.0.0.2"), NeighbourFlags::empty())).is_some());
    assert_eq!(neighbour_key(&message(ip("10.0.0.2"), NeighbourFlags::Proxy)), None, "what we answer for");
    assert_eq!(neighbour_key(&message(ip("ff02::16"), NeighbourFlags::empty())), None, "a group");
    assert_eq!(neighbour_key(&NeighbourMessage::default()), None, "a bridge's table");
}
