//! Checks this host for problems of the relay and reports the remedies. It changes nothing and needs no privilege.
//!
//! [`doctor`] is a pure function of [`Snapshot`] and [`Probes`]. Each check is a few lines in `host` or `nic` and has
//! an anchor in docs/planning.md.

mod host;
mod nic;
mod own;
mod ports;
mod probes;
mod self_test;
mod spread;
mod traffic;

pub use own::OwnRelay;
pub use probes::{Attempt, Hidden, Probes, Reception};
pub use self_test::{SelfTestStep, StepOutcome, self_test_checks};
pub use traffic::Traffic;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::{Plan, Refusal, plan};
use crate::request::PlanRequest;
use crate::snapshot::{Snapshot, live_nics};

/// Reports the result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CheckStatus {
    /// The observation is as wanted.
    Pass,
    /// The fact cannot be read; `observed` contains the reason.
    Unknown,
    /// It works, but not optimally.
    Warn,
    /// The relay cannot work.
    Fail,
}

/// Holds one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Stable name, such as `kernel` or `memlock`.
    pub id: String,
    /// Checked object: `machine` or an interface.
    pub subject: String,
    /// Result.
    pub status: CheckStatus,
    /// Observed value.
    pub observed: String,
    /// Wanted value.
    pub wanted: String,
    /// Remedy, as a command if possible; `None` if the check passed.
    pub remedy: Option<String>,
    /// Anchor in the documentation.
    pub doc: String,
}

/// Lists every check, in the order of the report.
pub const CHECKS: &[&str] = &[
    "kernel",
    "af-xdp",
    "capabilities",
    "confinement",
    "bpf",
    "io-uring",
    "memlock",
    "huge-pages",
    "cpus",
    "cpu-quota",
    "isolation",
    "clock",
    "governor",
    "irqbalance",
    "nic-exists",
    "link",
    "driver",
    "queues",
    "rings",
    "mtu",
    "xdp-attached",
    "xsk-owned",
    "rss",
    "offloads",
    "napi",
    "numa",
    "irq-affinity",
    "relay",
    "ports",
    "listen",
    "route",
    "smt",
    "plan",
    "self-test",
];

/// Holds the inputs of the checks.
pub(crate) struct CheckContext<'a> {
    snapshot: &'a Snapshot,
    probes: &'a Probes,
    request: &'a PlanRequest,
    traffic: &'a Traffic,
    plan: Result<Plan, Refusal>,
}

/// Runs every check except the self-test, for `request` and `traffic` on the machine of `snapshot`.
#[must_use]
pub fn doctor(snapshot: &Snapshot, probes: &Probes, request: &PlanRequest, traffic: &Traffic) -> Vec<Check> {
    let cx = CheckContext { snapshot, probes, request, traffic, plan: plan(snapshot, request) };
    let mut checks = host::checks(&cx);
    for name in &request.interfaces {
        checks.extend(nic::checks(&cx, name));
    }
    checks.push(own::check(&cx));
    checks.extend(traffic::checks(&request.interfaces, probes, traffic));
    checks.extend(host::plan_checks(&cx));
    checks
}

/// Runs the checks that the start of the relay and `oxide config check` share with the doctor. They cover the
/// interfaces, and the relay's own addresses and ports in the calling thread's network namespace. This takes a few
/// milliseconds.
#[must_use]
pub fn preflight(interfaces: &[String], traffic: &Traffic) -> Vec<Check> {
    let nics = live_nics(&[]).unwrap_or_default();
    let mut checks: Vec<Check> = interfaces
        .iter()
        .map(|name| match live_nics(std::slice::from_ref(name)).unwrap_or_default().first() {
            Some(nic) => nic::link(nic),
            None => nic::absent(name, &nics),
        })
        .collect();
    checks.extend(traffic::checks(interfaces, &Probes::of_traffic(interfaces, traffic), traffic));
    checks
}

/// Returns the worst status, which decides the exit code (0 pass or unknown, 1 warn, 2 fail).
#[must_use]
pub fn worst(checks: &[Check]) -> CheckStatus {
    checks.iter().map(|check| check.status).max().unwrap_or(CheckStatus::Pass)
}

impl Check {
    fn new(
        id: &str,
        subject: &str,
        status: CheckStatus,
        observed: impl Into<String>,
        wanted: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            subject: subject.into(),
            status,
            observed: observed.into(),
            wanted: wanted.into(),
            remedy: None,
            doc: format!("docs/planning.md#doctor-{id}"),
        }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self.status {
            CheckStatus::Pass => "PASS   ",
            CheckStatus::Warn => "WARN   ",
            CheckStatus::Fail => "FAIL   ",
            CheckStatus::Unknown => "UNKNOWN",
        };
        write!(f, "{status}  {:<13} {}: {}", self.id, self.subject, self.observed)?;
        if self.status != CheckStatus::Pass {
            write!(f, "\n           wanted: {}", self.wanted)?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n           remedy: {remedy}")?;
        }
        Ok(())
    }
}
