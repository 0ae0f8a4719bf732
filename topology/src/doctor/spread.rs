//! Checks how packets reach the queues of one interface: RSS, offloads, interrupt deferral, and existing sockets.

use super::CheckStatus::{Fail, Pass, Unknown, Warn};
use super::nic::check;
use super::{Check, CheckContext};
use crate::snapshot::{HashFields, Nic, Offloads};

/// Returns the queues of `nic` that the plan serves, or those in use now if there is no plan.
fn served(p: &CheckContext<'_>, nic: &Nic) -> Vec<u32> {
    match &p.plan {
        Ok(plan) => {
            let ports = plan.actors.iter().flat_map(|actor| &actor.ports);
            ports.filter(|port| port.interface == nic.name).map(|port| port.queue).collect()
        }
        Err(_) => (0..nic.rx_queues.unwrap_or(0).min(4096)).collect(),
    }
}

fn listed(queues: &[u32]) -> String {
    let text: Vec<String> = queues.iter().take(8).map(u32::to_string).collect();
    format!("{}{}", text.join(", "), if queues.len() > 8 { ", .." } else { "" })
}

pub(super) fn xsk_owned(p: &CheckContext<'_>, nic: &Nic) -> Check {
    let wanted = "no other AF_XDP socket on the queues to be served";
    let Some(taken) = &nic.xsk_queues else {
        return check("xsk-owned", nic, Unknown, "this kernel does not report it", wanted)
            .remedy("Linux 6.15 and later report it; or modprobe xsk_diag and ss --xdp -p");
    };
    let served = served(p, nic);
    let own = |queue: &u32| p.probes.own.as_ref().is_some_and(|own| own.has(&nic.name, *queue));
    let (own, taken): (Vec<u32>, Vec<u32>) = taken.iter().copied().partition(own);
    let ours: Vec<u32> = taken.iter().copied().filter(|queue| served.contains(queue)).collect();
    match (ours.is_empty(), taken.is_empty()) {
        (false, _) => check("xsk-owned", nic, Fail, format!("queues {} have a socket already", listed(&ours)), wanted)
            .remedy("stop its process; to find it as root: grep -ls 'socket:\\[' /proc/[0-9]*/maps"),
        (true, false) => {
            check("xsk-owned", nic, Pass, format!("queues {}, which the plan does not serve", listed(&taken)), wanted)
        }
        (true, true) if !own.is_empty() => {
            check("xsk-owned", nic, Pass, format!("queues {} have sockets of the running relay", listed(&own)), wanted)
        }
        (true, true) => check("xsk-owned", nic, Pass, "none", wanted),
    }
}

pub(super) fn rss(p: &CheckContext<'_>, nic: &Nic) -> Check {
    let wanted = "hash over addresses and ports of UDP, spread over exactly the served queues";
    if nic.rx_queues == Some(1) {
        return check("rss", nic, Pass, "one queue: nothing to spread", wanted);
    }
    let Some(view) = &nic.rss else {
        if nic.driver.as_deref() == Some("veth") {
            return check("rss", nic, Pass, "a veth has no RSS: the sender's transmit queue decides", wanted);
        }
        return check("rss", nic, Unknown, "neither driver nor kernel reports it", wanted)
            .remedy(format!("ethtool -x {0}; ethtool -n {0} rx-flow-hash udp4", nic.name));
    };
    let function = view.function.as_deref().unwrap_or("function unknown");
    let served = served(p, nic);
    let table = view.table.as_deref().unwrap_or_default();
    let mut elsewhere: Vec<u32> = table.iter().copied().filter(|queue| !served.contains(queue)).collect();
    elsewhere.sort_unstable();
    elsewhere.dedup();
    // Queues that attaching the program adds are not in the table yet.
    let there = |queue: &&u32| nic.rx_queues.is_none_or(|rx| **queue < rx);
    let idle: Vec<u32> = served.iter().filter(there).copied().filter(|queue| !table.contains(queue)).collect();
    if !table.is_empty() && !elsewhere.is_empty() {
        let observed = format!("{function}; packets also go to queues {}, which no actor serves", listed(&elsewhere));
        return check("rss", nic, Warn, observed, wanted).remedy(equal(nic, &served));
    }
    if !table.is_empty() && !idle.is_empty() {
        let observed = format!("{function}; no packet goes to queues {}", listed(&idle));
        return check("rss", nic, Warn, observed, wanted).remedy(equal(nic, &served));
    }
    let fields = [("udp4", view.fields_udp4), ("udp6", view.fields_udp6)];
    if nic.driver.as_deref() == Some("virtio_net")
        && fields.iter().any(|(_, fields)| fields.is_some_and(|f| f == HashFields::default()))
    {
        // Then the driver refuses other fields with EINVAL (virtnet_set_hashflow, drivers/net/virtio_net.c).
        let observed = "the device offers no hash over UDP: the host chooses the queue of each flow";
        return check("rss", nic, Warn, observed, wanted).remedy(
            "give the virtual machine a NIC with RSS (QEMU: -device virtio-net-pci,rss=on,hash=on), or one queue",
        );
    }
    if let Some((flow, Some(hashed))) = fields.iter().find(|(_, f)| f.is_some_and(|f| !f.has_ports())) {
        let observed = format!("{function}; {flow} hashes {hashed}: all flows of two hosts share a queue");
        return check("rss", nic, Warn, observed, wanted)
            .remedy(format!("ethtool -N {} rx-flow-hash {flow} sdfn", nic.name));
    }
    match (view.table.is_some(), view.fields_udp4) {
        (true, Some(hashed)) => {
            let observed = format!("{function} of {hashed}, {} entries over {} queues", table.len(), served.len());
            check("rss", nic, Pass, observed, wanted)
        }
        (false, _) => check("rss", nic, Unknown, format!("{function}; the table is unknown"), wanted)
            .remedy(format!("ethtool -x {}", nic.name)),
        (true, None) => check("rss", nic, Unknown, format!("{function}; the hashed fields are unknown"), wanted)
            .remedy(format!("ethtool -n {} rx-flow-hash udp4 (Linux 6.17 and later report them)", nic.name)),
    }
}

fn equal(nic: &Nic, served: &[u32]) -> String {
    let first = served.iter().min().copied().unwrap_or(0);
    let start = if first == 0 { String::new() } else { format!(" start {first}") };
    format!("ethtool -X {}{start} equal {}", nic.name, served.len().max(1))
}

pub(super) fn offloads(_: &CheckContext<'_>, nic: &Nic) -> Check {
    let wanted = "packets arrive one by one, whole and with their checksums";
    let Some(on) = nic.offloads else {
        return check("offloads", nic, Unknown, "unknown", wanted).remedy(format!("ethtool -k {}", nic.name));
    };
    let (found, remedy) = merging(nic, on);
    if !found.is_empty() {
        return check("offloads", nic, Warn, found.join("; "), wanted).remedy(remedy);
    }
    if nic.driver.as_deref() == Some("veth") {
        return veth(nic, wanted);
    }
    let vlan = if on.rx_vlan { "; VLAN tags are removed (use ethtool -K rxvlan off if VLANs are served)" } else { "" };
    check("offloads", nic, Pass, format!("nothing merges packets before XDP{vlan}"), wanted)
}

/// Returns the offloads that merge packets before the program sees them, and the command that disables them.
fn merging(nic: &Nic, on: Offloads) -> (Vec<&'static str>, String) {
    // Without native XDP the program runs after GRO.
    let generic = nic.xdp_features.is_some_and(|f| !f.basic || !f.redirect);
    let all = [
        (on.lro, "LRO merges packets, and drivers refuse native XDP with it", "lro"),
        (on.hw_gro && nic.driver.as_deref() != Some("virtio_net"), "hardware GRO merges packets", "rx-gro-hw"),
        (on.gro && generic, "GRO merges packets before generic XDP sees them", "gro"),
        (on.udp_gro_forwarding && generic, "UDP GRO forwarding merges datagrams", "rx-udp-gro-forwarding"),
    ];
    let found: Vec<_> = all.into_iter().filter(|(bad, ..)| *bad).collect();
    let switches: Vec<String> = found.iter().map(|(_, _, name)| format!("{name} off")).collect();
    (found.iter().map(|(_, text, _)| *text).collect(), format!("ethtool -K {} {}", nic.name, switches.join(" ")))
}

/// Checks a veth. It passes on what its peer has left unfinished: checksums (CHECKSUM_PARTIAL) and super-packets.
fn veth(nic: &Nic, wanted: &str) -> Check {
    let Some(peer) = &nic.peer else {
        return check("offloads", nic, Unknown, "its peer is in another namespace", wanted)
            .remedy("in the peer's namespace: ethtool -K PEER tx off gso off tso off gro on");
    };
    let Some(on) = peer.offloads else {
        return check("offloads", nic, Unknown, format!("those of its peer {} are unknown", peer.name), wanted)
            .remedy(format!("ethtool -k {}", peer.name));
    };
    let mut found = Vec::new();
    let mut switches = Vec::new();
    if on.tx_checksum {
        found.push("leaves checksums of local sockets unfinished: such packets are dropped as damaged".to_owned());
        switches.push("tx off");
    }
    if on.gso || on.tso {
        found.push("sends super-packets above the MTU".to_owned());
        switches.push("gso off tso off");
    }
    // veth_xdp_xmit, drivers/net/veth.c: without NAPI at the peer, redirected frames are dropped.
    if !on.gro && !peer.has_program {
        found.push("has neither GRO nor an XDP program: frames sent by native XDP are lost".to_owned());
        switches.push("gro on");
    }
    if found.is_empty() {
        return check("offloads", nic, Pass, format!("peer {} sends whole packets", peer.name), wanted);
    }
    check("offloads", nic, Warn, format!("peer {} {}", peer.name, found.join("; ")), wanted).remedy(format!(
        "ethtool -K {} {}",
        peer.name,
        switches.join(" ")
    ))
}

/// Never fails or warns: without these settings it works with more interrupts.
pub(super) fn napi(_: &CheckContext<'_>, nic: &Nic) -> Check {
    let wanted = "with busy_poll on a NIC: napi_defer_hard_irqs 2, gro_flush_timeout 200000; not needed";
    match nic.napi {
        None => check("napi", nic, Unknown, "unknown", wanted)
            .remedy(format!("cat /sys/class/net/{}/napi_defer_hard_irqs", nic.name)),
        Some(n) => {
            let observed =
                format!("napi_defer_hard_irqs {}, gro_flush_timeout {}", n.defer_hard_irqs, n.gro_flush_timeout_ns);
            check("napi", nic, Pass, observed, wanted)
        }
    }
}
