//! What the tables answer, without a kernel.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::hint::black_box;
use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// "10.0.0.1/24"
fn net(text: &str) -> (IpAddr, u8) {
    let (address, length) = text.split_once('/').unwrap();
    (ip(address), length.parse().unwrap())
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn link(index: u32, addresses: &[&str]) -> Link {
    Link {
        index,
        name: format!("v{index}"),
        mac: mac(0xf0),
        mtu: 1500,
        up: true,
        kind: LinkKind::Ethernet,
        addresses: addresses.iter().map(|a| net(a)).collect(),
    }
}

fn route(network: &str, interface: u32, gateway: Option<&str>, metric: u32) -> Route {
    let (destination, prefix) = net(network);
    let gateway = gateway.map(ip);
    Route { destination, prefix, kind: RouteKind::Unicast, gateway, interface, preferred_source: None, metric }
}

fn tables(links: Vec<Link>, routes: Vec<Route>, neighbours: &[(u32, &str, u8)]) -> Tables {
    Tables::new(1, links, routes, neighbours.iter().map(|&(i, a, m)| ((i, ip(a)), mac(m))).collect())
}

fn unresolved(interface: u32, next_hop: &str) -> Resolution {
    Resolution::Unresolved { interface, next_hop: ip(next_hop) }
}

const HUGE: u32 = 0x7fff_fff0;

fn two_links() -> Tables {
    tables(
        vec![link(HUGE, &["192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"]), link(2, &["10.0.0.1/24", "10.0.0.9/24"])],
        vec![
            route("0.0.0.0/0", HUGE, Some("192.0.2.254"), 100),
            route("192.0.2.0/24", HUGE, None, 0),
            route("10.0.0.0/24", 2, None, 0),
            route("10.0.0.0/8", 2, Some("10.0.0.254"), 0),
            route("::/0", HUGE, Some("fe80::ff"), 1024),
            route("2001:db8::/64", HUGE, None, 256),
        ],
        &[(HUGE, "192.0.2.254", 1), (2, "10.0.0.7", 2), (HUGE, "fe80::ff", 3)],
    )
}

#[test]
fn longest_prefix_on_link_and_by_gateway() {
    let t = two_links();
    let hop = |interface, last, next_hop| {
        let next_hop = ip(next_hop);
        Resolution::Hop(ResolvedHop { interface, mtu: 1500, source: mac(0xf0), destination: mac(last), next_hop })
    };
    assert_eq!(t.resolve(ip("10.0.0.7")), hop(2, 2, "10.0.0.7"), "on the link");
    assert_eq!(t.resolve(ip("::ffff:10.0.0.7")), hop(2, 2, "10.0.0.7"), "mapped is the same address");
    assert_eq!(t.resolve(ip("10.0.0.8")), unresolved(2, "10.0.0.8"));
    assert_eq!(t.resolve(ip("10.9.0.8")), unresolved(2, "10.0.0.254"), "the gateway is asked for, not the target");
    assert_eq!(t.resolve(ip("8.8.8.8")), hop(HUGE, 1, "192.0.2.254"), "default route, interface number near 2^31");
    assert_eq!(t.resolve(ip("2001:db8:1::1")), hop(HUGE, 3, "fe80::ff"), "IPv6 by a link-local gateway");
    assert_eq!(t.resolve(ip("2001:db8::2")), unresolved(HUGE, "2001:db8::2"));
}

#[test]
fn unroutable_destinations_have_no_route() {
    let t = two_links();
    for no in [
        "10.0.0.1",
        "192.0.2.1",
        "2001:db8::1",
        "::ffff:10.0.0.9", // our own
        "10.0.0.255",
        "192.0.2.255",
        "255.255.255.255", // broadcast
        "224.0.0.1",
        "ff02::1",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "0.0.0.0",
        "::",
        "fe80::2",
    ] {
        assert_eq!(t.resolve(ip(no)), Resolution::NoRoute, "{no}");
    }
    assert_eq!(Tables::default().resolve(ip("10.0.0.1")), Resolution::NoRoute);
    // A /31 has no broadcast address.
    let t = tables(vec![link(1, &["10.0.0.0/31"])], vec![route("10.0.0.0/31", 1, None, 0)], &[]);
    assert_eq!(t.resolve(ip("10.0.0.1")), unresolved(1, "10.0.0.1"));
}

#[test]
fn lowest_metric_then_the_next_link_that_is_up() {
    let links = |up1, up2| {
        let (mut a, mut b, c) = (link(1, &[]), link(2, &[]), link(3, &[]));
        (a.up, b.up) = (up1, up2);
        vec![a, b, c]
    };
    let routes = vec![
        route("10.0.0.0/8", 2, None, 200),
        route("10.0.0.0/8", 1, None, 100),
        route("10.0.0.0/8", 9, None, 1), // no such link
        route("0.0.0.0/0", 3, None, 0),
    ];
    for (up1, up2, wanted) in [(true, true, 1), (false, true, 2), (false, false, 3)] {
        let t = tables(links(up1, up2), routes.clone(), &[]);
        assert_eq!(t.resolve(ip("10.1.1.1")), unresolved(wanted, "10.1.1.1"));
    }
}

#[test]
fn rejecting_routes_stop_the_search() {
    let reject = Route { kind: RouteKind::Reject, interface: 0, ..route("10.1.0.0/16", 0, None, 0) };
    let routes = vec![route("0.0.0.0/0", 1, Some("10.0.0.254"), 0), reject, route("10.1.2.0/24", 1, None, 0)];
    let t = tables(vec![link(1, &["10.0.0.1/24"])], routes, &[]);
    assert_eq!(t.resolve(ip("10.1.9.9")), Resolution::NoRoute);
    assert_eq!(t.resolve(ip("10.1.2.9")), unresolved(1, "10.1.2.9"), "a more specific way out of it");
    assert_eq!(t.resolve(ip("10.2.0.1")), unresolved(1, "10.0.0.254"));
}

#[test]
fn links_without_ethernet_or_without_arp() {
    for kind in [LinkKind::Loopback, LinkKind::Other, LinkKind::NoArp] {
        let special = Link { kind, ..link(1, &["10.0.0.1/24"]) };
        let routes = vec![route("10.0.0.0/24", 1, None, 0), route("0.0.0.0/0", 2, None, 0)];
        let t = tables(vec![special, link(2, &[])], routes, &[(1, "10.0.0.2", 2)]);
        let known = matches!(t.resolve(ip("10.0.0.2")), Resolution::Hop(_));
        assert_eq!(known, kind == LinkKind::NoArp, "{kind:?}: only an entered neighbour on Ethernet");
        assert_eq!(t.resolve(ip("10.0.0.3")), Resolution::NoRoute, "{kind:?}: nor by the default route");
    }
}

#[test]
fn ipv4_by_an_ipv6_gateway_and_a_jumbo_link() {
    let jumbo = Link { mtu: 100_000, ..link(1, &["10.0.0.1/24"]) };
    let t = tables(vec![jumbo], vec![route("0.0.0.0/0", 1, Some("fe80::5"), 0)], &[(1, "fe80::5", 5)]);
    let Resolution::Hop(hop) = t.resolve(ip("8.8.8.8")) else { panic!("no hop") };
    assert_eq!((hop.destination, hop.mtu), (mac(5), u16::MAX));
}

#[test]
fn source_addresses() {
    let mut preferred = route("172.16.0.0/12", 2, Some("10.0.0.254"), 0);
    preferred.preferred_source = Some(ip("10.0.0.9"));
    let mut bare = link(3, &["fe80::3/64"]);
    bare.name = "bare".into();
    let t = tables(
        vec![link(2, &["192.0.2.1/24", "10.0.0.1/24", "10.0.0.9/24", "2001:db8::1/64", "2001:db8:7::1/64"]), bare],
        vec![
            preferred,
            route("0.0.0.0/0", 2, Some("10.0.0.254"), 0),
            route("192.0.2.0/24", 2, None, 0),
            route("198.51.100.0/24", 2, None, 0),
            route("2001:db8:7::/64", 2, None, 0),
            route("2001:db8:8::/64", 3, None, 0),
        ],
        &[],
    );
    for (destination, source) in [
        ("172.16.0.1", Some("10.0.0.9")),         // the route's own wish
        ("8.8.8.8", Some("10.0.0.1")),            // shares the gateway's network
        ("192.0.2.7", Some("192.0.2.1")),         // on the link
        ("198.51.100.1", Some("192.0.2.1")),      // no common network: the first
        ("2001:db8:7::9", Some("2001:db8:7::1")), // same, IPv6
        ("2001:db8:8::9", Some("2001:db8::1")),   // the link has only link-local: another link's
        ("10.0.0.9", Some("10.0.0.9")),           // ourselves
        ("2001:db9::1", None),                    // no route
    ] {
        assert_eq!(t.source_for(ip(destination)), source.map(ip), "{destination}");
    }
}

#[test]
fn own_addresses_and_links_by_name() {
    let t = two_links();
    assert!(t.local(ip("10.0.0.9")) && t.local(ip("::ffff:10.0.0.9")) && t.local(ip("fe80::1")));
    assert!(t.local(ip("127.3.2.1")) && t.local(ip("::1")) && !t.local(ip("10.0.0.2")));
    assert_eq!(t.link_named("v2"), t.link(2));
    assert!(t.link(HUGE).is_some() && t.link(3).is_none() && t.link_named("v3").is_none());
}

#[test]
fn oversized_prefix_is_ignored() {
    let t = tables(vec![link(1, &[])], vec![route("10.0.0.0/33", 1, None, 0), route("10.9.9.9/8", 1, None, 0)], &[]);
    assert_eq!(t.routes.len(), 1);
    assert_eq!(t.resolve(ip("10.1.1.1")), unresolved(1, "10.1.1.1"), "host bits of a destination do not matter");
}

/// The definition, in one line of sight: every route is looked at.
fn slow(t: &Tables, destination: IpAddr) -> Option<&Route> {
    let fits = |r: &&Route| prefix::contains(r.destination, r.prefix, destination);
    let up = |r: &&Route| r.kind == RouteKind::Reject || t.link(r.interface).is_some_and(|l| l.up);
    t.routes.iter().filter(fits).filter(up).min_by_key(|r| (Reverse(r.prefix), r.metric, order(r)))
}

fn any_route() -> impl Strategy<Value = Route> {
    // Few bits in use, so that prefixes nest and collide.
    (any::<bool>(), 0..=34u8, any::<[u8; 2]>(), 1..5u32, 0..3u32, 0..8u8).prop_map(
        |(v6, prefix, [a, b], interface, metric, reject)| {
            let destination = if v6 { ip(&format!("20{a:02x}:{b:02x}00::")) } else { IpAddr::from([10, a & 3, b, 0]) };
            let kind = if reject == 0 { RouteKind::Reject } else { RouteKind::Unicast };
            Route { destination, prefix, kind, gateway: None, interface, preferred_source: None, metric }
        },
    )
}

proptest! {
    #[test]
    fn lookup_equals_linear_search(
        routes in proptest::collection::vec(any_route(), 0..60),
        down in 0..5u32,
        [a, b] in any::<[u8; 2]>(),
    ) {
        let links = (1..5).map(|i| Link { up: i != down, ..link(i, &[]) }).collect();
        let t = Tables::new(0, links, routes, HashMap::new());
        for destination in [IpAddr::from([10, a & 3, b, 1]), ip(&format!("20{a:02x}:{b:02x}00::1"))] {
            let wanted = match slow(&t, destination) {
                Some(r) if r.kind == RouteKind::Unicast => {
                    Resolution::Unresolved { interface: r.interface, next_hop: destination }
                }
                _ => Resolution::NoRoute,
            };
            prop_assert_eq!(t.resolve(destination), wanted);
        }
    }
}

/// `cargo test --release --lib net::tables -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, not a check"]
fn cost_with_50_000_routes() {
    let routes: Vec<Route> = (0..50_000u32)
        .map(|i| {
            let destination = IpAddr::from((0x0b00_0000 + i * 256).to_be_bytes());
            Route { destination, ..route(&format!("0.0.0.0/{}", 16 + i % 17), 1, Some("10.0.0.254"), 0) }
        })
        .collect();
    let start = Instant::now();
    let t = tables(vec![link(1, &["10.0.0.1/24"])], routes, &[(1, "10.0.0.254", 1)]);
    let built = start.elapsed();
    let start = Instant::now();
    black_box(t.clone());
    let cloned = start.elapsed();
    let start = Instant::now();
    for i in 0..100_000u32 {
        black_box(t.resolve(IpAddr::from((0x0b00_0000 + i * 128 + 1).to_be_bytes())));
    }
    let each = start.elapsed() / 100_000;
    eprintln!(
        "{} routes, {} lengths: built {built:?}, copied {cloned:?}, resolve {each:?}",
        t.routes.len(),
        t.sections.len()
    );
}
