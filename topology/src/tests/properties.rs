//! Checks invariants for every machine and every request.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

use super::machines::snapshot;
use crate::*;

prop_compose! {
    /// Generates machines with uneven nodes, nodes without memory or cores, cores of one to four threads, cores
    /// without a node, and gaps in the numbers.
    fn any_machine()(
        nodes in prop::collection::vec((0_u32..5, any::<bool>(), prop::option::of(0_u64..40)), 0..5),
        cores in prop::collection::vec((any::<Index>(), 1_u32..5, prop::bool::weighted(0.9), prop::option::weighted(0.1, 0_u32..3)), 1..24),
        matrix in prop::option::of(prop::collection::vec(10_u32..40, 25)),
        stride in 1_u32..4,
    ) -> Machine {
        let mut id = 0;
        let count = nodes.len();
        let nodes: Vec<Node> = nodes.into_iter().enumerate().map(|(row, (gap, empty, huge))| {
            id += 1 + gap;
            Node {
                id,
                memory_bytes: Some(if empty && row > 0 { 0 } else { 1 << 36 }),
                free_huge_pages: huge,
                distances: matrix.as_ref().map(|m| m.iter().copied().skip(row * 5).take(count).collect()),
            }
        }).collect();
        let mut next = 0;
        let cores = cores.into_iter().map(|(at, threads, known, kind)| Core {
            cpus: (0..threads).map(|_| { next += stride; next }).collect(),
            package: None,
            node: if known && !nodes.is_empty() { Some(at.get(&nodes).id) } else { None },
            cache: None,
            kind,
        }).collect();
        Machine { nodes, cores, ..Machine::default() }
    }
}

prop_compose! {
    fn any_snapshot()(machine in any_machine())(
        nics in prop::collection::vec((any::<Index>(), prop::bool::weighted(0.8), 1_u32..20), 1..4),
        allowed in prop::option::weighted(0.4, subsequence(machine.cpus().iter().collect::<Vec<_>>(), 1..=machine.cpus().len())),
        isolated in subsequence(machine.cpus().iter().collect::<Vec<_>>(), 0..=machine.cpus().len()),
        machine in Just(machine),
    ) -> Snapshot {
        let nics = nics.into_iter().enumerate().map(|(n, (at, known, queues))| {
            let node = (known && !machine.nodes.is_empty()).then(|| at.get(&machine.nodes).id);
            super::machines::nic(&format!("eth{n}"), node, queues)
        }).collect();
        let mut s = snapshot(machine, nics);
        s.limits.allowed_cpus = allowed.map(|a| a.into_iter().collect());
        s.limits.isolated_cpus = Some(isolated.into_iter().collect());
        s
    }
}

fn any_request(snapshot: &Snapshot) -> impl Strategy<Value = PlanRequest> + use<> {
    let names: Vec<String> = snapshot.nics.iter().map(|n| n.name.clone()).collect();
    let count = names.len();
    (subsequence(names, 1..=count).prop_shuffle(), any::<bool>(), any::<bool>()).prop_map(
        |(names, housekeeping, huge)| PlanRequest {
            allow_housekeeping: housekeeping,
            huge_pages: huge,
            ..PlanRequest::new(names, 4 << 20)
        },
    )
}

fn both() -> impl Strategy<Value = (Snapshot, PlanRequest)> {
    any_snapshot().prop_flat_map(|s| {
        let r = any_request(&s);
        (Just(s), r)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_plan_keeps_the_rules((s, r) in both()) {
        let p = plan(&s, &r).unwrap();
        let usable = s.usable_cpus();
        let kept: CpuList = p.housekeeping.iter().copied().collect();
        let cpus: CpuList = p.actors.iter().map(|a| a.cpu).collect();

        // No actor is outside the cpuset. The housekeeping core is used only if allowed or if it is the only one.
        prop_assert!(p.actors.iter().all(|a| usable.contains(a.cpu)));
        prop_assert!(!kept.is_empty() && kept.and(&usable) == kept);
        if usable.len() > 1 && !r.allow_housekeeping {
            prop_assert!(kept.and(&cpus).is_empty());
        }

        // Every queue that all interfaces have is served on each of them exactly once, in the order of the request.
        let mut served: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for a in &p.actors {
            for port in &a.ports {
                prop_assert_eq!(port.queue, a.queue);
                served.entry(&port.interface).or_default().push(port.queue);
            }
            prop_assert!(a.ports.iter().map(|port| &port.interface).eq(&r.interfaces));
        }
        let common = r.interfaces.iter().map(|name| s.nic(name).unwrap().rx_queues.unwrap()).min().unwrap();
        for name in &r.interfaces {
            let all: Vec<u32> = (0..common).collect();
            prop_assert_eq!(&served[name.as_str()], &all);
        }

        // No cpu and no core is used twice while another is free.
        let candidates = if r.allow_housekeeping || usable.len() == 1 { usable.clone() } else { usable.without(&kept) };
        let mut load: BTreeMap<u32, u32> = candidates.iter().map(|cpu| (cpu, 0)).collect();
        for a in &p.actors { *load.get_mut(&a.cpu).unwrap() += 1; }
        let (least, most) = (load.values().min().unwrap(), load.values().max().unwrap());
        prop_assert!(most - least <= 1, "loads {:?}", load);
        prop_assert!(p.actors.iter().all(|a| a.shares_cpu == (load[&a.cpu] > 1)));
        let core_load = |core: &Core| core.cpus.iter().filter_map(|c| load.get(&c)).sum::<u32>();
        let free = s.machine.cores.iter().any(|c| !c.cpus.and(&candidates).is_empty() && core_load(c) == 0);
        if free {
            prop_assert!(s.machine.cores.iter().all(|c| core_load(c) <= 1), "a core is used twice, another is free");
        }

        // The memory is on the core's node, or on a node that has some.
        for a in &p.actors {
            let own = s.machine.core_of(a.cpu).unwrap().node;
            if let Some(own) = own && s.machine.node(own).unwrap().memory_bytes != Some(0) {
                prop_assert_eq!(a.numa_node, Some(own));
            }
            prop_assert!(a.numa_node.is_none_or(|n| s.machine.node(n).unwrap().memory_bytes != Some(0)));
        }

        // The plan is repeatable, and it survives a round trip through JSON.
        prop_assert_eq!(&plan(&s, &r).unwrap(), &p);
        let json = serde_json::to_string(&p).unwrap();
        prop_assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), p);
        let json = serde_json::to_string(&s).unwrap();
        prop_assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), s);
    }

    #[test]
    fn fewer_cpus_never_give_a_larger_plan(
        (s, r) in both(),
        keep in prop::collection::vec(any::<bool>(), 96),
    ) {
        let all = s.usable_cpus();
        let fewer: CpuList = all.iter().zip(keep).filter(|(_, keep)| *keep).map(|(cpu, _)| cpu).collect();
        prop_assume!(!fewer.is_empty());
        let mut smaller = s.clone();
        smaller.limits.allowed_cpus = Some(fewer.clone());
        let (large, small) = (plan(&s, &r).unwrap(), plan(&smaller, &r).unwrap());
        let used = |p: &Plan| p.actors.iter().map(|a| a.cpu).collect::<BTreeSet<_>>();
        let cores = |p: &Plan| {
            let cpus: CpuList = used(p).into_iter().collect();
            s.machine.cores.iter().filter(|core| !core.cpus.and(&cpus).is_empty()).count()
        };
        prop_assert!(cores(&small) <= cores(&large));
        // A core of four threads, reserved whole on the larger machine, is split if it is the only core. If cores are
        // isolated or slower, another core may be reserved. In these cases the number of cpus need not grow.
        let m = &s.machine;
        let alike = m.cores.iter().all(|core| core.cpus.len() <= 2 && core.kind.is_none());
        if alike && s.limits.isolated_cpus.as_ref().is_none_or(CpuList::is_empty) {
            prop_assert!(used(&small).len() <= used(&large).len());
        }
        prop_assert!(used(&small).iter().all(|&cpu| fewer.contains(cpu)));
        prop_assert_eq!(small.actors.len(), large.actors.len());
    }

    #[test]
    fn random_input_does_not_panic(mut s in any_snapshot(), (nodes, queues, cpu, mtu) in any::<(u32, Option<u32>, u32, Option<u32>)>(),
                              size in any::<u64>(), pins in prop::collection::vec(any::<u32>(), 0..4), numa in any::<Option<u32>>()) {
        s.nics[0].rx_queues = queues;
        s.nics[0].tx_queues = queues;
        s.nics[0].mtu = mtu;
        s.limits.allowed_cpus = Some([cpu % 64].into_iter().collect());
        if let Some(node) = s.machine.nodes.first_mut() { node.id = nodes; }
        let r = PlanRequest {
            pin: if pins.is_empty() { Pin::Auto } else { Pin::List(pins.clone()) },
            queues: if pins.len() == 1 { Queues::List(pins) } else { Queues::Auto },
            numa: numa.map_or(Numa::Auto, Numa::Node),
            ..PlanRequest::new(vec!["eth0".into()], size)
        };
        match plan(&s, &r) {
            Ok(p) => prop_assert!(!p.actors.is_empty()),
            Err(refusal) => prop_assert!(!refusal.reasons.is_empty()),
        }
    }
}
