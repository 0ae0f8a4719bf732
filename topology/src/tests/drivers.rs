//! Checks the planner's rules for drivers and for the memory nodes of this process.

use super::machines::{machine, nic, snapshot};
use crate::*;

fn request() -> PlanRequest {
    PlanRequest::new(vec!["eth0".to_owned()], 8 << 20)
}

fn zero_copy_driver(driver: &str) -> Snapshot {
    let mut s = snapshot(machine(1, 4, 1), vec![nic("eth0", Some(0), 2)]);
    s.limits.kernel = Some("6.18.12".to_owned());
    s.nics[0].driver = Some(driver.to_owned());
    s.nics[0].xdp_features = Some(XdpFeatures { basic: true, redirect: true, zero_copy: true, multi_buffer: false });
    s
}

fn about_zero_copy(plan: &Plan) -> Vec<&str> {
    plan.warnings.iter().map(|w| w.text.as_str()).filter(|text| text.contains("zero-copy")).collect()
}

/// Checks a measurement on 6.18 and 7.3: the driver receives if the fill ring is filled before bind. It splits
/// packets longer than 1 KiB if frames have 2 KiB.
#[test]
fn igb_has_zero_copy_with_frames_of_4_kib_only() {
    let s = zero_copy_driver("igb");
    let large = PlanRequest { frame_size: 4096, ..request() };
    let p = plan(&s, &large).unwrap();
    assert_eq!((p.actors[0].ports[0].zero_copy, about_zero_copy(&p)), (ZeroCopy::Good, vec![]));

    let p = plan(&s, &request()).unwrap();
    assert_eq!(p.actors[0].ports[0].zero_copy, ZeroCopy::Avoid);
    let warning = p.warnings.iter().find(|w| w.text.contains("4096")).unwrap();
    assert!(warning.remedy.contains("frame_size = 4096"), "{warning:?}");

    let required = PlanRequest { zero_copy: ZeroCopyWish::Require, ..request() };
    let refusal = plan(&s, &required).unwrap_err();
    assert_eq!(refusal.reasons[0].code, ReasonCode::BadSize);
    assert!(refusal.to_string().contains("frame_size = 4096"), "{refusal}");
    assert!(plan(&s, &PlanRequest { zero_copy: ZeroCopyWish::Require, ..large }).is_ok());
}

#[test]
fn zero_copy_advice_follows_the_configuration() {
    let s = zero_copy_driver("ice");
    let warned = |zero_copy| {
        let p = plan(&s, &PlanRequest { zero_copy, ..request() }).unwrap();
        about_zero_copy(&p).join("; ")
    };
    assert!(warned(ZeroCopyWish::Auto).contains("not used"));
    let required = warned(ZeroCopyWish::Require);
    assert!(required.contains("firedancer#11245") && !required.contains("not used"), "{required}");
    assert_eq!(warned(ZeroCopyWish::Off), "");
}

/// Checks virtnet_xdp_set: with as many spare pairs as CPUs, attaching a program adds receive queues.
#[test]
fn virtio_plan_serves_queues_that_attaching_adds() {
    let mut s = snapshot(machine(1, 4, 1), vec![nic("eth0", None, 4)]);
    s.nics[0].driver = Some("virtio_net".to_owned());
    let queues = |s: &Snapshot, request: &PlanRequest| {
        let p = plan(s, request).unwrap();
        (p.actors.iter().map(|a| a.queue).collect::<Vec<_>>(), p)
    };
    s.nics[0].max_queues = Some(8);
    let (served, p) = queues(&s, &request());
    assert_eq!(served, (0..8).collect::<Vec<_>>());
    let advice = p.warnings.iter().find(|w| w.code == WarningCode::Driver).unwrap();
    assert!(advice.remedy.contains("ethtool -L eth0 combined 5"), "{advice:?}");
    // The remedy leaves no spare pairs. Then no queue is added, and there is no warning.
    (s.nics[0].rx_queues, s.nics[0].tx_queues) = (Some(5), Some(5));
    let (served, p) = queues(&s, &request());
    assert_eq!((served.len(), p.warnings.iter().any(|w| w.code == WarningCode::Driver)), (5, false));
    // Generic mode adds no queue, and an attached program has added them already.
    (s.nics[0].rx_queues, s.nics[0].tx_queues) = (Some(4), Some(4));
    assert_eq!(queues(&s, &PlanRequest { native: false, ..request() }).0.len(), 4);
    (s.nics[0].rx_queues, s.nics[0].tx_queues) = (Some(8), Some(4));
    s.nics[0].xdp_program = Some(XdpProgram { mode: "native".to_owned(), id: Some(3) });
    assert_eq!(queues(&s, &request()).0.len(), 8);
    // CPUs that may be plugged in later count as well.
    (s.nics[0].rx_queues, s.nics[0].tx_queues, s.nics[0].xdp_program) = (Some(4), Some(4), None);
    s.machine.possible_cpus = Some(6);
    assert_eq!(queues(&s, &request()).0.len(), 4);
    // Listed queues leave the others unserved, also the added ones.
    s.machine.possible_cpus = Some(4);
    let listed = PlanRequest { queues: Queues::List(vec![0, 1, 2, 3]), ..request() };
    let (_, p) = queues(&s, &listed);
    let unserved = p.warnings.iter().find(|w| w.code == WarningCode::QueuesUnserved).unwrap();
    assert!(unserved.text.contains("4 other queues"), "{unserved:?}");
}

#[test]
fn memory_stays_inside_cpuset_mems() {
    let mut s = snapshot(machine(2, 2, 1), vec![nic("eth0", Some(1), 1)]);
    s.limits.memory_nodes = Some([0].into_iter().collect());
    let p = plan(&s, &request()).unwrap();
    assert_eq!((p.actors[0].cpu, p.actors[0].numa_node), (2, Some(0)));
    let warning = p.warnings.iter().find(|w| w.text.contains("cpuset.mems")).unwrap();
    assert!(!warning.remedy.is_empty());
    let refusal = plan(&s, &PlanRequest { numa: Numa::Node(1), ..request() }).unwrap_err();
    assert_eq!(refusal.reasons[0].code, ReasonCode::NodeUnusable);
    assert!(refusal.to_string().contains("cpuset.mems"), "{refusal}");
    s.machine.nodes[0].memory_bytes = Some(0);
    let refusal = plan(&s, &request()).unwrap_err();
    assert!(refusal.to_string().contains("cpuset.mems"), "{refusal}");
}
