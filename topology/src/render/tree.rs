//! Prints the plan as a tree: nodes with their NICs, cores and actors.

use crate::cpus::CpuList;
use crate::plan::{ActorPlan, Plan};
use crate::snapshot::{Core, Nic, Snapshot};

use super::table::{bytes, page, speed};

/// Holds a line and its children.
struct Branch {
    line: String,
    below: Vec<Branch>,
}

impl Branch {
    fn leaf(line: String) -> Self {
        Self { line, below: Vec::new() }
    }

    fn draw(&self, out: &mut String, indent: &str) {
        let last = self.below.len().saturating_sub(1);
        for (index, branch) in self.below.iter().enumerate() {
            let (joint, bar) = if index == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            out.push_str(&format!("{indent}{joint}{}\n", branch.line));
            branch.draw(out, &format!("{indent}{bar}"));
        }
    }
}

impl Plan {
    /// Returns the machine of `snapshot` with this plan as a tree of text lines. Unused cores are counted and not
    /// listed.
    #[must_use]
    pub fn tree(&self, snapshot: &Snapshot) -> String {
        let machine = &snapshot.machine;
        let chosen: Vec<&Nic> = snapshot
            .nics
            .iter()
            .filter(|nic| self.actors.iter().any(|actor| actor.ports.iter().any(|p| p.interface == nic.name)))
            .collect();
        let mut root = Branch::leaf(String::new());
        let mut ids: Vec<Option<u32>> = machine.nodes.iter().map(|node| Some(node.id)).collect();
        if machine.cores.iter().any(|core| core.node.is_none()) || chosen.iter().any(|nic| nic.numa_node.is_none()) {
            ids.push(None);
        }
        for id in ids {
            root.below.push(self.node(snapshot, id, &chosen));
        }
        let cpus = machine.cpus().len();
        let mut out = format!(
            "{}: {} nodes, {} cores, {cpus} threads\n",
            snapshot.source,
            machine.nodes.len(),
            machine.cores.len()
        );
        root.draw(&mut out, "");
        out
    }

    fn node(&self, snapshot: &Snapshot, id: Option<u32>, chosen: &[&Nic]) -> Branch {
        let machine = &snapshot.machine;
        let node = id.and_then(|id| machine.node(id));
        let mut line = id.map_or_else(|| "node unknown".to_owned(), |id| format!("node {id}"));
        if let Some(memory) = node.and_then(|node| node.memory_bytes) {
            line.push_str(&format!("  {}", bytes(memory)));
        }
        if let Some(free) = node.and_then(|node| node.free_huge_pages) {
            line.push_str(&format!(", {free} free 2 MiB pages"));
        }
        let mut branch = Branch::leaf(line);
        for nic in chosen.iter().filter(|nic| nic.numa_node == id) {
            branch.below.push(Branch::leaf(describe(nic)));
        }
        let kept: CpuList = self.housekeeping.iter().copied().collect();
        let usable = snapshot.usable_cpus();
        let (mut free, mut closed) = (0, 0);
        for core in machine.cores.iter().filter(|core| core.node == id) {
            let here: Vec<&ActorPlan> = self.actors.iter().filter(|a| core.cpus.contains(a.cpu)).collect();
            let housekeeping = core.cpus.and(&kept);
            if here.is_empty() && housekeeping.is_empty() {
                *(if core.cpus.and(&usable).is_empty() { &mut closed } else { &mut free }) += 1;
                continue;
            }
            branch.below.push(core_branch(core, &here, &housekeeping));
        }
        if free > 0 {
            branch.below.push(Branch::leaf(format!("{free} cores free")));
        }
        if closed > 0 {
            branch.below.push(Branch::leaf(format!("{closed} cores outside the cpuset")));
        }
        branch
    }
}

fn describe(nic: &Nic) -> String {
    let mut line = nic.name.clone();
    let speed = nic.speed_mbps.map(speed);
    let queues = nic.rx_queues.map(|queues| format!("{queues} queues"));
    for part in [nic.driver.clone(), queues, speed].into_iter().flatten() {
        line.push_str(&format!("  {part}"));
    }
    line
}

fn core_branch(core: &Core, actors: &[&ActorPlan], housekeeping: &CpuList) -> Branch {
    let mut branch = Branch::leaf(format!("core of cpu {}", core.cpus));
    if !housekeeping.is_empty() {
        branch.below.push(Branch::leaf(format!("cpu {housekeeping}  housekeeping")));
    }
    for actor in actors {
        let ports = actor.ports.iter().map(|port| {
            let crosses = port.numa_node.is_some() && core.node.is_some() && port.numa_node != core.node;
            format!("{}:{}{}", port.interface, port.queue, if crosses { " (crosses nodes)" } else { "" })
        });
        let remote = match actor.numa_node.filter(|_| actor.numa_node != core.node) {
            Some(id) => format!(" on node {id}"),
            None => String::new(),
        };
        branch.below.push(Branch::leaf(format!(
            "cpu {}  queue {}  {}  {} in {} pages{remote}",
            actor.cpu,
            actor.queue,
            ports.collect::<Vec<_>>().join(" "),
            bytes(actor.umem_bytes),
            page(actor.page),
        )));
    }
    branch
}
