//! Tests the real binary between real sockets: clients and servers in separate namespaces, the relay between them,
//! every datagram through AF_XDP.
//!
//! ```text
//!   clients                     relay (this namespace)                   servers
//!   c0 10.1.0.2, fd01::2 ---- r0 10.1.0.1, fd01::1
//!                             r1 10.2.0.1, fd02::1 ---- s0 10.2.0.2, fd02::2
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/netns.rs"]
mod netns;

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netns::{Far, Lab, in_namespace, skip_unless_root};
use serde_json::Value;

struct Net {
    clients: Far,
    servers: Far,
    dir: tempfile::TempDir,
}

/// Sets up three namespaces and two multi-queue links; every next hop must be resolved.
fn net(lab: &Lab, queues: u32) -> Net {
    lab.veth("r0", "c0", queues, "02:00:00:00:01:01", "02:00:00:00:01:02");
    lab.veth("r1", "s0", queues, "02:00:00:00:02:01", "02:00:00:00:02:02");
    let (clients, servers) = (lab.second_namespace(), lab.second_namespace());
    lab.give("c0", &clients);
    lab.give("s0", &servers);
    for (dev, v4, v6) in [("r0", "10.1.0.1/24", "fd01::1/64"), ("r1", "10.2.0.1/24", "fd02::1/64")] {
        lab.address(dev, v4);
        lab.address(dev, v6);
        // Neighbour solicitations need a link-local source, which the lab's devices do not have by default.
        lab.address(dev, "fe80::1/64");
    }
    clients.run(|lab| {
        lab.address("c0", "10.1.0.2/24");
        lab.address("c0", "fd01::2/64");
    });
    servers.run(|lab| {
        lab.address("s0", "10.2.0.2/24");
        lab.address("s0", "fd02::2/64");
    });
    Net { clients, servers, dir: tempfile::tempdir().unwrap() }
}

/// Is a running `oxide relay`, killed if the test ends early.
struct Relay {
    child: Child,
    report: PathBuf,
}

impl Drop for Relay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // At least one report is written after the failure.
            std::thread::sleep(Duration::from_millis(1200));
            eprintln!("{}", std::fs::read_to_string(&self.report).unwrap_or_default());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Relay {
    fn start(net: &Net, extra: &str) -> Self {
        let config = net.dir.path().join("relay.toml");
        let report = net.dir.path().join("report.json");
        let _ = std::fs::remove_file(&report);
        let text = format!(
            r#"
            [engine]
            interfaces = ["r0", "r1"]
            ring_size = 256
            {extra}
            [sessions]
            source_ports = "20000-29999"
            drain_s = 0
            [admin]
            socket = "off"
            [[relay]]
            name = "v4"
            listen = "10.1.0.1:5000"
            upstreams = ["10.2.0.2:6000"]
            allow_private = true
            [[relay]]
            name = "v6"
            listen = "[fd01::1]:5000"
            upstreams = ["[fd02::2]:6000"]
            allow_private = true
            [[relay]]
            name = "up"
            listen = "10.1.0.1:5001"
            upstreams = ["[fd02::2]:6000"]
            allow_private = true
            [[relay]]
            name = "down"
            listen = "[fd01::1]:5001"
            upstreams = ["10.2.0.2:6000"]
            allow_private = true
            "#
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_oxide"))
            .args(["relay", "--config", config.to_str().unwrap(), "--report", report.to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !std::fs::read_to_string(&report).is_ok_and(|r| r.contains("\"running\"")) {
            assert!(child.try_wait().unwrap().is_none(), "the relay ended at once");
            assert!(Instant::now() < deadline, "the relay is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, report }
    }

    /// Sends SIGTERM and returns the last report.
    fn stop(mut self) -> Value {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
            assert!(Instant::now() < deadline, "the relay does not stop");
        };
        let report = serde_json::from_str(&std::fs::read_to_string(&self.report).unwrap()).unwrap();
        assert!(status.success(), "{status}: {report:#}");
        report
    }
}

/// Answers every datagram with its content and its source, until stopped.
fn serve(servers: &Far, stop: &Arc<AtomicBool>) {
    let stop = Arc::clone(stop);
    servers.run(move |_| {
        for at in ["10.2.0.2:6000", "[fd02::2]:6000"] {
            let socket = UdpSocket::bind(at).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut buffer = [0; 16384];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                    buffer[..length].reverse();
                    socket.send_to(&buffer[..length], from).unwrap();
                }
            });
        }
    });
}

/// Sends `each` datagrams from each of `flows` clients, one in flight per client.
fn ask(clients: &Far, listen: SocketAddr, flows: usize, each: usize) {
    clients.run(move |_| {
        let bind: SocketAddr = if listen.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let sockets: Vec<UdpSocket> = (0..flows).map(|_| UdpSocket::bind(bind).unwrap()).collect();
        for socket in &sockets {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        for round in 0..each {
            for (flow, socket) in sockets.iter().enumerate() {
                socket.send_to(&payload(flow, round), listen).unwrap();
            }
            for (flow, socket) in sockets.iter().enumerate() {
                let mut buffer = [0; 16384];
                let (length, from) =
                    socket.recv_from(&mut buffer).unwrap_or_else(|e| panic!("flow {flow}, round {round}: {e}"));
                assert_eq!(from, listen, "the answer must come from the listen address");
                let mut expected = payload(flow, round);
                expected.reverse();
                assert_eq!(buffer[..length], expected[..], "flow {flow}, round {round}");
            }
        }
    });
}

fn payload(flow: usize, round: usize) -> Vec<u8> {
    let mut bytes = format!("flow {flow} round {round} ").into_bytes();
    bytes.resize(bytes.len() + (flow * 131 + round * 17) % 1300, round as u8);
    bytes
}

fn relays(test: &'static str, queues: u32, extra: &'static str, listens: [&'static str; 2]) {
    if skip_unless_root(test) {
        return;
    }
    in_namespace(move |lab| {
        let net = net(lab, queues);
        let stop = Arc::new(AtomicBool::new(false));
        serve(&net.servers, &stop);
        let relay = Relay::start(&net, extra);
        let (flows, rounds) = (16, 20);
        for listen in listens {
            ask(&net.clients, listen.parse().unwrap(), flows, rounds);
        }
        let report = relay.stop();
        stop.store(true, Ordering::Relaxed);
        // Both IP versions, both directions.
        let wanted = 2 * 2 * (flows * rounds) as u64;
        let totals = &report["totals"];
        assert_eq!(totals["tx_packets"], wanted, "{report:#}");
        assert_eq!(totals["drops"], serde_json::json!({}), "{report:#}");
        assert_eq!((&report["balanced"], &report["unaccounted"]), (&true.into(), &0.into()), "{report:#}");
        assert_eq!(report["state"], "stopped");
        assert_eq!(report["queues"].as_array().unwrap().len(), queues as usize);
        for queue in report["queues"].as_array().unwrap() {
            assert_eq!((&queue["census"]["app"], &queue["census"]["transmit"]), (&0.into(), &0.into()), "{report:#}");
            for mode in queue["mode"].as_array().unwrap() {
                assert_eq!((&mode["mode"], &mode["zero_copy"]), (&"copy".into(), &false.into()));
                assert!(!mode["reason"].as_str().unwrap().is_empty());
            }
        }
        assert!(!lab.ip("link show").contains("prog/xdp"), "the XDP program is still attached");
    });
}

/// Client and upstream have the same IP version.
const SAME: [&str; 2] = ["10.1.0.1:5000", "[fd01::1]:5000"];
/// Client and upstream have different IP versions.
const CROSSED: [&str; 2] = ["10.1.0.1:5001", "[fd01::1]:5001"];

#[test]
fn relays_both_families_on_one_queue() {
    relays("relays_both_families_on_one_queue", 1, "", SAME);
}

#[test]
fn relays_both_families_on_two_queues() {
    relays("relays_both_families_on_two_queues", 2, "", SAME);
}

#[test]
fn relays_both_families_on_four_queues_with_threads() {
    relays("relays_both_families_on_four_queues_with_threads", 4, "executor = \"thread\"", SAME);
}

#[test]
fn relays_between_families_on_one_queue() {
    relays("relays_between_families_on_one_queue", 1, "", CROSSED);
}

#[test]
fn relays_between_families_on_two_queues() {
    relays("relays_between_families_on_two_queues", 2, "", CROSSED);
}

/// Datagrams of three fragments each way, on as many queues as the veth has: the kernel at either end puts them together.
#[test]
fn relays_fragments_in_both_families() {
    if skip_unless_root("relays_fragments_in_both_families") {
        return;
    }
    in_namespace(move |lab| {
        let net = net(lab, 2);
        let stop = Arc::new(AtomicBool::new(false));
        serve(&net.servers, &stop);
        let relay = Relay::start(&net, "");
        for listen in SAME {
            // Next hops are known and both ends have a session before.
            ask(&net.clients, listen.parse().unwrap(), 4, 1);
            let listen: SocketAddr = listen.parse().unwrap();
            net.clients.run(move |_| {
                let bind: SocketAddr = if listen.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
                let socket = UdpSocket::bind(bind).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                for bytes in [1473, 3560, 4000, 100] {
                    let payload: Vec<u8> = (0..bytes).map(|n| (n * 7 % 251) as u8).collect();
                    socket.send_to(&payload, listen).unwrap();
                    let mut buffer = [0; 16384];
                    let (length, from) = socket.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{bytes} bytes: {e}"));
                    assert_eq!((length, from), (bytes, listen));
                    buffer[..length].reverse();
                    assert_eq!(buffer[..length], payload[..], "{bytes} bytes");
                }
            });
        }
        let report = relay.stop();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(report["totals"]["drops"], serde_json::json!({}), "{report:#}");
        assert_eq!((&report["balanced"], &report["unaccounted"]), (&true.into(), &0.into()), "{report:#}");
    });
}
