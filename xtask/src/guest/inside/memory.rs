//! Tests of NUMA placement and huge pages, by what the kernel reports of the process.

use super::lab::{read, run_line, write};
use super::relay::{Relay, all_entries};
use super::traffic::Server;
use super::zero_copy::REQUIRED;
use crate::process::{Result, failed};
use std::fs;

/// Sets the pool of 2 MiB pages of both nodes.
fn pools(pages: [u32; 2]) -> Result<()> {
    for (node, pages) in pages.into_iter().enumerate() {
        let folder = format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB");
        write(&format!("{folder}/nr_hugepages"), &pages.to_string())?;
        let got = read(&format!("{folder}/nr_hugepages"))?;
        if got != pages.to_string() {
            return failed(format!("node {node} has {got} huge pages; expected {pages}"));
        }
    }
    Ok(())
}

/// Pages of this kind that the process has on each of both nodes, by /proc/PID/numa_maps (proc(5)); `marker` chooses
/// the mappings.
fn pages_by_node(relay: &Relay, marker: &str) -> Result<[u64; 2]> {
    let maps = read(&format!("/proc/{}/numa_maps", relay.pid()))?;
    let mut pages = [0; 2];
    for word in maps.lines().filter(|line| line.contains(marker)).flat_map(str::split_whitespace) {
        for (node, pages) in pages.iter_mut().enumerate() {
            let prefix = format!("N{node}=");
            *pages += word.strip_prefix(prefix.as_str()).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(pages)
}

/// Huge pages come from the NIC's node; a pool that is only on the other node gives base pages on the NIC's node.
pub(super) fn huge_pages(_: &Server) -> Result<String> {
    let result = (|| {
        pools([64, 64])?;
        let relay = Relay::start(REQUIRED)?;
        let huge = pages_by_node(&relay, " huge ")?;
        all_entries(&[1200])?;
        // A pool that shrinks under a running relay takes nothing away.
        pools_shrink()?;
        all_entries(&[1200])?;
        relay.stop()?;
        if huge[0] == 0 || huge[1] != 0 {
            return failed(format!("huge pages by node: {huge:?}; expected some on node 0 and none on node 1"));
        }
        pools([0, 64])?;
        let relay = Relay::start(REQUIRED)?;
        let none = pages_by_node(&relay, " huge ")?;
        let bound = pages_by_node(&relay, " bind:0 ")?;
        all_entries(&[1200])?;
        relay.stop()?;
        if none != [0, 0] || bound[0] == 0 || bound[1] != 0 {
            return failed(format!("empty pool on node 0: huge {none:?}, bound to node 0 {bound:?}"));
        }
        Ok(format!("{} huge pages on node 0; with its pool empty {} base pages there", huge[0], bound[0]))
    })();
    pools_shrink()?;
    result
}

fn pools_shrink() -> Result<()> {
    for node in 0..2 {
        write(&format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages"), "0")?;
    }
    Ok(())
}

/// With `cpuset.mems` on the other node, the relay starts and its memory is there.
pub(super) fn cpuset(_: &Server) -> Result<String> {
    let group = "/sys/fs/cgroup/guest";
    write("/sys/fs/cgroup/cgroup.subtree_control", "+cpuset")?;
    let _ = fs::create_dir(group);
    write(&format!("{group}/cpuset.cpus"), "0-3")?;
    write(&format!("{group}/cpuset.mems"), "1")?;
    let enter = format!("echo 0 > {group}/cgroup.procs && exec \"$@\"");
    let relay = Relay::start_behind(&["sh", "-c", &enter, "sh"], REQUIRED)?;
    let bound = pages_by_node(&relay, " bind:")?;
    all_entries(&[1200])?;
    relay.stop()?;
    run_line(&format!("rmdir {group}"))?;
    if bound[0] == 0 && bound[1] > 0 {
        return Ok(format!("{} pages, all on node 1", bound[1]));
    }
    failed(format!("pages bound by node: {bound:?}; expected node 1 only"))
}
