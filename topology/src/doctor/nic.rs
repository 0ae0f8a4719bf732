//! Checks one interface.

use super::CheckStatus::{Fail, Pass, Unknown, Warn};
use super::spread::{napi, offloads, rss, xsk_owned};
use super::{Check, CheckContext, CheckStatus};
use crate::plan::{Plan, ReasonCode, WarningCode, ZeroCopy};
use crate::snapshot::Nic;

pub(super) fn checks(p: &CheckContext<'_>, name: &str) -> Vec<Check> {
    let Some(nic) = p.snapshot.nic(name) else { return vec![absent(name, &p.snapshot.nics)] };
    let exists = match nic.ifindex {
        Some(index) => Check::new("nic-exists", name, Pass, format!("interface {index}"), "present"),
        None => Check::new("nic-exists", name, Unknown, "only described", "present"),
    };
    let link = |_: &CheckContext<'_>, nic: &Nic| link(nic);
    let all = [link, driver, queues, rings, mtu, xdp_attached, xsk_owned, rss, offloads, napi, numa, irq_affinity];
    std::iter::once(exists).chain(all.iter().map(|check| check(p, nic))).collect()
}

pub(super) fn absent(name: &str, nics: &[Nic]) -> Check {
    let known: Vec<&str> = nics.iter().map(|nic| nic.name.as_str()).collect();
    let observed = format!("absent (there are: {})", known.join(", "));
    Check::new("nic-exists", name, Fail, observed, "present").remedy("correct the name; see `ip link`")
}

pub(super) fn check(id: &str, nic: &Nic, status: CheckStatus, observed: impl Into<String>, wanted: &str) -> Check {
    Check::new(id, &nic.name, status, observed, wanted)
}

pub(super) fn link(nic: &Nic) -> Check {
    let wanted = "Ethernet, up, with carrier, not a member of a bridge or bond";
    if nic.ethernet == Some(false) {
        let (text, remedy) = crate::plan::not_ethernet(nic);
        return check("link", nic, Fail, text, wanted).remedy(remedy);
    }
    match (nic.up, nic.carrier) {
        // Binding to a queue of an interface that is down has crashed kernels (onload#177).
        (Some(false), _) => check("link", nic, Fail, "down", wanted).remedy(format!("ip link set dev {} up", nic.name)),
        (_, Some(false)) => {
            check("link", nic, Fail, "no carrier", wanted).remedy(format!("check cable or peer: ethtool {}", nic.name))
        }
        (Some(true), Some(true)) if nic.master.is_some() => {
            let master = nic.master.as_deref().unwrap_or_default();
            let remedy =
                format!("serve another NIC, or remove it from {master}: ip link set dev {} nomaster", nic.name);
            check(
                "link",
                nic,
                Warn,
                format!("a member of {master}, which does not receive the relay's packets"),
                wanted,
            )
            .remedy(remedy)
        }
        (Some(true), Some(true)) => check("link", nic, Pass, "up, with carrier", wanted),
        _ => check("link", nic, Unknown, "unknown", wanted).remedy(format!("ip link show dev {}", nic.name)),
    }
}

fn driver(p: &CheckContext<'_>, nic: &Nic) -> Check {
    let wanted = "native XDP, zero-copy where it is safe";
    let name = nic.driver.as_deref().unwrap_or("driver unknown");
    let rung = match crate::plan::zero_copy(nic, &p.snapshot.limits, p.request.frame_size) {
        ZeroCopy::Good => "zero-copy",
        ZeroCopy::Avoid => "native copy (zero-copy has bad records)",
        ZeroCopy::Absent => "native copy (no zero-copy)",
        ZeroCopy::Unknown => "native copy (zero-copy unknown)",
    };
    match nic.xdp_features {
        None => check("driver", nic, Unknown, format!("{name}: its XDP features are unknown"), wanted)
            .remedy("Linux 6.3 and later report them: xdp-loader features; or try oxide doctor --self-test"),
        Some(f) if f.basic && f.redirect => check("driver", nic, Pass, format!("{name}: {rung}"), wanted),
        Some(_) => {
            let remedy = "generic mode works, slowly; choose an interface with native XDP if there is one";
            check("driver", nic, Warn, format!("{name} has no native XDP: generic mode is used"), wanted).remedy(remedy)
        }
    }
}

fn queues(p: &CheckContext<'_>, nic: &Nic) -> Check {
    let wanted = "as many transmit as receive queues, and the spare queues that the driver needs";
    let (Some(rx), Some(tx)) = (nic.rx_queues, nic.tx_queues) else {
        return check("queues", nic, Unknown, "unknown", wanted).remedy(format!("ethtool -l {}", nic.name));
    };
    let max = nic.max_queues.map_or_else(String::new, |max| format!(", at most {max}"));
    let then = crate::plan::with_program(nic, p.snapshot, p.request.native);
    let added = then.rx_queues.filter(|then| *then != rx);
    let added = added.map_or_else(String::new, |then| format!("; {then} receive queues once XDP is attached"));
    let observed = format!("{rx} receive, {tx} transmit{max}{added}");
    if let Err(refusal) = &p.plan {
        let ours = |code| matches!(code, ReasonCode::SpareQueues | ReasonCode::NoTransmitQueue | ReasonCode::NoQueue);
        if let Some(reason) = refusal.reasons.iter().find(|r| r.subject == nic.name && ours(r.code)) {
            return check("queues", nic, Fail, format!("{observed}: {}", reason.text), wanted)
                .remedy(reason.remedy.clone());
        }
    }
    let unserved = |plan: &Plan| {
        plan.warnings.iter().find(|w| w.subject == nic.name && w.code == WarningCode::QueuesUnserved).cloned()
    };
    match p.plan.as_ref().ok().and_then(unserved) {
        Some(w) => check("queues", nic, Warn, format!("{observed}: {}", w.text), wanted).remedy(w.remedy),
        None if then.rx_queues != then.tx_queues => {
            check("queues", nic, Warn, observed, wanted).remedy(format!("ethtool -L {} combined {rx}", nic.name))
        }
        None => check("queues", nic, Pass, observed, wanted),
    }
}

fn rings(p: &CheckContext<'_>, nic: &Nic) -> Check {
    let wanted = "rings of the NIC no larger than half of the frames of a queue";
    let frames = p.request.umem_bytes_per_queue.checked_div(u64::from(p.request.frame_size)).unwrap_or(0);
    match (nic.rx_ring, nic.tx_ring) {
        (Some(rx), Some(tx)) if u64::from(rx) > frames / 2 => {
            let observed = format!("receive {rx}, transmit {tx} descriptors, {frames} frames for each queue");
            let remedy = format!("ethtool -G {} rx {}, or raise frame_count", nic.name, (frames / 2).max(64));
            check("rings", nic, Warn, observed, wanted).remedy(remedy)
        }
        (Some(rx), Some(tx)) => check("rings", nic, Pass, format!("receive {rx}, transmit {tx} descriptors"), wanted),
        _ if nic.is_virtual == Some(true) => check("rings", nic, Pass, "none: a virtual interface", wanted),
        _ => check("rings", nic, Unknown, "unknown", wanted).remedy(format!("ethtool -g {}", nic.name)),
    }
}

fn mtu(p: &CheckContext<'_>, nic: &Nic) -> Check {
    let wanted = "a packet fits a frame, and the driver's native limit";
    let Some(mtu) = nic.mtu else {
        return check("mtu", nic, Unknown, "unknown", wanted).remedy(format!("ip link show dev {}", nic.name));
    };
    let reason = p
        .plan
        .as_ref()
        .err()
        .and_then(|r| r.reasons.iter().find(|r| r.subject == nic.name && r.code == ReasonCode::Mtu).cloned());
    let warning =
        p.plan.as_ref().ok().and_then(|plan| {
            plan.warnings.iter().find(|w| w.subject == nic.name && w.code == WarningCode::Mtu).cloned()
        });
    match (reason, warning) {
        (Some(reason), _) => check("mtu", nic, Fail, reason.text, wanted).remedy(reason.remedy),
        (_, Some(warning)) => check("mtu", nic, Warn, warning.text, wanted).remedy(warning.remedy),
        _ => check("mtu", nic, Pass, mtu.to_string(), wanted),
    }
}

fn xdp_attached(p: &CheckContext<'_>, nic: &Nic) -> Check {
    let wanted = "no XDP program of another process";
    let own = p.probes.own.as_ref().is_some_and(|own| own.serves(&nic.name));
    match &nic.xdp_program {
        Some(program) if own => {
            let id = program.id.map_or_else(String::new, |id| format!(", id {id}"));
            check("xdp-attached", nic, Pass, format!("{} program{id} of the running relay", program.mode), wanted)
        }
        Some(program) => {
            let id = program.id.map_or_else(|| "unknown id".to_owned(), |id| format!("id {id}"));
            let remedy = format!(
                "find its owner: bpftool net show dev {0}; stop that program; if it is an oxide relay, pass its configuration \
                 (oxide doctor --config FILE); if its owner has ended: ip link set dev {0} xdp off",
                nic.name
            );
            check("xdp-attached", nic, Fail, format!("{} program, {id}", program.mode), wanted).remedy(remedy)
        }
        None if nic.ifindex.is_some() => check("xdp-attached", nic, Pass, "none", wanted),
        None => check("xdp-attached", nic, Unknown, "unknown", wanted),
    }
}

fn numa(p: &CheckContext<'_>, nic: &Nic) -> Check {
    let wanted = "actors and memory on the NIC's node";
    if p.snapshot.machine.nodes.len() < 2 {
        return check("numa", nic, Pass, "one node", wanted);
    }
    let Some(node) = nic.numa_node else {
        let remedy = format!("cat /sys/class/net/{}/device/numa_node; set numa = N if you know it", nic.name);
        return check("numa", nic, Unknown, "its node is unknown", wanted).remedy(remedy);
    };
    let Ok(plan) = &p.plan else { return check("numa", nic, Unknown, "there is no plan", wanted) };
    let mine = plan.actors.iter().filter(|actor| actor.ports.iter().any(|port| port.interface == nic.name));
    let far = mine.filter(|actor| actor.numa_node != Some(node)).count();
    if far == 0 {
        return check("numa", nic, Pass, format!("node {node}, with all its actors"), wanted);
    }
    if let Some(nodes) = p.snapshot.limits.memory_nodes.as_ref().filter(|nodes| !nodes.contains(node)) {
        let observed = format!("node {node}; this process may not use its memory: cpuset.mems is {nodes}");
        return check("numa", nic, Warn, observed, wanted).remedy(crate::plan::WIDEN_MEMS);
    }
    let observed = format!("node {node}; {far} of its queues are served from another");
    check("numa", nic, Warn, observed, wanted)
        .remedy("use interfaces of one node, or fewer queues: see `oxide plan --tree`")
}

fn irq_affinity(p: &CheckContext<'_>, nic: &Nic) -> Check {
    let wanted = "the interrupt of each queue on its actor's cpu, or at least on its node";
    if nic.is_virtual == Some(true) {
        return check("irq-affinity", nic, Pass, "no interrupts: a virtual interface", wanted);
    }
    let Ok(plan) = &p.plan else { return check("irq-affinity", nic, Unknown, "there is no plan", wanted) };
    let machine = &p.snapshot.machine;
    let (mut known, mut far) = (0, Vec::new());
    for actor in plan.actors.iter().filter(|a| a.ports.iter().any(|port| port.interface == nic.name)) {
        let Some(irq) = nic.irqs.iter().find(|irq| irq.queue == actor.queue) else { continue };
        known += 1;
        let node = |cpu: u32| machine.core_of(cpu).and_then(|core| core.node);
        if !irq.cpus.iter().any(|cpu| node(cpu) == node(actor.cpu)) {
            far.push(format!("queue {} (irq {}) on cpu {}", actor.queue, irq.irq, irq.cpus));
        }
    }
    match (known, far.first()) {
        (0, _) => check("irq-affinity", nic, Unknown, "the interrupts of its queues are unknown", wanted)
            .remedy(format!("grep {} /proc/interrupts", nic.name)),
        (_, Some(first)) => {
            let remedy = "oxide plan --apply irq-affinity, or write /proc/irq/N/smp_affinity_list";
            check("irq-affinity", nic, Warn, format!("{} queues on another node, first {first}", far.len()), wanted)
                .remedy(remedy)
        }
        (known, None) => check("irq-affinity", nic, Pass, format!("{known} interrupts on their actors' node"), wanted),
    }
}
