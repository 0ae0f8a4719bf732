//! Tests the program on a live interface: attachment, refusal, detachment, and real packets.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oxide::xdp::steering::{
    AttachMode, Fallback, MAX_ADDRESSES, PassAll, Steering, SteeringError, SteeringOptions, Verdict,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::lab::{has_xdp, in_namespace, ip, veth};
use crate::packets::{PORT, V4, V6};

fn options(attach: AttachMode) -> SteeringOptions {
    SteeringOptions { attach, ..Default::default() }
}

#[test]
fn drop_detaches_program() {
    in_namespace("drop_detaches_program", || {
        veth();
        for (wanted, got) in [
            (AttachMode::Auto, AttachMode::Native),
            (AttachMode::Native, AttachMode::Native),
            (AttachMode::Generic, AttachMode::Generic),
        ] {
            let steering = Steering::attach("vb", &options(wanted)).unwrap();
            assert_eq!((steering.mode(), steering.why()), (got, None));
            assert!(steering.is_attached().unwrap());
            assert!(has_xdp("vb"));
            drop(steering);
            assert!(!has_xdp("vb"));
        }
        let peer = PassAll::attach("va").unwrap();
        assert_eq!(peer.mode(), AttachMode::Native);
        assert!(has_xdp("va"));
        drop(peer);
        assert!(!has_xdp("va"));
    });
}

#[test]
fn foreign_program_is_named_and_stays() {
    in_namespace("foreign_program_is_named_and_stays", || {
        veth();
        let first = Steering::attach("vb", &options(AttachMode::Native)).unwrap();
        for wanted in [AttachMode::Auto, AttachMode::Native, AttachMode::Generic] {
            let error = Steering::attach("vb", &options(wanted)).unwrap_err();
            assert!(matches!(error, SteeringError::Busy { linked: true, .. }), "{error:?}");
            let text = error.to_string();
            for part in ["vb: ", "native XDP program, id ", "(oxide_steer), by link ", "stop its owner"] {
                assert!(text.contains(part), "{part:?} in {text}");
            }
        }
        assert!(matches!(PassAll::attach("vb").unwrap_err(), SteeringError::Busy { .. }));
        assert!(first.is_attached().unwrap());
    });
}

#[test]
fn replacement_is_done_on_request_and_noticed() {
    in_namespace("replacement_is_done_on_request_and_noticed", || {
        veth();
        let first = Steering::attach("vb", &options(AttachMode::Generic)).unwrap();
        let replace = SteeringOptions { replace: true, ..options(AttachMode::Auto) };
        let second = Steering::attach("vb", &replace).unwrap();
        assert!(!first.is_attached().unwrap());
        assert_eq!(second.mode(), AttachMode::Native);
        drop(first);
        assert!(second.is_attached().unwrap());
        ip("link del vb");
        assert!(!second.is_attached().unwrap());
    });
}

#[test]
fn refusals_have_distinct_causes() {
    in_namespace("refusals_have_distinct_causes", || {
        for name in ["no-such-if0", "", "a-name-of-16-char"] {
            let error = Steering::attach(name, &options(AttachMode::Auto)).unwrap_err();
            assert!(matches!(error, SteeringError::NoInterface { .. }), "{error:?}");
        }
        // Loopback has no native XDP.
        let error = Steering::attach("lo", &options(AttachMode::Native)).unwrap_err();
        assert!(error.to_string().starts_with("lo: "), "{error}");
        assert_eq!(Steering::attach("lo", &options(AttachMode::Auto)).unwrap().mode(), AttachMode::Generic);

        veth();
        ip("link set va mtu 9000");
        ip("link set vb mtu 9000");
        let error = Steering::attach("vb", &options(AttachMode::Native)).unwrap_err();
        assert!(matches!(error, SteeringError::Mtu { mtu: 9000, .. }), "{error:?}");
        assert!(error.to_string().contains("`ip link set dev vb mtu 1500`"), "{error}");
        let generic = Steering::attach("vb", &options(AttachMode::Auto)).unwrap();
        assert_eq!(generic.mode(), AttachMode::Generic);
        assert!(generic.why().unwrap().contains("MTU 9000"), "{:?}", generic.why());
        drop(generic);

        ip("link add vc numrxqueues 4 numtxqueues 4 type veth peer name vd numrxqueues 2 numtxqueues 2");
        let error = Steering::attach("vd", &options(AttachMode::Native)).unwrap_err();
        assert!(matches!(error, SteeringError::Queues { .. }), "{error:?}");
        assert!(error.to_string().contains("`ethtool -L vd rx N`"), "{error}");
        assert!(!has_xdp("vb") && !has_xdp("vd"));
    });
}

#[test]
fn two_capabilities_suffice() {
    in_namespace("two_capabilities_suffice", || {
        veth();
        let bpf = CapabilitySet::BPF;
        let net = CapabilitySet::NET_ADMIN;
        let permitted = capabilities(None).unwrap().permitted;
        // It belongs to this thread only and ends with the test.
        let with = |effective| {
            set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })
                .unwrap();
            Steering::attach("vb", &options(AttachMode::Auto))
        };
        for (given, missing) in
            [(CapabilitySet::empty(), "CAP_NET_ADMIN and CAP_BPF"), (net, "CAP_BPF"), (bpf, "CAP_NET_ADMIN")]
        {
            let error = with(given).unwrap_err();
            assert!(matches!(error, SteeringError::NotPermitted { .. }), "{error:?}");
            assert!(error.to_string().contains(&format!("not permitted; {missing} missing")), "{error}");
        }
        let mut steering = with(net | bpf).unwrap();
        steering.allow(V4.into(), [PORT..=PORT]).unwrap();
        assert_eq!(steering.counters().unwrap().total(), 0);
    });
}

#[test]
fn list_equals_request() {
    in_namespace("list_equals_request", || {
        let mut steering = Steering::attach("lo", &options(AttachMode::Generic)).unwrap();
        let (v4, v6) = (IpAddr::from(V4), IpAddr::from(V6));
        steering.allow(v4, [53..=53, 1000..=1999]).unwrap();
        steering.allow(v4, [4242..=4242]).unwrap();
        steering.allow(v6, [53..=53]).unwrap();
        for (address, port, wanted) in [
            (v4, 53, true),
            (v4, 999, false),
            (v4, 1000, true),
            (v4, 1999, true),
            (v4, 2000, false),
            (v4, 4242, true),
            (IpAddr::from(V4.to_ipv6_mapped()), 4242, true),
            (v6, 53, true),
            (v6, 1000, false),
        ] {
            assert_eq!(steering.listed(address, port), wanted, "{address} {port}");
        }
        steering.deny(v4).unwrap();
        steering.deny(v4).unwrap();
        assert!(!steering.listed(v4, 53) && steering.listed(v6, 53));

        for text in ["0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1", "::ffff:224.0.0.1"] {
            let error = steering.allow(text.parse().unwrap(), [53..=53]).unwrap_err();
            assert!(matches!(error, SteeringError::Address { .. }), "{text}: {error:?}");
        }
        let other = |n: u32| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n));
        for n in 1..MAX_ADDRESSES {
            steering.allow(other(n), [53..=53]).unwrap();
        }
        let error = steering.allow(other(MAX_ADDRESSES), [53..=53]).unwrap_err();
        assert!(matches!(error, SteeringError::ListFull { .. }), "{error:?}");
        // The list can still be changed.
        steering.allow(v6, [54..=54]).unwrap();
        assert!(steering.listed(v6, 54));

        assert!(matches!(steering.slot(256).unwrap_err(), SteeringError::Queue { queue: 256, .. }));
        let slot = steering.slot(255).unwrap();
        let file = fs::File::open("/proc/self/status").unwrap();
        assert!(matches!(slot.insert(file.as_fd()).unwrap_err(), SteeringError::Socket { queue: 255, .. }));
    });
}

const CHILD: &str = "OXIDE_TEST_CHILD_HOLDS_STEERING";

/// Is not a test itself: `nothing_stays_after_kill_9` starts it in its namespace.
#[test]
fn child_that_is_killed() {
    if std::env::var_os(CHILD).is_some() {
        let _steering = Steering::attach("vb", &options(AttachMode::Auto)).unwrap();
        println!("\nattached");
        // It ends with the parent's pipe if it is not killed.
        let _ = std::io::stdin().read(&mut [0]);
    }
}

#[test]
fn nothing_stays_after_kill_9() {
    in_namespace("nothing_stays_after_kill_9", || {
        veth();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "live::child_that_is_killed", "--nocapture"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "attached"));
        assert!(has_xdp("vb"));
        child.kill().unwrap();
        child.wait().unwrap();
        // Old kernels close a link shortly after its process ends.
        let deadline = Instant::now() + Duration::from_secs(5);
        while has_xdp("vb") && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(!has_xdp("vb"));
    });
}

/// A datagram to a listed port without a socket is dropped or passed to the kernel, as configured. A datagram to another
/// port always reaches the kernel.
#[test]
fn real_packets_native_and_generic() {
    in_namespace("real_packets_native_and_generic", || {
        veth();
        // vb has no address: va sends to it by a neighbour entry, and the kernel discards passed packets.
        ip("addr add 10.77.0.1/24 dev va");
        let _peer = PassAll::attach("va").unwrap();
        ip("neigh add 10.77.0.2 lladdr 02:00:00:00:00:0b dev va nud permanent");
        for attach in [AttachMode::Native, AttachMode::Generic] {
            for fallback in [Fallback::Pass, Fallback::Drop] {
                let mut steering =
                    Steering::attach("vb", &SteeringOptions { attach, fallback, replace: false }).unwrap();
                steering.allow(V4.into(), [PORT..=PORT]).unwrap();
                let sender = UdpSocket::bind("10.77.0.1:0").unwrap();
                sender.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                for _ in 0..3 {
                    sender.send_to(b"listed", (V4, PORT)).unwrap();
                }
                sender.send_to(b"other", (V4, PORT + 1)).unwrap();
                // veth delivers packets in a softirq that may run a little later.
                let deadline = Instant::now() + Duration::from_secs(5);
                let counters = loop {
                    let counters = steering.counters().unwrap();
                    if counters.total() >= 4 || Instant::now() > deadline {
                        break counters;
                    }
                    std::thread::yield_now();
                };
                assert_eq!(counters.of(Verdict::NoSocket), 3, "{attach} {fallback:?}: {counters:?}");
                assert_eq!(counters.of(Verdict::NotListed), 1, "{attach} {fallback:?}: {counters:?}");
            }
        }
    });
}
