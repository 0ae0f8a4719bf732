//! Checks of the relay's own addresses: its ports, and the way to its upstreams.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::Status::{Fail, Pass, Unknown, Warn};
use super::{Check, Patient, Status};

/// What the relay will send and receive; empty where no configuration was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Where clients send to.
    pub listens: Vec<(IpAddr, u16)>,
    /// UDP source ports toward upstreams.
    pub source_ports: Option<RangeInclusive<u16>>,
    /// Where packets go.
    pub upstreams: Vec<IpAddr>,
}

const RELAY: &str = "relay";
const UNASKED: &str = "no configuration was given";

pub(super) fn checks(p: &Patient<'_>) -> Vec<Check> {
    std::iter::once(ports(p)).chain(routes(p)).collect()
}

fn check(id: &str, status: Status, observed: impl Into<String>, wanted: &str) -> Check {
    Check::new(id, RELAY, status, observed, wanted)
}

fn ports(p: &Patient<'_>) -> Check {
    let wanted = "the relay's UDP ports are nobody else's: no kernel socket has or gets one";
    let Some(ours) = &p.traffic.source_ports else {
        return check("ports", Unknown, UNASKED, wanted).mend("oxide doctor --config FILE");
    };
    let (Some((low, high)), Some(bound)) = (p.probes.ephemeral_ports, &p.probes.udp_bound) else {
        return check("ports", Unknown, "the kernel's ports cannot be seen", wanted)
            .mend("sysctl net.ipv4.ip_local_port_range; ss -uan");
    };
    // A listed packet goes to the AF_XDP socket, and the kernel's own socket on that port goes deaf.
    let taken = bound.iter().find(|(address, port)| {
        let listens = p.traffic.listens.iter().any(|(a, l)| l == port && (a == address || address.is_unspecified()));
        listens || (ours.contains(port) && !address.is_loopback())
    });
    if let Some((address, port)) = taken {
        let observed = format!("a kernel socket is bound to {}", std::net::SocketAddr::new(*address, *port));
        return check("ports", Warn, observed, wanted)
            .mend(format!("whose: ss -uanp 'sport = :{port}'; stop it, or choose other ports"));
    }
    let (first, last) = (*ours.start().max(&low), *ours.end().min(&high));
    let free = |port: u16| p.probes.reserved_ports.iter().any(|range| range.contains(&port));
    if first <= last && !(first..=last).all(free) {
        let observed = format!("{first}-{last} of source_ports are in the kernel's ephemeral range {low}-{high}");
        let reserve = format!("{}-{}", ours.start(), ours.end());
        return check("ports", Warn, observed, wanted).mend(format!(
            "sysctl net.ipv4.ip_local_reserved_ports={reserve}, or source_ports outside of {low}-{high}"
        ));
    }
    check("ports", Pass, format!("{}-{} are the relay's alone", ours.start(), ours.end()), wanted)
}

fn routes(p: &Patient<'_>) -> Vec<Check> {
    let wanted = "a route to each upstream, by an interface that is served";
    if p.traffic.upstreams.is_empty() {
        return vec![check("route", Unknown, UNASKED, wanted).mend("oxide doctor --config FILE")];
    }
    let mut seen = Vec::new();
    for upstream in &p.traffic.upstreams {
        if !seen.contains(upstream) {
            seen.push(*upstream);
        }
    }
    seen.into_iter().map(|upstream| route(p, upstream, wanted)).collect()
}

fn route(p: &Patient<'_>, upstream: IpAddr, wanted: &str) -> Check {
    let subject = format!("upstream {upstream}");
    let check = |status, observed: String| Check::new("route", &subject, status, observed, wanted);
    let Some((_, route)) = p.probes.routes.iter().find(|(target, _)| *target == upstream) else {
        return check(Unknown, "the kernel could not be asked".into()).mend(format!("ip route get {upstream}"));
    };
    match route {
        Err(refusal) => check(Fail, format!("none: {refusal}")).mend(format!(
            "ip route add {upstream} via GATEWAY dev {}",
            p.request.interfaces.first().map_or("NIC", String::as_str)
        )),
        Ok(hop) if !p.request.interfaces.contains(&hop.interface) => {
            let observed = format!("leaves by {}, which is not served", hop.interface);
            check(Fail, observed)
                .mend(format!("add {} to interfaces, or route {upstream} by one of them", hop.interface))
        }
        Ok(hop) => {
            let via = hop.gateway.map_or_else(|| "on the link".to_owned(), |gateway| format!("via {gateway}"));
            let next = hop.gateway.unwrap_or(upstream);
            match hop.resolved {
                Some(false) => check(Warn, format!("by {}, {via}, who does not answer", hop.interface))
                    .mend(format!("see ip neigh show {next}; is it on, and on this link?")),
                Some(true) => check(Pass, format!("by {}, {via}, who answers", hop.interface)),
                None => check(Pass, format!("by {}, {via}, not asked for yet", hop.interface)),
            }
        }
    }
}
