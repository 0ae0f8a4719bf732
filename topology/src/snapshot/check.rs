//! Contradictions within a snapshot: what a file may say and no machine can be.

use std::collections::BTreeSet;

use super::{Machine, Snapshot};

/// A contradiction, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What it is about: `core 3`, `nic eth0`.
    pub subject: String,
    /// What is wrong.
    pub text: String,
}

fn problem(subject: impl Into<String>, text: impl Into<String>) -> Problem {
    Problem { subject: subject.into(), text: text.into() }
}

/// Most interfaces and nodes a snapshot may list, so that a generated file cannot take hours.
const MAX_NICS: usize = 1024;
const MAX_NODES: usize = 1024;
/// Problems beyond these are counted, not told.
const MAX_PROBLEMS: usize = 20;

impl Snapshot {
    /// Every contradiction in it; empty if there is none. The planner refuses a snapshot that has any.
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
                found.push(problem("nic", "an interface without a name"));
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
