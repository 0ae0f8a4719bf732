//! Checks single plans in detail.

use super::machines::{machine, nic, snapshot};
use crate::*;

fn request(names: &[&str]) -> PlanRequest {
    PlanRequest::new(names.iter().map(|n| (*n).to_owned()).collect(), 8 << 20)
}

fn cpus(plan: &Plan) -> Vec<u32> {
    plan.actors.iter().map(|a| a.cpu).collect()
}

fn codes(plan: &Plan) -> Vec<WarningCode> {
    plan.warnings.iter().map(|w| w.code).collect()
}

fn refused(snapshot: &Snapshot, request: &PlanRequest) -> Vec<ReasonCode> {
    let refusal = plan(snapshot, request).unwrap_err();
    assert!(refusal.reasons.iter().all(|r| !r.remedy.is_empty() && !r.text.is_empty()));
    refusal.reasons.iter().map(|r| r.code).collect()
}

#[test]
fn cores_are_chosen_by_node_then_sibling_then_sharing() {
    // Node 0: cores 0-3 (threads 0-3, 8-11), node 1: cores 4-7 (4-7, 12-15). Core 0 is kept.
    let s = snapshot(machine(2, 4, 2), vec![nic("eth0", Some(1), 16)]);
    let p = plan(&s, &request(&["eth0"])).unwrap();
    assert_eq!(p.housekeeping, [0, 8]);
    assert_eq!(cpus(&p), [4, 5, 6, 7, 1, 2, 3, 12, 13, 14, 15, 9, 10, 11, 4, 5]);
    let shared: Vec<u32> = p.actors.iter().filter(|a| a.shares_cpu).map(|a| a.queue).collect();
    assert_eq!(shared, [0, 1, 14, 15]);
    assert!(p.actors.iter().all(|a| a.numa_node == Some(if matches!(a.cpu, 4..8 | 12..16) { 1 } else { 0 })));
    assert!(codes(&p).contains(&WarningCode::RemoteNode) && codes(&p).contains(&WarningCode::CpuShared));
}

#[test]
fn one_actor_serves_queue_k_of_every_interface() {
    let mut s = snapshot(machine(1, 4, 1), vec![nic("eth0", None, 2), nic("eth1", None, 3)]);
    let p = plan(&s, &request(&["eth1", "eth0"])).unwrap();
    assert_eq!(p.actors.len(), 2, "an actor of queue 2 could not send by eth0");
    for actor in &p.actors {
        let ports: Vec<_> = actor.ports.iter().map(|port| (port.interface.as_str(), port.queue)).collect();
        assert_eq!(ports, [("eth1", actor.queue), ("eth0", actor.queue)], "port numbers mean the same on each actor");
    }
    let unserved: Vec<_> = p.warnings.iter().filter(|w| w.code == WarningCode::QueuesUnserved).collect();
    let [warning] = unserved.as_slice() else { panic!("{unserved:?}") };
    assert_eq!(warning.subject, "eth1");
    assert!(
        warning.text.contains("2 of its 3") && warning.remedy.contains("ethtool -L eth1 combined 2"),
        "{warning:?}"
    );
    assert!(p.decisions.iter().any(|d| d.code == DecisionCode::QueuesCommon && d.text.contains("eth0 has no more")));
    // Where RSS brings no packet to the third queue there is nothing to warn of.
    s.nics[1].rss = Some(RssView { table: Some(vec![0, 1, 0, 1]), ..RssView::default() });
    let p = plan(&s, &request(&["eth1", "eth0"])).unwrap();
    assert!(!codes(&p).contains(&WarningCode::QueuesUnserved));
}

#[test]
fn listed_queue_that_one_interface_lacks_is_refused() {
    let s = snapshot(machine(1, 4, 1), vec![nic("eth0", None, 2), nic("eth1", None, 3)]);
    let listed = |queue| PlanRequest { queues: Queues::List(vec![0, queue]), ..request(&["eth0", "eth1"]) };
    assert_eq!(plan(&s, &listed(1)).unwrap().actors.len(), 2);
    let refusal = plan(&s, &listed(2)).unwrap_err();
    assert_eq!(refusal.reasons.iter().map(|r| r.code).collect::<Vec<_>>(), [ReasonCode::QueueAbsent]);
    assert!(refusal.to_string().contains("queue 2: eth0 does not have it"), "{refusal}");
}

#[test]
fn two_cpus_leave_one_for_housekeeping_unless_allowed() {
    let s = snapshot(machine(1, 2, 1), vec![nic("veth0", None, 2)]);
    let p = plan(&s, &request(&["veth0"])).unwrap();
    assert_eq!((cpus(&p), &p.housekeeping), (vec![1, 1], &vec![0]));
    assert!(p.actors.iter().all(|a| a.shares_cpu));
    let p = plan(&s, &PlanRequest { allow_housekeeping: true, ..request(&["veth0"]) }).unwrap();
    assert_eq!(cpus(&p), [1, 0]);
    assert!(codes(&p).contains(&WarningCode::HousekeepingUsed));
}

#[test]
fn only_core_near_nic_serves_packets() {
    let s = snapshot(machine(2, 1, 1), vec![nic("eth0", Some(0), 1)]);
    let p = plan(&s, &request(&["eth0"])).unwrap();
    assert_eq!((cpus(&p), p.housekeeping), (vec![0], vec![1]));
}

#[test]
fn one_cpu_serves_everything() {
    let mut s = snapshot(machine(1, 4, 1), vec![nic("eth0", None, 2)]);
    s.limits.allowed_cpus = Some([3].into_iter().collect());
    let p = plan(&s, &request(&["eth0"])).unwrap();
    assert_eq!((cpus(&p), p.housekeeping), (vec![3, 3], vec![3]));
}

#[test]
fn one_core_of_two_threads_keeps_a_thread() {
    let s = snapshot(machine(1, 1, 2), vec![nic("eth0", None, 1)]);
    let p = plan(&s, &request(&["eth0"])).unwrap();
    assert_eq!((cpus(&p), p.housekeeping), (vec![1], vec![0]));
}

#[test]
fn pin_list_is_used_as_given() {
    let s = snapshot(machine(2, 2, 1), vec![nic("eth0", Some(0), 3)]);
    let p = plan(&s, &PlanRequest { pin: Pin::List(vec![3, 0]), ..request(&["eth0"]) }).unwrap();
    assert_eq!((cpus(&p), p.housekeeping), (vec![3, 0, 3], vec![1]));
    let bad = PlanRequest { pin: Pin::List(vec![9]), ..request(&["eth0"]) };
    assert_eq!(refused(&s, &bad), [ReasonCode::CpuUnusable]);
    let bad = PlanRequest { pin: Pin::List(vec![3]), numa: Numa::Node(0), ..request(&["eth0"]) };
    assert_eq!(refused(&s, &bad), [ReasonCode::CpuUnusable]);
}

#[test]
fn requested_node_is_kept() {
    let s = snapshot(machine(2, 2, 1), vec![nic("eth0", Some(0), 3)]);
    let p = plan(&s, &PlanRequest { numa: Numa::Node(1), ..request(&["eth0"]) }).unwrap();
    assert_eq!(cpus(&p), [2, 3, 2]);
    assert_eq!(refused(&s, &PlanRequest { numa: Numa::Node(5), ..request(&["eth0"]) }), [ReasonCode::NodeUnusable]);
}

#[test]
fn isolated_cores_are_for_actors() {
    let mut s = snapshot(machine(1, 4, 1), vec![nic("eth0", None, 2)]);
    s.limits.isolated_cpus = Some([0, 3].into_iter().collect());
    let p = plan(&s, &request(&["eth0"])).unwrap();
    assert_eq!((cpus(&p), p.housekeeping), (vec![0, 3], vec![1]));
}

#[test]
fn memory_is_never_on_a_node_without_any() {
    let mut s = snapshot(machine(2, 2, 1), vec![nic("eth0", Some(1), 1)]);
    s.machine.nodes[1].memory_bytes = Some(0);
    let p = plan(&s, &request(&["eth0"])).unwrap();
    assert_eq!((p.actors[0].cpu, p.actors[0].numa_node), (2, Some(0)));
    assert!(p.decisions.iter().any(|d| d.code == DecisionCode::MemoryNearest));
}

#[test]
fn huge_pages_are_planned_as_long_as_they_last() {
    let mut s = snapshot(machine(1, 4, 1), vec![nic("eth0", None, 3)]);
    s.machine.nodes[0].free_huge_pages = Some(9);
    let p = plan(&s, &request(&["eth0"])).unwrap();
    assert_eq!(p.actors.iter().map(|a| a.page).collect::<Vec<_>>(), [Page::Huge, Page::Huge, Page::Base]);
    let remedy = &p.warnings.iter().find(|w| w.code == WarningCode::HugePagesShort).unwrap().remedy;
    assert!(remedy.starts_with("echo 12 > "), "{remedy}");
    let p = plan(&s, &PlanRequest { huge_pages: false, ..request(&["eth0"]) }).unwrap();
    assert!(p.actors.iter().all(|a| a.page == Page::Base));
}

#[test]
fn limits_refuse() {
    let mut s = snapshot(machine(1, 4, 1), vec![nic("eth0", None, 2)]);
    s.limits.capabilities = Some(vec![]);
    s.limits.memlock = Some(Amount::Bytes(8 << 20));
    s.limits.memlock_max = Some(Amount::Bytes(8 << 20));
    assert_eq!(refused(&s, &request(&["eth0"])), [ReasonCode::Memlock]);
    s.limits.memlock_max = Some(Amount::Unlimited);
    assert!(codes(&plan(&s, &request(&["eth0"])).unwrap()).contains(&WarningCode::Memlock));
    s.limits.memory_total_bytes = Some(1 << 20);
    assert_eq!(refused(&s, &request(&["eth0"])), [ReasonCode::Memory]);
}

#[test]
fn invalid_requests_are_refused_together() {
    let mut s = snapshot(machine(1, 4, 1), vec![nic("eth0", None, 0), nic("eth1", None, 2)]);
    assert_eq!(refused(&s, &request(&["eth0"])), [ReasonCode::NoQueue]);
    assert_eq!(refused(&s, &request(&[])), [ReasonCode::NoInterface]);
    assert_eq!(
        refused(&s, &request(&["x", "eth1", "eth1"])),
        [ReasonCode::InterfaceAbsent, ReasonCode::InterfaceTwice]
    );
    let far = PlanRequest { queues: Queues::List(vec![0, 2]), frame_size: 3000, ..request(&["eth1"]) };
    assert_eq!(refused(&s, &far), [ReasonCode::BadSize, ReasonCode::QueueAbsent]);
    s.nics[1].tx_queues = Some(1);
    assert_eq!(refused(&s, &request(&["eth1"])), [ReasonCode::NoTransmitQueue]);
    s.nics[1].tx_queues = Some(2);
    s.nics[1].mtu = Some(9000);
    assert_eq!(refused(&s, &request(&["eth1"])), [ReasonCode::Mtu]);
    s.nics[1].mtu = Some(1500);
    s.nics[1].rx_queues = None;
    assert_eq!(refused(&s, &request(&["eth1"])), [ReasonCode::QueuesUnknown]);
    let listed = PlanRequest { queues: Queues::List(vec![0]), ..request(&["eth1"]) };
    assert!(codes(&plan(&s, &listed).unwrap()).contains(&WarningCode::QueuesUnknown));
}

#[test]
fn interface_without_ethernet_is_refused_for_that() {
    let mut s = snapshot(machine(1, 4, 1), vec![nic("lo", None, 1), nic("tun0", None, 1)]);
    for nic in &mut s.nics {
        (nic.ethernet, nic.mtu, nic.driver) = (Some(false), Some(65_536), None);
    }
    s.nics[1].driver = Some("tun".to_owned());
    let refusal = plan(&s, &request(&["lo", "tun0"])).unwrap_err();
    assert_eq!(refusal.reasons.iter().map(|r| r.code).collect::<Vec<_>>(), [ReasonCode::NotEthernet; 2]);
    let text = refusal.to_string();
    assert!(text.contains("loopback") && text.contains("no Ethernet frames (tun)") && !text.contains("mtu"), "{text}");
}

#[test]
fn the_largest_numbers_are_refused_without_overflow() {
    let mut s = snapshot(machine(1, 4, 1), vec![nic("eth0", None, 2), nic("eth1", None, 2)]);
    for queue in [256, u32::MAX] {
        let far = PlanRequest { queues: Queues::List(vec![0, queue]), ..request(&["eth0", "eth1"]) };
        assert_eq!(refused(&s, &far), [ReasonCode::QueueAbsent]);
    }
    let pin = PlanRequest { pin: Pin::List(vec![u32::MAX]), ..request(&["eth0"]) };
    assert_eq!(refused(&s, &pin), [ReasonCode::CpuUnusable]);
    let huge = PlanRequest { umem_bytes_per_queue: u64::MAX, ..request(&["eth0"]) };
    assert!(refused(&s, &huge).contains(&ReasonCode::Memory));
    s.nics[0].rx_queues = Some(u32::MAX);
    assert_eq!(refused(&s, &request(&["eth0"])), [ReasonCode::TooManyQueues]);
    assert_eq!([u32::MAX - 1, u32::MAX].into_iter().collect::<CpuList>().to_string(), "4294967294-4294967295");
    s.machine.cores = vec![Core::default(); 100_000];
    assert_eq!(s.problems().len(), 21);
}

#[test]
fn any_plan_can_be_rendered() {
    let mut s = snapshot(machine(2, 3, 2), vec![nic("a<b\u{1}&\"", None, 30)]);
    s.machine.cores[5].node = None;
    s.machine.cores[5].cpus = CpuList::from_iter([70]);
    let p = plan(&s, &request(&["a<b\u{1}&\""])).unwrap();
    let svg = p.svg(&s);
    assert!(svg.contains("a&lt;b?&amp;&quot;") && !svg.contains("a<b") && svg.ends_with("</svg>\n"), "{svg}");
    assert!(p.tree(&s).contains("node unknown"));
    assert_eq!(p.diff(&p), []);
}

#[test]
fn contradictions_in_a_snapshot_are_refused() {
    let good = snapshot(machine(2, 2, 1), vec![nic("eth0", Some(1), 1)]);
    let broken: [fn(&mut Snapshot); 7] = [
        |s| s.nics[0].numa_node = Some(4),
        |s| s.machine.cores[1].cpus = [0].into_iter().collect(),
        |s| s.machine.cores[1].node = Some(9),
        |s| s.machine.nodes[1].id = 0,
        |s| s.machine.nodes[0].distances = Some(vec![10]),
        |s| s.machine.cores.clear(),
        |s| s.nics.push(s.nics[0].clone()),
    ];
    for (index, breaks) in broken.into_iter().enumerate() {
        let mut s = good.clone();
        breaks(&mut s);
        let codes = refused(&s, &request(&["eth0"]));
        assert!(!codes.is_empty() && codes.iter().all(|c| *c == ReasonCode::Snapshot), "case {index}: {codes:?}");
    }
}

#[test]
fn table_shows_key_columns() {
    let s = snapshot(machine(2, 4, 1), vec![nic("eth0", Some(0), 2), nic("eth1", Some(1), 2)]);
    let text = plan(&s, &request(&["eth0", "eth1"])).unwrap().to_string();
    assert!(text.contains("0      1    0     8 MiB   2 MiB  eth0:0 eth1:0*"), "{text}");
    assert!(text.contains("housekeeping cpu 0; packet memory 16 MiB in all"), "{text}");
}
