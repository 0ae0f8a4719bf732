//! Checks unusual machines: each gets a plan with a warning, or a refusal with its reason.

use super::machines::{machine, nic, snapshot};
use crate::*;

fn request(names: &[&str]) -> PlanRequest {
    PlanRequest::new(names.iter().map(|n| (*n).to_owned()).collect(), 8 << 20)
}

fn warned(s: &Snapshot, names: &[&str], code: WarningCode) -> Plan {
    let plan = plan(s, &request(names)).unwrap();
    let found = plan.warnings.iter().find(|w| w.code == code);
    assert!(found.is_some_and(|w| !w.text.is_empty() && !w.remedy.is_empty()), "{code:?} in {:?}", plan.warnings);
    plan
}

fn refused(s: &Snapshot, names: &[&str], code: ReasonCode) {
    let refusal = plan(s, &request(names)).unwrap_err();
    assert!(refusal.reasons.iter().any(|r| r.code == code && !r.remedy.is_empty()), "{code:?} in {refusal}");
}

#[test]
fn nic_without_queues() {
    refused(&snapshot(machine(1, 4, 1), vec![nic("eth0", Some(0), 0)]), &["eth0"], ReasonCode::NoQueue);
}

#[test]
fn offline_cpus_are_never_used() {
    let mut s = snapshot(machine(1, 4, 1), vec![nic("eth0", Some(0), 4)]);
    s.machine.cores.remove(2);
    s.machine.offline = [2].into_iter().collect();
    let p = plan(&s, &request(&["eth0"])).unwrap();
    assert!(p.actors.iter().all(|actor| actor.cpu != 2));
    // A CPU that is allowed and offline counts as absent.
    s.limits.allowed_cpus = Some([2].into_iter().collect());
    refused(&s, &["eth0"], ReasonCode::NoCpu);
}

#[test]
fn cpuset_of_one_core() {
    let mut s = snapshot(machine(2, 4, 2), vec![nic("eth0", Some(0), 2)]);
    s.limits.allowed_cpus = Some([3].into_iter().collect());
    let p = warned(&s, &["eth0"], WarningCode::CpuShared);
    assert!(p.actors.iter().all(|actor| actor.cpu == 3));
}

#[test]
fn cores_without_a_node() {
    let mut s = snapshot(machine(2, 4, 1), vec![nic("eth0", Some(1), 2)]);
    s.machine.cores.iter_mut().for_each(|core| core.node = None);
    let p = warned(&s, &["eth0"], WarningCode::RemoteNode);
    assert!(p.actors.iter().all(|actor| actor.cpu != p.housekeeping[0]));
}

#[test]
fn cores_of_several_kinds() {
    let mut s = snapshot(machine(1, 8, 1), vec![nic("eth0", Some(0), 3)]);
    s.machine.cores.iter_mut().for_each(|core| core.kind = Some(u32::from(core.cpus.first() >= Some(4))));
    let p = warned(&s, &["eth0"], WarningCode::MixedCores);
    assert!(p.actors.iter().all(|actor| actor.cpu >= 4), "the faster cores first");
}

#[test]
fn nic_without_node() {
    warned(&snapshot(machine(2, 4, 1), vec![nic("eth0", None, 2)]), &["eth0"], WarningCode::NicNodeUnknown);
}

#[test]
fn asymmetric_distances() {
    // From node 1, node 2 is near; from node 2, node 1 is far. The distance from the NIC's node decides.
    let mut s = snapshot(machine(3, 1, 1), vec![nic("eth0", Some(1), 2)]);
    for (node, distances) in s.machine.nodes.iter_mut().zip([[10, 20, 20], [40, 10, 12], [20, 90, 10]]) {
        node.distances = Some(distances.to_vec());
    }
    let p = plan(&s, &request(&["eth0"])).unwrap();
    assert_eq!(p.actors.iter().map(|a| a.cpu).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn more_nics_than_nodes() {
    let nics = ["a0", "a1", "a2"].map(|name| nic(name, Some(0), 2)).to_vec();
    let p = plan(&snapshot(machine(1, 4, 1), nics), &request(&["a0", "a1", "a2"])).unwrap();
    assert!(p.actors.iter().all(|actor| actor.ports.len() == 3));
}

#[test]
fn damaged_rss_table_does_not_panic() {
    let mut s = snapshot(machine(1, 4, 1), vec![nic("eth0", Some(0), 2)]);
    s.nics[0].rss = Some(RssView { table: Some(vec![u32::MAX; 3]), key: Some(Vec::new()), ..RssView::default() });
    assert!(plan(&s, &request(&["eth0"])).is_ok());
    let probes = crate::doctor::Probes::default();
    let checks = crate::doctor::doctor(&s, &probes, &request(&["eth0"]), &crate::doctor::Traffic::default());
    assert!(checks.iter().any(|c| c.id == "rss" && c.status == crate::doctor::CheckStatus::Warn));
}
