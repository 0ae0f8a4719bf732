//! Converts the elements of an hwloc XML file to a [`Machine`] and NICs, for versions 1, 2 and 3 of the format
//! (hwloc2.dtd, and topology-xml.c for the differences between versions).

use std::collections::BTreeMap;

use super::xml::{self, Element, XmlError};
use super::{Core, Machine, Nic, Node};
use crate::cpus::{CpuList, MAX_CPUS};

/// Holds the content of a file.
pub(super) struct Described {
    pub(super) machine: Machine,
    pub(super) nics: Vec<Nic>,
    /// CPUs that the described process was allowed to use; `None` if all.
    pub(super) allowed: Option<CpuList>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum HwlocXmlError {
    #[error(transparent)]
    Xml(#[from] XmlError),
    #[error("{0}")]
    Content(String),
}

pub(super) fn read(text: &str) -> Result<Described, HwlocXmlError> {
    let root = xml::parse(text)?;
    if root.name != "topology" {
        return Err(HwlocXmlError::Content(format!("its root is <{}>, not <topology>", root.name)));
    }
    let top = root.children("object").next().ok_or_else(|| HwlocXmlError::Content("it has no object".into()))?;
    let version: u32 = root.attribute("version").and_then(|v| v.split('.').next()?.parse().ok()).unwrap_or(1);
    let mut survey = Survey { version, ..Survey::default() };
    survey.visit(top, &XmlAncestors::default()).map_err(HwlocXmlError::Content)?;
    survey.finish(&root, top).map_err(HwlocXmlError::Content)
}

/// Holds the ancestors of an object.
#[derive(Default, Clone)]
struct XmlAncestors<'a> {
    package: Option<u32>,
    core: Option<usize>,
    cache: Option<(u32, u32)>,
    /// Nearest ancestor that is not a bus, bridge or device.
    processor: Option<&'a Element>,
}

/// Checks the sets of an object against its position in the tree. If they disagree, the file is damaged or edited,
/// and neither can be trusted.
fn contradiction(object: &Element, kind: &str, version: u32, above: &XmlAncestors<'_>) -> Result<(), String> {
    let Some(own) = object.attribute("cpuset").map(bitmap).transpose()? else { return Ok(()) };
    let name = || format!("{kind} {}", object.attribute("os_index").unwrap_or("without os_index"));
    if kind == "PU"
        && let Some(cpu) = object.number::<u32>("os_index")
        // In version 1 an offline PU has an empty set.
        && own.iter().any(|other| other != cpu)
    {
        return Err(format!("{} has the cpuset of cpu {own}", name()));
    }
    let Some(around) = above.processor.and_then(|p| p.attribute("cpuset")).map(bitmap).transpose()? else {
        return Ok(());
    };
    if !own.without(&around).is_empty() {
        let parent = above.processor.and_then(|p| p.attribute("type")).unwrap_or("object");
        return Err(format!("{} has cpu {}, which its parent {parent} does not have", name(), own.without(&around)));
    }
    // From version 2, a memory object is a child of the object whose cpus it is local to.
    if version >= 2 && kind == "NUMANode" && own != around {
        return Err(format!("{} is local to cpu {own}, but its parent has cpu {around}", name()));
    }
    Ok(())
}

#[derive(Default)]
struct Survey<'a> {
    version: u32,
    packages: u32,
    cores_seen: usize,
    caches: u32,
    /// Hardware threads, each with its core.
    threads: Vec<(u32, XmlAncestors<'a>)>,
    /// Nodes, each with its local cpus.
    nodes: Vec<(Node, CpuList)>,
    nics: Vec<(Nic, Option<&'a Element>)>,
}

impl<'a> Survey<'a> {
    fn visit(&mut self, object: &'a Element, above: &XmlAncestors<'a>) -> Result<(), String> {
        let mut place = above.clone();
        let kind = object.attribute("type").unwrap_or_default();
        let index = object.number::<u32>("os_index");
        contradiction(object, kind, self.version, above)?;
        match kind {
            "Package" | "Socket" => {
                place.package = Some(self.packages);
                self.packages += 1;
            }
            "Core" => {
                place.core = Some(self.cores_seen);
                self.cores_seen += 1;
            }
            "PU" => {
                let cpu = index.ok_or("a PU without os_index")?;
                if cpu >= MAX_CPUS {
                    return Err(format!("PU {cpu} exceeds the largest cpu number ({})", MAX_CPUS - 1));
                }
                self.threads.push((cpu, place.clone()));
            }
            "NUMANode" => {
                let id = index.ok_or("a NUMANode without os_index")?;
                let cpus = bitmap(object.attribute("cpuset").unwrap_or_default())?;
                let node = Node { id, memory_bytes: object.number("local_memory"), ..Node::default() };
                self.nodes.push((node, cpus));
            }
            "OSDev" if self.is_network(object) => self.add_nic(object, above),
            _ => {
                if let Some(level) = cache_level(kind, object).filter(|&level| level >= 2) {
                    // The highest level is the outermost cache.
                    if place.cache.is_none_or(|(outer, _)| level > outer) {
                        place.cache = Some((level, self.caches));
                    }
                    self.caches += 1;
                }
            }
        }
        if !matches!(kind, "Bridge" | "PCIDev" | "OSDev" | "Misc") {
            place.processor = Some(object);
        }
        object.children("object").try_for_each(|child| self.visit(child, &place))
    }

    /// Returns whether a device is a network interface. In version 3 the type is a set of bits (hwloc.h): 16 is a
    /// network, 32 is OpenFabrics, which does not count.
    fn is_network(&self, device: &Element) -> bool {
        device.number::<u32>("osdev_type").is_some_and(|t| if self.version >= 3 { t & 48 == 16 } else { t == 2 })
    }

    fn add_nic(&mut self, device: &Element, above: &XmlAncestors<'a>) {
        let Some(name) = device.attribute("name").filter(|name| !name.is_empty()) else { return };
        let nic = Nic { name: name.into(), mac: info(device, "Address"), is_virtual: Some(false), ..Nic::default() };
        self.nics.push((nic, above.processor));
    }

    fn finish(mut self, root: &Element, top: &Element) -> Result<Described, String> {
        if self.nodes.is_empty() {
            // In files of version 1 a machine without NUMA has no node.
            let all = self.threads.iter().map(|(cpu, _)| *cpu).collect();
            self.nodes.push((Node { memory_bytes: top.number("local_memory"), ..Node::default() }, all));
        }
        // If memory is known for one node, a node without memory has none.
        let known = self.nodes.iter().any(|(node, _)| node.memory_bytes.is_some_and(|bytes| bytes > 0));
        for (node, _) in &mut self.nodes {
            node.memory_bytes = known.then(|| node.memory_bytes.unwrap_or(0));
        }
        self.nodes.sort_by_key(|(node, _)| node.id);

        let set = |name: &str| top.attribute(name).map(bitmap).transpose();
        let online = set("online_cpuset")?.or(set("cpuset")?);
        let is_online = |cpu: u32| online.as_ref().is_none_or(|set| set.contains(cpu));
        let kinds = kinds(root)?;
        let mut cores: BTreeMap<(Option<usize>, u32), Core> = BTreeMap::new();
        for (cpu, place) in self.threads.iter().filter(|(cpu, _)| is_online(*cpu)) {
            // If the file has no cores, each thread counts as a core.
            let key = (place.core, if place.core.is_none() { *cpu } else { 0 });
            let core = cores.entry(key).or_insert_with(|| Core {
                cpus: CpuList::new(),
                package: place.package,
                node: local_node(&self.nodes, *cpu),
                cache: place.cache.map(|(_, number)| number),
                kind: kinds.get(cpu).copied(),
            });
            if !core.cpus.insert(*cpu) {
                return Err(format!("PU {cpu} occurs twice"));
            }
        }
        let mut cores: Vec<Core> = cores.into_values().collect();
        cores.sort_by_key(|core| core.cpus.first());
        let known = cores.iter().flat_map(|core| core.cpus.iter()).collect();
        let listed: CpuList = self.threads.iter().map(|(cpu, _)| *cpu).collect();
        let offline = set("complete_cpuset")?.unwrap_or_default().or(&listed).without(&known);
        let allowed = set("allowed_cpuset")?.map(|set| set.and(&known)).filter(|set| *set != known);
        let nics = nics(&self, &cores);
        let mut nodes: Vec<Node> = self.nodes.into_iter().map(|(node, _)| node).collect();
        add_distances(root, &mut nodes);
        let architecture = info(top, "Architecture").or_else(|| info(root, "Architecture"));
        let packages = Some(self.packages).filter(|&n| n > 0);
        let machine = Machine { architecture, packages, nodes, cores, offline, possible_cpus: None };
        Ok(Described { machine, nics, allowed })
    }
}

fn info(element: &Element, key: &str) -> Option<String> {
    let entry = element.children("info").find(|info| info.attribute("name") == Some(key))?;
    Some(entry.attribute("value")?.to_owned())
}

/// Returns the level of a cache: `L3Cache` of version 2, `Cache` with a depth of version 1. Instruction caches are
/// ignored.
fn cache_level(kind: &str, object: &Element) -> Option<u32> {
    if kind == "Cache" {
        return object.number("depth");
    }
    kind.strip_prefix('L')?.strip_suffix("Cache")?.parse().ok()
}

/// Returns the node of a cpu. Several nodes can be local to it (DRAM and high-bandwidth memory); Linux numbers the
/// DRAM first.
fn local_node(nodes: &[(Node, CpuList)], cpu: u32) -> Option<u32> {
    let local = || nodes.iter().filter(|(_, cpus)| cpus.contains(cpu));
    local().find(|(node, _)| node.memory_bytes != Some(0)).or_else(|| local().next()).map(|(node, _)| node.id)
}

/// Returns the interfaces with the node of their nearest processor ancestor, if it is one node with cores.
fn nics(survey: &Survey, cores: &[Core]) -> Vec<Nic> {
    let mut nics: Vec<Nic> = Vec::new();
    for (nic, processor) in &survey.nics {
        let cpus = processor.and_then(|p| bitmap(p.attribute("cpuset")?).ok()).unwrap_or_default();
        let mut near: Vec<u32> =
            cores.iter().filter(|core| !core.cpus.and(&cpus).is_empty()).filter_map(|core| core.node).collect();
        near.sort_unstable();
        near.dedup();
        let numa_node = if let [node] = near.as_slice() { Some(*node) } else { None };
        nics.push(Nic { numa_node, ..nic.clone() });
    }
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    nics.dedup_by(|a, b| a.name == b.name);
    nics
}

/// Returns the rank of each cpu among the kinds of cores. It uses the efficiency if the file has it for all cpus,
/// otherwise core type and clock, as hwloc does. Empty if all are equal.
fn kinds(root: &Element) -> Result<BTreeMap<u32, u32>, String> {
    let mut kinds = Vec::new();
    for kind in root.children("cpukind") {
        let cpus = bitmap(kind.attribute("cpuset").unwrap_or_default())?;
        let fast = info(kind, "CoreType").is_some_and(|name| name == "IntelCore");
        let clock: u64 = info(kind, "FrequencyMaxMHz").and_then(|mhz| mhz.parse().ok()).unwrap_or(0);
        kinds.push((kind.number::<i64>("forced_efficiency").filter(|&e| e >= 0), fast, clock, cpus));
    }
    if kinds.len() < 2 {
        return Ok(BTreeMap::new());
    }
    let all_told = kinds.iter().all(|kind| kind.0.is_some());
    kinds.sort_by_key(|(efficiency, fast, clock, _)| (efficiency.filter(|_| all_told), *fast, *clock));
    Ok(kinds.iter().zip(0..).flat_map(|((.., cpus), rank)| cpus.iter().map(move |cpu| (cpu, rank))).collect())
}

/// Adds the ACPI distances of version 2 and 3, if they cover all nodes.
fn add_distances(root: &Element, nodes: &mut [Node]) {
    let numbers = |matrix: &Element, name: &str| -> Option<Vec<u32>> {
        let text: String = matrix.children(name).map(|part| format!("{} ", part.text)).collect();
        text.split_whitespace().map(|n| n.parse().ok()).collect()
    };
    for matrix in root.children("distances2") {
        let latency = matrix.attribute("name").is_none_or(|name| name == "NUMALatency");
        let by_index = matrix.attribute("indexing") == Some("os");
        if matrix.attribute("type") != Some("NUMANode") || !latency || !by_index {
            continue;
        }
        let (Some(ids), Some(values)) = (numbers(matrix, "indexes"), numbers(matrix, "u64values")) else { continue };
        if ids.len() != nodes.len() || values.len() != ids.len() * ids.len() {
            continue;
        }
        let all: Vec<u32> = nodes.iter().map(|node| node.id).collect();
        let position = |id: u32| ids.iter().position(|&other| other == id);
        for node in &mut *nodes {
            let row = position(node.id);
            let distance = |to: u32| values.get(row? * ids.len() + position(to)?).copied();
            node.distances = all.iter().map(|&to| distance(to)).collect();
        }
        return;
    }
}

/// Parses a bitmap of hwloc: groups of 32 bits, the highest first; `0xf...f` means all higher bits.
fn bitmap(text: &str) -> Result<CpuList, String> {
    let error = || format!("{text:?} is not a bitmap like 0x0000000f");
    let mut groups: Vec<&str> = text.split(',').map(str::trim).collect();
    let infinite = groups.first() == Some(&"0xf...f");
    if infinite {
        groups.remove(0);
    }
    let count = u32::try_from(groups.len()).map_err(|_| error())?;
    let mut cpus = CpuList::new();
    for (group, index) in groups.iter().rev().zip(0_u32..) {
        let digits = group.strip_prefix("0x").unwrap_or(group);
        let bits = if digits.is_empty() { 0 } else { u32::from_str_radix(digits, 16).map_err(|_| error())? };
        for cpu in (0..32).filter(|bit| bits & (1 << bit) != 0).map(|bit| u64::from(index) * 32 + bit) {
            let cpu = u32::try_from(cpu).ok().filter(|&cpu| cpu < MAX_CPUS);
            cpus.insert(cpu.ok_or_else(|| format!("a bitmap contains a cpu above {}", MAX_CPUS - 1))?);
        }
    }
    if infinite {
        (count.saturating_mul(32)..MAX_CPUS).for_each(|cpu| {
            cpus.insert(cpu);
        });
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bitmaps_of_hwloc() {
        let list = |text: &str| bitmap(text).map(|c| c.to_string());
        assert_eq!(list("0x00000003").unwrap(), "0-1");
        assert_eq!(list("0x00000001,,0x80000000").unwrap(), "31,64");
        assert_eq!(list("").unwrap(), "");
        assert_eq!(list("0xf...f,0xfffffff0").unwrap(), format!("4-{}", MAX_CPUS - 1));
        assert_eq!(list("0xf...f").unwrap(), format!("0-{}", MAX_CPUS - 1));
        assert!(list("0xg").is_err() && list("-1").is_err() && list(&format!("1{}", ",0".repeat(300))).is_err());
    }
}
