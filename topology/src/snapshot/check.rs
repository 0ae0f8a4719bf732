//! Finds contradictions in a snapshot, which a file may contain but no machine can have.

use std::collections::BTreeSet;

use super::{Machine, Snapshot};

/// Describes a contradiction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Subject of the contradiction: `core 3`, `nic eth0`.
    pub subject: String,
    /// Description of the error.
    pub text: String,
}

fn problem(subject: impl Into<String>, text: impl Into<String>) -> Problem {
    Problem { subject: subject.into(), text: text.into() }
}

/// Maximum number of interfaces and nodes in a snapshot, so that a generated file cannot take hours.
const MAX_NICS: usize = 1024;
const MAX_NODES: usize = 1024;
/// Maximum number of problems that are listed; further ones are only counted.
const MAX_PROBLEMS: usize = 20;

impl Snapshot {
    /// Returns every contradiction. The planner refuses a snapshot that has any.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        for (what, count, most) in [("nics", self.nics.len(), MAX_NICS), ("nodes", self.machine.nodes.len(), MAX_NODES)]
        {
            if count > most {
                return vec![problem(what, format!("{count} are listed, more than {most}"))];
            }
        }
        let mut found = self.machine.problems();
        let mut names = BTreeSet::new();
        for nic in &self.nics {
            let subject = || format!("nic {}", nic.name);
            if nic.name.is_empty() {
                found.push(problem("nic", "an interface has no name"));
            }
            if !names.insert(nic.name.as_str()) {
                found.push(problem(subject(), "listed twice"));
            }
            if let Some(node) = nic.numa_node
                && self.machine.node(node).is_none()
            {
                found.push(problem(subject(), format!("is on node {node}, which the machine does not have")));
            }
            if let (Some(now), Some(max)) = (nic.rx_queues, nic.max_queues)
                && now > max
            {
                found.push(problem(subject(), format!("has {now} receive queues of at most {max}")));
            }
        }
        if let Some(more) = found.len().checked_sub(MAX_PROBLEMS).filter(|&more| more > 0) {
            found.truncate(MAX_PROBLEMS);
            found.push(problem("snapshot", format!("{more} more problems")));
        }
        found
    }
}

impl Machine {
    fn problems(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        let mut ids = BTreeSet::new();
        for node in &self.nodes {
            if !ids.insert(node.id) {
                found.push(problem(format!("node {}", node.id), "listed twice"));
            }
            if let Some(distances) = &node.distances
                && distances.len() != self.nodes.len()
            {
                let text = format!("has {} distances for {} nodes", distances.len(), self.nodes.len());
                found.push(problem(format!("node {}", node.id), text));
            }
        }
        let mut cpus = BTreeSet::new();
        for (index, core) in self.cores.iter().enumerate() {
            let subject = || format!("core {index}");
            if core.cpus.is_empty() {
                found.push(problem(subject(), "has no cpu"));
            }
            for cpu in core.cpus.iter() {
                if !cpus.insert(cpu) {
                    found.push(problem(subject(), format!("cpu {cpu} is in another core as well")));
                }
                if self.offline.contains(cpu) {
                    found.push(problem(subject(), format!("cpu {cpu} is listed as offline as well")));
                }
            }
            if let Some(node) = core.node
                && !ids.contains(&node)
            {
                found.push(problem(subject(), format!("is on node {node}, which is not listed")));
            }
        }
        if self.cores.is_empty() {
            found.push(problem("machine", "has no core"));
        }
        found
    }
}
