//! `oxide relay` in the guest: its configuration, its process, its report.

use super::lab::wait_until;
use super::traffic::{Counted, Entry, exchange};
use crate::process::{Result, failed, io_error};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::process::{Child, Command, ExitStatus, Stdio};

const CONFIG: &str = "/tmp/relay.toml";
const REPORT: &str = "/tmp/report.json";
const LOG: &str = "/tmp/relay.log";
/// The capabilities that README and docs/operation.md name for a relay.
pub(super) const DOCUMENTED: &str = "net_admin,net_raw,bpf";

/// The running relay, killed when dropped.
#[derive(Debug)]
pub(super) struct Relay(Child);

/// Writes the configuration: these lines of `[engine]`, and one entry for each family and for 4 to 6.
pub(super) fn configure(engine: &str) -> Result<()> {
    let text = format!(
        "[engine]\ninterfaces = [\"ra\", \"rb\"]\n{engine}\n[sessions]\ndrain_s = 1\n{}",
        Entry::configuration()
    );
    fs::write(CONFIG, text).map_err(io_error(CONFIG))
}

/// Runs another command of `oxide` with this configuration; its output and whether it succeeded.
pub(super) fn oxide(arguments: &str) -> Result<(bool, String)> {
    let mut command = Command::new("oxide");
    command.args(arguments.split_whitespace()).stdin(Stdio::null());
    if !arguments.starts_with("ctl") {
        command.args(["--config", CONFIG]);
    }
    let output = command.output().map_err(io_error(format_args!("oxide {arguments}")))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

impl Relay {
    /// Starts the relay with these lines of `[engine]` and waits until it runs.
    pub(super) fn start(engine: &str) -> Result<Self> {
        Self::start_behind(&[], engine)
    }

    /// Starts the relay with exactly these capabilities.
    pub(super) fn start_with_capabilities(capabilities: &str, engine: &str) -> Result<Self> {
        let bounding = format!("--bounding-set=-all,+{}", capabilities.replace(',', ",+"));
        Self::start_behind(&["setpriv", &bounding, "--inh-caps=-all", "--"], engine)
    }

    /// Starts the relay through another program.
    pub(super) fn start_behind(before: &[&str], engine: &str) -> Result<Self> {
        configure(engine)?;
        let mut relay = Self::spawn(before)?;
        let running = || report().get("state").is_some_and(|state| state == "running");
        let mut ended = None;
        let ready = wait_until("the relay runs", 60, || {
            ended = relay.0.try_wait().ok().flatten();
            ended.is_some() || running()
        });
        match (ended, ready) {
            (Some(status), _) => failed(format!("the relay ended with {status}: {}", last_lines())),
            (None, Err(_)) => failed(format!("the relay does not run after 60 s: {}", last_lines())),
            (None, Ok(())) => {
                super::lab::wait_wires()?;
                Ok(relay)
            }
        }
    }

    fn spawn(before: &[&str]) -> Result<Self> {
        let _ = fs::remove_file(REPORT);
        let log = || File::create(LOG).map_err(io_error(LOG));
        let argv = [before, &["oxide", "relay", "--config", CONFIG, "--report", REPORT]].concat();
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(log()?);
        command.stderr(fs::OpenOptions::new().append(true).open(LOG).map_err(io_error(LOG))?);
        command.spawn().map(Self).map_err(io_error(argv.join(" ")))
    }

    /// Starts a relay that must refuse; its message.
    pub(super) fn refused(engine: &str) -> Result<String> {
        configure(engine)?;
        let mut relay = Self::spawn(&[])?;
        let mut ended = None;
        let wait = wait_until("the relay refuses", 30, || {
            ended = relay.0.try_wait().ok().flatten();
            ended.is_some()
        });
        match ended {
            Some(status) if !status.success() => Ok(log()),
            Some(_) => failed("the relay ended with success; expected a refusal"),
            None => {
                failed(format!("{}: {}", wait.err().map(|e| e.to_string()).unwrap_or_default(), modes().join(", ")))
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Ends the relay as kill -9 does.
    pub(super) fn kill(mut self) -> Result<()> {
        self.0.kill().map_err(io_error("kill"))?;
        self.0.wait().map(drop).map_err(io_error("wait"))
    }

    /// Ends the relay by SIGTERM; fails if it reports a fault or its accounts do not balance.
    pub(super) fn stop(mut self) -> Result<()> {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, Signal::TERM).map_err(|e| crate::process::Error::Failed(format!("kill: {e}")))?;
        let mut ended: Option<ExitStatus> = None;
        wait_until("the relay stops", 60, || {
            ended = self.0.try_wait().ok().flatten();
            ended.is_some()
        })?;
        if !ended.is_some_and(|status| status.success()) {
            return failed(format!("the relay ended with {ended:?}: {}", last_lines()));
        }
        let last = report();
        if last.get("balanced") == Some(&Value::Bool(true)) && last.get("unaccounted") == Some(&Value::from(0)) {
            return Ok(());
        }
        failed("the relay's last report is not balanced")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The report that the relay writes once a second.
pub(super) fn report() -> Value {
    fs::read(REPORT).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// The mode of each port: `zero-copy`, `copy`.
pub(super) fn modes() -> Vec<String> {
    let report = report();
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let ports = list(&report, "queues").into_iter().flat_map(|queue| list(&queue, "mode"));
    ports.filter_map(|port| port.get("mode").and_then(Value::as_str).map(str::to_owned)).collect()
}

/// The state of each queue.
pub(super) fn states() -> Vec<String> {
    let report = report();
    let queues = report.get("queues").and_then(Value::as_array).cloned().unwrap_or_default();
    queues.iter().filter_map(|queue| queue.get("state").and_then(Value::as_str).map(str::to_owned)).collect()
}

/// All that the relay logged.
pub(super) fn log() -> String {
    fs::read_to_string(LOG).unwrap_or_default()
}

fn last_lines() -> String {
    let text = log();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join(" | ")
}

/// Exchanges packets of a few sizes at each entry.
pub(super) fn all_entries(sizes: &[usize]) -> Result<()> {
    for entry in Entry::ALL {
        for &size in sizes {
            exchange(entry, 8, 40, size)?.check(&format!("{entry:?}, {size} bytes"))?;
        }
    }
    Ok(())
}

/// Exchanges packets until an exchange succeeds: after a device fault, the first ones may be lost.
pub(super) fn recovers(what: &str) -> Result<()> {
    super::lab::wait_wires()?;
    let mut last = Counted::default();
    for _ in 0..6 {
        last = exchange(Entry::Four, 8, 40, 1200)?;
        if last.check(what).is_ok() {
            return exchange(Entry::Six, 8, 40, 1200)?.check(what);
        }
    }
    last.check(what)
}
