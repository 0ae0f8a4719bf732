//! Reports conditions that an operator should know although every queue runs: paused ports, links that are down, and
//! listed addresses that the host does not have.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{AddressStatus, Destinations, EngineStatus, LinkStatus};
use crate::net::Tables;

/// Returns the link of each of `interfaces`.
pub(super) fn links<'a>(interfaces: impl Iterator<Item = &'a str>, tables: &Tables) -> Vec<LinkStatus> {
    let link =
        |name: &str| LinkStatus { interface: name.to_owned(), up: tables.link_named(name).is_some_and(|link| link.up) };
    interfaces.map(link).collect()
}

/// Returns the status of each listed address. Calls `is_local` for addresses that no interface has.
pub(super) fn addresses(
    destinations: &Destinations,
    tables: &Tables,
    is_local: impl Fn(IpAddr) -> Option<bool>,
) -> Vec<AddressStatus> {
    let all: BTreeSet<IpAddr> = destinations.iter().map(|(address, _)| *address).collect();
    // If the kernel does not answer, the address counts as present.
    let present = |address| tables.local(address) || is_local(address).unwrap_or(true);
    all.into_iter().map(|address| AddressStatus { address, present: present(address) }).collect()
}

impl EngineStatus {
    /// Updates the links and addresses, and logs the changes.
    pub(super) fn observe(&mut self, links: Vec<LinkStatus>, addresses: Vec<AddressStatus>) {
        for link in &links {
            let before = self.links.iter().find(|l| l.interface == link.interface).is_none_or(|l| l.up);
            match (before, link.up) {
                (true, false) => tracing::warn!(
                    interface = link.interface,
                    remedy = format!("ip link show dev {}; check cable or peer", link.interface),
                    "link down"
                ),
                (false, true) => tracing::info!(interface = link.interface, "link up"),
                _ => {}
            }
        }
        for AddressStatus { address, present } in &addresses {
            let before = self.addresses.iter().find(|a| a.address == *address).is_none_or(|a| a.present);
            match (before, *present) {
                (true, false) => tracing::warn!(
                    %address,
                    remedy = "ip addr add it again, or take it out of the configuration",
                    "listed address missing on this host"
                ),
                (false, true) => tracing::info!(%address, "listed address present again"),
                _ => {}
            }
        }
        (self.links, self.addresses) = (links, addresses);
    }

    /// Returns the conditions that an operator should know although every queue runs, one sentence each.
    #[must_use]
    pub fn current_notices(&self) -> Vec<String> {
        let paused = self.queues.iter().flat_map(|queue| &queue.paused);
        let paused = paused.map(|id| format!("{id} is paused; to fix: oxide ctl resume {id}"));
        let down = self.links.iter().filter(|link| !link.up);
        let down = down.map(|link| format!("link of {0} is down; to fix: ip link show dev {0}", link.interface));
        let missing = self.addresses.iter().filter(|address| !address.present);
        let missing =
            missing.map(|a| format!("no interface has {}, which is listed; to fix: ip addr add it again", a.address));
        paused.chain(down).chain(missing).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::net::{Link, LinkKind};
    use crate::packet::MacAddr;
    use crate::port::QueueId;

    fn tables(up: bool, address: [u8; 4]) -> Tables {
        let link = Link {
            index: 2,
            name: "eth0".to_owned(),
            mac: MacAddr::default(),
            mtu: 1500,
            up,
            kind: LinkKind::Ethernet,
            addresses: vec![(address.into(), 24)],
        };
        Tables::new(1, vec![link], Vec::new(), HashMap::new())
    }

    #[test]
    fn notices_follow_links_addresses_and_paused_ports() {
        let mut status = crate::engine::sample::status();
        (status.links, status.addresses) = (Vec::new(), Vec::new());
        let listen = IpAddr::from([192, 0, 2, 1]);
        let destinations: Destinations = vec![(listen, 53..=53), (listen, 54..=54)];
        let mut observe = |tables: &Tables, is_local: Option<bool>| {
            let links = links(["eth0", "eth9"].into_iter(), tables);
            status.observe(links, addresses(&destinations, tables, |_| is_local));
            status.current_notices()
        };
        let good = observe(&tables(true, [192, 0, 2, 1]), Some(false));
        assert_eq!(good.len(), 1, "{good:?}");
        assert!(good[0].contains("eth9"), "a missing interface is reported: {good:?}");
        let bad = observe(&tables(false, [192, 0, 2, 9]), Some(false)).join("\n");
        assert!(bad.contains("eth0 is down") && bad.contains("192.0.2.1") && bad.lines().count() == 3, "{bad}");
        assert_eq!(observe(&tables(true, [192, 0, 2, 9]), Some(true)).len(), 1, "a local route covers it");
        assert_eq!(observe(&tables(true, [192, 0, 2, 9]), None).len(), 1, "unknown");
        status.queues[0].paused = vec![QueueId::new("eth0", 0)];
        assert!(status.current_notices()[0].contains("eth0:0 is paused"));
    }
}
