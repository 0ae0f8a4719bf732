//! Chooses the served queues and the ports of each actor.

use std::collections::BTreeSet;

use super::planner::PlanLog;
use super::{DecisionCode, PortPlan, ReasonCode, WarningCode, rules};
use crate::request::{PlanRequest, Queues};
use crate::snapshot::{Nic, Snapshot};

/// Limits the queues of a plan. No NIC has more, and a generated snapshot with more would take hours.
const MAX_QUEUES: u32 = 256;
/// Bytes that the kernel reserves before the packet in every frame (`XDP_PACKET_HEADROOM`, include/uapi/linux/bpf.h).
const XDP_HEADROOM: u32 = 256;
/// Size of an Ethernet header with one VLAN tag.
const ETHERNET: u32 = 18;

/// Holds the queue and the ports of one actor.
pub(super) struct ActorPorts {
    pub(super) queue: u32,
    pub(super) ports: Vec<PortPlan>,
}

/// Returns the ports of each served queue, in ascending order.
pub(super) fn choose(snapshot: &Snapshot, request: &PlanRequest, log: &mut PlanLog) -> Vec<ActorPorts> {
    let nics = interfaces(snapshot, request, log);
    for nic in &nics {
        if nic.ethernet == Some(false) {
            let (text, remedy) = not_ethernet(nic);
            log.refuse(ReasonCode::NotEthernet, &nic.name, text, remedy);
            continue;
        }
        check_state(nic, log);
        check_mtu(nic, request.frame_size, log);
        rules::apply(nic, snapshot, request, log);
    }
    let nics: Vec<Nic> = nics.into_iter().map(|nic| rules::with_program(nic, snapshot, request.native)).collect();
    let nics: Vec<&Nic> = nics.iter().collect();
    let numbers = match &request.queues {
        Queues::Auto => common_queues(&nics, log),
        Queues::List(list) => listed_queues(list, &nics, log),
    };
    for nic in &nics {
        check_transmit(nic, &numbers, log);
    }
    let port = |nic: &Nic, queue: u32| PortPlan {
        interface: nic.name.clone(),
        ifindex: nic.ifindex,
        queue,
        numa_node: nic.numa_node.or(only_node(snapshot)),
        zero_copy: rules::zero_copy(nic, &snapshot.limits, request.frame_size),
    };
    // Every actor has every interface, in the same order, so a port number means the same interface to all actors.
    let ports = |queue: u32| nics.iter().map(|nic| port(nic, queue)).collect();
    numbers.iter().map(|&queue| ActorPorts { queue, ports: ports(queue) }).collect()
}

/// Returns the node if the machine has only one: everything is on it.
fn only_node(snapshot: &Snapshot) -> Option<u32> {
    match snapshot.machine.nodes.as_slice() {
        [node] => Some(node.id),
        _ => None,
    }
}

fn interfaces<'a>(snapshot: &'a Snapshot, request: &PlanRequest, log: &mut PlanLog) -> Vec<&'a Nic> {
    let known = || snapshot.nics.iter().map(|nic| nic.name.as_str()).collect::<Vec<_>>().join(", ");
    if request.interfaces.is_empty() {
        let remedy = format!("name at least one, for example interfaces = [\"eth0\"] (there are: {})", known());
        log.refuse(ReasonCode::NoInterface, "interfaces", "none is named", remedy);
    }
    let mut seen = BTreeSet::new();
    let mut nics = Vec::new();
    for name in &request.interfaces {
        if !seen.insert(name) {
            log.refuse(ReasonCode::InterfaceTwice, name, "is named twice", "name each interface once");
        } else if let Some(nic) = snapshot.nic(name) {
            nics.push(nic);
        } else {
            let text = format!("is not among the interfaces (there are: {})", known());
            let remedy = format!("correct the name, or describe it: --nic {name}:node=N,queues=Q");
            log.refuse(ReasonCode::InterfaceAbsent, name, text, remedy);
        }
    }
    nics
}

/// Returns why an interface without Ethernet frames cannot be served, with the remedy.
pub(crate) fn not_ethernet(nic: &Nic) -> (String, &'static str) {
    let remedy = "serve the Ethernet interface on which its packets arrive (see `ip -br link`)";
    if nic.name == "lo" {
        return ("is the loopback, on which no packet of another host arrives".to_owned(), remedy);
    }
    let kind = nic.driver.as_deref().map_or_else(String::new, |kind| format!(" ({kind})"));
    (format!("carries no Ethernet frames{kind}; the relay sends and receives only these"), remedy)
}

fn check_state(nic: &Nic, log: &mut PlanLog) {
    let name = &nic.name;
    if nic.up == Some(false) {
        let remedy = format!("ip link set dev {name} up");
        log.warn(WarningCode::LinkDown, name, "is down; its ports wait until it is up", remedy);
    } else if nic.carrier == Some(false) {
        log.warn(WarningCode::LinkDown, name, "has no carrier", format!("check cable or peer: ethtool {name}"));
    }
    if let Some(program) = &nic.xdp_program {
        let id = program.id.map_or_else(String::new, |id| format!(", id {id}"));
        let text = format!("has an XDP program already ({}{id}), so the relay cannot attach its own", program.mode);
        let remedy =
            format!("find its owner: bpftool net show dev {name}; to remove it: ip link set dev {name} xdp off");
        log.warn(WarningCode::XdpAttached, name, text, remedy);
    }
}

fn check_mtu(nic: &Nic, frame_size: u32, log: &mut PlanLog) {
    let room = frame_size.saturating_sub(XDP_HEADROOM + ETHERNET);
    match nic.mtu {
        Some(mtu) if mtu > room => {
            let text = format!("MTU {mtu} does not fit a frame of {frame_size} bytes, which holds {room}");
            let larger = if frame_size < 4096 && mtu <= 4096 - XDP_HEADROOM - ETHERNET {
                "set frame_size = 4096, or "
            } else {
                ""
            };
            log.refuse(ReasonCode::Mtu, &nic.name, text, format!("{larger}ip link set dev {} mtu {room}", nic.name));
        }
        Some(_) => {}
        None => {
            let remedy = format!("keep it at {room} or below: a frame of {frame_size} bytes holds no more");
            log.warn(WarningCode::Mtu, &nic.name, "MTU unknown", remedy);
        }
    }
}

/// Returns the queues that every interface has. An actor without a port on one interface could not send there, and
/// would drop the answers to its clients.
fn common_queues(nics: &[&Nic], log: &mut PlanLog) -> Vec<u32> {
    let mut counts = Vec::new();
    for nic in nics {
        let name = &nic.name;
        match nic.rx_queues {
            None => {
                let remedy = format!("name the queues (queues = [0]), or see ethtool -l {name}");
                log.refuse(ReasonCode::QueuesUnknown, name, "the number of its queues is unknown", remedy);
            }
            Some(0) => {
                let remedy = format!("ethtool -L {name} combined 1");
                log.refuse(ReasonCode::NoQueue, name, "has no receive queue", remedy);
            }
            Some(rx) if rx > MAX_QUEUES => {
                let text = format!("{rx} queues; a plan handles {MAX_QUEUES}");
                log.refuse(ReasonCode::TooManyQueues, name, text, format!("ethtool -L {name} combined {MAX_QUEUES}"));
            }
            Some(rx) => counts.push((*nic, rx)),
        }
    }
    let Some((fewest, common)) = counts.iter().map(|(nic, rx)| (&nic.name, *rx)).min_by_key(|(_, rx)| *rx) else {
        return Vec::new();
    };
    for (nic, rx) in &counts {
        if *rx == common {
            log.decide(DecisionCode::QueuesAll, &nic.name, format!("all {rx} receive queues are served"));
        } else {
            let text = format!("{common} of {rx} receive queues are served: {fewest} has no more");
            log.decide(DecisionCode::QueuesCommon, &nic.name, text);
            warn_unserved(nic, common, *rx, log);
        }
    }
    (0..common).collect()
}

/// Warns about receive queues without an actor, unless RSS sends no packet there.
fn warn_unserved(nic: &Nic, served: u32, rx: u32, log: &mut PlanLog) {
    let table = nic.rss.as_ref().and_then(|rss| rss.table.as_ref());
    if table.is_some_and(|table| !table.is_empty() && table.iter().all(|queue| *queue < served)) {
        return;
    }
    let name = &nic.name;
    let text = format!(
        "{served} of its {rx} receive queues are served: packets of the {} others are not relayed and take the \
         fallback (engine.fallback)",
        rx - served
    );
    let remedy =
        format!("ethtool -L {name} combined {served}, or spread packets over these: ethtool -X {name} equal {served}");
    log.warn(WarningCode::QueuesUnserved, name, text, remedy);
}

fn listed_queues(list: &[u32], nics: &[&Nic], log: &mut PlanLog) -> Vec<u32> {
    let numbers: BTreeSet<u32> = list.iter().copied().take(MAX_QUEUES as usize + 1).collect();
    if numbers.is_empty() {
        log.refuse(ReasonCode::NoQueue, "queues", "the list is empty", "set queues = \"auto\" or name at least one");
    }
    if list.len() > MAX_QUEUES as usize {
        let text = format!("{} are listed; a plan handles {MAX_QUEUES}", list.len());
        log.refuse(ReasonCode::TooManyQueues, "queues", text, "list fewer");
    }
    if let Some(queue) = numbers.last().filter(|&&queue| queue >= MAX_QUEUES) {
        let text = format!("no NIC has that many; a plan handles queues below {MAX_QUEUES}");
        log.refuse(ReasonCode::QueueAbsent, format!("queue {queue}"), text, "name queues that exist");
        return Vec::new();
    }
    for &queue in &numbers {
        for (nic, rx) in nics.iter().filter_map(|nic| Some((nic, nic.rx_queues.filter(|rx| queue >= *rx)?))) {
            let text = format!(
                "{} does not have it: {rx} receive queues; an actor serves its queue of every interface",
                nic.name
            );
            let remedy = format!(
                "name one that all interfaces have, or add queues: ethtool -L {} combined {}",
                nic.name,
                queue + 1
            );
            log.refuse(ReasonCode::QueueAbsent, format!("queue {queue}"), text, remedy);
        }
    }
    for nic in nics {
        match nic.rx_queues {
            None => {
                let text = "the number of its queues is unknown: opening one that is absent will fail";
                log.warn(WarningCode::QueuesUnknown, &nic.name, text, format!("see ethtool -l {}", nic.name));
            }
            Some(rx) => {
                let served = numbers.range(..rx).count();
                let text = format!("{served} of {rx} receive queues are served, as listed");
                log.decide(DecisionCode::QueuesListed, &nic.name, text);
                if served < rx as usize {
                    let text = format!(
                        "packets for the engine on its {} other queues take the fallback: dropped, unless fallback = \
                         \"pass\"",
                        rx as usize - served
                    );
                    let remedy =
                        format!("spread packets over the first queues only: ethtool -X {} equal {served}", nic.name);
                    log.warn(WarningCode::QueuesUnserved, &nic.name, text, remedy);
                }
            }
        }
    }
    numbers.into_iter().collect()
}

/// Refuses queues that can only receive. The kernel allows a socket to bind to such a queue, and it would send on a
/// transmit queue that does not exist (xsk_bind compares with the larger of both numbers, net/xdp/xsk.c).
fn check_transmit(nic: &Nic, numbers: &[u32], log: &mut PlanLog) {
    let (Some(rx), Some(tx)) = (nic.rx_queues, nic.tx_queues) else { return };
    if let Some(queue) = numbers.iter().find(|&&queue| queue < rx && queue >= tx) {
        let text = format!("queue {queue} can receive but not send: {rx} receive and {tx} transmit queues");
        let remedy =
            format!("ethtool -L {} combined {}, or make the interface with equal numbers", nic.name, rx.min(tx));
        log.refuse(ReasonCode::NoTransmitQueue, &nic.name, text, remedy);
    }
}
