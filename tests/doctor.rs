//! Runs the real `oxide doctor` and `oxide plan` as in a container: in separate network and mount namespaces, without
//! one capability at a time. Needs root, ip, ethtool, setpriv.
//!
//! ```text
//!  namespace of the test (Lab)
//!  +-------------------------------------------------------+
//!  | lo   va ==== vb       setpriv --bounding-set oxide .. |
//!  |                       \-- its self-test: a namespace inside |
//!  +-------------------------------------------------------+
//! ```
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/netns.rs"]
mod netns;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use netns::{in_namespace, skip_unless_root};
use oxide::xdp::{Socket, SocketConfig};
use oxide_topology::ReasonCode;
use oxide_topology::cli::Answer;
use oxide_topology::doctor::{CHECKS, Check, CheckStatus};

const OXIDE: &str = env!("CARGO_BIN_EXE_oxide");

/// Runs `oxide` without `capabilities` (such as `-net_raw,-bpf`); an empty text removes none.
fn oxide(capabilities: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    if !capabilities.is_empty() {
        command.arg(format!("--bounding-set={capabilities}")).arg(format!("--inh-caps={capabilities}"));
    }
    let started = Instant::now();
    let output = command.arg(OXIDE).args(arguments).output().unwrap();
    assert!(started.elapsed() < Duration::from_secs(120), "the self-test must end");
    let code = output.status.code();
    assert!(matches!(code, Some(0..=2)), "{capabilities}: {code:?} {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn checks(capabilities: &str, arguments: &[&str]) -> Vec<Check> {
    let output = oxide(capabilities, &[&["doctor", "--json"], arguments].concat());
    let checks: Vec<Check> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let worst = checks.iter().map(|check| check.status).max().unwrap();
    let code = match worst {
        CheckStatus::Pass | CheckStatus::Unknown => 0,
        CheckStatus::Warn => 1,
        CheckStatus::Fail => 2,
    };
    assert_eq!(output.status.code(), Some(code));
    for check in &checks {
        assert!(CHECKS.contains(&check.id.as_str()), "{check}");
        assert!(
            matches!(check.status, CheckStatus::Pass | CheckStatus::Unknown) || check.remedy.is_some(),
            "no remedy: {check}"
        );
    }
    checks
}

fn find<'a>(checks: &'a [Check], id: &str, subject: &str) -> &'a Check {
    checks.iter().find(|c| c.id == id && c.subject == subject).unwrap_or_else(|| panic!("no {id} of {subject}"))
}

fn skip(test: &str) -> bool {
    if skip_unless_root(test) {
        return true;
    }
    if Command::new("setpriv").arg("--version").output().is_err() {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: `setpriv` is missing (apt-get install util-linux)");
        return true;
    }
    false
}

/// Expected status and text of a check.
type Finding = (&'static str, &'static str, CheckStatus, &'static str);

/// Removed capabilities and the expected report.
const TAKEN: &[(&str, &[Finding])] = &[
    (
        "",
        &[
            ("capabilities", "machine", CheckStatus::Pass, ""),
            ("self-test", "packets", CheckStatus::Pass, "512 of 512"),
        ],
    ),
    (
        "-net_raw",
        &[
            ("af-xdp", "machine", CheckStatus::Fail, "CAP_NET_RAW is missing"),
            ("capabilities", "machine", CheckStatus::Fail, "CAP_NET_RAW"),
            ("self-test", "memory", CheckStatus::Fail, "CAP_NET_RAW is missing"),
            ("self-test", "attach", CheckStatus::Pass, ""),
        ],
    ),
    (
        "-net_admin",
        &[
            ("capabilities", "machine", CheckStatus::Warn, "CAP_NET_ADMIN"),
            ("self-test", "program", CheckStatus::Pass, ""),
            ("self-test", "veth", CheckStatus::Unknown, "CAP_NET_ADMIN is missing"),
        ],
    ),
    (
        "-bpf",
        &[
            ("capabilities", "machine", CheckStatus::Pass, "CAP_SYS_ADMIN"),
            ("self-test", "packets", CheckStatus::Pass, ""),
        ],
    ),
    (
        "-sys_admin",
        &[
            ("capabilities", "machine", CheckStatus::Pass, "CAP_BPF"),
            ("self-test", "program", CheckStatus::Pass, ""),
            ("self-test", "memory", CheckStatus::Pass, ""),
            (
                "self-test",
                "namespace",
                CheckStatus::Unknown,
                "CAP_SYS_ADMIN is missing; the relay itself does not need it",
            ),
        ],
    ),
    (
        "-sys_admin,-bpf",
        &[
            ("capabilities", "machine", CheckStatus::Fail, "CAP_BPF"),
            ("self-test", "program", CheckStatus::Fail, "CAP_BPF or CAP_SYS_ADMIN is missing"),
        ],
    ),
    (
        "-sys_admin,-net_admin",
        &[
            ("capabilities", "machine", CheckStatus::Fail, "CAP_NET_ADMIN"),
            ("self-test", "program", CheckStatus::Fail, "CAP_NET_ADMIN or CAP_SYS_ADMIN is missing"),
        ],
    ),
    (
        "-all",
        &[
            ("capabilities", "machine", CheckStatus::Fail, "CAP_NET_RAW CAP_NET_ADMIN CAP_BPF"),
            ("self-test", "program", CheckStatus::Fail, "CAP_BPF"),
            ("self-test", "memory", CheckStatus::Fail, "CAP_NET_RAW"),
            ("self-test", "packets", CheckStatus::Unknown, "not tried"),
        ],
    ),
];

#[test]
fn each_capability_that_is_missing_is_named() {
    if skip("each_capability_that_is_missing_is_named") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 1, "02:00:00:00:00:01", "02:00:00:00:00:02");
        let interfaces = || lab.ip("-o link show");
        let before = interfaces();
        for (taken, findings) in TAKEN {
            let seen = checks(taken, &["--interface", "va", "--self-test"]);
            for (id, subject, status, word) in *findings {
                let check = find(&seen, id, subject);
                assert_eq!(check.status, *status, "without {taken}: {check}");
                assert!(check.observed.contains(word), "without {taken}: {check}");
            }
            // A plan needs no privilege; without CAP_IPC_LOCK its memory has to fit memlock.
            let plan = oxide(taken, &["plan", "--json", "--interface", "va"]);
            match serde_json::from_slice(&plan.stdout).unwrap() {
                Answer::Plan(plan) => assert_eq!(plan.actors.len(), 1),
                Answer::Refusal(refusal) => {
                    assert_eq!(*taken, "-all", "{refusal}");
                    assert!(refusal.reasons.iter().all(|r| r.code == ReasonCode::Memlock), "{refusal}");
                }
            }
        }
        assert_eq!(interfaces(), before, "the self-test must remove its interfaces");
    });
}

#[test]
fn ordinary_user_gets_same_report() {
    if skip("ordinary_user_gets_same_report") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 1, "02:00:00:00:00:01", "02:00:00:00:00:02");
        // The binary may be in a folder that only root can enter, so it starts as root and changes the user.
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"])
            .args([OXIDE, "doctor", "--json", "--interface", "va", "--self-test"])
            .output()
            .unwrap();
        if output.status.code() == Some(127) || output.status.code() == Some(126) {
            use std::io::Write;
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED-OK ordinary_user_gets_same_report: user 65534 may not enter the build folder"
            );
            return;
        }
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
        let seen: Vec<Check> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(find(&seen, "capabilities", "machine").status, CheckStatus::Fail);
        let offloads = find(&seen, "offloads", "va");
        assert!(offloads.status != CheckStatus::Unknown, "netlink needs no privilege: {offloads}");
    });
}

#[test]
fn user_namespace_is_not_privilege() {
    if skip("user_namespace_is_not_privilege") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 1, "02:00:00:00:00:01", "02:00:00:00:00:02");
        let inside = ["--user", "--map-root-user", OXIDE, "doctor", "--json", "--interface", "va", "--self-test"];
        let output = Command::new("unshare").args(inside).output().unwrap();
        let Ok(seen) = serde_json::from_slice::<Vec<Check>>(&output.stdout) else {
            use std::io::Write;
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED-OK user_namespace_is_not_privilege: no user namespace here: {why}"
            );
            return;
        };
        // Root in a user namespace has every capability, but none is valid for bpf(2).
        let check = find(&seen, "capabilities", "machine");
        assert_eq!(check.status, CheckStatus::Fail, "{check}");
        let check = find(&seen, "self-test", "program");
        assert_eq!(check.status, CheckStatus::Fail, "{check}");
        assert!(check.observed.contains("user namespace"), "{check}");
    });
}

#[test]
fn foreign_queues_and_programs_are_found() {
    if skip("foreign_queues_and_programs_are_found") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 2, "02:00:00:00:00:01", "02:00:00:00:00:02");
        lab.run("ethtool", "-K vb tx on");
        let seen = checks("", &["--interface", "va"]);
        assert_eq!(find(&seen, "xdp-attached", "va").status, CheckStatus::Pass);
        let check = find(&seen, "offloads", "va");
        assert_eq!(check.status, CheckStatus::Warn, "{check}");
        assert!(check.remedy.as_deref().is_some_and(|m| m.starts_with("ethtool -K vb tx off")), "{check}");
        lab.run("ethtool", "-K vb tx off gro on");
        let _socket = Socket::open(SocketConfig::new("va", 1, "192.0.2.1".parse().unwrap(), 7..=7)).unwrap();
        let seen = checks("", &["--interface", "va"]);
        assert_eq!(find(&seen, "offloads", "va").status, CheckStatus::Pass);
        assert_eq!(find(&seen, "xdp-attached", "va").status, CheckStatus::Fail);
        let check = find(&seen, "xsk-owned", "va");
        if check.status == CheckStatus::Unknown {
            use std::io::Write;
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED-OK foreign_queues_and_programs_are_found: the kernel is older than 6.15 and has no xsk_diag"
            );
            return;
        }
        assert_eq!(check.status, CheckStatus::Fail, "{check}");
        assert!(check.observed.starts_with("queues 1 "), "{check}");
    });
}

#[test]
fn ports_and_routes_are_checked() {
    if skip("ports_and_routes_are_checked") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 1, "02:00:00:00:00:01", "02:00:00:00:00:02");
        lab.veth("vc", "vd", 1, "02:00:00:00:00:03", "02:00:00:00:00:04");
        lab.address("va", "192.0.2.1/24");
        lab.address("vc", "203.0.113.1/24");
        lab.neighbour("va", "192.0.2.2", "02:00:00:00:00:02");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.toml");
        let config = "[engine]\ninterfaces = [\"va\"]\n[sessions]\nsource_ports = \"40000-41000\"\n[[relay]]\nname = \"x\"\n\
                      listen = \"192.0.2.1:53\"\nupstreams = [\"192.0.2.2:53\", \"203.0.113.9:53\", \"198.51.100.9:53\"]\n\
                      allow_private = true\n";
        std::fs::write(&file, config).unwrap();
        let arguments = ["--config", file.to_str().unwrap()];
        let seen = checks("", &arguments);
        let route = |to: &str| find(&seen, "route", &format!("upstream {to}"));
        assert_eq!(route("192.0.2.2").status, CheckStatus::Pass, "{}", route("192.0.2.2"));
        assert_eq!(route("203.0.113.9").status, CheckStatus::Fail, "{}", route("203.0.113.9"));
        assert!(route("203.0.113.9").observed.contains("by vc"), "{}", route("203.0.113.9"));
        assert_eq!(route("198.51.100.9").status, CheckStatus::Fail, "{}", route("198.51.100.9"));
        let ports = find(&seen, "ports", "relay");
        assert_eq!(ports.status, CheckStatus::Warn, "{ports}");
        assert!(ports.observed.contains("ephemeral"), "{ports}");

        lab.sysctl("net/ipv4/ip_local_reserved_ports", "40000-41000");
        assert_eq!(find(&checks("", &arguments), "ports", "relay").status, CheckStatus::Pass);
        let _taken = std::net::UdpSocket::bind("192.0.2.1:53").unwrap();
        let ports = find(&checks("", &arguments), "ports", "relay").clone();
        assert!(ports.status == CheckStatus::Warn && ports.observed.contains("192.0.2.1:53"), "{ports}");
    });
}
