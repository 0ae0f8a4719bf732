//! Converts the results of the self-test to checks. The test itself needs the backend and is in another crate.

use super::CheckStatus::{Fail, Pass, Unknown};
use super::host::explain_refusal;
use super::{Check, Probes};
use crate::snapshot::HostLimits;

/// Holds one step of the self-test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTestStep {
    /// Name of the step: `program`, `memory`, `namespace`, `packets`.
    pub step: &'static str,
    /// Wanted result.
    pub wanted: &'static str,
    /// Result.
    pub outcome: StepOutcome,
}

/// Reports the result of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepOutcome {
    /// It succeeded, with this observation.
    Done(String),
    /// The kernel refused because a privilege is missing.
    Refused {
        /// Error of the kernel: `EPERM`, or a sentence.
        text: String,
        /// Needed capabilities. Each group lists alternatives, the weakest first.
        needs: &'static [&'static [&'static str]],
        /// Whether the relay needs the privilege too; otherwise only the self-test does.
        relay_needs_it: bool,
    },
    /// It failed for another reason.
    Failed {
        /// Error message.
        text: String,
        /// Remedy.
        remedy: String,
    },
    /// It could not be tried, for a reason that does not affect the relay.
    Untried {
        /// Reason.
        why: String,
        /// Remedy.
        remedy: String,
    },
}

/// Returns a check for each step, all called `self-test`. It explains each EPERM.
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
