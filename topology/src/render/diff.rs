//! Compares two plans.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cpus::CpuList;
use crate::plan::{ActorPlan, Plan};

/// Holds one difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanChange {
    /// Subject of the difference: `queue 3`, `housekeeping`, `warning`.
    pub subject: String,
    /// Property that differs: `cpu`, `node`, `memory`, `pages`, `ports`, `actor`.
    pub what: String,
    /// Value in the first plan; `None` if it is absent.
    pub before: Option<String>,
    /// Value in the second plan; `None` if it is absent.
    pub after: Option<String>,
}

impl fmt::Display for PlanChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, what, before, after } = self;
        match (before, after) {
            (Some(before), Some(after)) => write!(f, "~ {subject}: {what} {before} -> {after}"),
            (None, after) => write!(f, "+ {subject}: {what} {}", after.as_deref().unwrap_or("")),
            (Some(before), None) => write!(f, "- {subject}: {what} {before}"),
        }
    }
}

impl Plan {
    /// Returns the differences between this plan and `after`, by queue; empty if there are none. It compares results
    /// and not decisions.
    #[must_use]
    pub fn diff(&self, after: &Plan) -> Vec<PlanChange> {
        let mut changes = Vec::new();
        let by_queue = |plan: &Plan| -> BTreeMap<u32, Vec<(&'static str, String)>> {
            plan.actors.iter().map(|actor| (actor.queue, features(actor))).collect()
        };
        let (old, new) = (by_queue(self), by_queue(after));
        for queue in old.keys().chain(new.keys().filter(|queue| !old.contains_key(queue))) {
            let subject = format!("queue {queue}");
            let whole = |features: &[(&str, String)]| {
                Some(features.iter().map(|(what, value)| format!("{what} {value}")).collect::<Vec<_>>().join(", "))
            };
            match (old.get(queue), new.get(queue)) {
                (Some(old), Some(new)) => {
                    for ((what, before), (_, after)) in old.iter().zip(new).filter(|(old, new)| old != new) {
                        let (before, after) = (Some(before.clone()), Some(after.clone()));
                        changes.push(PlanChange { subject: subject.clone(), what: (*what).into(), before, after });
                    }
                }
                (Some(old), None) => {
                    changes.push(PlanChange { subject, what: "actor".into(), before: whole(old), after: None });
                }
                (None, Some(new)) => {
                    changes.push(PlanChange { subject, what: "actor".into(), before: None, after: whole(new) });
                }
                (None, None) => {}
            }
        }
        let cpus = |plan: &Plan| plan.housekeeping.iter().copied().collect::<CpuList>().to_string();
        if self.housekeeping != after.housekeeping {
            let (before, after) = (Some(cpus(self)), Some(cpus(after)));
            changes.push(PlanChange { subject: "housekeeping".into(), what: "cpu".into(), before, after });
        }
        let warnings = |plan: &Plan| -> Vec<String> {
            plan.warnings.iter().map(|warning| format!("{}: {}", warning.subject, warning.text)).collect()
        };
        let (old, new) = (warnings(self), warnings(after));
        let warning = |before, after| PlanChange { subject: "warning".into(), what: String::new(), before, after };
        changes.extend(old.iter().filter(|w| !new.contains(w)).map(|w| warning(Some(w.clone()), None)));
        changes.extend(new.iter().filter(|w| !old.contains(w)).map(|w| warning(None, Some(w.clone()))));
        changes
    }
}

fn features(actor: &ActorPlan) -> Vec<(&'static str, String)> {
    let ports = actor.ports.iter().map(|port| format!("{}:{}", port.interface, port.queue));
    vec![
        ("cpu", format!("{}{}", actor.cpu, if actor.shares_cpu { " (shared)" } else { "" })),
        ("node", actor.numa_node.map_or_else(|| "-".into(), |id| id.to_string())),
        ("memory", super::table::bytes(actor.umem_bytes)),
        ("pages", super::table::page(actor.page).into()),
        ("ports", ports.collect::<Vec<_>>().join(" ")),
    ]
}
