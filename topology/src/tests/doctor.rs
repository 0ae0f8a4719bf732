//! The doctor on described patients.

use super::machines::{machine, nic, snapshot};
use crate::doctor::{Attempt, CHECKS, Check, Probes, Status, doctor, worst};
use crate::*;

fn patient() -> (Snapshot, Probes, Request) {
    let mut s = snapshot(machine(2, 4, 1), vec![nic("eth0", Some(0), 2)]);
    s.limits = Limits {
        kernel: Some("6.12.9-amd64".into()),
        capabilities: Some(["CAP_BPF", "CAP_IPC_LOCK", "CAP_NET_ADMIN", "CAP_NET_RAW"].map(str::to_owned).to_vec()),
        memlock: Some(Amount::Bytes(8 << 20)),
        memlock_max: Some(Amount::Bytes(8 << 20)),
        io_uring_disabled: Some(0),
        cpu_quota: Some(CpuQuota::Unlimited),
        isolated_cpus: Some(CpuList::new()),
        clock_source: Some("tsc".into()),
        initial_user_namespace: Some(true),
        ..s.limits
    };
    let nic = &mut s.nics[0];
    nic.xdp_features = Some(XdpFeatures { basic: true, redirect: true, zero_copy: true, multi_buffer: false });
    (nic.rx_ring, nic.tx_ring) = (Some(512), Some(512));
    nic.irqs = (0..2).map(|q| QueueIrq { queue: q, irq: 30 + q, cpus: [1 + q].into_iter().collect() }).collect();
    let probes = Probes {
        af_xdp: Some(Attempt::Done),
        seccomp: Some(0),
        label: None,
        lockdown: Some("none".into()),
        bpf_jit: Some(1),
        irqbalance: Some(false),
        governor: Some("performance".into()),
    };
    (s, probes, Request::new(vec!["eth0".into()], 8 << 20))
}

fn find<'a>(checks: &'a [Check], id: &str) -> &'a Check {
    checks.iter().find(|check| check.id == id).unwrap()
}

#[test]
fn a_healthy_host_passes_every_check() {
    let (s, probes, request) = patient();
    let checks = doctor(&s, &probes, &request);
    let bad: Vec<String> = checks.iter().filter(|c| c.status != Status::Pass).map(ToString::to_string).collect();
    assert_eq!(bad, Vec::<String>::new());
    let ids: Vec<&str> = checks.iter().map(|c| c.id.as_str()).collect();
    assert_eq!(ids, CHECKS);
}

#[test]
fn each_trouble_is_found_by_its_check_with_a_mend() {
    type Trouble = (&'static str, Status, fn(&mut Snapshot, &mut Probes, &mut Request));
    let troubles: [Trouble; 28] = [
        ("kernel", Status::Fail, |s, _, _| s.limits.kernel = Some("5.10.0".into())),
        ("kernel", Status::Warn, |s, _, _| s.limits.kernel = Some("6.17.1".into())),
        ("kernel", Status::Unknown, |s, _, _| s.limits.kernel = None),
        ("af-xdp", Status::Fail, |_, p, _| p.af_xdp = Some(Attempt::Refused("EAFNOSUPPORT".into()))),
        ("af-xdp", Status::Fail, |_, p, _| p.af_xdp = Some(Attempt::Refused("EPERM".into()))),
        ("capabilities", Status::Fail, |s, _, _| s.limits.capabilities = Some(vec!["CAP_IPC_LOCK".into()])),
        ("capabilities", Status::Unknown, |s, _, _| s.limits.capabilities = None),
        ("confinement", Status::Warn, |_, p, _| p.seccomp = Some(2)),
        ("confinement", Status::Warn, |_, p, _| p.lockdown = Some("integrity".into())),
        ("bpf", Status::Warn, |_, p, _| p.bpf_jit = Some(0)),
        ("io-uring", Status::Warn, |s, _, _| s.limits.io_uring_disabled = Some(2)),
        ("memlock", Status::Fail, |s, _, _| s.limits.capabilities = Some(vec!["CAP_NET_RAW".into()])),
        ("huge-pages", Status::Warn, |s, _, _| s.machine.nodes[0].free_huge_pages = Some(0)),
        ("cpus", Status::Warn, |s, _, _| s.limits.allowed_cpus = Some([0, 1].into_iter().collect())),
        ("cpu-quota", Status::Warn, |s, _, _| s.limits.cpu_quota = Some(CpuQuota::MilliCpus(1500))),
        ("clock", Status::Warn, |s, _, _| s.limits.clock_source = Some("hpet".into())),
        ("governor", Status::Warn, |_, p, _| p.governor = Some("powersave".into())),
        ("irqbalance", Status::Warn, |_, p, _| p.irqbalance = Some(true)),
        ("nic-exists", Status::Fail, |_, _, r| r.interfaces = vec!["eth9".into()]),
        ("link", Status::Fail, |s, _, _| s.nics[0].up = Some(false)),
        ("driver", Status::Warn, |s, _, _| s.nics[0].xdp_features = Some(XdpFeatures::default())),
        ("queues", Status::Fail, |s, _, _| s.nics[0].tx_queues = Some(1)),
        ("queues", Status::Fail, |s, _, _| (s.nics[0].driver, s.nics[0].max_queues) = (Some("gve".into()), Some(2))),
        ("rings", Status::Warn, |s, _, _| s.nics[0].rx_ring = Some(8192)),
        ("mtu", Status::Fail, |s, _, _| s.nics[0].mtu = Some(9000)),
        ("xdp-attached", Status::Fail, |s, _, _| {
            s.nics[0].xdp_program = Some(XdpProgram { mode: "native".into(), id: Some(7) })
        }),
        ("numa", Status::Warn, |_, _, r| r.numa = Numa::Node(1)),
        ("irq-affinity", Status::Warn, |s, _, _| s.nics[0].irqs[1].cpus = [7].into_iter().collect()),
    ];
    for (index, (id, status, trouble)) in troubles.into_iter().enumerate() {
        let (mut s, mut probes, mut request) = patient();
        trouble(&mut s, &mut probes, &mut request);
        let checks = doctor(&s, &probes, &request);
        let check = find(&checks, id);
        assert_eq!(check.status, status, "case {index}: {check}");
        assert!(check.mend.as_ref().is_some_and(|m| !m.is_empty()), "case {index}: {check}");
        assert!(worst(&checks) >= status);
    }
}

#[test]
fn eperm_is_taken_apart() {
    let seen = |change: fn(&mut Snapshot, &mut Probes)| {
        let (mut s, mut probes, request) = patient();
        probes.af_xdp = Some(Attempt::Refused("EPERM".into()));
        change(&mut s, &mut probes);
        find(&doctor(&s, &probes, &request), "af-xdp").observed.clone()
    };
    assert!(seen(|s, _| s.limits.capabilities = Some(vec![])).contains("CAP_NET_RAW is missing"));
    assert!(seen(|s, _| s.limits.initial_user_namespace = Some(false)).contains("user namespace"));
    assert!(seen(|_, p| p.seccomp = Some(2)).contains("seccomp"));
    assert!(seen(|_, p| p.label = Some("docker-default (enforce)".into())).contains("docker-default"));
    assert!(seen(|_, _| {}).contains("no seccomp filter"));
}
