//! Prints a summary of the running relay at start.

use std::collections::BTreeMap;

use oxide::engine::{Engine, EngineStatus};
use oxide::umem::PageKind;
use oxide_relay::config::Config;
use oxide_topology::{CpuList, Plan, WarningCode};

/// Maximum number of lines in the summary.
const MOST: usize = 15;

/// Prints at most fifteen lines. `listeners` are the addresses of the admin endpoints, `notes` further messages.
pub(super) fn print(config: &Config, engine: &Engine, listeners: &[String], notes: &[String]) {
    for line in lines(config, engine, listeners, notes) {
        crate::log::line(&line);
    }
}

fn lines(config: &Config, engine: &Engine, listeners: &[String], notes: &[String]) -> Vec<String> {
    let status = engine.status();
    let ready = status.start_to_ready_ms.unwrap_or_default();
    let mut lines = vec![format!("oxide {} ready in {ready:.0} ms", env!("CARGO_PKG_VERSION"))];
    for queue in status.queues.iter().take(2) {
        let cpu = queue.cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string());
        for mode in queue.mode.iter().take(2) {
            let why = if mode.reason.is_empty() { String::new() } else { format!(": {}", mode.reason) };
            let (number, executor, interface) = (queue.queue, &queue.executor, &mode.interface);
            lines.push(format!("  queue {number} on CPU {cpu}, {executor}: {} ({interface}){why}", mode.mode));
        }
    }
    if status.queues.len() > 2 {
        lines.push(format!("  and {} more queues", status.queues.len() - 2));
    }
    lines.extend(pages(&status, engine.plan()));
    let differences = status.queues.iter().flat_map(|q| q.differences.iter().map(|d| (q.queue, d)));
    lines.extend(differences.take(1).map(|(queue, it)| format!("  not as planned: queue {queue}: {it}")));
    for relay in config.relays.iter().take(2) {
        let upstreams: Vec<_> = relay.upstreams.iter().take(3).map(ToString::to_string).collect();
        lines.push(format!("  {}: {} -> {}", relay.name, relay.listen, upstreams.join(", ")));
    }
    if config.relays.len() > 2 {
        lines.push(format!("  and {} more relays", config.relays.len() - 2));
    }
    lines.push(format!(
        "  {}",
        if listeners.is_empty() { "no admin endpoint".to_owned() } else { listeners.join(", ") }
    ));
    let notes = notes.iter().chain(engine.notes()).map(|note| format!("  {note}"));
    lines.extend(notes);
    lines.truncate(MOST);
    lines
}

/// Returns the kind of pages of all queues, and the reason if some are not huge.
fn pages(status: &EngineStatus, plan: &Plan) -> Option<String> {
    let mut kinds: BTreeMap<&str, CpuList> = BTreeMap::new();
    let mut why = None;
    for queue in &status.queues {
        let Some(pages) = &queue.pages else { continue };
        let kind = if pages.kind == PageKind::Huge { "2 MiB pages" } else { "base pages" };
        kinds.entry(kind).or_default().insert(queue.queue);
        why = why.or(pages.fallback.clone());
    }
    let short = |code| matches!(code, WarningCode::HugePagesShort | WarningCode::HugePagesUnknown);
    let planned = plan.warnings.iter().find(|warning| short(warning.code));
    let why = why.or_else(|| planned.map(|w| format!("{}: {}; {}", w.subject, w.text, w.remedy)));
    let why = why.filter(|_| kinds.contains_key("base pages")).map_or_else(String::new, |why| format!(" ({why})"));
    let all = match kinds.len() {
        0 => return None,
        1 => kinds.into_keys().collect::<String>(),
        _ => kinds.iter().map(|(kind, queues)| format!("{kind} of queues {queues}")).collect::<Vec<_>>().join(", "),
    };
    Some(format!("  packet memory: {all}{why}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use oxide::engine::QueueStatus;
    use oxide::umem::PageReport;
    use oxide_topology::{PlanRequest, Snapshot, plan};

    use super::*;

    fn status(kinds: &[(PageKind, Option<&str>)]) -> EngineStatus {
        let mut status = EngineStatus::default();
        for ((kind, why), queue) in kinds.iter().zip(0..) {
            let mut one = QueueStatus::default();
            one.queue = queue;
            one.pages = Some(PageReport { kind: *kind, node: None, fallback: why.map(str::to_owned) });
            status.queues.push(one);
        }
        status
    }

    #[test]
    fn pages_of_every_queue_are_told_with_the_reason() {
        let mut snapshot = Snapshot::synthetic("pack:1 [numa] core:4 pu:1").unwrap();
        snapshot.machine.nodes[0].free_huge_pages = Some(4);
        snapshot.describe_nic("eth0:queues=2,mtu=1500").unwrap();
        let plan = plan(&snapshot, &PlanRequest::new(vec!["eth0".to_owned()], 8 << 20)).unwrap();
        let text = |kinds: &[(PageKind, Option<&str>)]| pages(&status(kinds), &plan).unwrap();
        let (huge, base) = ((PageKind::Huge, None), (PageKind::Base, None));
        assert_eq!(text(&[huge, huge]), "  packet memory: 2 MiB pages");
        let mixed = text(&[huge, base]);
        assert!(mixed.contains("2 MiB pages of queues 0") && mixed.contains("base pages of queues 1"), "{mixed}");
        assert!(mixed.contains("8 free 2 MiB pages are wanted, 4 are free"), "the reason of the plan: {mixed}");
        let failed = text(&[huge, (PageKind::Base, Some("none were free"))]);
        assert!(failed.contains("(none were free)"), "{failed}");
        assert_eq!(pages(&EngineStatus::default(), &plan), None);
    }
}
