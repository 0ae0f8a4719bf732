//! Facts in, tables out, without a kernel.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::net::{Resolution, RouteKind};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(index: u32, up: bool) -> TableUpdate {
    let name = Some(format!("v{index}"));
    TableUpdate::Link { index, up, kind: LinkKind::Ethernet, name, mac: Some(MAC), mtu: Some(1500) }
}

fn route(to: &str, prefix: u8, gateway: Option<&str>, metric: u32) -> Route {
    let gateway = gateway.map(ip);
    let (destination, kind) = (ip(to), RouteKind::Unicast);
    Route { destination, prefix, kind, gateway, interface: 7, preferred_source: None, metric }
}

fn routes<const N: usize>(routes: [Route; N], replace: bool) -> TableUpdate {
    TableUpdate::Routes { routes: routes.to_vec(), replace }
}

fn neighbour(address: &str, standing: Standing) -> TableUpdate {
    TableUpdate::Neighbour { key: (7, ip(address)), standing }
}

fn state(updates: Vec<TableUpdate>) -> TableBuilder {
    let mut state = TableBuilder::default();
    for update in updates {
        state.apply(update);
    }
    state
}

fn mac_of(state: &TableBuilder, address: &str) -> Option<MacAddr> {
    state.tables(1).neighbours.get(&(7, ip(address))).copied()
}

const CHANGED: UpdateEffect = UpdateEffect { changed: true, reread_routes: false, lost: None };
const SAME: UpdateEffect = UpdateEffect { changed: false, reread_routes: false, lost: None };

#[test]
fn repeated_update_changes_nothing() {
    let address = Address { address: ip("10.0.0.1"), prefix: 24, rank: 0, assigned: true };
    let mut state = TableBuilder::default();
    for update in [
        link(7, true),
        TableUpdate::Address { index: 7, address },
        routes([route("0.0.0.0", 0, Some("10.0.0.2"), 0)], false),
        neighbour("10.0.0.2", Standing::Usable(MAC)),
    ] {
        assert_eq!(state.apply(update.clone()), CHANGED, "{update:?}");
        assert_eq!(state.apply(update.clone()), SAME, "{update:?}");
    }
    // A notice that leaves things out keeps them.
    let partial = TableUpdate::Link { index: 7, up: true, kind: LinkKind::Ethernet, name: None, mac: None, mtu: None };
    assert_eq!(state.apply(partial), SAME);
}

#[test]
fn neighbours_by_state() {
    let mut s = state(vec![link(7, true)]);
    s.apply(neighbour("10.0.0.2", Standing::Unknown));
    assert_eq!(mac_of(&s, "10.0.0.2"), None);
    s.apply(neighbour("10.0.0.2", Standing::Usable(MAC)));
    assert_eq!(mac_of(&s, "10.0.0.2"), Some(MAC));
    assert_eq!(s.apply(neighbour("10.0.0.2", Standing::Usable(OTHER))), CHANGED);
    assert_eq!(mac_of(&s, "10.0.0.2"), Some(OTHER));
    // Being asked for anew: the last MAC holds until the answer.
    assert_eq!(s.apply(neighbour("10.0.0.2", Standing::Unknown)), SAME);
    assert_eq!(mac_of(&s, "10.0.0.2"), Some(OTHER));
    assert_eq!(s.apply(neighbour("10.0.0.2", Standing::Failed)), CHANGED);
    assert_eq!(mac_of(&s, "10.0.0.2"), None);
}

#[test]
fn forgotten_neighbour_stays_while_in_use() {
    let key = (7, ip("10.0.0.2"));
    let mut s = state(vec![link(7, true), neighbour("10.0.0.2", Standing::Usable(MAC))]);
    assert_eq!(s.apply(TableUpdate::NeighbourGone { key }), UpdateEffect { lost: Some(key), ..SAME });
    assert!(!s.forget(|_| true) && mac_of(&s, "10.0.0.2") == Some(MAC));
    // Through a new dump that does not have it, too; but not if its link is gone.
    let mut fresh = state(vec![link(7, true)]);
    assert_eq!(fresh.succeed(&s, |_| true), [key]);
    assert_eq!(mac_of(&fresh, "10.0.0.2"), Some(MAC));
    assert!(TableBuilder::default().succeed(&s, |_| true).is_empty());
    assert!(fresh.forget(|_| false) && mac_of(&fresh, "10.0.0.2").is_none());
    // One that answers is no longer a ghost.
    s.apply(neighbour("10.0.0.2", Standing::Usable(MAC)));
    assert!(!s.forget(|_| false));
}

#[test]
fn permanent_neighbours_are_not_requested() {
    let mut s = state(vec![link(7, true), link(8, false), neighbour("10.0.0.3", Standing::Fixed(MAC))]);
    s.apply(TableUpdate::Link { index: 9, up: true, kind: LinkKind::NoArp, name: None, mac: None, mtu: None });
    let askable = |s: &TableBuilder, index, address| s.askable((index, ip(address)));
    assert!(askable(&s, 7, "10.0.0.2") && !askable(&s, 7, "10.0.0.3"));
    assert!(!askable(&s, 8, "10.0.0.2") && !askable(&s, 9, "10.0.0.2") && !askable(&s, u32::MAX, "10.0.0.2"));
    let address = Address { address: ip("fe80::1"), prefix: 64, rank: 3, assigned: true };
    assert!(!s.can_solicit((7, ip("fd00::1"))) && s.can_solicit((7, ip("10.0.0.2"))));
    s.apply(TableUpdate::Address { index: 7, address });
    assert!(s.can_solicit((7, ip("fd00::1"))));
}

#[test]
fn replaced_and_deleted_routes() {
    let (a, b) = (route("10.0.0.0", 8, Some("10.0.0.1"), 5), route("10.0.0.0", 8, Some("10.0.0.2"), 5));
    let other = route("10.0.0.0", 8, Some("10.0.0.1"), 6);
    let mut s = state(vec![link(7, true), routes([a.clone()], false), routes([other.clone()], false)]);
    assert_eq!(s.apply(routes([b.clone()], true)), CHANGED);
    assert_eq!(s.tables(1).routes, [b.clone(), other.clone()], "the other metric is another route");
    // Two next hops, one of them replaced: which, the kernel does not say.
    s.apply(routes([a.clone()], false));
    assert!(s.apply(routes([b.clone()], true)).reread_routes);
    assert_eq!(s.apply(TableUpdate::RoutesGone { routes: vec![other] }), CHANGED);
    // Deleting what is not known means that something was missed.
    assert_eq!(
        s.apply(TableUpdate::RoutesGone { routes: vec![a.clone()] }),
        UpdateEffect { reread_routes: true, ..SAME }
    );
    assert!(s.set_routes([a.clone()]) && !s.set_routes([a]));
}

#[test]
fn deleted_link_removes_its_entries() {
    let address = Address { address: ip("10.0.0.1"), prefix: 24, rank: 0, assigned: true };
    let mut s = state(vec![
        link(7, true),
        TableUpdate::Address { index: 7, address },
        routes([route("0.0.0.0", 0, Some("10.0.0.2"), 0)], false),
        neighbour("10.0.0.2", Standing::Usable(MAC)),
    ]);
    assert!(s.apply(link(7, false)).reread_routes);
    assert_eq!(s.tables(1).resolve(ip("8.8.8.8")), Resolution::NoRoute);
    s.apply(link(7, true));
    assert!(matches!(s.tables(1).resolve(ip("8.8.8.8")), Resolution::Hop(_)));
    assert!(s.apply(TableUpdate::LinkGone { index: 7 }).changed);
    let t = s.tables(1);
    assert!(t.links.is_empty() && t.routes.is_empty() && t.neighbours.is_empty() && !t.local(ip("10.0.0.1")));
    assert_eq!(s.apply(TableUpdate::LinkGone { index: 7 }), SAME);
}

#[test]
fn own_addresses_keep_kernel_order() {
    let address = |text: &str, rank, assigned| {
        let address = Address { address: ip(text), prefix: 64, rank, assigned };
        TableUpdate::Address { index: 7, address }
    };
    let mut s = state(vec![
        link(7, true),
        address("fe80::1", 3, true),
        address("fd00::9", 2, true),
        address("fd00::2", 0, true),
        address("fd00::1", 0, true),
        address("fd00::5", 0, false),
    ]);
    let order = |s: &TableBuilder| s.tables(1).link(7).unwrap().addresses.iter().map(|a| a.0).collect::<Vec<_>>();
    assert_eq!(order(&s), ["fd00::2", "fd00::1", "fd00::9", "fe80::1"].map(ip), "best source first, else the kernel's");
    // Duplicate address detection has let it through.
    assert!(s.apply(address("fd00::5", 0, true)).changed);
    assert!(s.tables(1).local(ip("fd00::5")));
    s.apply(TableUpdate::AddressGone { index: 7, address: ip("fd00::5"), prefix: 64 });
    assert!(!s.tables(1).local(ip("fd00::5")));
}

#[test]
fn audit_reports_visible_differences() {
    let make = || state(vec![link(7, true), neighbour("10.0.0.2", Standing::Usable(MAC))]);
    let (mut a, b) = (make(), make());
    assert_eq!(a.difference(&b), None);
    a.apply(TableUpdate::NeighbourGone { key: (7, ip("10.0.0.2")) });
    assert_eq!(a.difference(&b), Some("neighbours"));
    a.apply(routes([route("10.0.0.0", 8, None, 0)], false));
    assert_eq!(a.difference(&b), Some("routes"));
    a.apply(link(8, true));
    assert_eq!(a.difference(&b), Some("links"));
}
