//! Converts an hwloc topology, live or synthetic, to a [`Machine`]. Only this module names hwlocality, and none of
//! its types is public. Modules `xml` and `hwloc_xml` read XML files without hwloc.

use std::collections::BTreeMap;

use hwlocality::Topology;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::types::ObjectType;

use hwlocality::topology::builder::{BuildFlags, TopologyBuilder};

use super::{Core, Machine, Node, SnapshotError};
use crate::cpus::{CpuList, MAX_CPUS};

/// Environment variables that make hwloc describe another machine (hwloc manual, "Environment Variables").
const REDIRECTIONS: [&str; 6] =
    ["HWLOC_XMLFILE", "HWLOC_SYNTHETIC", "HWLOC_FSROOT", "HWLOC_CPUID_PATH", "HWLOC_THISSYSTEM", "HWLOC_COMPONENTS"];

fn failed(step: &str, cause: &dyn std::fmt::Display, remedy: &str) -> SnapshotError {
    SnapshotError::Hwloc { step: step.into(), cause: cause.to_string(), remedy: remedy.into() }
}

/// Returns the processors and nodes of this machine, without memory sizes.
pub(super) fn live() -> Result<Machine, SnapshotError> {
    if let Some(variable) = REDIRECTIONS.into_iter().find(|v| std::env::var_os(v).is_some()) {
        return Err(SnapshotError::Redirected { variable: variable.into() });
    }
    let remedy = "is /sys mounted? `mount -t sysfs sysfs /sys`";
    let topology = build(Ok).map_err(|cause| failed("read this machine's topology", &cause, remedy))?;
    if !topology.is_this_system() {
        return Err(SnapshotError::NotThisMachine);
    }
    Ok(machine(&topology))
}

/// Creates a machine from a synthetic hwloc description, such as `pack:2 [numa] core:32 pu:2`.
pub(super) fn synthetic(description: &str) -> Result<Machine, SnapshotError> {
    let remedy = "expected a description such as \"pack:2 [numa] core:32 pu:2\" (hwloc manual, Synthetic topologies)";
    let error = |cause: String| failed("read the synthetic topology", &cause, remedy);
    check_synthetic(description).map_err(error)?;
    let topology = build(|builder| builder.from_synthetic(description).map_err(|e| e.to_string())).map_err(error)?;
    let mut machine = machine(&topology);
    if !description.contains("memory=") {
        // hwloc assumes 1 GiB for each node.
        machine.nodes.iter_mut().for_each(|node| node.memory_bytes = None);
    }
    Ok(machine)
}

/// Checks the product of the counts. hwloc does not check it, and a product that is too large ends the process.
fn check_synthetic(description: &str) -> Result<(), String> {
    if description.len() > 4096 || !description.is_ascii() {
        return Err("more than 4096 characters, or not ASCII".into());
    }
    // Attributes and memory children are in brackets and may contain spaces.
    let mut depth = 0_u32;
    let mut levels = String::new();
    for c in description.chars() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            _ if depth == 0 => levels.push(c),
            _ => {}
        }
    }
    let mut product = 1_u64;
    for word in levels.split_whitespace() {
        let (_, count) = word.split_once(':').unwrap_or(("", word));
        let digits: String = count.chars().take_while(char::is_ascii_digit).collect();
        let count: u64 = digits.parse().map_err(|_| format!("{word:?} has no count"))?;
        product = product.saturating_mul(count);
        if product == 0 || product > u64::from(MAX_CPUS) {
            return Err(format!("up to {word:?} it has {product} objects; 1 to {MAX_CPUS} can be planned"));
        }
    }
    Ok(())
}

fn build(source: impl FnOnce(TopologyBuilder) -> Result<TopologyBuilder, String>) -> Result<Topology, String> {
    // CPUs outside the cpuset are included, so that the planner can explain why it does not use them.
    let builder = Topology::builder().with_flags(BuildFlags::INCLUDE_DISALLOWED).map_err(|e| e.to_string())?;
    source(builder)?.build().map_err(|e| e.errno.map_or_else(|| e.to_string(), |errno| errno.to_string()))
}

fn cpus(indexes: impl Iterator<Item = usize>) -> CpuList {
    // The set may be infinite; it is in ascending order.
    let known = indexes.take_while(|&cpu| cpu < MAX_CPUS as usize);
    known.filter_map(|cpu| u32::try_from(cpu).ok()).collect()
}

/// Returns the cores and nodes of a topology.
fn machine(topology: &Topology) -> Machine {
    let mut nodes: Vec<Node> = topology.objects_with_type(ObjectType::NUMANode).filter_map(node).collect();
    nodes.sort_by_key(|node| node.id);
    let kinds = kinds(topology);
    let mut cores: BTreeMap<u64, Core> = BTreeMap::new();
    for pu in topology.objects_with_type(ObjectType::PU) {
        let Some(cpu) = pu.os_index().and_then(|i| u32::try_from(i).ok()).filter(|&cpu| cpu < MAX_CPUS) else {
            continue;
        };
        // If the machine reports no cores, each thread counts as a core.
        let of = pu.first_ancestor_with_type(ObjectType::Core).unwrap_or(pu);
        let core = cores.entry(of.global_persistent_index()).or_insert_with(|| Core {
            package: ancestor_index(pu, ObjectType::Package),
            node: local_node(pu, &nodes),
            cache: [ObjectType::L3Cache, ObjectType::L2Cache].into_iter().find_map(|ty| ancestor_index(pu, ty)),
            kind: kinds.get(&cpu).copied(),
            cpus: CpuList::new(),
        });
        core.cpus.insert(cpu);
    }
    let mut cores: Vec<Core> = cores.into_values().collect();
    cores.sort_by_key(|core| core.cpus.first());
    let online = topology.cpuset();
    let complete = cpus(topology.complete_cpuset().iter_set().map(usize::from));
    let offline = complete.without(&cpus(online.iter_set().map(usize::from)));
    let packages = u32::try_from(topology.objects_with_type(ObjectType::Package).len()).ok().filter(|&n| n > 0);
    Machine { architecture: None, packages, nodes, cores, offline, possible_cpus: None }
}

fn ancestor_index(object: &TopologyObject, ty: ObjectType) -> Option<u32> {
    u32::try_from(object.first_ancestor_with_type(ty)?.logical_index()).ok()
}

fn node(object: &TopologyObject) -> Option<Node> {
    let memory_bytes = match object.attributes() {
        Some(ObjectAttributes::NUMANode(numa)) => Some(numa.local_memory().map_or(0, u64::from)),
        _ => None,
    };
    let id = u32::try_from(object.os_index()?).ok()?;
    Some(Node { id, memory_bytes, ..Node::default() })
}

/// Returns the node of a core. Several nodes can be local to it (DRAM and high-bandwidth memory); Linux numbers the
/// DRAM first.
fn local_node(pu: &TopologyObject, nodes: &[Node]) -> Option<u32> {
    let local = pu.nodeset()?;
    let mut ids = local.iter_set().filter_map(|index| u32::try_from(usize::from(index)).ok());
    ids.find(|id| nodes.iter().any(|node| node.id == *id))
}

/// Returns the rank of each CPU among the kinds of cores; empty if all are equal.
fn kinds(topology: &Topology) -> BTreeMap<u32, u32> {
    let Ok(kinds) = topology.cpu_kinds() else { return BTreeMap::new() };
    if kinds.len() < 2 {
        return BTreeMap::new();
    }
    let ranked = kinds.zip(0_u32..).filter(|(kind, _)| kind.efficiency.is_some());
    ranked
        .flat_map(|(kind, rank)| {
            let cpus = cpus(kind.cpuset.iter_set().map(usize::from));
            cpus.iter().map(|cpu| (cpu, rank)).collect::<Vec<_>>()
        })
        .collect()
}
