//! The real binary in the hands of its operators: HTTP, control socket, signals.
//!
//! ```text
//!   clients (far)                relay (this namespace)                  servers (far)
//!   c0 10.1.0.2 ------------- r0 10.1.0.1      r1 10.2.0.1 ------------- s0 10.2.0.2
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/netns.rs"]
mod netns;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netns::{Far, Lab, in_namespace, skip_unless_root};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

struct Bench {
    clients: Far,
    stop: Arc<AtomicBool>,
    dir: tempfile::TempDir,
    child: Child,
    systemd: std::os::unix::net::UnixDatagram,
    /// What systemd was told so far.
    notices: String,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.path("log")).unwrap_or_default());
        }
    }
}

impl Bench {
    /// Two queues, an echo server, and the relay ready.
    fn new(lab: &Lab, more: &str) -> Self {
        let (clients, servers) = (lab.second_namespace(), lab.second_namespace());
        clients_side(lab, &clients);
        lab.veth("r1", "s0", 2, "02:00:00:00:02:01", "02:00:00:00:02:02");
        lab.give("s0", &servers);
        lab.address("r1", "10.2.0.1/24");
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        servers.run(move |lab| {
            lab.address("s0", "10.2.0.2/24");
            let socket = UdpSocket::bind("10.2.0.2:6000").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !until.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                    let _ = socket.send_to(&buffer[..length], from);
                }
            });
        });
        let dir = tempfile::tempdir().unwrap();
        write_config(&dir.path().join("relay.toml"), &dir.path().join("ctl.sock"), more);
        let systemd = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_oxide"))
            .args(["relay", "--config", dir.path().join("relay.toml").to_str().unwrap()])
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .env("WATCHDOG_USEC", "900000")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut bench = Self { clients, stop, dir, child, systemd, notices: String::new() };
        bench.wait("the relay is ready", |b| {
            assert!(b.child.try_wait().unwrap().is_none(), "the relay ended at once");
            b.ctl(&["queues"]).status.success()
        });
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let until = Instant::now() + SOON;
        while !done(self) {
            assert!(Instant::now() < until, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ctl(&self, words: &[&str]) -> Output {
        let socket = self.path("ctl.sock");
        Command::new(env!("CARGO_BIN_EXE_oxide"))
            .args(["ctl", "--socket", socket.to_str().unwrap()])
            .args(words)
            .output()
            .unwrap()
    }

    /// What `ctl` printed, if it succeeded.
    fn told(&self, words: &[&str]) -> String {
        let output = self.ctl(words);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "ctl {words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// What `ctl` complained of, with its exit code.
    fn refused(&self, words: &[&str]) -> (i32, String) {
        let output = self.ctl(words);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn queues(&self) -> Value {
        serde_json::from_str(&self.told(&["--json", "queues"])).unwrap()
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect("127.0.0.1:9797").unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// How many of `flows` clients, new ones each time, get `rounds` answers each.
    fn answered(&self, port: u16, flows: usize, rounds: usize) -> usize {
        self.clients.run(move |_| {
            let sockets: Vec<_> = (0..flows).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect();
            sockets.iter().for_each(|s| s.set_read_timeout(Some(Duration::from_millis(400))).unwrap());
            let mut answered = 0;
            for _ in 0..rounds {
                sockets.iter().for_each(|s| drop(s.send_to(b"hello", ("10.1.0.1", port))));
                answered += sockets.iter().filter(|s| s.recv_from(&mut [0; 64]).is_ok()).count();
            }
            answered
        })
    }

    fn serves(&mut self, port: u16) {
        self.wait("every client is answered", |b| b.answered(port, 4, 1) == 4);
    }

    /// Waits until systemd has been told `words`, from now on.
    fn notified(&mut self, words: &str) {
        self.wait(words, |b| {
            let mut buffer = [0; 4096];
            while let Ok(length) = b.systemd.recv(&mut buffer) {
                b.notices += std::str::from_utf8(&buffer[..length]).unwrap();
            }
            let found = b.notices.find(words);
            found.inspect(|&at| drop(b.notices.drain(..at + words.len()))).is_some()
        });
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(&mut self) -> i32 {
        let mut code = None;
        self.wait("the relay ends", |b| {
            code = b.child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code().unwrap_or(-1)
    }
}

/// The link to the clients; also a second time, after it was deleted.
fn clients_side(lab: &Lab, clients: &Far) {
    lab.veth("r0", "c0", 2, "02:00:00:00:01:01", "02:00:00:00:01:02");
    lab.give("c0", clients);
    lab.address("r0", "10.1.0.1/24");
    clients.run(|lab| lab.address("c0", "10.1.0.2/24"));
}

fn write_config(path: &std::path::Path, socket: &std::path::Path, more: &str) {
    let text = format!(
        "[engine]\ninterfaces = [\"r0\", \"r1\"]\nring_size = 256\n{more}\n[admin]\nsocket = \"{}\"\n[[relay]]\nname = \
         \"a\"\nlisten = \"10.1.0.1:5000\"\nupstreams = [\"10.2.0.2:6000\"]\nallow_private = true\n",
        socket.display()
    );
    std::fs::write(path, text).unwrap();
}

fn lab(test: &'static str, more: &'static str, run: impl FnOnce(&Lab, &mut Bench) + Send + 'static) {
    if skip_unless_root(test) {
        return;
    }
    in_namespace(move |lab| run(lab, &mut Bench::new(lab, more)));
}

/// Value of each sample of `name`, by its labels.
fn samples(text: &str, name: &str, with: &str) -> f64 {
    let scrape = prometheus_parse::Scrape::parse(text.lines().map(|l| Ok(l.to_owned()))).unwrap();
    let of = |s: &prometheus_parse::Sample| match s.value {
        prometheus_parse::Value::Counter(v)
        | prometheus_parse::Value::Gauge(v)
        | prometheus_parse::Value::Untyped(v) => v,
        _ => 0.0,
    };
    scrape.samples.iter().filter(|s| s.metric == name && s.labels.values().any(|v| v == with)).map(of).sum()
}

#[test]
fn what_is_read_is_true() {
    lab("what_is_read_is_true", "", |_, bench| {
        bench.serves(5000);
        bench.answered(5000, 16, 10);
        std::thread::sleep(Duration::from_millis(300));
        let (code, text) = bench.get("/metrics");
        assert_eq!(code, 200);
        let mut received = 0.0;
        for queue in ["0", "1"] {
            let of = |name: &str| samples(&text, name, queue);
            let came = of("oxide_rx_packets_total") + of("oxide_taken_over_packets_total");
            let went = of("oxide_tx_packets_total") + of("oxide_handed_over_packets_total");
            assert_eq!(came, went + of("oxide_drops_total") + of("oxide_in_hand_packets"), "{text}");
            let (regimes, uptime) = (of("oxide_loop_seconds_total"), uptime(&text));
            assert!((regimes - uptime).abs() < 1.0, "{regimes} s in regimes, {uptime} s up");
            received += of("oxide_rx_packets_total");
        }
        assert!(received >= 320.0, "{text}");
        if Command::new("promtool").arg("--version").output().is_ok() {
            let mut tool = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn().unwrap();
            tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(tool.wait().unwrap().success());
        }
        for path in [
            "/live",
            "/ready",
            "/queues",
            "/sessions",
            "/plan",
            "/config",
            "/config?format=toml",
            "/queues?format=text",
        ] {
            assert_eq!(bench.get(path).0, 200, "{path}");
        }
        let top = Command::new(env!("CARGO_BIN_EXE_oxide"))
            .args(["top", "--once", "--json", "--socket", bench.path("ctl.sock").to_str().unwrap()])
            .output()
            .unwrap();
        let top: Value = serde_json::from_slice(&top.stdout).unwrap();
        assert!(top["queues"][0]["rx_pps"].is_number() && top["queues"][1]["state"] == "running", "{top:#}");
        let sessions: Value = serde_json::from_str(&bench.get("/sessions?limit=5").1).unwrap();
        assert_eq!(sessions.as_array().unwrap().len(), 5, "{sessions}");
        assert!(bench.told(&["sessions"]).contains("-> 10.2.0.2:6000"));
        assert!(bench.told(&["plan"]).contains("housekeeping") && bench.told(&["config"]).contains("10.1.0.1:5000"));
        assert!(bench.told(&["queues"]).contains("running") && bench.told(&["status"]).contains("\"balanced\": true"));
        assert_eq!(bench.told(&["log"]).trim(), "info");
        assert!(bench.told(&["log", "oxide=debug"]).contains("oxide=debug"));
        assert_eq!(bench.refused(&["log", "=="]).0, 2);
        let log = bench.log();
        assert!(log.lines().filter(|l| l.starts_with('{')).all(|l| serde_json::from_str::<Value>(l).is_ok()), "{log}");
        let summary: Vec<_> = log.lines().filter(|l| !l.starts_with('{')).collect();
        assert!((3..=15).contains(&summary.len()) && summary.iter().any(|l| l.contains("127.0.0.1:9797")), "{log}");
    });
}

fn uptime(text: &str) -> f64 {
    text.lines().find_map(|l| l.strip_prefix("oxide_uptime_seconds ")).unwrap().parse().unwrap()
}

#[test]
fn queues_are_restarted_paused_and_drained() {
    lab("queues_are_restarted_paused_and_drained", "executor = \"thread\"", |_, bench| {
        bench.serves(5000);
        for depth in ["handler", "port", "queue"] {
            let before = bench.queues()["queues"][0]["restarts"].as_u64().unwrap();
            bench.told(&["restart", "r0:0", "--depth", depth]);
            bench.wait("the queue is back", |b| {
                let queue = &b.queues()["queues"][0];
                queue["restarts"].as_u64().unwrap() > before && queue["state"] == "running"
            });
            bench.serves(5000);
        }
        let queues = bench.queues();
        assert_eq!(queues["queues"][1]["restarts"], 0, "{queues:#}");
        assert_eq!(bench.refused(&["restart", "r9:0"]).0, 1);
        assert!(bench.refused(&["restart", "r9:0"]).1.contains("there are: r0:0"));
        assert_eq!(bench.refused(&["restart", "r0"]).0, 2);

        for queue in ["r0:0", "r0:1"] {
            bench.told(&["pause", queue]);
        }
        bench.wait("nobody is answered", |b| b.answered(5000, 4, 1) == 0);
        for queue in ["r0:0", "r0:1"] {
            bench.told(&["resume", queue]);
        }
        bench.serves(5000);

        bench.told(&["drain", "r0:1", "--within", "0"]);
        bench.wait("one queue has stopped", |b| b.queues()["queues"][1]["state"] == "stopped");
        assert_eq!(bench.get("/ready").0, 200, "the other one takes packets");
        bench.told(&["restart", "r0:1"]);
        bench.serves(5000);

        let status: Value = serde_json::from_str(&bench.told(&["status"])).unwrap();
        assert_eq!((&status["balanced"], &status["unaccounted"]), (&true.into(), &0.into()), "{status:#}");
        bench.told(&["drain", "--within", "1"]);
        assert_eq!(bench.end(), 0);
        assert_eq!(bench.refused(&["queues"]).0, 3, "nobody there any more");
        assert!(!bench.path("ctl.sock").exists());
    });
}

#[test]
fn a_reload_keeps_what_can_be_kept() {
    lab("a_reload_keeps_what_can_be_kept", "", |_, bench| {
        bench.serves(5000);
        let (config, socket) = (bench.path("relay.toml"), bench.path("ctl.sock"));
        assert_eq!(bench.told(&["reload"]).trim(), "nothing has changed");

        std::fs::write(&config, "[engine]\ninterfaces = [\"r0\"]\nring_size = 100\n[[rely]]\n").unwrap();
        let (code, words) = bench.refused(&["reload"]);
        assert!(code == 1 && words.contains("nothing has changed") && words.contains("did you mean relay?"), "{words}");
        bench.serves(5000);

        write_config(&config, &socket, "batch_size = 16");
        let text = std::fs::read_to_string(&config).unwrap().replace("10.1.0.1:5000", "10.1.0.1:5001");
        std::fs::write(&config, text.replace("ring_size = 256", "ring_size = 512")).unwrap();
        let words = bench.told(&["reload"]);
        for line in [
            "relay[a].listen: \"10.1.0.1:5000\" -> \"10.1.0.1:5001\": in force",
            "engine.batch_size: 64 -> 16: in force for a queue with its next restart",
            "engine.ring_size: 256 -> 512: in force with the next start of the process",
        ] {
            assert!(words.contains(line), "{line}: {words}");
        }
        bench.serves(5001);
        assert_eq!(bench.answered(5000, 2, 1), 0, "the old address is the kernel's again");
        assert_eq!(bench.queues()["queues"][0]["state"], "running");
        bench.told(&["restart", "r0:0"]);
        bench.serves(5001);

        // The same by signal: back to the first address.
        write_config(&config, &socket, "batch_size = 16");
        // Read only now: a manager that did not listen until here has held up nothing.
        bench.notified("READY=1\n");
        bench.notified("WATCHDOG=1\n");
        bench.signal(Signal::HUP);
        bench.serves(5000);
        bench.notified("RELOADING=1\nMONOTONIC_USEC=");
        bench.notified("READY=1\n");
        let in_force: Value = serde_json::from_str(&bench.told(&["config"])).unwrap();
        assert_eq!((&in_force["engine"]["batch_size"], &in_force["engine"]["ring_size"]), (&16.into(), &256.into()));
    });
}

/// Every thread has given up what no restart needs, and every restart still works.
#[test]
fn privileges_are_dropped_and_no_restart_needs_them() {
    lab("privileges_are_dropped_and_no_restart_needs_them", "", |lab, bench| {
        bench.serves(5000);
        bench.told(&["restart", "r0:0"]);
        bench.serves(5000);
        lab.ip("link delete r0");
        bench.wait("the queues wait for it", |b| b.queues()["queues"][0]["state"] != "running");
        clients_side(lab, &bench.clients);
        bench.wait("and come back", |b| b.queues()["state"] == "running");
        bench.serves(5000);
        // NET_ADMIN 12, NET_RAW 13, IPC_LOCK 14, SYS_NICE 23, PERFMON 38, BPF 39 (capability.h).
        let most: u64 = [12, 13, 14, 23, 38, 39].iter().map(|bit| 1 << bit).sum();
        for thread in std::fs::read_dir(format!("/proc/{}/task", bench.child.id())).unwrap() {
            let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let of = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
            for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
                let has = u64::from_str_radix(&of(set), 16).unwrap();
                assert_eq!(has & !most, 0, "{status}");
            }
            assert_eq!((of("NoNewPrivs:").as_str(), of("CapAmb:").as_str()), ("1", "0000000000000000"), "{status}");
        }
        assert!(bench.log().contains("no new privileges"));
    });
}

/// As in a container that was not given what it takes.
#[test]
fn a_start_without_capabilities_says_which() {
    let test = "a_start_without_capabilities_says_which";
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

#[test]
fn a_term_drains_and_a_second_one_does_not_wait() {
    lab("a_term_drains_and_a_second_one_does_not_wait", "[sessions]\ndrain_s = 600", |_, bench| {
        bench.serves(5000);
        let socket = bench.clients.run(|_| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.connect("10.1.0.1:5000").unwrap();
            socket.send(b"one").unwrap();
            socket.recv(&mut [0; 64]).unwrap();
            socket
        });
        bench.signal(Signal::TERM);
        bench.wait("not ready any more", |b| b.get("/ready").0 == 503);
        bench.notified("STOPPING=1\n");
        bench.notified("WATCHDOG=1\n");
        assert_eq!(bench.get("/live").0, 200);
        assert_eq!(bench.answered(5000, 2, 1), 0, "no new sessions");
        socket.send(b"two").unwrap();
        socket.recv(&mut [0; 64]).expect("the old session is served");
        assert!(bench.child.try_wait().unwrap().is_none(), "it waits for its sessions");
        bench.signal(Signal::TERM);
        assert_eq!(bench.end(), 130);
    });
}

/// Whoever overruns the doors finds them shut for a while; packets go on.
#[test]
fn doors_that_are_overrun_leave_the_packets_alone() {
    lab("doors_that_are_overrun_leave_the_packets_alone", "", |_, bench| {
        bench.serves(5000);
        let slow: Vec<_> = (0..64).filter_map(|_| TcpStream::connect("127.0.0.1:9797").ok()).collect();
        let socket = bench.path("ctl.sock");
        let lines: Vec<_> = (0..32).filter_map(|_| std::os::unix::net::UnixStream::connect(&socket).ok()).collect();
        let mut flood = TcpStream::connect("127.0.0.1:9797").unwrap();
        flood.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = flood.write_all(&vec![b'A'; 1 << 20]);
        assert_eq!(bench.refused(&["queues"]).0, 4, "told to try again");
        bench.serves(5000);
        drop((slow, lines, flood));
        bench.wait("operators are let in again", |b| b.ctl(&["queues"]).status.success());
        assert_eq!(bench.get("/ready").0, 200);
    });
}
