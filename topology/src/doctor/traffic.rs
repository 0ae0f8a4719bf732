//! Checks the relay's listen addresses and the routes to its upstreams. Module `ports` checks its ports.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::CheckStatus::{Fail, Pass, Unknown, Warn};
use super::{Check, CheckStatus, Probes};
use crate::snapshot::Holder;

/// Describes the traffic of the relay; empty without a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Addresses and ports that clients send to.
    pub listens: Vec<(IpAddr, u16)>,
    /// UDP source ports towards upstreams; empty without a configuration.
    pub source_ports: Vec<RangeInclusive<u16>>,
    /// Addresses of the upstreams.
    pub upstreams: Vec<IpAddr>,
}

pub(super) const UNASKED: &str = "no configuration was given";

/// Runs the checks for an engine that serves `interfaces`.
pub(super) fn checks(interfaces: &[String], probes: &Probes, traffic: &Traffic) -> Vec<Check> {
    let ports = super::ports::check(probes, traffic);
    std::iter::once(ports)
        .chain(listens(interfaces, probes, traffic))
        .chain(routes(interfaces, probes, traffic))
        .collect()
}

fn unique<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> Vec<IpAddr> {
    let mut seen = std::collections::HashSet::new();
    addresses.filter(|address| seen.insert(**address)).copied().collect()
}

fn listens(interfaces: &[String], probes: &Probes, traffic: &Traffic) -> Vec<Check> {
    let wanted = "packets to each listen address come in by an interface that is served";
    if traffic.listens.is_empty() {
        if traffic.source_ports.is_empty() {
            return vec![Check::new("listen", "relay", Unknown, UNASKED, wanted).remedy("oxide doctor --config FILE")];
        }
        let text = "the configuration has no [[relay]] entry, so the relay does not start";
        return vec![Check::new("listen", "relay", Fail, text, wanted).remedy("write one: oxide config example")];
    }
    let all = unique(traffic.listens.iter().map(|(address, _)| address));
    all.into_iter().map(|address| listen(interfaces, probes, address, wanted)).collect()
}

fn listen(interfaces: &[String], probes: &Probes, address: IpAddr, wanted: &str) -> Check {
    let subject = format!("listen {address}");
    let check = |status, observed: String| Check::new("listen", &subject, status, observed, wanted);
    let served = interfaces.join(", ");
    let Some((_, reception)) = probes.listens.iter().find(|(own, _)| *own == address) else {
        return check(Unknown, "the kernel did not answer".into()).remedy("ip -br addr");
    };
    let names = |holders: &[Holder]| holders.iter().map(|h| h.interface.as_str()).collect::<Vec<_>>().join(", ");
    let holders = &reception.holders;
    if let Some(holder) = holders.iter().find(|holder| interfaces.contains(&holder.interface)) {
        return check(Pass, format!("on {}", holder.interface));
    }
    if holders.iter().any(|holder| holder.elsewhere) {
        return check(Pass, format!("on {}; packets that arrive on {served} are relayed", names(holders)));
    }
    if !holders.is_empty() {
        let on = names(holders);
        return check(Warn, format!("on {on}, which is not served: packets that arrive there go to the kernel"))
            .remedy(format!("add {on} to interfaces, or listen on an address of {served}"));
    }
    if reception.local == Some(true) {
        return check(Pass, "no interface has it; a local route covers it".into());
    }
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let device = interfaces.first().map_or("NIC", String::as_str);
    check(
        Warn,
        "no interface of this host has it, so the host does not answer ARP or neighbour discovery for it".into(),
    )
    .remedy(format!("ip addr add {address}/{prefix} dev {device}, or listen on an address from `ip -br addr`"))
}

fn routes(interfaces: &[String], probes: &Probes, traffic: &Traffic) -> Vec<Check> {
    let wanted = "a route to each upstream, by an interface that is served";
    if traffic.upstreams.is_empty() {
        return vec![Check::new("route", "relay", Unknown, UNASKED, wanted).remedy("oxide doctor --config FILE")];
    }
    let all = unique(traffic.upstreams.iter());
    all.into_iter().map(|upstream| route(interfaces, probes, upstream, wanted)).collect()
}

fn route(interfaces: &[String], probes: &Probes, upstream: IpAddr, wanted: &str) -> Check {
    let subject = format!("upstream {upstream}");
    let check = |status: CheckStatus, observed: String| Check::new("route", &subject, status, observed, wanted);
    let Some((_, route)) = probes.routes.iter().find(|(target, _)| *target == upstream) else {
        return check(Unknown, "the kernel did not answer".into()).remedy(format!("ip route get {upstream}"));
    };
    let hop = match route {
        Err(refusal) => {
            return check(Fail, format!("none: {refusal}")).remedy(format!(
                "ip route add {upstream} via GATEWAY dev {}",
                interfaces.first().map_or("NIC", String::as_str)
            ));
        }
        Ok(hop) => hop,
    };
    if hop.local {
        return check(Fail, "is this host's own address".into()).remedy("use the address of another host");
    }
    if !interfaces.contains(&hop.interface) {
        let observed = format!("leaves by {}, which is not served", hop.interface);
        return check(Fail, observed)
            .remedy(format!("add {} to interfaces, or route {upstream} by one of them", hop.interface));
    }
    let via = hop.gateway.map_or_else(|| "on the link".to_owned(), |gateway| format!("via {gateway}"));
    let next = hop.gateway.unwrap_or(upstream);
    match hop.resolved {
        Some(false) => check(Warn, format!("by {}, {via}, which does not answer", hop.interface))
            .remedy(format!("see ip neigh show {next}; is it on, and on this link?")),
        Some(true) => check(Pass, format!("by {}, {via}, which answers", hop.interface)),
        None => check(Pass, format!("by {}, {via}, not resolved yet", hop.interface)),
    }
}
