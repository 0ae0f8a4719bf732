//! Warns about shared CPUs and distant nodes: one warning for each kind of problem.

use std::collections::{BTreeMap, BTreeSet};

use super::planner::PlanLog;
use super::{ActorPlan, WarningCode};
use crate::cpus::CpuList;
use crate::snapshot::{CpuQuota, Snapshot};

pub(super) fn warn(
    actors: &[ActorPlan],
    candidates: usize,
    housekeeping: &CpuList,
    snapshot: &Snapshot,
    log: &mut PlanLog,
) {
    if snapshot.machine.nodes.len() > 1 {
        distance(actors, snapshot, log);
    }
    let mut load: BTreeMap<u32, u32> = BTreeMap::new();
    for actor in actors {
        *load.entry(actor.cpu).or_default() += 1;
    }
    let crowded: CpuList = load.iter().filter(|(_, load)| **load > 1).map(|(cpu, _)| *cpu).collect();
    if !crowded.is_empty() {
        let text = format!("{} actors for {candidates} cpus: several share cpu {}", actors.len(), brief(&crowded));
        let remedy = format!("fewer queues (ethtool -L NIC combined {candidates}), or allow more cpus");
        log.warn(WarningCode::CpuShared, "actors", text, remedy);
    }
    let used: CpuList = load.keys().copied().collect();
    let twice = snapshot.machine.cores.iter().map(|core| core.cpus.and(&used)).filter(|cpus| cpus.len() > 1);
    let siblings = twice.fold(CpuList::new(), |all, cpus| all.or(&cpus));
    if !siblings.is_empty() {
        let text = format!("threads of the same physical cores are used by several actors: cpu {}", brief(&siblings));
        log.warn(WarningCode::SmtShared, "actors", text, "fewer queues, or allow more physical cores");
    }
    let kept = used.and(housekeeping);
    if !kept.is_empty() {
        let text = format!("cpu {kept} serves actors and housekeeping: the supervisor may be late under load");
        log.warn(WarningCode::HousekeepingUsed, "actors", text, "allow one more cpu, or leave one out of pin");
    }
    if let Some(CpuQuota::MilliCpus(granted)) = snapshot.limits.cpu_quota
        && granted < 1000 * used.len() as u64
    {
        let (whole, part) = (granted / 1000, granted % 1000);
        let text = format!("the cgroup grants {whole}.{part:03} cpus, the plan keeps {} busy under load", used.len());
        let remedy = "raise CPUQuota= (systemd) or resources.limits.cpu (Kubernetes), or serve fewer queues";
        log.warn(WarningCode::CpuQuota, "cgroup", text, remedy);
    }
}

/// Returns the list, or its size and first element if the list is long.
fn brief(cpus: &CpuList) -> String {
    let list = cpus.to_string();
    if list.len() > 60 { format!("{} of them, from {}", cpus.len(), cpus.first().unwrap_or(0)) } else { list }
}

/// Warns about actors that are on another node than their NICs.
fn distance(actors: &[ActorPlan], snapshot: &Snapshot, log: &mut PlanLog) {
    let mut far: BTreeMap<Option<u32>, (CpuList, BTreeSet<&str>)> = BTreeMap::new();
    let mut lost: BTreeMap<&str, CpuList> = BTreeMap::new();
    for actor in actors {
        let own = snapshot.machine.core_of(actor.cpu).and_then(|core| core.node);
        let elsewhere = |port: &&super::PortPlan| port.numa_node.is_some() && port.numa_node != own;
        let remote: Vec<&str> = actor.ports.iter().filter(elsewhere).map(|port| port.interface.as_str()).collect();
        if !remote.is_empty() {
            let (queues, nics) = far.entry(own).or_default();
            queues.insert(actor.queue);
            nics.extend(remote);
        }
        for port in actor.ports.iter().filter(|port| port.numa_node.is_none()) {
            lost.entry(&port.interface).or_default().insert(actor.queue);
        }
    }
    for (node, (queues, nics)) in far {
        let node = node.map_or_else(|| "an unknown node".to_owned(), |id| format!("node {id}"));
        let nics = nics.into_iter().collect::<Vec<_>>().join(", ");
        let text = format!("served from {node}; packets of {nics}, which is on another node, cross");
        let remedy = "use interfaces of one node, fewer queues, or allow more cpus on the NIC's node";
        log.warn(WarningCode::RemoteNode, format!("queues {}", brief(&queues)), text, remedy);
    }
    for nic in lost.into_keys() {
        let remedy = format!("see /sys/class/net/{nic}/device/numa_node; set numa = N if you know it");
        log.warn(WarningCode::NicNodeUnknown, nic, "its node is unknown: cores are taken from the lowest", remedy);
    }
}
