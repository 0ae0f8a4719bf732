//! Remembers source addresses that sessions may still have.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use oxide::net::Tables;

/// Limits the remembered addresses. Above it, addresses that are no longer assigned to this host are forgotten.
const REMEMBERED: usize = 64;

/// Holds the source addresses towards upstreams that were preferred at any time since the start. A session keeps its
/// address when another one becomes preferred. So answers to all of these addresses are steered to the relay while
/// they are assigned to this host. One instance serves all plans of later reloads.
#[derive(Debug, Default)]
pub struct UsedSources(Mutex<BTreeSet<IpAddr>>);

impl UsedSources {
    /// Adds the addresses that are preferred now, and returns all remembered addresses that are assigned to this host.
    #[must_use]
    pub fn with(&self, preferred: impl IntoIterator<Item = IpAddr>, tables: &Tables) -> Vec<IpAddr> {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.extend(preferred);
        if used.len() > REMEMBERED {
            used.retain(|&address| tables.local(address));
        }
        used.iter().copied().filter(|&address| tables.local(address)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use oxide::net::{Link, LinkKind};
    use oxide::packet::MacAddr;

    fn host(own: &[IpAddr]) -> Tables {
        let link = Link {
            index: 1,
            name: "eth0".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            up: true,
            kind: LinkKind::Ethernet,
            addresses: own.iter().map(|&address| (address, 24)).collect(),
        };
        Tables::new(1, vec![link], Vec::new(), Default::default())
    }

    #[test]
    fn used_source_is_listed_while_it_is_assigned() {
        let [a, b]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        let used = UsedSources::default();
        assert_eq!(used.with([a], &host(&[a, b])), [a]);
        assert_eq!(used.with([b], &host(&[a, b])), [a, b]);
        assert_eq!(used.with([b], &host(&[b])), [b]);
        assert_eq!(used.with([b], &host(&[a, b])), [a, b], "the address is assigned again");
    }

    #[test]
    fn used_sources_are_bounded() {
        let used = UsedSources::default();
        let own: Vec<IpAddr> = (0..200).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        for address in &own {
            assert_eq!(used.with([*address], &host(&[*address])), [*address]);
        }
        assert!(used.0.lock().unwrap().len() <= REMEMBERED);
    }
}
