//! The kernel's tables as facts build them up, one by one. Owned by the service's loop alone.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::decode::{Address, Standing, TableUpdate};
use super::tables::{Link, LinkKind, Order, Route, RouteKind, Tables, order};
use crate::packet::MacAddr;

/// (interface, address) of a neighbour.
pub(super) type Key = (u32, IpAddr);

/// What a fact has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct UpdateEffect {
    /// The tables are others now.
    pub(super) changed: bool,
    /// The kernel drops routes in silence when this happens: read them again.
    pub(super) reread_routes: bool,
    /// The kernel has forgotten this neighbour; its last MAC still stands in the tables.
    pub(super) lost: Option<Key>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    mac: MacAddr,
    /// Entered by somebody: must not be asked for.
    fixed: bool,
    /// The kernel no longer has it; this is the last that was known.
    forgotten: bool,
}

#[derive(Debug, Default)]
pub(super) struct TableBuilder {
    links: BTreeMap<u32, Link>,
    /// By link, in the kernel's order.
    addresses: HashMap<u32, Vec<Address>>,
    routes: BTreeMap<Order, Route>,
    neighbours: HashMap<Key, Known>,
}

impl TableBuilder {
    /// Takes one fact in. Facts may come twice, and a dump's and a notice's may come in either order: each
    /// says all about its object, and the last one holds.
    pub(super) fn apply(&mut self, update: TableUpdate) -> UpdateEffect {
        match update {
            TableUpdate::Link { index, up, kind, name, mac, mtu } => self.link(index, up, kind, name, mac, mtu),
            TableUpdate::LinkGone { index } => self.link_gone(index),
            TableUpdate::Address { index, address } => {
                let list = self.addresses.entry(index).or_default();
                let old = list.iter_mut().find(|a| (a.address, a.prefix) == (address.address, address.prefix));
                let changed = old.as_deref() != Some(&address);
                match old {
                    Some(old) => *old = address,
                    None => list.push(address),
                }
                UpdateEffect { changed, ..UpdateEffect::default() }
            }
            TableUpdate::AddressGone { index, address, prefix } => {
                let changed = self.addresses.get_mut(&index).is_some_and(|list| {
                    let before = list.len();
                    list.retain(|a| (a.address, a.prefix) != (address, prefix));
                    list.len() != before
                });
                // IPv4 routes that prefer this source go without a notice (fib_sync_down_addr).
                UpdateEffect { changed, reread_routes: address.is_ipv4(), lost: None }
            }
            TableUpdate::Routes { routes, replace } => self.routes(routes, replace),
            TableUpdate::RoutesGone { routes } => {
                let found = routes.iter().filter(|route| self.routes.remove(&order(route)).is_some()).count();
                // Not found: something was missed before.
                UpdateEffect { changed: found > 0, reread_routes: found < routes.len(), lost: None }
            }
            TableUpdate::Neighbour { key, standing } => self.neighbour(key, standing),
            TableUpdate::NeighbourGone { key } => match self.neighbours.get_mut(&key) {
                Some(known) => {
                    known.forgotten = true;
                    UpdateEffect { lost: Some(key), ..UpdateEffect::default() }
                }
                None => UpdateEffect::default(),
            },
        }
    }

    fn link(
        &mut self,
        index: u32,
        up: bool,
        kind: LinkKind,
        name: Option<String>,
        mac: Option<MacAddr>,
        mtu: Option<u32>,
    ) -> UpdateEffect {
        let old = self.links.get(&index);
        let new = Link {
            index,
            up,
            kind,
            name: name.or_else(|| old.map(|l| l.name.clone())).unwrap_or_default(),
            mac: mac.or_else(|| old.map(|l| l.mac)).unwrap_or_default(),
            mtu: mtu.or_else(|| old.map(|l| l.mtu)).unwrap_or_default(),
            addresses: Vec::new(),
        };
        let changed = old != Some(&new);
        // IPv4 routes of a link that goes down go without a notice (fib_sync_down_dev).
        let reread_routes = !up && old.is_some_and(|l| l.up);
        self.links.insert(index, new);
        UpdateEffect { changed, reread_routes, lost: None }
    }

    fn link_gone(&mut self, index: u32) -> UpdateEffect {
        let changed = self.links.remove(&index).is_some();
        self.addresses.remove(&index);
        self.neighbours.retain(|key, _| key.0 != index);
        self.routes.retain(|_, route| route.interface != index);
        UpdateEffect { changed, reread_routes: changed, lost: None }
    }

    fn routes(&mut self, routes: Vec<Route>, replace: bool) -> UpdateEffect {
        let mut effect = UpdateEffect::default();
        if let Some(first) = routes.first().filter(|_| replace) {
            let base = Route { kind: RouteKind::Unicast, interface: 0, gateway: None, ..first.clone() };
            let same =
                |r: &Route| (r.destination, r.prefix, r.metric) == (first.destination, first.prefix, first.metric);
            let old: Vec<Order> =
                self.routes.range(order(&base)..).take_while(|(_, r)| same(r)).map(|(o, _)| *o).collect();
            // One of several was replaced, and the message does not say which.
            effect.reread_routes = old.len() > 1;
            effect.changed = !old.is_empty();
            for gone in &old {
                self.routes.remove(gone);
            }
        }
        for route in routes {
            let old = self.routes.insert(order(&route), route.clone());
            effect.changed |= old != Some(route);
        }
        effect
    }

    fn neighbour(&mut self, key: Key, standing: Standing) -> UpdateEffect {
        let old = self.neighbours.get(&key).map(|known| known.mac);
        let (mac, fixed) = match standing {
            Standing::Usable(mac) => (mac, false),
            Standing::Fixed(mac) => (mac, true),
            Standing::Unknown => {
                if let Some(known) = self.neighbours.get_mut(&key) {
                    (known.forgotten, known.fixed) = (true, false);
                }
                return UpdateEffect::default();
            }
            Standing::Failed => {
                return UpdateEffect { changed: self.neighbours.remove(&key).is_some(), ..UpdateEffect::default() };
            }
        };
        self.neighbours.insert(key, Known { mac, fixed, forgotten: false });
        UpdateEffect { changed: old != Some(mac), ..UpdateEffect::default() }
    }

    /// The routes as just read. Whether they differ from what was known.
    pub(super) fn set_routes(&mut self, routes: impl IntoIterator<Item = Route>) -> bool {
        let new = routes.into_iter().map(|route| (order(&route), route)).collect();
        let changed = self.routes != new;
        self.routes = new;
        changed
    }

    /// Takes the place of `old`. The neighbours it lost that are still `wanted` stay with their last MAC;
    /// returns them, to be asked for again.
    pub(super) fn succeed(&mut self, old: &Self, wanted: impl Fn(Key) -> bool) -> Vec<Key> {
        let lost: Vec<(Key, Known)> = old
            .neighbours
            .iter()
            .filter(|(key, _)| !self.neighbours.contains_key(key) && self.links.contains_key(&key.0) && wanted(**key))
            .map(|(key, known)| (*key, Known { forgotten: true, fixed: false, ..known.clone() }))
            .collect();
        self.neighbours.extend(lost.iter().cloned());
        lost.into_iter().map(|(key, _)| key).collect()
    }

    /// What differs from `other`, in a word; `None` if nothing an actor would see.
    pub(super) fn difference(&self, other: &Self) -> Option<&'static str> {
        let macs = |s: &Self| -> HashMap<Key, MacAddr> {
            s.neighbours.iter().filter(|(_, known)| !known.forgotten).map(|(key, known)| (*key, known.mac)).collect()
        };
        if self.links != other.links {
            Some("links")
        } else if self.links.keys().any(|i| self.addresses_of(*i) != other.addresses_of(*i)) {
            Some("addresses")
        } else if self.routes != other.routes {
            Some("routes")
        } else {
            (macs(self) != macs(other)).then_some("neighbours")
        }
    }

    /// Drops a neighbour.
    pub(super) fn drop_neighbour(&mut self, key: Key) -> bool {
        self.neighbours.remove(&key).is_some()
    }

    /// Drops neighbours the kernel has forgotten and nobody is `wanted` for. Whether there were any.
    pub(super) fn forget(&mut self, wanted: impl Fn(Key) -> bool) -> bool {
        let before = self.neighbours.len();
        self.neighbours.retain(|key, known| !known.forgotten || wanted(*key));
        self.neighbours.len() != before
    }

    /// Whether the kernel may be asked to resolve this neighbour: its link is up and has ARP, and nobody
    /// has entered the neighbour by hand (asking would strip an entry of its PERMANENT state).
    pub(super) fn askable(&self, key: Key) -> bool {
        self.links.get(&key.0).is_some_and(|l| l.up && l.kind == LinkKind::Ethernet)
            && !self.neighbours.get(&key).is_some_and(|known| known.fixed)
    }

    /// Whether the kernel has an address to ask from. It solicits IPv6 neighbours on its own account only
    /// from a link-local one (ndisc_send_ns in net/ipv6/ndisc.c), and says nothing if there is none.
    pub(super) fn can_solicit(&self, (interface, address): Key) -> bool {
        let link_local = |a: &Address| matches!(a.address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        address.is_ipv4() || self.addresses.get(&interface).is_some_and(|list| list.iter().any(link_local))
    }

    /// The tables of this moment.
    pub(super) fn tables(&self, generation: u64) -> Tables {
        let links = self.links.values().map(|l| Link { addresses: self.addresses_of(l.index), ..l.clone() }).collect();
        let neighbours = self.neighbours.iter().map(|(key, known)| (*key, known.mac)).collect();
        Tables::new(generation, links, self.routes.values().cloned().collect(), neighbours)
    }

    fn addresses_of(&self, index: u32) -> Vec<(IpAddr, u8)> {
        let list = self.addresses.get(&index).map(Vec::as_slice).unwrap_or_default();
        let mut list: Vec<&Address> = list.iter().filter(|a| a.assigned).collect();
        list.sort_by_key(|a| a.rank);
        list.into_iter().map(|a| (a.address, a.prefix)).collect()
    }
}

#[cfg(test)]
mod tests;
