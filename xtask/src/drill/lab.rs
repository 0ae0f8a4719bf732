//! Builds the testbed of the drill and runs the real relay in it.
//!
//! ```text
//!  relay's namespace              far namespace
//!  near0 10.9.0.1 (4 queues) ---- far0 10.9.0.2   each client's packets come in and leave by the same interface
//!  near1 10.9.1.1 (4 queues) ---- far1 10.9.1.2
//! ```

use crate::namespace::{Namespace, WITH_SYSFS};
use crate::process::{Result, Running, Session, failed, io_error};
use rustix::process::Signal;
use serde::Deserialize;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(super) const QUEUES: u32 = 4;
/// First of the relay's source ports. Each queue has an equal part of them.
pub(super) const FIRST_PORT: u16 = 20_000;
pub(super) const PORTS_PER_QUEUE: u16 = 1000;
const LONG: Duration = Duration::from_secs(20);

/// Holds the needed fields of the relay's report.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Report {
    pub(super) state: String,
    pub(super) queues: Vec<Queue>,
    pub(super) balanced: bool,
    pub(super) unaccounted: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Queue {
    pub(super) state: String,
    pub(super) stalled: bool,
    pub(super) restarts: u64,
    pub(super) last_gap_ms: Option<f64>,
    pub(super) last_restart: Option<Restart>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Restart {
    pub(super) cause: String,
    pub(super) detail: String,
    pub(super) lost: u64,
}

pub(super) struct Lab {
    near: Namespace,
    pub(super) far: Namespace,
}

impl Lab {
    pub(super) fn create(session: &Session) -> Result<Self> {
        let lab = Self { near: Namespace::create(session, "near")?, far: Namespace::create(session, "far")? };
        lab.create_link(session, 0)?;
        lab.create_link(session, 1)?;
        Ok(lab)
    }

    /// Runs `argv` in the relay's namespace.
    pub(super) fn near(&self, session: &Session, argv: &[&str]) -> Result<()> {
        self.near.run(session, "near", argv).map(drop)
    }

    /// Starts `argv` in the relay's namespace.
    pub(super) fn near_spawn(&self, session: &Session, argv: &[&str]) -> Result<Running> {
        self.near.spawn(session, "near", argv)
    }

    /// Creates interface `n` on both ends.
    pub(super) fn create_link(&self, session: &Session, n: u8) -> Result<()> {
        let (near, far, pid) = (format!("near{n}"), format!("far{n}"), self.far.pid().to_string());
        let queues = QUEUES.to_string();
        let (mac_near, mac_far) = (format!("02:00:00:00:0{n}:0a"), format!("02:00:00:00:0{n}:0b"));
        let side = ["numrxqueues", &queues, "numtxqueues", &queues, "address"];
        let first = [&["ip", "link", "add", &near], &side[..], &[&mac_near, "type", "veth"]].concat();
        let second = [&["peer", "name", &far, "netns", &pid], &side[..], &[&mac_far]].concat();
        self.near(session, &[first, second].concat())?;
        let script = address_script(&far, n, 2, 1, &mac_near);
        self.far.run(session, "far", &["sh", "-c", &script])?;
        self.address(session, n)?;
        self.running(session, n)
    }

    /// Sets up interface `n` on the relay's end.
    pub(super) fn address(&self, session: &Session, n: u8) -> Result<()> {
        let script = address_script(&format!("near{n}"), n, 1, 2, &format!("02:00:00:00:0{n}:0b"));
        self.near(session, &["sh", "-c", &script])
    }

    /// Returns the process id for `ip link set DEV netns`.
    pub(super) fn near_pid(&self) -> u32 {
        self.near.pid()
    }

    /// Waits until both ends of link `n` have their carrier: the kernel starts their transmit queues up to a second
    /// after they were set up (net/core/link_watch.c).
    pub(super) fn running(&self, session: &Session, n: u8) -> Result<()> {
        let end = Instant::now() + LONG;
        for (namespace, interface) in [(&self.near, format!("near{n}")), (&self.far, format!("far{n}"))] {
            let show = ["ip", "link", "show", "dev", &interface, "up"];
            while !namespace.run(session, "link", &show)?.stdout.contains("state UP") {
                if Instant::now() > end {
                    return failed(format!("{interface}: no carrier after {LONG:?}"));
                }
                session.cancel.sleep(Duration::from_millis(2))?;
            }
        }
        Ok(())
    }
}

fn address_script(interface: &str, n: u8, own: u8, other: u8, mac: &str) -> String {
    format!(
        "ethtool -K {interface} tx off gso off tso off && ip addr add 10.9.{n}.{own}/24 dev {interface} && ip link set \
         {interface} up && ip neigh replace 10.9.{n}.{other} lladdr {mac} dev {interface}"
    )
}

/// Holds the resources of the relay's process.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessResources {
    pub(super) descriptors: usize,
    pub(super) mappings: u64,
    pub(super) rss_kib: u64,
}

/// Holds the running relay.
pub(super) struct Relay {
    process: Running,
    report: PathBuf,
    faults: fs::File,
}

impl Relay {
    pub(super) fn start(session: &Session, lab: &Lab, binary: &Path) -> Result<Self> {
        let [config, report, faults] = ["relay.toml", "report.json", "faults"].map(|name| session.dir.join(name));
        let last = u32::from(FIRST_PORT) + QUEUES * u32::from(PORTS_PER_QUEUE) - 1;
        let entry = |n: u8| {
            format!(
                "[[relay]]\nname = \"hairpin{n}\"\nlisten = \"10.9.{n}.1:7\"\nupstreams = [\"10.9.{n}.2:9000\"]\n\
                 allow_private = true\n"
            )
        };
        let text = format!(
            "[engine]\ninterfaces = [\"near0\", \"near1\"]\nring_size = 256\n[sessions]\nsource_ports = \
             \"{FIRST_PORT}-{last}\"\n{}{}",
            entry(0),
            entry(1)
        );
        fs::write(&config, text).map_err(io_error(config.display()))?;
        session.run("mkfifo", &["mkfifo", &faults.display().to_string()], LONG)?;
        let pipe = fs::OpenOptions::new().read(true).write(true).open(&faults).map_err(io_error(faults.display()))?;
        let paths = [binary, &config, &report, &faults].map(|path| path.display().to_string());
        let argv = ["unshare", "--mount", "--propagation", "unchanged", "--", "sh", "-c", WITH_SYSFS, "sh"];
        let oxide =
            [&paths[0], "relay", "--config", &paths[1], "--report", &paths[2], "--inject-faults-from", &paths[3]];
        let process = lab.near.spawn(session, "oxide-relay", &[&argv[..], &oxide].concat())?;
        let mut relay = Self { process, report, faults: pipe };
        relay.until(session, "ready", |report| report.state == "running")?;
        Ok(relay)
    }

    /// Injects a fault: `line` is a command of `cli/src/bin/oxide/faults.rs`.
    pub(super) fn inject(&mut self, line: &str) -> Result<()> {
        writeln!(self.faults, "{line}").map_err(io_error("fault pipe"))
    }

    pub(super) fn report(&self) -> Result<Report> {
        let text = fs::read_to_string(&self.report).map_err(io_error(self.report.display()))?;
        serde_json::from_str(&text).or_else(|e| failed(format!("{}: {e}", self.report.display())))
    }

    /// Returns its current resources.
    pub(super) fn held(&self) -> Result<ProcessResources> {
        let path = |file: &str| format!("/proc/{}/{file}", self.process.pid());
        let read = |file: &str| fs::read_to_string(path(file)).map_err(io_error(path(file)));
        let status = read("status")?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = rss.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
        let Some(rss_kib) = rss else { return failed("relay: no VmRSS in /proc/PID/status") };
        let descriptors = fs::read_dir(path("fd")).map_err(io_error(path("fd")))?.count();
        Ok(ProcessResources { descriptors, mappings: read("maps")?.lines().count() as u64, rss_kib })
    }

    /// Waits for a report that satisfies `done`.
    pub(super) fn until(&mut self, session: &Session, what: &str, done: impl Fn(&Report) -> bool) -> Result<Report> {
        self.until_within(session, what, LONG, done)
    }

    pub(super) fn until_within(
        &mut self,
        session: &Session,
        what: &str,
        limit: Duration,
        done: impl Fn(&Report) -> bool,
    ) -> Result<Report> {
        let end = Instant::now() + limit;
        loop {
            self.process.must_run()?;
            match self.report() {
                Ok(report) if done(&report) => return Ok(report),
                other if Instant::now() > end => {
                    return failed(format!(
                        "relay: not {what} within {limit:?}: {other:?}{}",
                        self.process.last_output()
                    ));
                }
                _ => session.cancel.sleep(Duration::from_millis(20))?,
            }
        }
    }

    /// Stops the relay in order and returns its last report.
    pub(super) fn stop(mut self, session: &Session) -> Result<Report> {
        self.process.signal(Signal::TERM);
        let status = self.process.wait(&session.cancel, LONG)?;
        if !status.success() {
            return failed(format!("relay: ended with {status}{}", self.process.last_output()));
        }
        self.report()
    }
}
