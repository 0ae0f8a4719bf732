//! Runs the demo without root: the relay against the simulated NIC, by `oxide sim`.

use super::Options;
use crate::process::{Cancel, Result, failed, io_error};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// Names of the steps, with their options.
const STEPS: [(&str, &[&str]); 5] = [
    ("no faults", &[]),
    ("delay, loss, reorder, 1G", &["--link", "delay=2ms,loss=ge:0.01/0.3,reorder=0.02,rate=1G"]),
    ("malformed, table full", &["--faults", "malformed,one-time-clients"]),
    ("faults at queue 0 alone", &["--faults", "all", "--only", "0"]),
    ("every fault", &["--faults", "all,lost"]),
];
/// Number of packets of each step for each second of `--seconds`; the simulation runs faster than that.
const PACKETS_PER_SECOND: u32 = 100_000;

/// Runs the steps and prints the verdict.
pub(super) fn run(cancel: &Cancel, options: &Options, binary: &Path) -> Result<()> {
    println!("not root, and sudo needs a password: the relay runs against the SIMULATED NIC");
    println!("(for real programs over real interfaces: `sudo cargo xtask demo`)\n");
    println!(
        "{:<29} {:>9} {:>10} {:>10} {:>9} {:>9}  result",
        "step", "packets/s", "to servers", "to clients", "drops", "restarts"
    );
    let mut reports = Vec::new();
    for (at, (name, more)) in STEPS.iter().enumerate() {
        cancel.check()?;
        let report = step(options, binary, more, at as u64 + 1)?;
        let number = |field: &str| report[field].as_u64().unwrap_or(0);
        let drops: u64 =
            report["drops"].as_object().into_iter().flat_map(|all| all.values()).filter_map(Value::as_u64).sum();
        println!(
            "{name:<29} {:>9.0} {:>10} {:>10} {drops:>9} {:>9}  {}",
            report["packets_per_second"].as_f64().unwrap_or(0.0),
            number("there"),
            number("back"),
            number("soft_restarts") + number("hard_restarts"),
            if report["failure"].is_null() { "ok" } else { "FAILED" },
        );
        reports.push(report);
    }
    if let Some(last) = reports.last() {
        queues(last);
    }
    verdict(&reports)
}

fn step(options: &Options, binary: &Path, more: &[&str], seed: u64) -> Result<Value> {
    let packets = PACKETS_PER_SECOND * options.seconds;
    let mut command = Command::new(binary);
    command.args(["sim", "--json", "--queues", &options.queues.to_string(), "--packets", &packets.to_string()]);
    command.args(["--seed", &seed.to_string()]).args(more).stdin(Stdio::null());
    let output = command.output().map_err(io_error(binary.display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    match serde_json::from_slice(&output.stdout) {
        Ok(report) => {
            if !output.status.success() {
                eprint!("{errors}");
            }
            Ok(report)
        }
        Err(_) => failed(format!("oxide sim: no report ({}): {}", output.status, errors.trim())),
    }
}

fn queues(report: &Value) {
    println!(
        "\n{:<6} {:>10} {:>10} {:>11} {:>9} {:>9}  {:<10} frames: total = free + app + receive + transmit",
        "queue", "received", "sent", "handed over", "sessions", "restarts", "state"
    );
    for q in report["queue_reports"].as_array().into_iter().flatten() {
        let n = |field: &str| q[field].as_u64().unwrap_or(0);
        let c = |field: &str| q["census"][field].as_u64().unwrap_or(0);
        println!(
            "{:<6} {:>10} {:>10} {:>11} {:>9} {:>9}  {:<10} {} = {} + {} + {} + {}, {}",
            n("queue"),
            n("rx_packets"),
            n("tx_packets"),
            n("handed_over"),
            n("sessions"),
            n("restarts"),
            q["state"].as_str().unwrap_or_default(),
            c("total"),
            c("free"),
            c("app"),
            c("receive"),
            c("transmit"),
            if q["balanced"].as_bool() == Some(true) { "balanced" } else { "NOT BALANCED" },
        );
    }
}

/// Prints every check over all steps, as `oxide sim` reports them.
fn verdict(reports: &[Value]) -> Result<()> {
    println!("\nchecks");
    let checkers = reports.first().and_then(|report| report["checks"].as_array()).cloned().unwrap_or_default();
    for (at, checker) in checkers.iter().enumerate() {
        let count: u64 = reports.iter().filter_map(|report| report["checks"][at][1].as_u64()).sum();
        let failed = reports.iter().any(|report| report["failure"]["checker"] == checker[0]);
        let word = if failed { "FAILED" } else { "ok" };
        println!("  {word:<6} {}: {count} times", checker[0].as_str().unwrap_or_default());
    }
    if checkers.is_empty() || reports.iter().any(|report| !report["failure"].is_null()) {
        return failed("demo: simulated checks failed; see the list above");
    }
    println!("\nthe demo passed, in simulation");
    Ok(())
}
