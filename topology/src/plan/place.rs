//! Chooses the CPU of each actor.
//!
//! The order of preference is in docs/planning.md: a free physical core on the NIC's node; a free core on another
//! node; the second thread of a core in use; a CPU that has an actor already, the least loaded first. The
//! housekeeping core comes last, and only if it is allowed.

use std::cmp::Reverse;

use super::planner::PlanLog;
use super::queues::ActorPorts;
use super::{ActorPlan, DecisionCode, Page, ReasonCode, WarningCode, cpu_contention};
use crate::cpus::CpuList;
use crate::request::{Numa, Pin, PlanRequest};
use crate::snapshot::{Machine, Snapshot};

/// Holds a usable CPU during placement.
struct CpuCandidate {
    cpu: u32,
    /// Index of its core in the machine.
    core: usize,
    node: Option<u32>,
    isolated: bool,
    kind: u32,
    housekeeping: bool,
    load: u32,
}

/// Holds the usable CPUs.
pub(super) struct CpuPool {
    pub(super) housekeeping: CpuList,
    candidates: Vec<CpuCandidate>,
}

/// Holds a core with its usable CPUs.
struct UsableCore {
    index: usize,
    cpus: CpuList,
    node: Option<u32>,
    isolated: bool,
    kind: u32,
}

impl CpuPool {
    /// Finds the usable CPUs and reserves the housekeeping core.
    pub(super) fn survey(snapshot: &Snapshot, request: &PlanRequest, log: &mut PlanLog) -> Self {
        let usable = snapshot.usable_cpus();
        if usable.is_empty() {
            let allowed = snapshot.limits.allowed_cpus.clone().unwrap_or_default();
            let text = format!("none of the allowed cpus ({allowed}) is online ({})", snapshot.machine.cpus());
            log.refuse(ReasonCode::NoCpu, "cpuset", text, "allow at least one: taskset -c 0-1 ..., or AllowedCPUs=");
            return Self { housekeeping: CpuList::new(), candidates: Vec::new() };
        }
        let isolated = snapshot.limits.isolated_cpus.clone().unwrap_or_default();
        let cores: Vec<UsableCore> = snapshot
            .machine
            .cores
            .iter()
            .enumerate()
            .map(|(index, core)| UsableCore {
                index,
                cpus: core.cpus.and(&usable),
                node: node_of(&snapshot.machine, core.node),
                isolated: !core.cpus.and(&isolated).is_empty(),
                kind: core.kind.unwrap_or(0),
            })
            .filter(|core| !core.cpus.is_empty())
            .collect();
        check_pins(snapshot, request, &usable, log);
        check_node(request, &cores, snapshot, log);
        let housekeeping = housekeeping(&cores, snapshot, request, log);
        let candidates = cores.iter().flat_map(|core| {
            let (isolated, housekeeping) = (&isolated, &housekeeping);
            core.cpus.iter().map(move |cpu| CpuCandidate {
                cpu,
                core: core.index,
                node: core.node,
                isolated: isolated.contains(cpu),
                kind: core.kind,
                housekeeping: housekeeping.contains(cpu),
                load: 0,
            })
        });
        let candidates: Vec<CpuCandidate> = candidates.collect();
        let kinds: std::collections::BTreeSet<u32> = candidates.iter().map(|candidate| candidate.kind).collect();
        if kinds.len() > 1 {
            let text = "the cores are of different kinds; the faster kind of a node is used first";
            log.warn(WarningCode::MixedCores, "machine", text, "name the cores with pin to choose otherwise");
        }
        Self { housekeeping, candidates }
    }
}

/// Returns the node of a core. On a machine with one node, an unknown node is that one.
fn node_of(machine: &Machine, known: Option<u32>) -> Option<u32> {
    known.or(match machine.nodes.as_slice() {
        [node] => Some(node.id),
        _ => None,
    })
}

fn check_pins(snapshot: &Snapshot, request: &PlanRequest, usable: &CpuList, log: &mut PlanLog) {
    let Pin::List(pins) = &request.pin else { return };
    if pins.is_empty() {
        log.refuse(ReasonCode::CpuUnusable, "pin", "the list is empty", "set pin = \"auto\" or name at least one cpu");
    }
    let machine = &snapshot.machine;
    for &cpu in pins.iter().filter(|&&cpu| !usable.contains(cpu)) {
        let text = if machine.offline.contains(cpu) {
            "is offline".to_owned()
        } else if machine.core_of(cpu).is_some() {
            "exists but is outside this process's cpuset".to_owned()
        } else {
            "does not exist".to_owned()
        };
        log.refuse(ReasonCode::CpuUnusable, format!("cpu {cpu}"), text, format!("choose among {usable}"));
    }
    if let Numa::Node(wanted) = request.numa {
        for &cpu in pins.iter().filter(|&&cpu| usable.contains(cpu)) {
            let node = machine.core_of(cpu).and_then(|core| node_of(machine, core.node));
            if node != Some(wanted) {
                let text = format!("is in pin, but not on node {wanted} as numa requires");
                log.refuse(ReasonCode::CpuUnusable, format!("cpu {cpu}"), text, "set pin or numa to \"auto\"");
            }
        }
    }
}

fn check_node(request: &PlanRequest, cores: &[UsableCore], snapshot: &Snapshot, log: &mut PlanLog) {
    let Numa::Node(wanted) = request.numa else { return };
    let ids = snapshot.machine.nodes.iter().map(|node| node.id.to_string()).collect::<Vec<_>>().join(", ");
    let subject = format!("node {wanted}");
    if snapshot.machine.node(wanted).is_none() {
        let text = format!("does not exist (there are: {ids})");
        log.refuse(ReasonCode::NodeUnusable, subject, text, "set numa = \"auto\" or one of them");
    } else if let Some(nodes) = snapshot.limits.memory_nodes.as_ref().filter(|nodes| !nodes.contains(wanted)) {
        let text = format!("this process may not take memory from it: cpuset.mems is {nodes}");
        log.refuse(ReasonCode::NodeUnusable, subject, text, super::memory::WIDEN_MEMS);
    } else if !cores.iter().any(|core| core.node == Some(wanted)) {
        let text = "has no cpu that this process may use";
        log.refuse(ReasonCode::NodeUnusable, subject, text, "widen the cpuset, or set numa = \"auto\"");
    }
}

/// Chooses the CPUs for the supervisor and the kernel. It prefers a core that is in no pin, is not the only one on a
/// NIC's node, is not isolated, and is of the slowest kind; then the lowest. On most machines this is cpu 0, where
/// the kernel does its own work. On a machine with one core it is one thread.
fn housekeeping(cores: &[UsableCore], snapshot: &Snapshot, request: &PlanRequest, log: &mut PlanLog) -> CpuList {
    let all: CpuList = cores.iter().flat_map(|core| core.cpus.iter()).collect();
    let pins: CpuList = match &request.pin {
        Pin::List(pins) => pins.iter().copied().collect(),
        Pin::Auto => CpuList::new(),
    };
    if let (1, Some(cpu)) = (all.len(), all.first()) {
        let text = "is the only one allowed: the supervisor and all actors share it";
        log.decide(DecisionCode::HousekeepingShared, format!("cpu {cpu}"), text);
        return all;
    }
    let near: Vec<Option<u32>> = match request.numa {
        Numa::Node(wanted) => vec![Some(wanted)],
        Numa::Auto => {
            request.interfaces.iter().filter_map(|name| snapshot.nic(name)).map(|nic| nic.numa_node).collect()
        }
    };
    let last_on_node = |core: &UsableCore| {
        core.node.is_some() && near.contains(&core.node) && cores.iter().filter(|c| c.node == core.node).count() == 1
    };
    let best = cores
        .iter()
        .filter(|core| cores.len() > 1 && core.cpus.and(&pins).is_empty())
        .min_by_key(|core| (last_on_node(core), core.isolated, core.kind, core.cpus.first()));
    if let Some(core) = best {
        let text = "kept for the supervisor and the kernel";
        log.decide(DecisionCode::HousekeepingCore, format!("cpu {}", core.cpus), text);
        return core.cpus.clone();
    }
    let free = all.without(&pins).first();
    let cpu = free.or(all.first()).unwrap_or(0);
    if free.is_some() {
        let text = "kept for the supervisor and the kernel; its core is used by actors as well";
        log.decide(DecisionCode::HousekeepingCore, format!("cpu {cpu}"), text);
    } else {
        log.decide(DecisionCode::HousekeepingShared, format!("cpu {cpu}"), "shared, because pin contains every cpu");
    }
    [cpu].into_iter().collect()
}

/// Assigns a CPU to each actor.
pub(super) fn place(
    pool: &CpuPool,
    snapshot: &Snapshot,
    request: &PlanRequest,
    per_actor: Vec<ActorPorts>,
    log: &mut PlanLog,
) -> Vec<ActorPlan> {
    let alone = pool.candidates.len() == 1;
    let usable = |candidate: &&CpuCandidate| {
        let on_node = match request.numa {
            Numa::Node(wanted) => candidate.node == Some(wanted),
            Numa::Auto => true,
        };
        let named = matches!(request.pin, Pin::List(_));
        on_node && (named || alone || request.allow_housekeeping || !candidate.housekeeping)
    };
    let mut candidates: Vec<CpuCandidate> = pool.candidates.iter().filter(usable).map(CpuCandidate::copy).collect();
    if candidates.is_empty() {
        let text = format!("the only usable cpu on the node ({}) is reserved for housekeeping", pool.housekeeping);
        log.refuse(ReasonCode::NodeUnusable, "numa", text, "set allow_housekeeping = true, or numa = \"auto\"");
        return Vec::new();
    }
    let mut core_load = vec![0_u32; snapshot.machine.cores.len()];
    let mut actors = Vec::with_capacity(per_actor.len());
    for (turn, actor_ports) in per_actor.into_iter().enumerate() {
        let home = home_node(&actor_ports, request);
        let chosen = match &request.pin {
            Pin::List(pins) => {
                pins.get(turn % pins.len().max(1)).and_then(|&cpu| candidates.iter().position(|s| s.cpu == cpu))
            }
            Pin::Auto => best_candidate(&candidates, &core_load, home, &actor_ports, &snapshot.machine),
        };
        let candidate = chosen.and_then(|index| candidates.get_mut(index));
        let Some((candidate, core)) =
            candidate.and_then(|candidate| core_load.get_mut(candidate.core).map(|core| (candidate, core)))
        else {
            let text = "no cpu is usable for it";
            log.refuse(ReasonCode::NoCpu, format!("queue {}", actor_ports.queue), text, "allow more cpus");
            continue;
        };
        report(candidate, *core, home, &actor_ports, request, snapshot, log);
        candidate.load += 1;
        *core += 1;
        actors.push(ActorPlan {
            queue: actor_ports.queue,
            ports: actor_ports.ports,
            cpu: candidate.cpu,
            shares_cpu: false,
            numa_node: candidate.node,
            umem_bytes: request.umem_bytes_per_queue,
            page: Page::Base,
        });
    }
    let loads: std::collections::BTreeMap<u32, u32> =
        candidates.iter().map(|candidate| (candidate.cpu, candidate.load)).collect();
    for actor in &mut actors {
        actor.shares_cpu = loads.get(&actor.cpu).is_some_and(|&load| load > 1);
    }
    cpu_contention::warn(&actors, candidates.len(), &pool.housekeeping, snapshot, log);
    actors
}

impl CpuCandidate {
    fn copy(&self) -> Self {
        Self { load: 0, ..*self }
    }
}

/// Returns the node with most of the ports. If nodes tie, the interface named first decides.
fn home_node(actor_ports: &ActorPorts, request: &PlanRequest) -> Option<u32> {
    if let Numa::Node(wanted) = request.numa {
        return Some(wanted);
    }
    let nodes = || actor_ports.ports.iter().filter_map(|port| port.numa_node);
    let count = |node: u32| nodes().filter(|&n| n == node).count();
    // max_by_key keeps the last of equal elements; the reversed order makes that the first interface.
    nodes().collect::<Vec<_>>().into_iter().rev().max_by_key(|&node| count(node))
}

fn best_candidate(
    candidates: &[CpuCandidate],
    core_load: &[u32],
    home: Option<u32>,
    actor_ports: &ActorPorts,
    machine: &Machine,
) -> Option<usize> {
    let remote = |node: Option<u32>| -> (bool, bool, u32) {
        if home.is_none() || node == home {
            return (false, false, 0);
        }
        let has_port = actor_ports.ports.iter().any(|port| port.numa_node == node);
        (true, !has_port, distance(machine, home, node))
    };
    let key = |candidate: &CpuCandidate| {
        let core = core_load.get(candidate.core).copied().unwrap_or(0);
        // The number of actors on the CPU decides first, then that on its core, then the distance.
        (
            candidate.load,
            core,
            candidate.housekeeping,
            remote(candidate.node),
            !candidate.isolated,
            Reverse(candidate.kind),
            candidate.cpu,
        )
    };
    (0..candidates.len()).min_by_key(|&index| candidates.get(index).map(key))
}

/// Returns the distance as seen from the home node; the matrix need not be symmetric.
pub(super) fn distance(machine: &Machine, home: Option<u32>, node: Option<u32>) -> u32 {
    let row = || machine.node(home?)?.distances.as_ref();
    let column = || machine.nodes.iter().position(|n| Some(n.id) == node);
    row().zip(column()).and_then(|(row, column)| row.get(column).copied()).unwrap_or(u32::MAX)
}

/// Records the reason of the placement.
fn report(
    candidate: &CpuCandidate,
    core_load: u32,
    home: Option<u32>,
    actor_ports: &ActorPorts,
    request: &PlanRequest,
    snapshot: &Snapshot,
    log: &mut PlanLog,
) {
    let subject = format!("queue {}", actor_ports.queue);
    let cpu = candidate.cpu;
    let several = snapshot.machine.nodes.len() > 1;
    let on = |node: Option<u32>| node.map_or_else(|| "an unknown node".to_owned(), |n| format!("node {n}"));
    let at_home = home.is_some() && candidate.node == home;
    let (code, text) = if matches!(request.pin, Pin::List(_)) {
        (DecisionCode::CpuPinned, format!("cpu {cpu}, from pin"))
    } else if candidate.load > 0 {
        (DecisionCode::CpuShared, format!("cpu {cpu}, together with {} other actors: no cpu is free", candidate.load))
    } else if core_load > 0 {
        (DecisionCode::SmtSibling, format!("cpu {cpu}, second thread of a core in use: no physical core is free"))
    } else if several && at_home {
        (DecisionCode::CoreOnNicNode, format!("cpu {cpu}, a dedicated core on the NIC's {}", on(home)))
    } else if several && home.is_some() {
        let text = format!("cpu {cpu}, a dedicated core on {}: {} has no free core", on(candidate.node), on(home));
        (DecisionCode::CoreOnOtherNode, text)
    } else {
        (DecisionCode::CoreFree, format!("cpu {cpu}, a dedicated core"))
    };
    log.decide(code, &subject, text);
}
