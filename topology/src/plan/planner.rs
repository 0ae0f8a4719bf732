//! Runs the steps of planning and collects their messages.

use super::{
    Decision, DecisionCode, PLAN_SCHEMA, Plan, Reason, ReasonCode, Refusal, Warning, WarningCode, memory, place, queues,
};
use crate::request::PlanRequest;
use crate::snapshot::Snapshot;

/// Collects decisions, warnings and reasons. A plan is returned only if there is no reason against it.
#[derive(Default)]
pub(super) struct PlanLog {
    decisions: Vec<Decision>,
    warnings: Vec<Warning>,
    reasons: Vec<Reason>,
}

impl PlanLog {
    pub(super) fn decide(&mut self, code: DecisionCode, subject: impl Into<String>, text: impl Into<String>) {
        self.decisions.push(Decision { code, subject: subject.into(), text: text.into() });
    }

    pub(super) fn warn(
        &mut self,
        code: WarningCode,
        subject: impl Into<String>,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.warnings.push(Warning { code, subject: subject.into(), text: text.into(), remedy: remedy.into() });
    }

    pub(super) fn refuse(
        &mut self,
        code: ReasonCode,
        subject: impl Into<String>,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.reasons.push(Reason { code, subject: subject.into(), text: text.into(), remedy: remedy.into() });
    }

    fn refusal(&mut self) -> Result<(), Refusal> {
        if self.reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons: std::mem::take(&mut self.reasons) }) }
    }
}

/// Plans `request` on the machine of `snapshot`. The function is pure and deterministic: it reads nothing else, and
/// the same input gives the same plan.
///
/// # Errors
/// Returns a [`Refusal`] with every reason found, each with its remedy.
pub fn plan(snapshot: &Snapshot, request: &PlanRequest) -> Result<Plan, Refusal> {
    let mut log = PlanLog::default();
    for problem in snapshot.problems() {
        let remedy = format!("take the snapshot again, or correct it ({})", snapshot.source);
        log.refuse(ReasonCode::Snapshot, problem.subject, problem.text, remedy);
    }
    // The remaining steps rely on a machine without contradictions.
    log.refusal()?;
    check_sizes(request, &mut log);
    let per_actor = queues::choose(snapshot, request, &mut log);
    let pool = place::CpuPool::survey(snapshot, request, &mut log);
    log.refusal()?;
    let mut actors = place::place(&pool, snapshot, request, per_actor, &mut log);
    log.refusal()?;
    memory::assign(&mut actors, snapshot, request, &mut log);
    log.refusal()?;
    let housekeeping = pool.housekeeping.iter().collect();
    Ok(Plan { schema: PLAN_SCHEMA, actors, housekeeping, decisions: log.decisions, warnings: log.warnings })
}

fn check_sizes(request: &PlanRequest, log: &mut PlanLog) {
    if !matches!(request.frame_size, 2048 | 4096) {
        let text =
            format!("is {}; expected 2048 or 4096 bytes, the sizes of AF_XDP's aligned chunks", request.frame_size);
        log.refuse(ReasonCode::BadSize, "frame_size", text, "set frame_size = 2048");
    }
    if request.umem_bytes_per_queue < 64 * u64::from(request.frame_size) {
        let text = format!("{} bytes of packet memory hold less than one batch", request.umem_bytes_per_queue);
        log.refuse(ReasonCode::BadSize, "frame_count", text, "set frame_count to auto, or raise it");
    }
}
