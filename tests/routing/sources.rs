//! Tests the source address of sessions: new ones use the kernel's choice, existing ones keep theirs.

use crate::netns::{Far, Lab, in_namespace, skip_unless_root};
use crate::rig::{Relay, addresses, ask, at, client, echo, entry, link, until};

/// Sets up clients at `r0` and servers at `r1`, with both IP versions.
fn net(lab: &Lab) -> (Far, Far) {
    let (clients, servers) = (lab.second_namespace(), lab.second_namespace());
    link(lab, "r0", &clients, "c0");
    link(lab, "r1", &servers, "s0");
    // The kernel solicits neighbours from a link-local address.
    for (dev, list) in
        [("r0", ["10.1.0.1/24", "fd01::1/64", "fe80::1/64"]), ("r1", ["10.2.0.1/24", "fd02::1/64", "fe80::1/64"])]
    {
        list.iter().for_each(|address| lab.address(dev, address));
    }
    addresses(&clients, "c0", &["10.1.0.2/24", "fd01::2/64"]);
    addresses(&servers, "s0", &["10.2.0.2/24", "fd02::2/64"]);
    echo(&servers, "10.2.0.2:7000");
    echo(&servers, "[fd02::2]:7000");
    (clients, servers)
}

#[test]
fn session_keeps_a_deprecated_address_and_new_ones_take_another() {
    if skip_unless_root("session_keeps_a_deprecated_address_and_new_ones_take_another") {
        return;
    }
    in_namespace(|lab| {
        let (clients, _servers) = net(lab);
        lab.address("r1", "fd02::b/64");
        let listen = "[fd01::1]:5000";
        let _relay = Relay::start(&["r0", "r1"], &entry("six", listen, "[fd02::2]:7000"));
        let old = client(&clients, "[fd01::2]:4000");
        let first = ask(&old, listen);
        lab.ip(&format!("-6 address change {}/64 dev r1 preferred_lft 0", first.ip()));
        // New sessions use the other address; the existing session keeps its own.
        let mut port = 4001;
        until("another source address", || {
            let fresh = client(&clients, &format!("[fd01::2]:{port}"));
            port += 1;
            let source = ask(&fresh, listen);
            assert_eq!(ask(&old, listen), first);
            (source.ip() != first.ip()).then_some(())
        });
        // The address is removed, so the session has to move.
        lab.ip(&format!("-6 address del {}/64 dev r1", first.ip()));
        until("a session from an address that is there", || (ask(&old, listen).ip() != first.ip()).then_some(()));
    });
}

#[test]
fn session_keeps_its_address_when_a_route_prefers_another() {
    if skip_unless_root("session_keeps_its_address_when_a_route_prefers_another") {
        return;
    }
    in_namespace(|lab| {
        let (clients, _servers) = net(lab);
        lab.address("r1", "10.2.0.77/24");
        let listen = "10.1.0.1:5000";
        let _relay = Relay::start(&["r0", "r1"], &entry("four", listen, "10.2.0.2:7000"));
        let old = client(&clients, "10.1.0.2:4000");
        let first = ask(&old, listen);
        assert_eq!(first.ip(), at("10.2.0.1"));
        lab.ip("route replace 10.2.0.0/24 dev r1 src 10.2.0.77");
        let mut port = 4001;
        until("the route's preferred source", || {
            let fresh = client(&clients, &format!("10.1.0.2:{port}"));
            port += 1;
            let source = ask(&fresh, listen);
            assert_eq!(ask(&old, listen), first);
            (source.ip() == at("10.2.0.77")).then_some(())
        });
    });
}
