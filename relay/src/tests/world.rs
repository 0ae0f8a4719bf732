#![allow(clippy::unwrap_used)]
//! Holds the networks and the configuration of the relay's tests. `tests/relay_reference.rs` uses them too.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use oxide::net::{Link, LinkKind, Route, RouteKind, Tables};
use oxide::packet::{self, MacAddr};

pub(crate) const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 7, 1]);
pub(crate) const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 7, 2]);

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Describes the networks: clients on interface 1, servers on 2, a third network on interface 9, which is not served.
/// All neighbours ending in .2 to .9 are known.
pub(crate) struct World {
    pub(crate) client_side: Vec<&'static str>,
    pub(crate) server_side: Vec<&'static str>,
    pub(crate) known: bool,
    pub(crate) mtu: u32,
    pub(crate) routes: bool,
}

impl Default for World {
    fn default() -> Self {
        Self {
            client_side: vec!["192.0.2.1", "2001:db8:1::1"],
            server_side: vec!["198.51.100.1", "2001:db8:2::1"],
            known: true,
            mtu: 1500,
            routes: true,
        }
    }
}

impl World {
    pub(crate) fn tables(&self, generation: u64) -> Tables {
        let lengths = |addresses: &[&str]| {
            addresses.iter().map(|a| ip(a)).map(|a| (a, if a.is_ipv4() { 24 } else { 64 })).collect::<Vec<_>>()
        };
        let link = |index: u32, addresses: &[&str]| Link {
            index,
            name: format!("sim{}", index - 1),
            mac: MacAddr([2, 0, 0, 0, 1, (index - 1) as u8]),
            mtu: self.mtu,
            up: true,
            kind: LinkKind::Ethernet,
            addresses: lengths(addresses),
        };
        let route = |destination: &str, prefix, interface| Route {
            destination: ip(destination),
            prefix,
            kind: RouteKind::Unicast,
            gateway: None,
            interface,
            preferred_source: None,
            metric: 0,
        };
        let mut routes = vec![route("192.0.2.0", 24, 1), route("2001:db8:1::", 64, 1)];
        if self.routes {
            routes.extend([route("198.51.100.0", 24, 2), route("2001:db8:2::", 64, 2), route("203.0.113.0", 24, 9)]);
        }
        let mut neighbours = HashMap::new();
        for n in 2..10 {
            for (interface, net, mac) in [(1, "192.0.2.", CLIENT_MAC), (1, "2001:db8:1::", CLIENT_MAC)] {
                neighbours.insert((interface, ip(&format!("{net}{n}"))), mac);
            }
            for (interface, net, mac) in [(2, "198.51.100.", SERVER_MAC), (2, "2001:db8:2::", SERVER_MAC)] {
                if self.known {
                    neighbours.insert((interface, ip(&format!("{net}{n}"))), mac);
                }
            }
        }
        let mut unserved = link(9, &["203.0.113.1"]);
        unserved.name = "other".into();
        Tables::new(
            generation,
            vec![link(1, &self.client_side), link(2, &self.server_side), unserved],
            routes,
            neighbours,
        )
    }
}

/// Has entries `a` (192.0.2.1:53) and `b` (192.0.2.1:54) to one upstream, `six` (IPv6), `far`, whose route uses an
/// unserved interface, `up` from IPv4 to IPv6, and `down` from IPv6 to IPv4.
pub(crate) fn config_text(sessions: &str) -> String {
    let entry = |name: &str, listen: &str, upstream: &str| {
        format!(
            "[[relay]]\nname = \"{name}\"\nlisten = \"{listen}\"\nupstreams = [{upstream}]\ndown_after_sessions = 0\n"
        )
    };
    let entries = [
        entry("a", "192.0.2.1:53", "\"198.51.100.2:53\""),
        entry("b", "192.0.2.1:54", "\"198.51.100.2:54\""),
        entry("six", "[2001:db8:1::1]:53", "\"[2001:db8:2::2]:53\", \"[2001:db8:2::3]:53\""),
        entry("far", "192.0.2.1:55", "\"203.0.113.2:53\""),
        entry("up", "192.0.2.1:56", "\"[2001:db8:2::4]:53\""),
        entry("down", "[2001:db8:1::1]:54", "\"198.51.100.4:53\""),
    ];
    format!("engine.interfaces = [\"sim0\", \"sim1\"]\n[sessions]\n{sessions}\n{}", entries.concat())
}

pub(crate) fn parsed(frame: &[u8]) -> packet::Parsed {
    let mut head = [0; 64];
    let n = frame.len().min(64);
    head[..n].copy_from_slice(&frame[..n]);
    packet::parse(&head, frame.len() as u16).unwrap()
}

pub(crate) fn ends_unchecked(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let flow = parsed(frame).flow;
    (flow.source.into(), flow.destination.into())
}
