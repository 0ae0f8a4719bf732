//! Tests the readable pages, and that excessive reading does not affect traffic.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::rig::lab;

/// Returns the value of each sample of `name`, by its labels.
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

/// Each packet of a queue has exactly one outcome at the time of every scrape.
pub(crate) fn accounting_balances(text: &str) {
    for queue in ["0", "1"] {
        let of = |name: &str| samples(text, name, queue);
        let came = of("oxide_rx_packets_total") + of("oxide_taken_over_packets_total");
        let went = of("oxide_tx_packets_total") + of("oxide_handed_over_packets_total");
        assert_eq!(came, went + of("oxide_drops_total") + of("oxide_in_hand_packets"), "queue {queue}: {text}");
    }
}

#[test]
fn admin_reads_match_state() {
    lab("admin_reads_match_state", "", |_, bench| {
        bench.serves(5000);
        bench.answered(5000, 16, 10);
        std::thread::sleep(Duration::from_millis(300));
        let (code, text) = bench.get("/metrics");
        assert_eq!(code, 200);
        accounting_balances(&text);
        let mut received = 0.0;
        for queue in ["0", "1"] {
            let of = |name: &str| samples(&text, name, queue);
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
        assert!(bench.ctl_output(&["sessions"]).contains("-> 10.2.0.2:6000"));
        assert!(
            bench.ctl_output(&["plan"]).contains("housekeeping")
                && bench.ctl_output(&["config"]).contains("10.1.0.1:5000")
        );
        assert!(
            bench.ctl_output(&["queues"]).contains("running")
                && bench.ctl_output(&["status"]).contains("\"balanced\": true")
        );
        assert_eq!(bench.ctl_output(&["log"]).trim(), "info");
        assert!(bench.ctl_output(&["log", "oxide=debug"]).contains("oxide=debug"));
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

/// Too many requests are refused for a while; packets are not affected.
#[test]
fn admin_overload_does_not_drop_packets() {
    lab("admin_overload_does_not_drop_packets", "", |_, bench| {
        bench.serves(5000);
        let slow: Vec<_> = (0..64).filter_map(|_| TcpStream::connect("127.0.0.1:9797").ok()).collect();
        let socket = bench.path("ctl.sock");
        let lines: Vec<_> = (0..32).filter_map(|_| std::os::unix::net::UnixStream::connect(&socket).ok()).collect();
        let mut flood = TcpStream::connect("127.0.0.1:9797").unwrap();
        flood.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = flood.write_all(&vec![b'A'; 1 << 20]);
        assert_eq!(bench.refused(&["queues"]).0, 4, "busy: try again");
        bench.serves(5000);
        drop((slow, lines, flood));
        bench.wait("operators have access again", |b| b.ctl(&["queues"]).status.success());
        assert_eq!(bench.get("/ready").0, 200);
    });
}
