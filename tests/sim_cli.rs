//! Tests `oxide sim` as a user runs it.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::process::{Command, Output};

use oxide::port::sim::KernelFaultRates;
use oxide_sim::{Application, FaultRates, SimOptions, named, pcap};

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_oxide")).arg("sim").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn run_reports_traffic_and_checks() {
    let output = sim(&["--queues", "3", "--packets", "3000", "--seed", "5"]);
    let output_text = text(&output.stdout);
    assert!(output.status.success(), "{output_text}");
    for wanted in
        ["seed 5", "clients sent 3000", "balanced", "drops by reason", "ok     reference", "every check passed"]
    {
        assert!(output_text.contains(wanted), "{wanted}: {output_text}");
    }
    let json = sim(&["--packets", "2000", "--json", "--link", "delay=1ms,loss=0.1"]);
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(report["failure"].is_null() && report["links"]["lost"].as_u64() > Some(0), "{report}");
}

/// The command that a failure prints repeats the run for any options: the same packets at the same times.
#[test]
fn printed_command_repeats_the_run() {
    let (faults, fault_rates) = named("legal,lost,panic,restart").unwrap();
    let options = SimOptions {
        queues: 3,
        packets: 4000,
        faults: KernelFaultRates { batch: 5, delay_ns: 123, ..faults },
        fault_rates: fault_rates.times(7),
        application: Application::Forward,
        links: ["delay=1ms,loss=ge:0.01/0.3,reorder=0.02".parse().unwrap(), "rate=1G".parse().unwrap()],
        only: Some(1),
        replay: None,
        seed: 77,
    };
    let all = SimOptions {
        packets: 3000,
        faults: KernelFaultRates::all(),
        fault_rates: FaultRates::all(),
        ..Default::default()
    };
    let plain = SimOptions { packets: 2000, application: Application::CheckedRelay, ..Default::default() };
    for options in [options, all, plain] {
        let command = options.command();
        let mut words: Vec<&str> = command.split(' ').skip(2).collect();
        words.push("--json");
        let report: serde_json::Value = serde_json::from_slice(&sim(&words).stdout).unwrap();
        let wanted = oxide_sim::run(&options).fingerprint;
        assert_eq!(report["fingerprint"].as_u64(), Some(wanted), "{command}");
        assert_eq!(command.contains("--handler"), options.application == Application::Forward, "{command}");
    }
}

#[test]
fn impossible_options_are_refused_with_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.pcap");
    std::fs::write(&bad, [0x0a, 0x0d, 0x0d, 0x0a].repeat(9)).unwrap();
    let bad = bad.to_str().unwrap();
    for (arguments, wanted) in [
        (&["--faults", "panik"][..], "panic"),
        (&["--link", "rate=1T"], "loss=ge:P/R"),
        (&["--only", "7"], "queues 0 to 1"),
        (&["--pcap-in", bad], "editcap"),
        (&["--pcap-in", "/nowhere/x.pcap"], "/nowhere/x.pcap"),
        (&["--pcap-out", "/nowhere/x.pcap"], "/nowhere/x.pcap"),
        (&["--pcap-in", bad, "--handler", "forward"], "bad.pcap"),
    ] {
        let output = sim(arguments);
        let output_text = text(&output.stderr);
        assert!(!output.status.success() && output_text.contains(wanted), "{arguments:?}: {output_text}");
        assert!(!output_text.contains("panicked"), "{output_text}");
    }
}

#[test]
fn capture_reads_back_in_either_byte_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let output = sim(&["--packets", "1000", "--pcap-out", &path("a")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let file = std::fs::read(path("a")).unwrap();
    let packets = pcap::read(&file).unwrap();
    assert_eq!(packets.len(), 2000);
    // Write the same packets as a big-endian machine does, with microseconds.
    let mut other = Vec::new();
    for word in [0xa1b2_c3d4, 2 << 16 | 4, 0, 0, 65_535, 1u32] {
        other.extend(word.to_be_bytes());
    }
    for packet in &packets {
        let length = packet.frame.len() as u32;
        for word in [packet.at.as_secs() as u32, packet.at.subsec_micros(), length, length] {
            other.extend(word.to_be_bytes());
        }
        other.extend(packet.frame);
    }
    std::fs::write(path("b"), other).unwrap();
    let mut prints = Vec::new();
    for name in ["a", "b"] {
        let output = sim(&["--pcap-in", &path(name), "--pcap-out", &path("out"), "--json", "--seed", "3"]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success() && report["there"] == 1000 && report["back"] == 1000, "{report}");
        prints.push((report["fingerprint"].clone(), std::fs::read(path("out")).unwrap()));
    }
    assert!(prints[0] == prints[1], "equal captures must give equal runs");
}
