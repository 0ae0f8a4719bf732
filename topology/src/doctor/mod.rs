//! What stands in the way, and the command that mends it. Changes nothing, needs no privilege.
//!
//! Owns the checks. [`doctor`] is pure over [`Snapshot`] and [`Probes`]; each check is a few lines in
//! `host` or `nic`. Their anchors are in docs/planning.md.

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

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CheckStatus {
    /// As wanted.
    Pass,
    /// Could not be seen from here; why is in `observed`.
    Unknown,
    /// Works, and could be better.
    Warn,
    /// Stands in the way.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Its name, stable: `kernel`, `memlock`.
    pub id: String,
    /// What it looked at: `machine`, an interface.
    pub subject: String,
    /// How it ended.
    pub status: CheckStatus,
    /// What was seen.
    pub observed: String,
    /// What is wanted.
    pub wanted: String,
    /// What to do, a command where there is one; `None` if it passed.
    pub remedy: Option<String>,
    /// Where to read on.
    pub doc: String,
}

/// Every id, in the order of the report.
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

/// What the checks look at.
pub(crate) struct CheckContext<'a> {
    snapshot: &'a Snapshot,
    probes: &'a Probes,
    request: &'a PlanRequest,
    traffic: &'a Traffic,
    plan: Result<Plan, Refusal>,
}

/// Runs every check but the self-test for `request` and `traffic` on the machine of `snapshot`.
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

/// Runs the checks that a start and a check of the configuration share with the doctor: the interfaces and the relay's
/// own addresses and ports, of the calling thread's network namespace. Takes a few milliseconds.
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

/// The worst status: what the command's exit code says (0 pass or unknown, 1 warn, 2 fail).
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
