//! Tests the relay's privileges, and its messages without them.

use std::io::Write;
use std::process::Command;

use crate::netns::{in_namespace, skip_unless_root};
use crate::rig::{clients_side, lab, write_config};

/// Every thread has only the privileges that a restart needs, and every restart works.
#[test]
fn dropped_privileges_are_not_needed_for_restarts() {
    lab("dropped_privileges_are_not_needed_for_restarts", "", |lab, bench| {
        bench.serves(5000);
        bench.ctl_output(&["restart", "r0:0"]);
        bench.serves(5000);
        lab.ip("link delete r0");
        bench.wait("the queues wait for the interface", |b| b.queues()["queues"][0]["state"] != "running");
        clients_side(lab, &bench.clients);
        bench.wait("the queues run again", |b| b.queues()["state"] == "running");
        bench.serves(5000);
        // NET_ADMIN 12, NET_RAW 13, IPC_LOCK 14, SYS_NICE 23, BPF 39 (capability.h).
        let most: u64 = [12, 13, 14, 23, 39].iter().map(|bit| 1 << bit).sum();
        for thread in std::fs::read_dir(format!("/proc/{}/task", bench.child.id())).unwrap() {
            let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let of = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
            for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
                let has = u64::from_str_radix(&of(set), 16).unwrap();
                assert_eq!(has & !most, 0, "{status}");
            }
            assert_eq!((of("NoNewPrivs:").as_str(), of("CapAmb:").as_str()), ("1", "0000000000000000"), "{status}");
        }
        assert!(bench.log().contains("no_new_privs"));
    });
}

/// The relay starts as in a container without the required privileges.
#[test]
fn start_without_capabilities_names_them() {
    let test = "start_without_capabilities_names_them";
    if skip_unless_root(test) {
        return;
    }
    if Command::new("setpriv").arg("--version").output().is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED-OK {test}: there is no setpriv(1) here");
        return;
    }
    in_namespace(move |_| {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("relay.toml");
        write_config(&config, &dir.path().join("ctl.sock"), "");
        let output = Command::new("setpriv")
            .args(["--bounding-set", "-net_raw,-bpf", "--", env!("CARGO_BIN_EXE_oxide"), "relay", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}");
        for word in ["CAP_NET_RAW (AF_XDP sockets)", "CAP_BPF", "AmbientCapabilities=CAP_NET_RAW CAP_BPF", "--cap-add"]
        {
            assert!(words.contains(word), "{word}: {words}");
        }
    });
}
