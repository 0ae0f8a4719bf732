//! Tests links, addresses, routes and neighbours from the kernel's netlink, in network namespaces (root).
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/netns.rs"]
mod netns;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netns::{Far, Lab, in_namespace, skip_unless_root};
use oxide::net::{BusyPollSettings, NetEvent, NetOptions, NetService, Resolution, SettingsError, Tables};
use oxide::packet::MacAddr;

/// Holds the service and the newest tables that it sent.
struct Watch {
    service: NetService,
    tables: Tables,
    resyncs: Vec<String>,
}

impl Watch {
    fn start(options: NetOptions) -> Self {
        let mut watch =
            Self { service: NetService::start(options).unwrap(), tables: Tables::default(), resyncs: Vec::new() };
        watch.until("the first tables", |t| t.generation == 1);
        watch
    }

    /// Waits for the wanted tables; `between` gets all tables before them.
    fn until_with(&mut self, what: &str, wanted: impl Fn(&Tables) -> bool, mut between: impl FnMut(&Tables)) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !wanted(&self.tables) {
            match self.service.events.recv_deadline(deadline) {
                Ok(NetEvent::Tables(tables)) => {
                    assert_eq!(tables.generation, self.tables.generation + 1);
                    between(&tables);
                    self.tables = tables;
                }
                Ok(NetEvent::Resynced { why }) => self.resyncs.push(why),
                Ok(_) => {}
                Err(error) => panic!("{what}: {error}; {:#?}", self.tables),
            }
        }
    }

    fn until(&mut self, what: &str, wanted: impl Fn(&Tables) -> bool) {
        self.until_with(what, wanted, |_| {});
    }

    /// Requests `address` repeatedly, as the relay does, until it has a next hop.
    fn resolve(&mut self, address: &str) -> MacAddr {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.tables.resolve(ip(address)) {
                Resolution::Hop(hop) => return hop.destination,
                Resolution::Unresolved { interface, next_hop } => self.service.resolve(interface, next_hop).unwrap(),
                Resolution::NoRoute => panic!("no route to {address}: {:#?}", self.tables),
            }
            assert!(Instant::now() < deadline, "{address} was not resolved: {:#?}", self.tables);
            match self.service.events.recv_timeout(Duration::from_millis(100)) {
                Ok(NetEvent::Tables(tables)) => self.tables = tables,
                Ok(NetEvent::Resynced { why }) => self.resyncs.push(why),
                _ => {}
            }
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn routes_v4(tables: &Tables) -> usize {
    tables.routes.iter().filter(|r| r.destination.is_ipv4()).count()
}

const MAC_A: &str = "02:00:00:00:00:0a";
const MAC_B: &str = "02:00:00:00:00:0b";
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0b]);

/// Creates `va` with 10.0.0.1 and fd00::1 here, `vb` with 10.0.0.2 and fd00::2 at the far side.
fn two_sides(lab: &Lab) -> Far {
    lab.link_local();
    lab.veth("va", "vb", 1, MAC_A, MAC_B);
    lab.address("va", "10.0.0.1/24");
    lab.address("va", "fd00::1/64");
    let far = lab.second_namespace();
    lab.give("vb", &far);
    far.run(|lab| {
        lab.address("vb", "10.0.0.2/24");
        lab.address("vb", "fd00::2/64");
    });
    lab.running("va");
    far
}

#[test]
fn testbed_is_isolated() {
    if skip_unless_root("testbed_is_isolated") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 2, "02:00:00:00:00:0a", "02:00:00:00:00:0b");
        lab.address("va", "10.0.0.1/24");
        lab.address("va", "fd00::1/64");
        let names: Vec<_> = std::fs::read_dir("/sys/class/net").unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(names.iter().any(|n| n == "va") && !names.iter().any(|n| n == "eth0"), "{names:?}");
        let far = lab.second_namespace();
        lab.give("vb", &far);
        far.run(|lab| {
            lab.address("vb", "10.0.0.2/24");
            lab.address("vb", "fd00::2/64");
        });
        // The kernel routes between the two: a datagram arrives over the wire, with both IP versions.
        for (near, there) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let address: std::net::IpAddr = there.parse().unwrap();
            let receiver = far.run(move |_| std::net::UdpSocket::bind((address, 7)).unwrap());
            receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            let sender = std::net::UdpSocket::bind((near.parse::<std::net::IpAddr>().unwrap(), 0)).unwrap();
            sender.send_to(b"hello", (address, 7)).unwrap();
            let mut bytes = [0; 16];
            let (length, from) = receiver.recv_from(&mut bytes).unwrap();
            assert_eq!((&bytes[..length], from), (&b"hello"[..], sender.local_addr().unwrap()));
        }
        assert!(lab.ip("-6 address show dev va").contains("fd00::1"));
        assert!(!lab.ip("-6 address show dev va").contains("fe80"), "no link-local address");
    });
}

#[test]
fn tables_are_read_and_followed() {
    if skip_unless_root("tables_are_read_and_followed") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 1, MAC_A, MAC_B);
        lab.address("va", "10.0.0.1/24");
        lab.address("va", "fd00::1/64");
        lab.ip("route add default via 10.0.0.254 metric 50");
        lab.neighbour("va", "10.0.0.254", MAC_B);
        let va = lab.index("va");

        // Check the initial state.
        let mut watch = Watch::start(NetOptions::default());
        assert_eq!(watch.tables.links.len(), 3, "the caller's namespace, no other: {:#?}", watch.tables.links);
        let link = watch.tables.link(va).unwrap();
        assert_eq!((link.name.as_str(), link.mtu, link.up, link.mac.to_string().as_str()), ("va", 1500, true, MAC_A));
        assert_eq!(link.addresses, [(ip("10.0.0.1"), 24), (ip("fd00::1"), 64)]);
        assert!(watch.tables.local(ip("10.0.0.1")) && watch.tables.local(ip("fd00::1")));
        assert_eq!(watch.resolve("192.0.2.1"), B);
        assert_eq!(watch.tables.source_for(ip("192.0.2.1")), Some(ip("10.0.0.1")));

        // Add and remove entries.
        lab.address("va", "10.9.0.1/16");
        lab.ip("route add 198.51.100.0/24 via 10.0.0.253 src 10.9.0.1");
        lab.ip("route add blackhole 203.0.113.0/24");
        lab.ip("route add 2001:db8::/32 via fd00::99");
        lab.neighbour("va", "10.0.0.253", "02:00:00:00:00:fd");
        lab.ip("link set va mtu 1400");
        watch.until("all of the changes", |t| {
            t.source_for(ip("198.51.100.1")) == Some(ip("10.9.0.1"))
                && matches!(t.resolve(ip("198.51.100.1")), Resolution::Hop(hop) if hop.mtu == 1400)
                && t.resolve(ip("203.0.113.1")) == Resolution::NoRoute
                && t.resolve(ip("2001:db8::1")) == Resolution::Unresolved { interface: va, next_hop: ip("fd00::99") }
                && t.local(ip("10.9.0.1"))
        });
        lab.ip("route replace 198.51.100.0/24 via 10.0.0.254");
        lab.ip("route del blackhole 203.0.113.0/24");
        lab.ip("route del 2001:db8::/32");
        lab.ip("neighbour del 10.0.0.253 dev va");
        lab.ip("address del 10.9.0.1/16 dev va");
        watch.until("all of them undone", |t| {
            matches!(t.resolve(ip("198.51.100.1")), Resolution::Hop(hop) if hop.destination == B)
                && matches!(t.resolve(ip("203.0.113.1")), Resolution::Hop(_))
                && t.resolve(ip("2001:db8::1")) == Resolution::NoRoute
                && matches!(t.resolve(ip("10.0.0.253")), Resolution::Unresolved { .. })
                && !t.local(ip("10.9.0.1"))
        });
        assert!(watch.resyncs.is_empty(), "{:?}", watch.resyncs);
    });
}

#[test]
fn silently_removed_routes_are_noticed() {
    if skip_unless_root("silently_removed_routes_are_noticed") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 1, MAC_A, MAC_B);
        lab.address("va", "10.0.0.1/24");
        lab.address("va", "10.0.1.1/24");
        lab.ip("route add 192.0.2.0/24 via 10.0.0.254");
        lab.ip("route add 198.51.100.0/24 via 10.0.0.254 src 10.0.1.1");
        let has = |t: &Tables, to: &str| t.routes.iter().any(|r| r.destination == ip(to));
        let mut watch = Watch::start(NetOptions::default());
        assert!(has(&watch.tables, "192.0.2.0") && has(&watch.tables, "198.51.100.0"));
        lab.ip("address del 10.0.1.1/24 dev va");
        watch.until("the route that preferred it", |t| !has(t, "198.51.100.0"));
        lab.ip("link set va down");
        watch.until("the link", |t| t.resolve(ip("192.0.2.1")) == Resolution::NoRoute);
        lab.up("va");
        watch.until("the connected route again, the other not", |t| has(t, "10.0.0.0") && !has(t, "192.0.2.0"));
        assert!(watch.resyncs.is_empty(), "{:?}", watch.resyncs);
    });
}

#[test]
fn kernel_resolves_on_request() {
    if skip_unless_root("kernel_resolves_on_request") {
        return;
    }
    in_namespace(|lab| {
        let _far = two_sides(lab);
        let va = lab.index("va");
        let mut watch = Watch::start(NetOptions::default());
        for address in ["10.0.0.2", "fd00::2"] {
            let unresolved = Resolution::Unresolved { interface: va, next_hop: ip(address) };
            assert_eq!(watch.tables.resolve(ip(address)), unresolved, "the neighbour is not resolved yet");
            assert_eq!(watch.resolve(address), B);
        }
        // Unknown host, unknown link, link without neighbours: the requests have no effect.
        for (interface, address) in [(va, "10.0.0.77"), (u32::MAX, "10.0.0.3"), (0, "fd00::3"), (1, "127.0.0.1")] {
            watch.service.resolve(interface, ip(address)).unwrap();
        }
        lab.neighbour("va", "10.0.0.99", MAC_B);
        watch.until("the service still works", |t| matches!(t.resolve(ip("10.0.0.99")), Resolution::Hop(_)));
        assert!(matches!(watch.tables.resolve(ip("10.0.0.77")), Resolution::Unresolved { .. }));
    });
}

#[test]
fn static_neighbours_are_unchanged() {
    if skip_unless_root("static_neighbours_are_unchanged") {
        return;
    }
    in_namespace(|lab| {
        let _far = two_sides(lab);
        let va = lab.index("va");
        lab.neighbour("va", "10.0.0.2", "02:00:00:00:00:ee");
        let mut watch = Watch::start(NetOptions::default());
        watch.service.resolve(va, ip("10.0.0.2")).unwrap();
        // The service handles requests in order, so an answer to the second means that the first is finished.
        watch.service.resolve(va, ip("fd00::2")).unwrap();
        watch.until("the other one", |t| matches!(t.resolve(ip("fd00::2")), Resolution::Hop(_)));
        assert!(lab.ip("neighbour show 10.0.0.2 dev va").contains("02:00:00:00:00:ee PERMANENT"));
    });
}

#[test]
fn neighbour_in_use_outlives_kernel_entry() {
    if skip_unless_root("neighbour_in_use_outlives_kernel_entry") {
        return;
    }
    in_namespace(|lab| {
        let _far = two_sides(lab);
        let mut watch = Watch::start(NetOptions::default());
        assert_eq!((watch.resolve("10.0.0.2"), watch.resolve("fd00::2")), (B, B));
        lab.ip("neighbour replace 10.0.0.66 lladdr 02:00:00:00:00:66 nud stale dev va");
        watch.until("a neighbour without a request", |t| matches!(t.resolve(ip("10.0.0.66")), Resolution::Hop(_)));
        // With a new MAC address on this link the kernel forgets its neighbours, as its garbage collector does.
        lab.ip("link set va address 02:00:00:00:00:aa");
        let here = |t: &Tables| matches!(t.resolve(ip("10.0.0.2")), Resolution::Hop(hop) if hop.destination == B);
        watch.until_with(
            "the unused neighbour is removed",
            |t| matches!(t.resolve(ip("10.0.0.66")), Resolution::Unresolved { .. }),
            |t| assert!(here(t), "{t:#?}"),
        );
        // Without a request, the service made the kernel resolve the neighbours in use again.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !["10.0.0.2", "fd00::2"].iter().all(|a| lab.ip(&format!("neighbour show {a} dev va")).contains(MAC_B)) {
            assert!(Instant::now() < deadline, "{}", lab.ip("neighbour show"));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(here(&watch.tables));
    });
}

#[test]
fn changed_mac_of_neighbour_in_use_is_noticed() {
    if skip_unless_root("changed_mac_of_neighbour_in_use_is_noticed") {
        return;
    }
    in_namespace(|lab| {
        let far = two_sides(lab);
        // Shorten the kernel's timeouts for the test.
        for (name, value) in [
            ("base_reachable_time_ms", "100"),
            ("delay_first_probe_time", "0"),
            ("retrans_time_ms", "50"),
            ("ucast_solicit", "1"),
        ] {
            lab.sysctl(&format!("net/ipv4/neigh/va/{name}"), value);
        }
        let mut watch = Watch::start(NetOptions::default());
        let va = lab.index("va");
        assert_eq!(watch.resolve("10.0.0.2"), B);
        far.run(|lab| {
            // Change the MAC without an announcement or other packets.
            lab.sysctl("net/ipv4/conf/vb/arp_notify", "0");
            lab.ip("link set vb address 02:00:00:00:00:bb");
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while watch.resolve("10.0.0.2") != MacAddr([2, 0, 0, 0, 0, 0xbb]) {
            assert!(Instant::now() < deadline, "{:#?}", watch.tables);
            // Request it as the relay does for a next hop in use.
            watch.service.resolve(va, ip("10.0.0.2")).unwrap();
            if let Ok(NetEvent::Tables(tables)) = watch.service.events.recv_timeout(Duration::from_millis(100)) {
                watch.tables = tables;
            }
        }
    });
}

#[test]
fn interface_with_huge_index_is_recreated() {
    if skip_unless_root("interface_with_huge_index_is_recreated") {
        return;
    }
    in_namespace(|lab| {
        let make = |lab: &Lab, index: u32| {
            lab.ip(&format!("link add va index {index} address {MAC_A} type veth peer name vb address {MAC_B}"));
            lab.up("va");
            lab.up("vb");
            lab.address("va", "10.0.0.1/24");
            lab.neighbour("va", "10.0.0.2", MAC_B);
        };
        let mut watch = Watch::start(NetOptions::default());
        for index in [2_147_483_000, 2_147_483_646] {
            make(lab, index);
            let there =
                |t: &Tables| matches!(t.resolve(ip("10.0.0.2")), Resolution::Hop(hop) if hop.interface == index);
            watch.until("the link", there);
            lab.ip("link del va");
            watch.until("its entries are removed", |t| {
                t.link_named("va").is_none()
                    && t.link_named("vb").is_none()
                    && routes_v4(t) == 0
                    && t.neighbours.is_empty()
                    && !t.local(ip("10.0.0.1"))
            });
        }
    });
}

#[test]
fn lost_notices_are_recovered() {
    if skip_unless_root("lost_notices_are_recovered") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 1, MAC_A, MAC_B);
        lab.address("va", "10.0.0.1/24");
        let batch: String = (0..2000).map(|i| format!("route add 2001:db8:{i}::/48 dev va\n")).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        lab.ip(&format!("-batch {}", file.path().display()));
        // Use the smallest buffer that the kernel allows, and 2000 notices in one system call.
        let mut watch = Watch::start(NetOptions { receive_buffer: 1, audit: Duration::MAX, ..NetOptions::default() });
        let routes_v6 = |t: &Tables| t.routes.iter().filter(|r| r.prefix == 48).count();
        assert_eq!(routes_v6(&watch.tables), 2000);
        lab.ip("link set va down");
        lab.ip("link set va up");
        lab.address("va", "10.77.0.1/32");
        watch.until("final state", |t| routes_v6(t) == 0 && t.local(ip("10.77.0.1")));
        assert!(watch.resyncs.iter().any(|why| why.contains("ENOBUFS")), "{:?}", watch.resyncs);
    });
}

#[test]
fn audit_finds_unreported_changes() {
    if skip_unless_root("audit_finds_unreported_changes") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 1, MAC_A, MAC_B);
        lab.address("va", "10.0.0.1/24");
        lab.ip("nexthop add id 7 via 10.0.0.2 dev va");
        lab.ip("route add 192.0.2.0/24 nhid 7");
        let options = NetOptions { audit: Duration::from_millis(100), ..NetOptions::default() };
        let mut watch = Watch::start(options);
        let routed = |t: &Tables| t.resolve(ip("192.0.2.1")) != Resolution::NoRoute;
        assert!(routed(&watch.tables), "a route by a next-hop object is a route");
        lab.ip("nexthop del id 7");
        watch.until("the route is gone", |t| !routed(t));
        assert_eq!(watch.resyncs, ["routes had drifted from the kernel's"]);
    });
}

#[test]
fn slow_receiver_gets_newest_tables() {
    if skip_unless_root("slow_receiver_gets_newest_tables") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 1, MAC_A, MAC_B);
        let options = NetOptions { events: 2, ..NetOptions::default() };
        let mut watch = Watch::start(options);
        for i in 1..=50 {
            lab.address("va", &format!("10.0.{i}.1/24"));
        }
        watch.until("the last address", |t| t.local(ip("10.0.50.1")));
        assert!(watch.tables.generation < 51, "tables were made that no reader could see");
    });
}

#[test]
fn service_stops() {
    if skip_unless_root("service_stops") {
        return;
    }
    in_namespace(|_| {
        let sockets = || {
            let table = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
            table.lines().skip(1).filter(|line| line.split_whitespace().nth(1) == Some("0")).count()
        };
        let before = sockets();
        let service = NetService::start(NetOptions::default()).unwrap();
        assert_eq!(sockets(), before + 2);
        // A child process of another test shares the descriptors until its exec.
        let closed = || {
            let deadline = Instant::now() + Duration::from_secs(20);
            while sockets() != before {
                assert!(Instant::now() < deadline, "{} sockets, {before} before", sockets());
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let events = service.events.clone();
        service.stop(Duration::from_secs(10)).unwrap();
        while events.recv().is_ok() {}
        closed();
        drop(NetService::start(NetOptions::default()).unwrap());
        closed();
    });
}

#[test]
fn device_settings_are_set_and_restored() {
    if skip_unless_root("device_settings_are_set_and_restored") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 1, MAC_A, MAC_B);
        let read = |name: &str| std::fs::read_to_string(format!("/sys/class/net/va/{name}")).unwrap();
        let all = || (read("napi_defer_hard_irqs"), read("gro_flush_timeout"));
        let before = all();
        let guard = BusyPollSettings::default().apply("va", lab.index("va")).unwrap();
        assert!(guard.unsupported.is_empty());
        assert_eq!(all(), ("2\n".into(), "200000\n".into()));
        drop(guard);
        assert_eq!(all(), before);
        // The interface has this name but another index.
        let error = BusyPollSettings::default().apply("va", lab.index("vb")).unwrap_err();
        assert!(matches!(error, SettingsError::OtherNamespace { .. }), "{error}");
        // An interface is deleted while the guard is held.
        let guard = BusyPollSettings::default().apply("va", lab.index("va")).unwrap();
        lab.ip("link del va");
        drop(guard);
    });
}
