//! Chooses the memory node and the page size of each actor, and checks the limits.

use std::collections::BTreeMap;

use super::planner::PlanLog;
use super::{ActorPlan, DecisionCode, Page, ReasonCode, WarningCode, place};
use crate::cpus::CpuList;
use crate::request::PlanRequest;
use crate::snapshot::{Amount, Node, Snapshot};

const HUGE_PAGE: u64 = 2 << 20;
/// Remedy for a process that may not use the memory of a node.
pub(crate) const WIDEN_MEMS: &str = "widen cpuset.mems of the cgroup (unit file: AllowedMemoryNodes=)";

pub(super) fn assign(actors: &mut [ActorPlan], snapshot: &Snapshot, request: &PlanRequest, log: &mut PlanLog) {
    choose_nodes(actors, snapshot, log);
    choose_pages(actors, snapshot, request, log);
    check_totals(actors, snapshot, log);
    check_memlock(actors, snapshot, log);
}

/// Places memory on the core's own node, or on the nearest node that has memory.
fn choose_nodes(actors: &mut [ActorPlan], snapshot: &Snapshot, log: &mut PlanLog) {
    let machine = &snapshot.machine;
    let allowed = |id: u32| snapshot.limits.memory_nodes.as_ref().is_none_or(|nodes| nodes.contains(id));
    let usable = |node: &Node| node.memory_bytes != Some(0) && allowed(node.id);
    let mut forbidden: BTreeMap<u32, CpuList> = BTreeMap::new();
    for actor in actors {
        let Some(own) = actor.numa_node else { continue };
        let subject = format!("queue {}", actor.queue);
        if machine.node(own).is_none_or(usable) {
            log.decide(DecisionCode::MemoryLocal, subject, format!("memory on node {own}, the node of its core"));
            continue;
        }
        let nearest = machine
            .nodes
            .iter()
            .filter(|node| usable(node))
            .min_by_key(|node| (place::distance(machine, Some(own), Some(node.id)), node.id));
        match nearest {
            Some(node) => {
                actor.numa_node = Some(node.id);
                let why = if allowed(own) { "has none" } else { "is outside cpuset.mems" };
                let text = format!("memory on node {}, the nearest: the core's node {own} {why}", node.id);
                log.decide(DecisionCode::MemoryNearest, subject, text);
                if !allowed(own) {
                    forbidden.entry(own).or_default().insert(actor.queue);
                }
            }
            None => match &snapshot.limits.memory_nodes {
                Some(nodes) => {
                    let text = format!("no node with memory is in cpuset.mems, which is {nodes}");
                    log.refuse(ReasonCode::Memory, subject, text, WIDEN_MEMS);
                }
                None => {
                    let text = "no node of this machine has memory";
                    log.refuse(ReasonCode::Memory, subject, text, "correct the machine's description");
                }
            },
        }
    }
    for (node, queues) in forbidden {
        let text = format!("their memory is not on the node {node} of their cores: cpuset.mems excludes it");
        log.warn(WarningCode::RemoteNode, format!("queues {queues}"), text, WIDEN_MEMS);
    }
}

/// Assigns huge pages in the order of the queues while the node has free ones. A node-bound mapping without enough
/// huge pages succeeds, and the first access ends in SIGBUS.
fn choose_pages(actors: &mut [ActorPlan], snapshot: &Snapshot, request: &PlanRequest, log: &mut PlanLog) {
    if !request.huge_pages {
        log.decide(DecisionCode::PageBase, "actors", "base pages, as configured");
        return;
    }
    let wanted = request.umem_bytes_per_queue.div_ceil(HUGE_PAGE);
    let mut pools: BTreeMap<Option<u32>, Option<u64>> = BTreeMap::new();
    let mut needed: BTreeMap<Option<u32>, u64> = BTreeMap::new();
    for actor in &mut *actors {
        let total = needed.entry(actor.numa_node).or_default();
        *total = total.saturating_add(wanted);
        let free = pools.entry(actor.numa_node).or_insert_with(|| free_pages(snapshot, actor.numa_node));
        if let Some(free) = free.as_mut() {
            if *free < wanted {
                continue;
            }
            *free -= wanted;
        }
        actor.page = Page::Huge;
    }
    for (node, needed) in needed {
        let subject = node.map_or_else(|| "machine".to_owned(), |id| format!("node {id}"));
        let knob = match node {
            Some(id) => format!("/sys/devices/system/node/node{id}/hugepages/hugepages-2048kB/nr_hugepages"),
            None => "/proc/sys/vm/nr_hugepages".to_owned(),
        };
        match free_pages(snapshot, node) {
            Some(free) if free >= needed => {
                let text = format!("2 MiB pages: {needed} wanted, {free} free");
                log.decide(DecisionCode::PageHuge, subject, text);
            }
            Some(free) => {
                let text =
                    format!("{needed} free 2 MiB pages are wanted, {free} are free: the other actors use base pages");
                let remedy = format!("echo {needed} > {knob}  (more if others use some)");
                log.decide(DecisionCode::PageBase, &subject, "base pages if there are too few huge ones");
                log.warn(WarningCode::HugePagesShort, subject, text, remedy);
            }
            None => {
                let text = format!("{needed} free 2 MiB pages are wanted; the number of free ones is unknown");
                let remedy = format!("echo {needed} > {knob}");
                log.decide(DecisionCode::PageHuge, &subject, "2 MiB pages, if they are free at start");
                log.warn(WarningCode::HugePagesUnknown, subject, text, remedy);
            }
        }
    }
}

fn free_pages(snapshot: &Snapshot, node: Option<u32>) -> Option<u64> {
    match node {
        Some(id) => snapshot.machine.node(id)?.free_huge_pages,
        None => snapshot.limits.free_huge_pages,
    }
}

fn mib(bytes: u128) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn check_totals(actors: &[ActorPlan], snapshot: &Snapshot, log: &mut PlanLog) {
    let remedy = "lower frame_count, or serve fewer queues";
    let mut by_node: BTreeMap<u32, u128> = BTreeMap::new();
    for (node, actor) in actors.iter().filter_map(|actor| Some((actor.numa_node?, actor))) {
        *by_node.entry(node).or_default() += u128::from(actor.umem_bytes);
    }
    for (id, needed) in by_node {
        if let Some(has) = snapshot.machine.node(id).and_then(|node| node.memory_bytes)
            && needed > u128::from(has)
        {
            let text = format!("packet memory of {} exceeds the node's {}", mib(needed), mib(has.into()));
            log.refuse(ReasonCode::Memory, format!("node {id}"), text, remedy);
        }
    }
    let needed: u128 = actors.iter().map(|actor| u128::from(actor.umem_bytes)).sum();
    let limits = &snapshot.limits;
    if let Some(total) = limits.memory_total_bytes
        && needed > u128::from(total)
    {
        let text = format!("packet memory of {} exceeds the machine's {}", mib(needed), mib(total.into()));
        log.refuse(ReasonCode::Memory, "machine", text, remedy);
    }
    // Huge pages are reserved already, so they are not part of the available memory.
    let base: u128 = actors.iter().filter(|a| a.page == Page::Base).map(|a| u128::from(a.umem_bytes)).sum();
    if let Some(available) = limits.memory_available_bytes
        && base > u128::from(available)
    {
        let text = format!("packet memory of {}, but {} are available now", mib(base), mib(available.into()));
        log.warn(WarningCode::MemoryTight, "machine", text, remedy);
    }
}

/// Checks the memlock limit. The kernel counts UMEM against the user's RLIMIT_MEMLOCK, unless CAP_IPC_LOCK is held in
/// the initial user namespace (xdp_umem_account_pages, net/xdp/xdp_umem.c). It counts once for each port of an actor,
/// because every socket registers the memory itself.
fn check_memlock(actors: &[ActorPlan], snapshot: &Snapshot, log: &mut PlanLog) {
    let limits = &snapshot.limits;
    let initial = limits.initial_user_namespace;
    if limits.has_capability("CAP_IPC_LOCK") == Some(true) && initial != Some(false) {
        return;
    }
    let needed: u128 = actors.iter().map(|actor| u128::from(actor.umem_bytes) * actor.ports.len() as u128).sum();
    let short = |limit: Option<Amount>| match limit {
        Some(Amount::Bytes(bytes)) if needed > u128::from(bytes) => Some(mib(bytes.into())),
        _ => None,
    };
    let Some(soft) = short(limits.memlock) else { return };
    let remedy =
        format!("LimitMEMLOCK={needed} in the unit file, `ulimit -l {}`, or CAP_IPC_LOCK", needed.div_ceil(1024));
    let raise = limits.has_capability("CAP_SYS_RESOURCE") == Some(true) && initial != Some(false);
    match short(limits.memlock_max) {
        Some(hard) if !raise && limits.capabilities.is_some() => {
            let text = format!("packet memory of {} exceeds the memlock limit of {hard}", mib(needed));
            log.refuse(ReasonCode::Memlock, "memlock", text, remedy);
        }
        _ => {
            let text = format!("packet memory of {} exceeds the soft memlock limit of {soft}", mib(needed));
            log.warn(WarningCode::Memlock, "memlock", text, remedy);
        }
    }
}
