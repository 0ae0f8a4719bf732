//! Builds described machines for tests.

use crate::{Core, HostLimits, Machine, Nic, Node, SNAPSHOT_SCHEMA, Snapshot};

/// Builds `nodes` nodes of `cores` cores of `threads` threads, numbered as Linux does on most servers: the first
/// threads of all cores, then the second threads.
pub(super) fn machine(nodes: u32, cores: u32, threads: u32) -> Machine {
    let all = nodes * cores;
    Machine {
        architecture: Some("x86_64".into()),
        packages: Some(nodes),
        nodes: (0..nodes)
            .map(|id| Node {
                id,
                memory_bytes: Some(64 << 30),
                free_huge_pages: Some(1024),
                distances: Some((0..nodes).map(|other| if other == id { 10 } else { 20 }).collect()),
            })
            .collect(),
        cores: (0..all)
            .map(|core| Core {
                cpus: (0..threads).map(|thread| core + thread * all).collect(),
                package: Some(core / cores),
                node: Some(core / cores),
                ..Core::default()
            })
            .collect(),
        ..Machine::default()
    }
}

pub(super) fn nic(name: &str, node: Option<u32>, queues: u32) -> Nic {
    Nic {
        name: name.into(),
        ifindex: Some(7),
        driver: Some("ice".into()),
        numa_node: node,
        rx_queues: Some(queues),
        tx_queues: Some(queues),
        mtu: Some(1500),
        up: Some(true),
        carrier: Some(true),
        ..Nic::default()
    }
}

pub(super) fn snapshot(machine: Machine, nics: Vec<Nic>) -> Snapshot {
    let limits = HostLimits { capabilities: Some(vec!["CAP_IPC_LOCK".into()]), ..HostLimits::default() };
    Snapshot { schema: SNAPSHOT_SCHEMA, source: "test".into(), machine, nics, limits }
}
