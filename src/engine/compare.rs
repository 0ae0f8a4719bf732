//! Compares a started actor with its plan, from the state that the kernel reports.

use oxide_topology::{ActorPlan, Page, ZeroCopy};

use crate::config::{Attach, EngineConfig};
use crate::port::{Mode, PortInfo};
use crate::umem::{PageReport, PagesSeen};

/// Returns one sentence for each difference from the plan; none if everything is as planned.
pub(super) fn differences(
    plan: &ActorPlan,
    config: &EngineConfig,
    ports: &[PortInfo],
    pages: &PageReport,
    seen: &PagesSeen,
    cpus: &[u32],
) -> Vec<String> {
    let mut found: Vec<String> = ports.iter().filter_map(|port| mode(plan, config, port)).collect();
    found.extend(place(plan, cpus));
    let huge = seen.page_kib.is_some_and(|kib| kib >= 2048);
    if plan.page == Page::Huge && seen.page_kib.is_some() && !huge {
        let why = pages.fallback.as_deref().unwrap_or("the kernel reports no reason");
        found.push(format!("2 MiB pages planned, {} KiB pages in use: {why}", seen.page_kib.unwrap_or(0)));
    }
    if let Some(node) = plan.numa_node {
        let elsewhere: u64 = seen.nodes.iter().filter(|(at, _)| **at != node).map(|(_, pages)| pages).sum();
        let all: u64 = seen.nodes.values().sum();
        if elsewhere > 0 {
            found.push(format!(
                "memory planned on node {node}, but {elsewhere} of {all} sampled pages are on other nodes"
            ));
        }
    }
    found
}

/// Begins the sentence about the CPU.
const PLACE: &str = "planned on CPU ";

fn place(plan: &ActorPlan, cpus: &[u32]) -> Option<String> {
    (cpus != [plan.cpu]).then(|| format!("{PLACE}{}, but its thread may run on {cpus:?}", plan.cpu))
}

/// Updates `differences` after the actor's thread moved: it may run on `cpus` now.
pub(super) fn moved(differences: &mut Vec<String>, plan: &ActorPlan, cpus: &[u32]) {
    differences.retain(|sentence| !sentence.starts_with(PLACE));
    differences.extend(place(plan, cpus));
}

/// Reports a port whose mode is slower than planned. A faster mode needs explicit configuration.
fn mode(plan: &ActorPlan, config: &EngineConfig, port: &PortInfo) -> Option<String> {
    let generic = config.attach == Attach::Generic;
    let planned = plan.ports.iter().find(|planned| planned.interface == port.id.interface)?;
    let wanted = match (planned.zero_copy, port.mode) {
        _ if generic => return None,
        (ZeroCopy::Good, Mode::Copy | Mode::Generic) if config.zero_copy != crate::xdp::ZeroCopy::Off => "zero-copy",
        (_, Mode::Generic) => "the driver's own XDP hook",
        _ => return None,
    };
    let why = if port.mode_reason.is_empty() { "the kernel reports no reason" } else { &port.mode_reason };
    Some(format!("{wanted} planned for {}, {} mode in force: {why}", port.id, port.mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::umem::PageKind;

    #[test]
    fn only_differences_are_named() {
        let plan = ActorPlan {
            queue: 0,
            ports: Vec::new(),
            cpu: 3,
            shares_cpu: false,
            numa_node: Some(1),
            umem_bytes: 4 << 20,
            page: Page::Huge,
        };
        let config = EngineConfig::new(["eth0"]);
        let why = Some("none were free".to_owned());
        let pages = PageReport { kind: PageKind::Base, node: Some(1), fallback: why };
        let good = PagesSeen { page_kib: Some(2048), nodes: [(1, 512)].into() };
        assert_eq!(differences(&plan, &config, &[], &pages, &good, &[3]), Vec::<String>::new());
        let mut later = vec!["something else".to_owned()];
        moved(&mut later, &plan, &[0, 1]);
        moved(&mut later, &plan, &[0, 2]);
        assert_eq!(later, ["something else", "planned on CPU 3, but its thread may run on [0, 2]"]);
        moved(&mut later, &plan, &[3]);
        assert_eq!(later, ["something else"]);
        let bad = PagesSeen { page_kib: Some(4), nodes: [(0, 12), (1, 500)].into() };
        let found = differences(&plan, &config, &[], &pages, &bad, &[2, 3]).join("; ");
        for text in ["CPU 3", "[2, 3]", "4 KiB", "none were free", "node 1", "12 of 512"] {
            assert!(found.contains(text), "{text}: {found}");
        }
        // Without an answer from the kernel, no difference is reported.
        let silent = PagesSeen { page_kib: None, nodes: [].into() };
        assert_eq!(differences(&plan, &config, &[], &pages, &silent, &[3]), Vec::<String>::new());
    }

    #[test]
    fn lower_mode_than_planned_is_named() {
        let port = |zero_copy| oxide_topology::PortPlan {
            interface: "eth0".to_owned(),
            ifindex: Some(2),
            queue: 0,
            numa_node: None,
            zero_copy,
        };
        let seen_with = |set: fn(&mut EngineConfig), zero_copy, mode| {
            let plan = ActorPlan {
                queue: 0,
                ports: vec![port(zero_copy)],
                cpu: 0,
                shares_cpu: false,
                numa_node: None,
                umem_bytes: 1 << 20,
                page: Page::Base,
            };
            let info = PortInfo {
                id: crate::port::QueueId::new("eth0", 0),
                ifindex: 2,
                mac: crate::packet::MacAddr::default(),
                mtu: 1500,
                mode,
                mode_reason: "the driver refused".to_owned(),
                busy_poll: String::new(),
            };
            let pages = PageReport { kind: PageKind::Base, node: None, fallback: None };
            let mut config = EngineConfig::new(["eth0"]);
            set(&mut config);
            differences(&plan, &config, &[info], &pages, &PagesSeen { page_kib: None, nodes: [].into() }, &[0])
                .join("; ")
        };
        let seen = |zero_copy, mode| seen_with(|_| {}, zero_copy, mode);
        let text = "zero-copy planned for eth0:0, copy mode in force: the driver refused";
        assert_eq!(seen(ZeroCopy::Good, Mode::Copy), text);
        assert!(seen(ZeroCopy::Absent, Mode::Generic).contains("own XDP hook planned"));
        assert_eq!(seen(ZeroCopy::Absent, Mode::Copy), "");
        assert_eq!(seen(ZeroCopy::Good, Mode::ZeroCopy), "");
        // A mode that the configuration requests is no difference.
        assert_eq!(seen_with(|c| c.zero_copy = crate::xdp::ZeroCopy::Off, ZeroCopy::Good, Mode::Copy), "");
        assert_eq!(seen_with(|c| c.attach = Attach::Generic, ZeroCopy::Good, Mode::Generic), "");
    }
}
