//! What the self-test found, in the words of a check. The test itself is not here: it needs the backend.

use super::CheckStatus::{Fail, Pass, Unknown};
use super::host::explain_refusal;
use super::{Check, Probes};
use crate::snapshot::HostLimits;

/// One step of the self-test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTestStep {
    /// What was tried: `program`, `memory`, `namespace`, `packets`.
    pub step: &'static str,
    /// What is wanted of it.
    pub wanted: &'static str,
    /// How it went.
    pub outcome: StepOutcome,
}

/// How a step went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepOutcome {
    /// As wanted; what was seen.
    Done(String),
    /// The kernel refused for want of privilege.
    Refused {
        /// What it said: `EPERM`, or a sentence.
        text: String,
        /// What it takes: of each group any one capability would do, the least first.
        needs: &'static [&'static [&'static str]],
        /// Whether the relay needs it too; else only the self-test does.
        relay_needs_it: bool,
    },
    /// It failed otherwise.
    Failed {
        /// How.
        text: String,
        /// What to do.
        remedy: String,
    },
    /// It could not be tried, for a reason that is not the relay's concern.
    Untried {
        /// Why.
        why: String,
        /// What to do.
        remedy: String,
    },
}

/// A check for each step, all called `self-test`. An EPERM is taken apart.
#[must_use]
pub fn self_test_checks(limits: &HostLimits, probes: &Probes, trials: &[SelfTestStep]) -> Vec<Check> {
    trials.iter().map(|trial| one(limits, probes, trial)).collect()
}

fn one(limits: &HostLimits, probes: &Probes, trial: &SelfTestStep) -> Check {
    let check = |status, observed: String| Check::new("self-test", trial.step, status, observed, trial.wanted);
    match &trial.outcome {
        StepOutcome::Done(seen) => check(Pass, seen.clone()),
        StepOutcome::Failed { text, remedy } => check(Fail, text.clone()).remedy(remedy.clone()),
        StepOutcome::Untried { why, remedy } => check(Unknown, format!("not tried: {why}")).remedy(remedy.clone()),
        StepOutcome::Refused { text, needs, relay_needs_it } => {
            let (who, remedy) = explain_refusal(limits, probes, needs);
            let observed = format!("{text}: {who}");
            if *relay_needs_it {
                return check(Fail, observed).remedy(remedy);
            }
            check(Unknown, format!("{observed}; the relay itself does not need it"))
                .remedy(format!("for this test: {remedy}"))
        }
    }
}
