//! Runs `oxide relay` for the demo: its configuration, its process, its report.

use super::lab::{Family, Lab};
use crate::namespace::WITH_SYSFS;
use crate::process::{Result, Running, Session, failed, io_error};
use rustix::process::Signal;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// UDP ports on which the relay listens, and each server behind it.
pub(super) const DNS: u16 = 53;
pub(super) const WIREGUARD: u16 = 51820;
pub(super) const IPERF: u16 = 5201;

/// Holds the needed fields of the report, which the relay writes once a second and at its end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Report {
    pub(super) state: String,
    pub(super) start_to_ready_ms: Option<f64>,
    pub(super) first_packet_ms: Option<f64>,
    pub(super) process: Process,
    pub(super) queues: Vec<Queue>,
    pub(super) totals: Totals,
    pub(super) balanced: bool,
    pub(super) unaccounted: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Process {
    pub(super) rss_bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Queue {
    pub(super) queue: u32,
    pub(super) cpu: Option<u32>,
    pub(super) state: String,
    pub(super) executor: String,
    pub(super) mode: Vec<Mode>,
    pub(super) rx_packets: u64,
    pub(super) tx_packets: u64,
    pub(super) handed_over: u64,
    pub(super) sessions: u64,
    pub(super) restarts: u64,
    pub(super) census: Census,
    pub(super) balanced: bool,
    pub(super) busy_ns: u64,
    pub(super) spin_ns: u64,
    pub(super) sleep_ns: u64,
    /// Memory in bytes without the packet memory.
    pub(super) memory_bytes: u64,
    pub(super) umem_bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Mode {
    pub(super) interface: String,
    pub(super) mode: String,
    pub(super) attach: String,
    pub(super) reason: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Census {
    pub(super) total: u64,
    pub(super) free: u64,
    pub(super) app: u64,
    pub(super) receive: u64,
    pub(super) transmit: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Totals {
    pub(super) rx_packets: u64,
    pub(super) tx_packets: u64,
    pub(super) drops: BTreeMap<String, u64>,
    /// Number of packets that the kernel dropped before the relay received them: RX ring full, or no frame posted.
    pub(super) rx_missed: u64,
    pub(super) work_ns: u64,
}

/// Returns the relay's configuration for the testbed.
pub(super) fn configuration(families: &[Family]) -> String {
    let mut text = String::from(
        "[engine]\ninterfaces = [\"r0\", \"r1\"]\nqueues = \"auto\"\n[sessions]\ndrain_s = 0\n[admin]\nsocket = \"off\"\n",
    );
    for family in families {
        for (name, port) in [("dns", DNS), ("wireguard", WIREGUARD), ("iperf", IPERF)] {
            // The servers have private addresses, which a relay refuses by default.
            let _ = write!(
                text,
                "\n[[relay]]\nname = \"{name}{}\"\nlisten = \"{}\"\nupstreams = [\"{}\"]\nallow_private = true\n",
                family.digit(),
                family.socket(family.relay(), port),
                family.socket(family.server(), port),
            );
        }
    }
    text
}

/// Holds the running relay.
#[derive(Debug)]
pub(super) struct Relay {
    process: Running,
    report: PathBuf,
}

impl Relay {
    /// Starts `oxide relay` in the relay's namespace and waits until its queues run.
    pub(super) fn start(session: &Session, lab: &Lab, binary: &Path, families: &[Family]) -> Result<Self> {
        let config = session.dir.join("relay.toml");
        let report = session.dir.join("report.json");
        fs::write(&config, configuration(families)).map_err(io_error(config.display()))?;
        let (binary, config) = (binary.display().to_string(), config.display().to_string());
        let report_text = report.display().to_string();
        let argv = ["unshare", "--mount", "--propagation", "unchanged", "--", "sh", "-c", WITH_SYSFS, "sh"];
        let oxide = [&binary, "relay", "--config", &config, "--report", &report_text];
        let process = lab.relay.spawn(session, "oxide-relay", &[&argv[..], &oxide].concat())?;
        let mut relay = Self { process, report };
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            relay.process.must_run()?;
            if relay.report().is_ok_and(|r| r.state == "running") {
                return Ok(relay);
            }
            if Instant::now() > end {
                return failed(format!("oxide relay: not ready after 60 s{}", relay.process.last_output()));
            }
            session.cancel.sleep(Duration::from_millis(5))?;
        }
    }

    /// Returns the last report.
    pub(super) fn report(&self) -> Result<Report> {
        let text = fs::read_to_string(&self.report).map_err(io_error(self.report.display()))?;
        serde_json::from_str(&text)
            .or_else(|e| failed(format!("{}: unexpected form of the report: {e}", self.report.display())))
    }

    /// Fails with its last output if the relay has ended.
    pub(super) fn must_run(&mut self) -> Result<()> {
        self.process.must_run()
    }

    /// Returns the processor time so far, user and system, with a resolution of 10 ms (proc_pid_stat(5), fields 14
    /// and 15).
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.process.pid());
        let stat = fs::read_to_string(&path).map_err(io_error(&path))?;
        match ticks(&stat) {
            Some(ticks) => Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)),
            None => failed(format!("{path}: unknown form: {stat}")),
        }
    }

    /// Stops the relay in order and checks what it leaves.
    pub(super) fn stop(mut self, session: &Session, lab: &Lab) -> Result<Stopped> {
        self.process.must_run()?;
        self.process.signal(Signal::TERM);
        let status = self.process.wait(&session.cancel, Duration::from_secs(20))?;
        if !status.success() {
            println!("oxide relay ended with {status}{}", self.process.last_output());
        }
        let links = lab.relay.run(session, "link", &["ip", "link", "show"])?;
        Ok(Stopped { report: self.report()?, status, program_left: links.stdout.contains("xdp") })
    }
}

/// Holds what a stopped relay left.
#[derive(Debug)]
pub(super) struct Stopped {
    /// Last report.
    pub(super) report: Report,
    pub(super) status: ExitStatus,
    /// Whether an XDP program is still attached in the relay's namespace.
    pub(super) program_left: bool,
}

fn ticks(stat: &str) -> Option<u64> {
    // The name of the command is in parentheses and may contain spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_parses_unusual_process_names() {
        assert_eq!(ticks("12 (a) b) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0"), Some(42));
        assert_eq!(ticks("nonsense"), None);
    }

    #[test]
    fn configuration_names_each_entry_once() {
        let text = configuration(&[Family::V4, Family::V6]);
        assert_eq!(text.matches("[[relay]]").count(), 6);
        assert!(text.contains("listen = \"[fd00:1::1]:53\"\nupstreams = [\"[fd00:2::2]:53\"]"));
    }
}
