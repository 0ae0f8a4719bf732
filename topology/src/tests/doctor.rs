//! Checks the doctor with described machines.

use super::machines::{machine, nic, snapshot};
use crate::doctor::{
    Attempt, CHECKS, Check, CheckStatus, Hidden, OwnRelay, Probes, Reception, SelfTestStep, StepOutcome, Traffic,
    doctor, self_test_checks, worst,
};
use crate::*;

fn healthy_machine() -> (Snapshot, Probes, PlanRequest) {
    let mut s = snapshot(machine(2, 4, 1), vec![nic("eth0", Some(0), 2)]);
    s.limits = HostLimits {
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
    nic.xsk_queues = Some(Vec::new());
    nic.napi = Some(NapiDefer::default());
    nic.offloads = Some(Offloads { gro: true, rx_checksum: true, tx_checksum: true, ..Offloads::default() });
    nic.rss = Some(RssView {
        key: Some(vec![0x6d; 51]),
        table: Some(vec![0, 1, 0, 1]),
        function: Some("toeplitz".into()),
        transform: None,
        fields_udp4: Some(HashFields::from_bits(0xf0)),
        fields_udp6: Some(HashFields::from_bits(0xf0)),
    });
    nic.irqs = (0..2).map(|q| QueueIrq { queue: q, irq: 30 + q, cpus: [1 + q].into_iter().collect() }).collect();
    let probes = Probes {
        af_xdp: Some(Attempt::Done),
        seccomp: Some(0),
        label: None,
        lockdown: Some("none".into()),
        bpf_jit: Some(1),
        irqbalance: Some(false),
        governor: Some("performance".into()),
        ephemeral_ports: Some((32_768, 60_999)),
        reserved_ports: Vec::new(),
        udp_bound: Some(vec![([127, 0, 0, 1].into(), 61_000), ([0, 0, 0, 0].into(), 68)]),
        port_choosers: Some(Vec::new()),
        listens: vec![([192, 0, 2, 1].into(), Reception { holders: vec![holder("eth0", false)], local: Some(true) })],
        routes: vec![([198, 51, 100, 7].into(), Ok(hop("eth0", Some(true))))],
        bpf_jit_hidden: None,
        own: None,
    };
    (s, probes, PlanRequest::new(vec!["eth0".into()], 8 << 20))
}

fn hop(interface: &str, resolved: Option<bool>) -> KernelRoute {
    KernelRoute { interface: interface.into(), gateway: Some([192, 0, 2, 254].into()), resolved, local: false }
}

fn holder(interface: &str, elsewhere: bool) -> Holder {
    Holder { interface: interface.into(), elsewhere }
}

fn traffic() -> Traffic {
    Traffic {
        listens: vec![([192, 0, 2, 1].into(), 53)],
        source_ports: vec![61_000..=65_535],
        upstreams: vec![[198, 51, 100, 7].into()],
    }
}

fn find<'a>(checks: &'a [Check], id: &str) -> &'a Check {
    checks.iter().find(|check| check.id == id).unwrap()
}

#[test]
fn healthy_host_passes_every_check() {
    let (s, probes, request) = healthy_machine();
    let mut checks = doctor(&s, &probes, &request, &traffic());
    let done =
        SelfTestStep { step: "packets", wanted: "they come back", outcome: StepOutcome::Done("512 of 512".into()) };
    checks.extend(self_test_checks(&s.limits, &probes, &[done]));
    let bad: Vec<String> = checks.iter().filter(|c| c.status != CheckStatus::Pass).map(ToString::to_string).collect();
    assert_eq!(bad, Vec::<String>::new());
    let ids: Vec<&str> = checks.iter().map(|c| c.id.as_str()).collect();
    assert_eq!(ids, CHECKS);
}

#[test]
fn each_problem_is_found_by_its_check_with_remedy() {
    type FaultyCase = (&'static str, CheckStatus, fn(&mut Snapshot, &mut Probes, &mut PlanRequest));
    let troubles: [FaultyCase; 62] = [
        ("kernel", CheckStatus::Fail, |s, _, _| s.limits.kernel = Some("5.10.0".into())),
        ("kernel", CheckStatus::Warn, |s, _, _| s.limits.kernel = Some("6.17.1".into())),
        ("kernel", CheckStatus::Unknown, |s, _, _| s.limits.kernel = None),
        ("af-xdp", CheckStatus::Fail, |_, p, _| p.af_xdp = Some(Attempt::Refused("EAFNOSUPPORT".into()))),
        ("af-xdp", CheckStatus::Fail, |_, p, _| p.af_xdp = Some(Attempt::Refused("EPERM".into()))),
        ("capabilities", CheckStatus::Fail, |s, _, _| s.limits.capabilities = Some(vec!["CAP_IPC_LOCK".into()])),
        ("capabilities", CheckStatus::Unknown, |s, _, _| s.limits.capabilities = None),
        ("confinement", CheckStatus::Warn, |_, p, _| p.seccomp = Some(2)),
        ("confinement", CheckStatus::Warn, |_, p, _| p.lockdown = Some("integrity".into())),
        ("bpf", CheckStatus::Warn, |_, p, _| p.bpf_jit = Some(0)),
        ("io-uring", CheckStatus::Warn, |s, _, _| s.limits.io_uring_disabled = Some(2)),
        ("memlock", CheckStatus::Fail, |s, _, _| s.limits.capabilities = Some(vec!["CAP_NET_RAW".into()])),
        ("huge-pages", CheckStatus::Warn, |s, _, _| s.machine.nodes[0].free_huge_pages = Some(0)),
        ("cpus", CheckStatus::Warn, |s, _, _| s.limits.allowed_cpus = Some([0, 1].into_iter().collect())),
        ("cpu-quota", CheckStatus::Warn, |s, _, _| s.limits.cpu_quota = Some(CpuQuota::MilliCpus(1500))),
        ("clock", CheckStatus::Warn, |s, _, _| s.limits.clock_source = Some("hpet".into())),
        ("governor", CheckStatus::Warn, |_, p, _| p.governor = Some("powersave".into())),
        ("irqbalance", CheckStatus::Warn, |_, p, _| p.irqbalance = Some(true)),
        ("nic-exists", CheckStatus::Fail, |_, _, r| r.interfaces = vec!["eth9".into()]),
        ("link", CheckStatus::Fail, |s, _, _| s.nics[0].up = Some(false)),
        ("driver", CheckStatus::Warn, |s, _, _| s.nics[0].xdp_features = Some(XdpFeatures::default())),
        ("queues", CheckStatus::Fail, |s, _, _| s.nics[0].tx_queues = Some(1)),
        ("queues", CheckStatus::Fail, |s, _, _| {
            (s.nics[0].driver, s.nics[0].max_queues) = (Some("gve".into()), Some(2))
        }),
        ("rings", CheckStatus::Warn, |s, _, _| s.nics[0].rx_ring = Some(8192)),
        ("mtu", CheckStatus::Fail, |s, _, _| s.nics[0].mtu = Some(9000)),
        ("xdp-attached", CheckStatus::Fail, |s, _, _| {
            s.nics[0].xdp_program = Some(XdpProgram { mode: "native".into(), id: Some(7) })
        }),
        ("link", CheckStatus::Warn, |s, _, _| s.nics[0].master = Some("br0".into())),
        ("capabilities", CheckStatus::Warn, |s, _, _| {
            s.limits.capabilities = Some(vec!["CAP_NET_RAW".into(), "CAP_SYS_ADMIN".into()])
        }),
        ("xsk-owned", CheckStatus::Fail, |s, _, _| s.nics[0].xsk_queues = Some(vec![1])),
        ("xsk-owned", CheckStatus::Unknown, |s, _, _| s.nics[0].xsk_queues = None),
        ("rss", CheckStatus::Unknown, |s, _, _| s.nics[0].rss = None),
        ("rss", CheckStatus::Warn, |s, _, _| rss(s).table = Some(vec![0, 1, 2, 3])),
        ("rss", CheckStatus::Warn, |s, _, _| rss(s).table = Some(vec![1, 1])),
        ("rss", CheckStatus::Warn, |s, _, _| rss(s).fields_udp6 = Some(HashFields::from_bits(0x30))),
        ("rss", CheckStatus::Unknown, |s, _, _| rss(s).fields_udp4 = None),
        ("rss", CheckStatus::Unknown, |s, _, _| rss(s).table = None),
        ("offloads", CheckStatus::Unknown, |s, _, _| s.nics[0].offloads = None),
        ("offloads", CheckStatus::Warn, |s, _, _| offloads(s).lro = true),
        ("offloads", CheckStatus::Warn, |s, _, _| offloads(s).hw_gro = true),
        ("offloads", CheckStatus::Warn, |s, _, _| s.nics[0].xdp_features = Some(XdpFeatures::default())),
        ("offloads", CheckStatus::Unknown, |s, _, _| s.nics[0].driver = Some("veth".into())),
        ("offloads", CheckStatus::Warn, |s, _, _| {
            let on = Offloads { tx_checksum: true, gro: true, ..Offloads::default() };
            s.nics[0].driver = Some("veth".into());
            s.nics[0].peer = Some(VethPeer { name: "peer0".into(), offloads: Some(on), has_program: false });
        }),
        ("ports", CheckStatus::Warn, |_, p, _| p.ephemeral_ports = Some((1024, 65_535))),
        ("ports", CheckStatus::Warn, |_, p, _| p.udp_bound = Some(vec![([0, 0, 0, 0].into(), 53)])),
        ("route", CheckStatus::Fail, |_, p, _| p.routes[0].1 = Err("Network is unreachable".into())),
        ("route", CheckStatus::Fail, |_, p, _| p.routes[0].1 = Ok(hop("eth1", None))),
        ("route", CheckStatus::Warn, |_, p, _| p.routes[0].1 = Ok(hop("eth0", Some(false)))),
        ("route", CheckStatus::Fail, |_, p, _| p.routes[0].1 = Ok(KernelRoute { local: true, ..hop("lo", None) })),
        ("listen", CheckStatus::Warn, |_, p, _| p.listens[0].1.holders = vec![holder("eth1", false)]),
        ("listen", CheckStatus::Warn, |_, p, _| p.listens[0].1 = Reception { holders: Vec::new(), local: Some(false) }),
        ("listen", CheckStatus::Unknown, |_, p, _| p.listens.clear()),
        ("ports", CheckStatus::Warn, |_, p, _| p.port_choosers = Some(vec!["nft table ip nat, chain post".into()])),
        ("ports", CheckStatus::Fail, |_, p, _| p.reserved_ports = vec![32_768..=60_000]),
        ("link", CheckStatus::Fail, |s, _, _| s.nics[0].ethernet = Some(false)),
        ("link", CheckStatus::Fail, |s, _, _| s.nics[0].carrier = Some(false)),
        ("bpf", CheckStatus::Unknown, |_, p, _| (p.bpf_jit, p.bpf_jit_hidden) = (None, Some(Hidden::Forbidden))),
        ("plan", CheckStatus::Unknown, |_, _, r| r.interfaces.clear()),
        ("relay", CheckStatus::Warn, |_, p, _| {
            p.own = Some(OwnRelay { state: "degraded".into(), ..OwnRelay::default() });
        }),
        ("numa", CheckStatus::Warn, |_, _, r| r.numa = Numa::Node(1)),
        ("numa", CheckStatus::Warn, |s, _, _| s.limits.memory_nodes = Some([1].into_iter().collect())),
        ("rss", CheckStatus::Warn, |s, _, _| {
            s.nics[0].driver = Some("virtio_net".into());
            rss(s).fields_udp4 = Some(HashFields::default());
        }),
        ("irq-affinity", CheckStatus::Warn, |s, _, _| s.nics[0].irqs[1].cpus = [7].into_iter().collect()),
    ];
    for (index, (id, status, trouble)) in troubles.into_iter().enumerate() {
        let (mut s, mut probes, mut request) = healthy_machine();
        trouble(&mut s, &mut probes, &mut request);
        let checks = doctor(&s, &probes, &request, &traffic());
        let check = find(&checks, id);
        assert_eq!(check.status, status, "case {index}: {check}");
        assert!(check.remedy.as_ref().is_some_and(|m| !m.is_empty()), "case {index}: {check}");
        assert!(worst(&checks) >= status);
    }
}

fn rss(s: &mut Snapshot) -> &mut RssView {
    s.nics[0].rss.as_mut().unwrap()
}

fn offloads(s: &mut Snapshot) -> &mut Offloads {
    s.nics[0].offloads.as_mut().unwrap()
}

#[test]
fn reserved_and_foreign_ports_are_no_problem() {
    let seen = |change: fn(&mut Probes)| {
        let (s, mut probes, request) = healthy_machine();
        change(&mut probes);
        find(&doctor(&s, &probes, &request, &traffic()), "ports").status
    };
    let all = |p: &mut Probes| p.ephemeral_ports = Some((1024, 65_535));
    assert_eq!(seen(all), CheckStatus::Warn);
    let reserved =
        |p: &mut Probes| (p.ephemeral_ports, p.reserved_ports) = (Some((1024, 65_535)), vec![60_000..=65_535]);
    assert_eq!(seen(reserved), CheckStatus::Pass);
    // A socket on port 53 of another address is no conflict.
    assert_eq!(seen(|p| p.udp_bound = Some(vec![([192, 0, 2, 9].into(), 53)])), CheckStatus::Pass);
    assert_eq!(seen(|p| p.udp_bound = Some(vec![([192, 0, 2, 1].into(), 53)])), CheckStatus::Warn);
    let (s, probes, request) = healthy_machine();
    let unasked = doctor(&s, &probes, &request, &Traffic::default());
    for id in ["ports", "listen", "route", "relay"] {
        assert_eq!(find(&unasked, id).status, CheckStatus::Unknown);
    }
}

#[test]
fn self_test_reports_what_is_missing() {
    let (s, probes, _) = healthy_machine();
    let check = |outcome, limits: &HostLimits| {
        let trial = SelfTestStep { step: "program", wanted: "loaded", outcome };
        self_test_checks(limits, &probes, &[trial]).remove(0)
    };
    let needs: &[&[&str]] = &[&["CAP_BPF", "CAP_SYS_ADMIN"], &["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]];
    let refused = |relay_needs_it| StepOutcome::Refused { text: "EPERM".into(), needs, relay_needs_it };
    let with = |names: &[&str]| HostLimits {
        capabilities: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        ..s.limits.clone()
    };
    let none = check(refused(true), &with(&[]));
    assert_eq!(none.status, CheckStatus::Fail);
    assert!(
        none.observed.contains("CAP_BPF or CAP_SYS_ADMIN, and CAP_NET_ADMIN or CAP_SYS_ADMIN is missing"),
        "{none}"
    );
    assert!(check(refused(true), &with(&["CAP_BPF"])).observed.contains("EPERM: CAP_NET_ADMIN or"));
    let admin = check(refused(true), &with(&["CAP_SYS_ADMIN"]));
    assert!(admin.observed.contains("no seccomp filter"), "{admin}");
    let only_the_test = check(refused(false), &with(&[]));
    assert_eq!(only_the_test.status, CheckStatus::Unknown);
    assert!(only_the_test.observed.contains("the relay itself does not need it"), "{only_the_test}");
    let untried = StepOutcome::Untried { why: "no veth".into(), remedy: "modprobe veth".into() };
    assert_eq!(check(untried, &s.limits).status, CheckStatus::Unknown);
    let failed = StepOutcome::Failed { text: "511 of 512".into(), remedy: "report it".into() };
    assert_eq!(check(failed, &s.limits).status, CheckStatus::Fail);
}

#[test]
fn eperm_causes_are_distinguished() {
    let seen = |change: fn(&mut Snapshot, &mut Probes)| {
        let (mut s, mut probes, request) = healthy_machine();
        probes.af_xdp = Some(Attempt::Refused("EPERM".into()));
        change(&mut s, &mut probes);
        find(&doctor(&s, &probes, &request, &traffic()), "af-xdp").observed.clone()
    };
    assert!(seen(|s, _| s.limits.capabilities = Some(vec![])).contains("CAP_NET_RAW is missing"));
    assert!(seen(|s, _| s.limits.initial_user_namespace = Some(false)).contains("user namespace"));
    assert!(seen(|_, p| p.seccomp = Some(2)).contains("seccomp"));
    assert!(seen(|_, p| p.label = Some("docker-default (enforce)".into())).contains("docker-default"));
    assert!(seen(|_, p| p.lockdown = Some("integrity".into())).contains("locked down"));
    assert!(seen(|_, _| {}).contains("no seccomp filter"));
}

#[test]
fn virtio_remedies_can_be_carried_out() {
    let (mut s, probes, request) = healthy_machine();
    s.nics[0].driver = Some("virtio_net".into());
    rss(&mut s).fields_udp4 = Some(HashFields::default());
    let checks = doctor(&s, &probes, &request, &traffic());
    let remedy = find(&checks, "rss").remedy.clone().unwrap();
    assert!(!remedy.contains("rx-flow-hash") && remedy.contains("rss=on"), "{remedy}");
    // With eight CPUs two queues become ten, and the table grows with them.
    rss(&mut s).fields_udp4 = Some(HashFields::from_bits(0xf0));
    s.nics[0].max_queues = Some(10);
    let checks = doctor(&s, &probes, &request, &traffic());
    let queues = find(&checks, "queues");
    assert!(queues.status == CheckStatus::Pass && queues.observed.contains("10 receive queues once"), "{queues}");
    assert_eq!(find(&checks, "rss").status, CheckStatus::Pass, "{}", find(&checks, "rss"));
    (s.nics[0].rx_queues, s.nics[0].tx_queues) = (Some(10), Some(2));
    s.nics[0].xdp_program = Some(XdpProgram { mode: "native".into(), id: None });
    let checks = doctor(&s, &probes, &request, &traffic());
    assert_eq!(find(&checks, "queues").status, CheckStatus::Pass, "{}", find(&checks, "queues"));
}

/// Checks a known case: `ip_local_reserved_ports=20000-65535` reserved every ephemeral port, and the doctor did not
/// warn.
#[test]
fn remedy_for_ports_leaves_the_host_its_own() {
    let ports = |change: fn(&mut Probes), source_ports: &[std::ops::RangeInclusive<u16>]| {
        let (s, mut probes, request) = healthy_machine();
        change(&mut probes);
        let traffic = Traffic { source_ports: source_ports.to_vec(), ..traffic() };
        find(&doctor(&s, &probes, &request, &traffic), "ports").clone()
    };
    let remedy = |check: &Check| check.remedy.clone().unwrap_or_default();
    // The kernel's whole range would be reserved, so the doctor moves it.
    let wide = ports(|_| {}, &[20_000..=65_535]);
    assert_eq!(wide.status, CheckStatus::Warn, "{wide}");
    assert!(remedy(&wide).contains("ip_local_port_range=\"10000 19999\""), "{wide}");
    assert!(!remedy(&wide).contains("ip_local_reserved_ports=20000"), "{wide}");
    let broken = ports(|p| p.reserved_ports = vec![20_000..=65_535], &[20_000..=65_535]);
    assert_eq!(broken.status, CheckStatus::Fail, "{broken}");
    assert!(broken.observed.contains("0 ports only") && remedy(&broken).contains("10000 19999"), "{broken}");
    // After the remedy enough ports are left.
    let moved = ports(
        |p| (p.ephemeral_ports, p.reserved_ports) = (Some((10_000, 19_999)), vec![20_000..=65_535]),
        &[20_000..=65_535],
    );
    assert_eq!(moved.status, CheckStatus::Pass, "{moved}");
    // A small overlap is reserved exactly, and earlier reservations stay.
    let small = ports(|p| p.reserved_ports = vec![8080..=8080], &[40_000..=41_000, 61_000..=61_010]);
    assert!(remedy(&small).contains("ip_local_reserved_ports=8080,40000-41000,"), "{small}");
    let choosers = ports(|p| p.port_choosers = Some(vec!["nft table ip nat, chain post".into()]), &[61_000..=65_535]);
    assert!(remedy(&choosers).contains("10000-60999"), "{choosers}");
}

#[test]
fn listen_addresses_need_a_served_interface() {
    let listen = |reception: Reception| {
        let (s, mut probes, request) = healthy_machine();
        probes.listens[0].1 = reception;
        find(&doctor(&s, &probes, &request, &traffic()), "listen").clone()
    };
    let on = |holders: Vec<Holder>| Reception { holders, local: Some(true) };
    let elsewhere = listen(on(vec![holder("eth1", false)]));
    assert!(elsewhere.observed.contains("eth1, which is not served"), "{elsewhere}");
    assert!(elsewhere.remedy.as_ref().is_some_and(|remedy| remedy.contains("add eth1")), "{elsewhere}");
    assert_eq!(listen(on(vec![holder("eth1", false), holder("eth0", false)])).status, CheckStatus::Pass);
    assert_eq!(listen(on(vec![holder("lo", true)])).status, CheckStatus::Pass, "service addresses are often on lo");
    assert_eq!(listen(on(Vec::new())).status, CheckStatus::Pass, "ip route add local");
}

/// Checks that the doctor does not report the sockets and programs of a running relay as conflicts.
#[test]
fn running_relay_is_not_taken_for_a_stranger() {
    let (mut s, mut probes, request) = healthy_machine();
    s.nics[0].xdp_program = Some(XdpProgram { mode: "native".into(), id: Some(7) });
    s.nics[0].xsk_queues = Some(vec![0, 1]);
    s.machine.nodes[0].free_huge_pages = Some(0);
    let queues = vec![("eth0".to_owned(), 0), ("eth0".to_owned(), 1)];
    probes.own = Some(OwnRelay { state: "running".into(), queues, huge_pages: true, notices: Vec::new() });
    let bad = |probes: &Probes| {
        let checks = doctor(&s, probes, &request, &traffic());
        checks.iter().filter(|c| c.status != CheckStatus::Pass).map(|c| c.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(bad(&probes), Vec::<String>::new());
    // A queue that the relay does not serve belongs to another process.
    probes.own.as_mut().unwrap().queues.pop();
    assert_eq!(bad(&probes), ["xsk-owned"]);
    probes.own.as_mut().unwrap().notices.push("eth0:0 is paused".into());
    assert_eq!(bad(&probes), ["xsk-owned", "relay"]);
    probes.own = None;
    assert_eq!(bad(&probes), ["huge-pages", "xdp-attached", "xsk-owned"]);
}

#[test]
fn setting_that_cannot_be_read_is_told_with_its_cause() {
    let (s, mut probes, request) = healthy_machine();
    probes.bpf_jit = None;
    let mut observed = |hidden| {
        probes.bpf_jit_hidden = hidden;
        find(&doctor(&s, &probes, &request, &traffic()), "bpf").observed.clone()
    };
    assert!(observed(Some(Hidden::Forbidden)).contains("only root"));
    assert!(observed(Some(Hidden::Absent)).contains("namespace"));
}
