//! Takes a live snapshot in a network namespace with the sysfs of another one. There /sys/class/net shows the wrong
//! namespace. The test needs root, unshare and ip.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::process::Command;

use oxide_topology::{CpuList, PlanRequest, Snapshot, SnapshotError, XdpFeatures, plan};

const INNER: &str = "OXIDE_TOPOLOGY_TEST_INNER";

/// Writes directly to stderr: `eprintln!` of a test that passes is not shown.
fn skipped(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

/// Runs this test again by name, as a child process in a new namespace, after `setup`.
fn in_namespace(test: &str, setup: &str) -> bool {
    if std::env::var_os(INNER).is_some() {
        return true;
    }
    let script = format!("{setup}\nexec \"$0\" --exact {test} --nocapture");
    let exe = std::env::current_exe().unwrap();
    let child = Command::new("unshare").args(["--net", "sh", "-ec", &script]).arg(exe).env(INNER, "1").output();
    match child {
        Err(error) => skipped(test, &format!("unshare: {error}")),
        Ok(out) if out.status.success() => {}
        Ok(out) => {
            let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            // The child did not reach the test: it has no privilege, veth or ip command.
            if !stdout.contains("running 1 test") {
                skipped(test, &stderr);
                return false;
            }
            panic!("{stdout}\n{stderr}");
        }
    }
    false
}

#[test]
fn veth_queues_come_from_callers_namespace() {
    // The worst case is an interface that also exists outside, with the same name and other queues. The name eth0 is
    // the most likely one.
    let setup = "ip link add eth0 numrxqueues 3 numtxqueues 3 type veth peer name peer0 numrxqueues 2 numtxqueues 4
                 ip link set eth0 mtu 1400 address 02:00:00:00:00:07 up";
    if !in_namespace("veth_queues_come_from_callers_namespace", setup) {
        return;
    }
    let s = Snapshot::live(&["eth0".into(), "peer0".into()]).unwrap();
    let [nic, peer] = s.nics.as_slice() else { panic!("{:?}", s.nics) };
    assert_eq!((nic.rx_queues, nic.tx_queues, nic.mtu), (Some(3), Some(3), Some(1400)), "{nic:?}");
    assert_eq!(nic.mac.as_deref(), Some("02:00:00:00:00:07"));
    assert_eq!((nic.driver.as_deref(), nic.is_virtual, nic.numa_node), (Some("veth"), Some(true), None));
    assert_eq!((nic.up, nic.carrier, peer.up, peer.carrier), (Some(true), Some(false), Some(false), None));
    assert_eq!((peer.rx_queues, peer.tx_queues), (Some(2), Some(4)));
    assert!(nic.xdp_features.is_none_or(|f: XdpFeatures| !f.zero_copy));
    let p = plan(&s, &PlanRequest::new(vec!["eth0".into()], 1 << 20)).unwrap();
    assert_eq!(p.actors.len(), 3);
    let usable: CpuList = s.usable_cpus();
    assert!(p.actors.iter().all(|a| usable.contains(a.cpu) && a.ports[0].ifindex == nic.ifindex));
    // Both ends are here, so each shows the other's offloads: a veth leaves checksums to its peer.
    let facts = |nic: &oxide_topology::Nic| (nic.offloads, nic.peer.clone());
    let ((Some(own), Some(other)), (Some(theirs), Some(_))) = (facts(nic), facts(peer)) else {
        panic!("{:?} {:?}", facts(nic), facts(peer))
    };
    assert_eq!((other.name.as_str(), other.has_program), ("peer0", false));
    assert_eq!(other.offloads, Some(theirs));
    assert!(own.tx_checksum && own.gso && !own.lro, "{own:?}");
    // A veth has no hash; the sender's queue decides. The snapshot must not invent one.
    assert!(nic.rss.as_ref().is_none_or(|rss| rss.key.is_none() && rss.table.is_none()), "{:?}", nic.rss);
    assert!(nic.xsk_queues.as_ref().is_none_or(Vec::is_empty));
    assert!(matches!(Snapshot::live(&["ifb0".into()]), Err(SnapshotError::NoInterface { .. })));
}
