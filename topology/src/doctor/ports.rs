//! Checks that only the relay uses its UDP ports, and that enough ports are left for the host.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use super::CheckStatus::{Fail, Pass, Unknown, Warn};
use super::traffic::UNASKED;
use super::{Check, CheckStatus, Probes, Traffic};

/// Minimum number of ports that the kernel must have for the host's own sockets.
pub(crate) const HOST_PORTS: usize = 4096;
/// First port above the ports of system services (IANA's user ports).
const FIRST: u16 = 1024;
/// First preferred port. A port below it is more likely to belong to a service that starts later.
const PREFERRED: u16 = 10_000;

const WANTED: &str = "only the relay uses its UDP ports, and at least 4096 ports are left for the host's own sockets";

fn new(status: CheckStatus, observed: impl Into<String>) -> Check {
    Check::new("ports", "relay", status, observed, WANTED)
}

/// Holds one bit for each port.
struct Ports(Vec<bool>);

impl Ports {
    fn of<'a>(ranges: impl IntoIterator<Item = &'a RangeInclusive<u16>>) -> Self {
        let mut all = vec![false; 1 << 16];
        for range in ranges {
            let bits = all.get_mut(usize::from(*range.start())..=usize::from(*range.end()));
            bits.unwrap_or_default().fill(true);
        }
        Self(all)
    }

    fn with(&self, other: &Self, keep: impl Fn(bool, bool) -> bool) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| keep(*a, *b)).collect())
    }

    fn and(&self, other: &Self) -> Self {
        self.with(other, |a, b| a && b)
    }

    fn without(&self, other: &Self) -> Self {
        self.with(other, |a, b| a && !b)
    }

    fn count(&self) -> usize {
        self.0.iter().filter(|set| **set).count()
    }

    fn ranges(&self) -> Vec<RangeInclusive<u16>> {
        let mut found: Vec<RangeInclusive<u16>> = Vec::new();
        for port in (0..=u16::MAX).filter(|port| self.0.get(usize::from(*port)) == Some(&true)) {
            match found.last_mut() {
                Some(last) if *last.end() + 1 == port => *last = *last.start()..=port,
                _ => found.push(port..=port),
            }
        }
        found
    }
}

/// Formats ranges like the kernel's list of reserved ports.
fn list(ranges: &[RangeInclusive<u16>]) -> String {
    let one = |r: &RangeInclusive<u16>| {
        if r.start() == r.end() { r.start().to_string() } else { format!("{}-{}", r.start(), r.end()) }
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Returns the widest range that the relay leaves free. Prefers ports from `PREFERRED` if enough are free there.
fn free_range(relay: &Ports) -> Option<RangeInclusive<u16>> {
    let widest = |from: u16| {
        let free = Ports::of([&(from..=u16::MAX)]).without(relay).ranges();
        free.into_iter().max_by_key(ExactSizeIterator::len)
    };
    [PREFERRED, FIRST].into_iter().filter_map(widest).find(|range| range.len() >= HOST_PORTS)
}

pub(super) fn check(probes: &Probes, traffic: &Traffic) -> Check {
    if traffic.source_ports.is_empty() {
        return new(Unknown, UNASKED).remedy("oxide doctor --config FILE");
    }
    let (Some((low, high)), Some(bound)) = (probes.ephemeral_ports, &probes.udp_bound) else {
        return new(Unknown, "the kernel's ports cannot be read")
            .remedy("sysctl net.ipv4.ip_local_port_range; ss -uan");
    };
    let ours = Ports::of(&traffic.source_ports);
    let ephemeral = Ports::of([&(low..=high)]);
    let reserved = Ports::of(&probes.reserved_ports);
    let given = ephemeral.without(&reserved);
    // The kernel must leave these ports to the relay: source ports and listen ports.
    let relays = Ports::of(
        traffic.source_ports.iter().chain(traffic.listens.iter().map(|(_, p)| *p..=*p).collect::<Vec<_>>().iter()),
    );
    let left = given.without(&ours).count();
    if left < HOST_PORTS {
        return too_few(&relays, (low, high), given.count(), left);
    }
    // The relay receives the packets of listed ports, so a kernel socket on such a port receives nothing.
    let taken = bound.iter().find(|(address, port)| {
        let listens = traffic.listens.iter().any(|(a, l)| l == port && (a == address || address.is_unspecified()));
        listens || (ours.0.get(usize::from(*port)) == Some(&true) && !address.is_loopback())
    });
    if let Some((address, port)) = taken {
        return new(Warn, format!("a kernel socket is bound to {}", SocketAddr::new(*address, *port)))
            .remedy(format!("find its process: ss -uanp 'sport = :{port}'; stop it, or choose other ports"));
    }
    let shared = given.and(&ours);
    if shared.count() > 0 {
        let observed =
            format!("{} of source_ports are in the kernel's ephemeral range {low}-{high}", list(&shared.ranges()));
        // Writing replaces the list, so it must contain the old entries.
        let both = reserved.with(&shared, |a, b| a || b);
        return new(Warn, observed).remedy(format!(
            "sysctl -w net.ipv4.ip_local_reserved_ports={}, or source_ports outside of {low}-{high}",
            list(&both.ranges())
        ));
    }
    if let Some(chain) = probes.port_choosers.as_deref().unwrap_or_default().first() {
        let observed = format!("{chain} translates source addresses and may give other flows ports of source_ports");
        let range = free_range(&relays).map_or_else(|| "FIRST-LAST".to_owned(), |range| list(&[range]));
        return new(Warn, observed).remedy(format!(
            "keep its ports apart from the relay's: nft \"masquerade to :{range}\", iptables -j MASQUERADE --to-ports \
             {range}, for UDP"
        ));
    }
    new(Pass, format!("only the relay uses {}; {left} ports are left for the host", list(&traffic.source_ports)))
}

/// Returns the check if the host's own sockets have too few ports now, or would have too few.
fn too_few(relay: &Ports, (low, high): (u16, u16), given: usize, left: usize) -> Check {
    let remedy = match free_range(relay) {
        Some(range) => format!(
            "sysctl -w net.ipv4.ip_local_port_range=\"{} {}\" (and net.ipv4.ip_local_reserved_ports for services in it), or a \
             narrower source_ports",
            range.start(),
            range.end()
        ),
        None => "choose a narrower source_ports: no range of 4096 ports is left for the host".to_owned(),
    };
    if given < HOST_PORTS {
        let observed = format!(
            "the kernel may give its own sockets {given} ports only ({low}-{high} without the reserved ones): \
             programs of this host cannot open connections when they are used up"
        );
        return new(Fail, observed).remedy(remedy);
    }
    let observed = format!("source_ports leaves {left} ports of the kernel's ephemeral range {low}-{high} to the host");
    new(Warn, observed).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_back_as_they_were_written() {
        let ports = Ports::of(&[5..=7, 9..=9, 65_535..=65_535]);
        assert_eq!((ports.count(), list(&ports.ranges()).as_str()), (5, "5-7,9,65535"));
        assert_eq!(list(&Ports::of(&[]).ranges()), "");
        assert_eq!(Ports::of([&(0..=u16::MAX)]).ranges(), [0..=u16::MAX]);
    }

    #[test]
    fn host_range_keeps_off_services_where_it_can() {
        assert_eq!(free_range(&Ports::of(&[20_000..=65_535])), Some(10_000..=19_999));
        assert_eq!(free_range(&Ports::of(&[10_000..=65_535])), Some(1024..=9_999));
        assert_eq!(free_range(&Ports::of(&[4_000..=65_535])), None);
        assert_eq!(free_range(&Ports::of(&[61_000..=65_535])), Some(10_000..=60_999));
    }
}
