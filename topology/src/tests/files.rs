//! Checks machines from files: valid, damaged and very large ones.

use proptest::prelude::*;

use crate::*;

const XML: &str = include_str!("../../tests/data/two-nodes.xml");

fn request(name: &str) -> PlanRequest {
    PlanRequest::new(vec![name.into()], 4 << 20)
}

#[test]
fn hwloc_file_gives_cores_nodes_distances_and_nics() {
    let mut s = Snapshot::from_hwloc_xml(XML, "two-nodes.xml").unwrap();
    assert_eq!(s.problems(), []);
    let m = &s.machine;
    assert_eq!((m.packages, m.architecture.as_deref()), (Some(2), Some("x86_64")));
    assert_eq!(m.nodes.iter().map(|n| n.memory_bytes).collect::<Vec<_>>(), [Some(16 << 30), Some(15 << 30)]);
    assert_eq!(
        m.nodes.iter().map(|n| n.distances.clone()).collect::<Vec<_>>(),
        [Some(vec![10, 21]), Some(vec![22, 10])]
    );
    let cores: Vec<_> = m.cores.iter().map(|c| (c.cpus.to_string(), c.node, c.package, c.cache)).collect();
    assert_eq!(cores[1], ("2-3".into(), Some(0), Some(0), Some(0)));
    assert_eq!(cores[2], ("4-5".into(), Some(1), Some(1), Some(1)));
    assert_eq!(
        (m.offline.to_string(), s.limits.allowed_cpus.as_ref().map(CpuList::to_string)),
        ("8-9".into(), Some("0-6".into()))
    );
    let nics: Vec<_> = s.nics.iter().map(|n| (n.name.as_str(), n.numa_node, n.rx_queues)).collect();
    assert_eq!(nics, [("ens0f0", Some(0), None), ("ens1f0", Some(1), None)]);
    assert_eq!(s.nics[1].mac.as_deref(), Some("02:00:00:00:00:01"));

    // The file does not contain its queues, so the plan is refused until they are described.
    let refusal = plan(&s, &request("ens1f0")).unwrap_err();
    assert_eq!(refusal.reasons[0].code, ReasonCode::QueuesUnknown);
    s.describe_nic("ens1f0:queues=2").unwrap();
    let p = plan(&s, &request("ens1f0")).unwrap();
    assert_eq!(p.actors.iter().map(|a| (a.cpu, a.numa_node)).collect::<Vec<_>>(), [(4, Some(1)), (6, Some(1))]);
    assert_eq!(p.housekeeping, [0, 1]);
}

#[test]
fn truncated_file_is_refused() {
    let root_ends = XML.find("</topology>").unwrap();
    for end in 0..root_ends {
        assert!(Snapshot::from_hwloc_xml(&XML[..end], "cut").is_err(), "cut at {end}");
    }
}

#[test]
fn impossible_machine_is_an_error_or_a_refusal() {
    let changed = |from: &str, to: &str| {
        assert!(XML.contains(from), "{from}");
        XML.replacen(from, to, 1)
    };
    let cases = [
        changed("type=\"PU\" os_index=\"3\"", "type=\"PU\" os_index=\"0\""),
        changed("type=\"PU\" os_index=\"3\"", "type=\"PU\" os_index=\"2\""),
        changed("type=\"PU\" os_index=\"3\"", "type=\"PU\" os_index=\"100\""),
        changed("type=\"PU\" os_index=\"3\"", "type=\"PU\""),
        changed("type=\"PU\" os_index=\"3\"", "type=\"PU\" os_index=\"4294967295\""),
        changed("type=\"NUMANode\" os_index=\"1\"", "type=\"NUMANode\" os_index=\"0\""),
        changed("cpuset=\"0x000000ff\"", "cpuset=\"0x00000000\""),
        changed("cpuset=\"0x000000ff\"", "cpuset=\"many\""),
        changed("allowed_cpuset=\"0x0000007f\"", "allowed_cpuset=\"0x00000000\""),
        changed("<topology version=\"2.0\">", "<tree>").replace("</topology>", "</tree>"),
        "<topology version=\"2.0\"></topology>".into(),
        "<topology version=\"2.0\"><object type=\"Machine\"/></topology>".into(),
    ];
    for (index, text) in cases.iter().enumerate() {
        if let Ok(mut s) = Snapshot::from_hwloc_xml(text, "changed") {
            s.describe_nic("ens0f0:queues=1").unwrap();
            let refusal = plan(&s, &request("ens0f0")).unwrap_err();
            assert!(refusal.reasons.iter().all(|r| !r.remedy.is_empty()), "case {index}");
        }
    }
}

#[test]
fn eight_sockets_and_1024_threads() {
    let mut s = Snapshot::synthetic("pack:8 [numa] core:64 pu:2").unwrap();
    for (node, name) in ["a0", "b0", "c0"].into_iter().enumerate() {
        s.describe_nic(&format!("{name}:node={node},queues=256,mtu=1500")).unwrap();
    }
    let r = PlanRequest::new(vec!["a0".into(), "b0".into(), "c0".into()], 4 << 20);
    let started = std::time::Instant::now();
    let p = plan(&s, &r).unwrap();
    // This has no time limit, because other tests run in parallel. `--nocapture` shows the time.
    println!(
        "8 sockets, 1024 threads, 3 NICs of 256 queues: planned in {:.1} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    assert_eq!(p.actors.len(), 256);
    let used: CpuList = p.actors.iter().map(|a| a.cpu).collect();
    assert_eq!(used.len(), 256);
}

#[test]
fn foreign_architecture_is_planned_as_described() {
    let mut s = Snapshot::synthetic("pack:1 core:4 pu:1").unwrap();
    s.machine.architecture = Some("riscv64".into());
    s.describe_nic("end0:queues=2").unwrap();
    assert_eq!(plan(&s, &request("end0")).unwrap().actors.len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn damaged_file_never_panics(
        damage in prop::collection::vec((0..XML.len(), prop::sample::select(vec!["", "<", "\"", "0", "-1", "0xf...f", "99999999999999999999", "&", "/>"]), 0_usize..30), 1..6),
    ) {
        let mut text = XML.as_bytes().to_vec();
        for (at, with, cut) in damage {
            let at = at.min(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, with.bytes());
        }
        if let Ok(mut s) = Snapshot::from_hwloc_xml(&String::from_utf8_lossy(&text), "damaged") {
            s.describe_nic("ens0f0:queues=3").unwrap();
            let _ = plan(&s, &request("ens0f0"));
        }
    }

    #[test]
    fn damaged_snapshot_never_panics(at in 0_usize..4000, with in "[0-9a-z\"{},-]{0,3}", cut in 0_usize..20) {
        let mut s = Snapshot::from_hwloc_xml(XML, "x").unwrap();
        s.describe_nic("ens0f0:queues=3,mtu=1500").unwrap();
        let mut text = s.to_json().into_bytes();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, with.bytes());
        if let Ok(s) = Snapshot::from_json(&String::from_utf8_lossy(&text), "damaged") {
            let _ = plan(&s, &request("ens0f0"));
        }
    }

    #[test]
    fn random_text_as_synthetic_machine(words in prop::collection::vec(
        prop::sample::select(vec!["pack:2", "numa:2", "[numa]", "core:3", "pu:2", "l3:2", "die:2", "group:2", "2", "0", "[numa(memory=1GB)]",
            "core:2(indexes=1,0)", "(", "pu", "x:1", "[", "l9:1", "node:2", "[numa(indexes=3*2)]", "misc:2", "pu:1(indexes=7)"]), 0..6)) {
        if let Ok(mut s) = Snapshot::synthetic(&words.join(" ")) {
            s.describe_nic("x:queues=2").unwrap();
            let _ = plan(&s, &request("x"));
        }
    }
}
