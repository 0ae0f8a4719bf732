//! Reads the limits of this process and the memory of this machine from /proc, /sys and rlimits, without privilege.
//! hwloc's memory sizes are not used, because they are wrong in virtual machines.

use rustix::process::{Resource, getpid, getrlimit};
use rustix::thread::{CapabilitySet, CpuSet, capabilities, sched_getaffinity};

use super::{Amount, CpuQuota, HostLimits, Machine, Node, SnapshotError};
use crate::cpus::{CpuList, MAX_CPUS};

/// Capabilities that the engine may use.
const CAPABILITIES: [(&str, CapabilitySet); 7] = [
    ("CAP_BPF", CapabilitySet::BPF),
    ("CAP_IPC_LOCK", CapabilitySet::IPC_LOCK),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
    ("CAP_NET_RAW", CapabilitySet::NET_RAW),
    ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
    ("CAP_SYS_NICE", CapabilitySet::SYS_NICE),
    ("CAP_SYS_RESOURCE", CapabilitySet::SYS_RESOURCE),
];

/// Returns the text of a small file without surrounding white space.
pub(super) fn text(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn cpus(path: &str) -> Option<CpuList> {
    text(path)?.parse().ok()
}

pub(super) fn limits() -> Result<HostLimits, SnapshotError> {
    let isolated = cpus("/sys/devices/system/cpu/isolated");
    let memlock = getrlimit(Resource::Memlock);
    let amount = |limit: Option<u64>| Some(limit.map_or(Amount::Unlimited, Amount::Bytes));
    Ok(HostLimits {
        allowed_cpus: Some(allowed_cpus(isolated.as_ref())?),
        isolated_cpus: isolated,
        memory_nodes: status_list("Mems_allowed_list:"),
        cpu_quota: cpu_quota(),
        memory_total_bytes: kilobytes("/proc/meminfo", "MemTotal:"),
        memory_available_bytes: kilobytes("/proc/meminfo", "MemAvailable:"),
        memlock: amount(memlock.current),
        memlock_max: amount(memlock.maximum),
        free_huge_pages: text("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").and_then(|t| t.parse().ok()),
        io_uring_disabled: text("/proc/sys/kernel/io_uring_disabled").and_then(|t| t.parse().ok()),
        kernel: Some(rustix::system::uname().release().to_string_lossy().into_owned()),
        clock_source: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        capabilities: effective_capabilities(),
        initial_user_namespace: text("/proc/self/uid_map")
            .map(|map| map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"]),
    })
}

/// Returns the major and minor version of the running kernel.
pub(super) fn kernel_version() -> Option<(u32, u32)> {
    let kernel = Some(rustix::system::uname().release().to_string_lossy().into_owned());
    HostLimits { kernel, ..HostLimits::default() }.kernel_version()
}

fn effective_capabilities() -> Option<Vec<String>> {
    let effective = capabilities(None).ok()?.effective;
    Some(CAPABILITIES.iter().filter(|(_, c)| effective.contains(*c)).map(|(name, _)| (*name).to_owned()).collect())
}

/// Returns the CPU mask of the process (its main thread). The calling thread may be pinned already.
///
/// The mask of a new process has no isolated CPUs, although the process may request them. They are added if the mask
/// is exactly the default mask, so no `taskset` was used.
fn allowed_cpus(isolated: Option<&CpuList>) -> Result<CpuList, SnapshotError> {
    let mask = process_mask()?;
    let Some(isolated) = isolated.filter(|i| !i.is_empty()) else { return Ok(mask) };
    let granted = cgroup_file("cpuset", "cpuset.cpus.effective")
        .or_else(|| cgroup_file("cpuset", "cpuset.effective_cpus"))
        .and_then(|t| t.parse().ok())
        .or_else(|| cpus("/sys/devices/system/cpu/online"));
    match granted {
        Some(granted) if mask == granted.without(isolated) => Ok(granted),
        _ => Ok(mask),
    }
}

fn process_mask() -> Result<CpuList, SnapshotError> {
    match sched_getaffinity(Some(getpid())) {
        Ok(mask) => {
            let limit = MAX_CPUS.min(u32::try_from(CpuSet::MAX_CPU).unwrap_or(u32::MAX));
            Ok((0..limit).filter(|&cpu| mask.is_set(cpu as usize)).collect())
        }
        // rustix's set holds 1024 CPUs; on a larger machine the list is read as text.
        Err(errno) => status_list("Cpus_allowed_list:").ok_or_else(|| SnapshotError::Affinity(errno.to_string())),
    }
}

/// Returns a list of numbers from this process's status (proc_pid_status(5)).
fn status_list(name: &str) -> Option<CpuList> {
    let status = text("/proc/self/status")?;
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// Returns the quota of this process's cgroup. Ancestors count only if the file system shows them as its root.
fn cpu_quota() -> Option<CpuQuota> {
    if let Some(max) = cgroup_file("cpu", "cpu.max") {
        let (quota, period) = max.split_once(' ')?;
        return if quota == "max" { Some(CpuQuota::Unlimited) } else { milli_cpus(quota, period) };
    }
    let quota = cgroup_file("cpu", "cpu.cfs_quota_us")?;
    if quota.starts_with('-') {
        return Some(CpuQuota::Unlimited);
    }
    milli_cpus(&quota, &cgroup_file("cpu", "cpu.cfs_period_us")?)
}

fn milli_cpus(quota: &str, period: &str) -> Option<CpuQuota> {
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    Some(CpuQuota::MilliCpus(quota.checked_mul(1000)?.checked_div(period)?))
}

/// Reads a file of this process's cgroup, in the unified hierarchy or that of `controller`.
fn cgroup_file(controller: &str, file: &str) -> Option<String> {
    for line in text("/proc/self/cgroup")?.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let roots: &[&str] = match controllers {
            "" => &["", "/unified"],
            list if list.split(',').any(|c| c == controller) => &["/cpu,cpuacct", "/cpu", "/cpuset"],
            _ => continue,
        };
        // In a container the path may be the host's; then the mount shows this cgroup as its root.
        let found = roots
            .iter()
            .flat_map(|root| [format!("{root}{path}"), (*root).to_owned()])
            .find_map(|folder| text(&format!("/sys/fs/cgroup{}/{file}", folder.trim_end_matches('/'))));
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Returns a value of a `Name: 123 kB` file in bytes. `name` may be anywhere in its line: lines of node files begin
/// with `Node 0`.
fn kilobytes(path: &str, name: &str) -> Option<u64> {
    let text = text(path)?;
    let mut words = text.lines().find(|line| line.contains(name))?.split_whitespace().skip_while(|w| *w != name);
    words.nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Adds the kernel's own values to a live machine.
pub(super) fn complete(machine: &mut Machine) {
    machine.architecture = Some(rustix::system::uname().machine().to_string_lossy().into_owned());
    // The numbers may have gaps; the kernel counts up to the last one (nr_cpu_ids, kernel/smp.c).
    machine.possible_cpus = cpus("/sys/devices/system/cpu/possible").and_then(|all| Some(all.iter().last()? + 1));
    machine.offline = cpus("/sys/devices/system/cpu/offline").unwrap_or_default().without(&machine.cpus());
    let ids: Vec<u32> = machine.nodes.iter().map(|node| node.id).collect();
    for node in &mut machine.nodes {
        let folder = format!("/sys/devices/system/node/node{}", node.id);
        node.memory_bytes = kilobytes(&format!("{folder}/meminfo"), "MemTotal:");
        let free = format!("{folder}/hugepages/hugepages-2048kB/free_hugepages");
        node.free_huge_pages = text(&free).and_then(|t| t.parse().ok());
        node.distances = text(&format!("{folder}/distance"))
            .and_then(|t| t.split_whitespace().map(|d| d.parse().ok()).collect::<Option<Vec<u32>>>())
            .filter(|d| d.len() == ids.len());
    }
    correct_node_memory(&mut machine.nodes, kilobytes("/proc/meminfo", "MemTotal:"));
}

/// Removes wrong memory sizes of nodes. With deferred page initialisation a node's file shows a part of its memory
/// (10 of 24 GiB in one virtual machine). So the sizes are kept only if they add up to the machine's total.
fn correct_node_memory(nodes: &mut [Node], total: Option<u64>) {
    let Some(total) = total else { return };
    if let [node] = nodes {
        node.memory_bytes = Some(total);
        return;
    }
    let sum = nodes.iter().filter_map(|node| node.memory_bytes).fold(0, u64::saturating_add);
    if sum.abs_diff(total) > total / 10 {
        nodes.iter_mut().for_each(|node| node.memory_bytes = None);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn meminfo_of_machine_and_node() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "Node 0 MemTotal:       1024 kB\nNode 0 MemFree:  1 kB\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(kilobytes(path, "MemTotal:"), Some(1 << 20));
        assert_eq!(kilobytes(path, "MemAvailable:"), None);
    }

    #[test]
    fn inconsistent_node_memory_is_unknown() {
        let nodes = |sizes: &[u64]| -> Vec<Node> {
            sizes.iter().map(|&s| Node { memory_bytes: Some(s), ..Node::default() }).collect()
        };
        let corrected = |sizes: &[u64]| {
            let mut nodes = nodes(sizes);
            correct_node_memory(&mut nodes, Some(1000));
            nodes.iter().map(|n| n.memory_bytes).collect::<Vec<_>>()
        };
        assert_eq!(corrected(&[400]), [Some(1000)]);
        assert_eq!(corrected(&[480, 510]), [Some(480), Some(510)]);
        assert_eq!(corrected(&[1000, 0]), [Some(1000), Some(0)]);
        assert_eq!(corrected(&[480, 100]), [None, None]);
    }

    #[test]
    fn quota_is_thousandths_of_a_cpu() {
        assert_eq!(milli_cpus("250000", "100000"), Some(CpuQuota::MilliCpus(2500)));
        assert_eq!(milli_cpus("1", "0"), None);
    }
}
