//! Holds a slot with the next hop for each pair of upstream and source address.
//!
//! A session keeps its source address, while new sessions get the address that the kernel prefers at that time. So the
//! sessions of one upstream may have several addresses at once, for days. Each pair has its own slot, so all
//! their packets stay on the fast path.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::super::session::{CachedNextHop, Upstream};
use super::super::source_ports::SourcePorts;
use oxide::packet::Endpoint;

/// Limits the pairs beyond the first of each upstream, 64 bytes each.
const OTHERS: usize = 2048;

/// Holds the slots: first the upstreams in the order of the plan, then pairs with further source addresses.
pub(super) struct Paths {
    slots: Vec<Upstream>,
    planned: usize,
    /// Further slots, by index of the upstream and index of the source address.
    others: HashMap<(u32, u8), u32, FixedState>,
}

impl Paths {
    /// Makes one slot per server and allocates memory for as many further slots, or for the pairs with all of `sources`
    /// addresses, at most [`OTHERS`].
    pub(super) fn new(servers: Vec<Endpoint>, sources: usize) -> Self {
        let planned = servers.len();
        let others = planned.saturating_mul(sources.saturating_sub(1).max(1)).min(OTHERS);
        let mut slots = Vec::with_capacity(planned + others);
        slots.extend(servers.into_iter().zip(0..).map(|(server, place)| Upstream::new(server, place)));
        Self { slots, planned, others: HashMap::with_capacity_and_hasher(others, FixedState::default()) }
    }

    /// Returns the number of upstreams of the plan.
    pub(super) fn planned(&self) -> usize {
        self.planned
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&Upstream> {
        self.slots.get(slot as usize)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Upstream> {
        self.slots.get_mut(slot as usize)
    }

    /// Returns all slots.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Upstream> {
        self.slots.iter()
    }

    /// Returns the number of slots.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Upstream>() + self.others.capacity() * size_of::<((u32, u8), u32)>()
    }

    /// Returns the slot of the upstream `place` with source address `sources[source]`. A slot whose address no session
    /// uses is reused. If none is free, the upstream's first slot is shared; each change between its addresses then
    /// costs a look-up in the tables.
    pub(super) fn slot(&mut self, place: u32, source: u8, sources: &[SourcePorts]) -> u32 {
        let Some(address) = sources.get(usize::from(source)).map(|ports| ports.address) else { return place };
        let fits = |slot: &Upstream| slot.source == source && slot.address == address && slot.place == place;
        let spare = |slot: &Upstream| {
            let owner = sources.get(usize::from(slot.source));
            owner.is_none_or(|owner| owner.unused() || owner.address != slot.address)
        };
        let other = self.others.get(&(place, source)).copied();
        for slot in [Some(place), other].into_iter().flatten() {
            if self.get(slot).is_some_and(fits) {
                return slot;
            }
        }
        let slot = match other {
            _ if self.get(place).is_none_or(spare) => place,
            // The index belonged to another address.
            Some(slot) => slot,
            None if self.slots.len() < self.slots.capacity() => {
                self.slots.push(Upstream::new(Endpoint::default(), place));
                (self.slots.len() - 1) as u32
            }
            None => {
                let mut others = self.slots.iter().zip(0..).skip(self.planned);
                others.find(|(slot, _)| spare(slot)).map_or(place, |(_, slot)| slot)
            }
        };
        if self.get(slot).is_some_and(spare) {
            self.assign(slot, place, source, address);
        }
        slot
    }

    /// Assigns `slot` to another pair.
    fn assign(&mut self, slot: u32, place: u32, source: u8, address: [u8; 16]) {
        let Some(server) = self.slots.get(place as usize).map(|first| first.server) else { return };
        let Some(it) = self.slots.get_mut(slot as usize) else { return };
        let former = (it.place, it.source);
        *it = Upstream { server, source, address, place, hop: CachedNextHop::UNKNOWN };
        if slot as usize >= self.planned {
            if self.others.get(&former) == Some(&slot) {
                self.others.remove(&former);
            }
            self.others.insert((place, source), slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::port_space::PortSpace;
    use super::super::super::source_ports::Wanted;
    use super::*;

    const A: u8 = 0;
    const B: u8 = 1;

    fn space() -> PortSpace {
        PortSpace::new([1000..=1003], [], 1)
    }

    fn ports(address: u8) -> SourcePorts {
        SourcePorts::new([address; 16], (&space(), 0), (1, 4), 7)
    }

    fn paths(count: u8) -> Paths {
        Paths::new((0..count).map(|n| Endpoint { address: [n; 16], port: 53 }).collect(), 1)
    }

    /// Returns source addresses that each have a session.
    fn busy(addresses: &[u8]) -> Vec<SourcePorts> {
        let taken = |&address: &u8| {
            let mut ports = ports(address);
            assert!(ports.take(&space(), Wanted { slot: 0, server: 0, tag: 0 }, 0, |_| false, |_| false).is_some());
            ports
        };
        addresses.iter().map(taken).collect()
    }

    #[test]
    fn each_source_address_of_an_upstream_has_its_own_slot() {
        let (mut paths, sources) = (paths(2), busy(&[10, 11]));
        let slots: Vec<u32> = [(0, A), (0, B), (1, A), (0, A), (0, B), (1, B)]
            .into_iter()
            .map(|(place, source)| paths.slot(place, source, &sources))
            .collect();
        assert_eq!(slots, [0, 2, 1, 0, 2, 3]);
        for (slot, place, address) in [(0, 0, 10), (1, 1, 10), (2, 0, 11), (3, 1, 11)] {
            let found = paths.get(slot).map(|it| (it.place, it.address, it.server.address));
            assert_eq!(found, Some((place, [address; 16], [place as u8; 16])), "slot {slot}");
        }
    }

    #[test]
    fn slot_without_sessions_is_reused() {
        let (mut paths, sources) = (paths(1), vec![ports(10), ports(11)]);
        assert_eq!((paths.slot(0, A, &sources), paths.slot(0, B, &sources)), (0, 0), "no session uses A any more");
        let sources = busy(&[10, 11]);
        assert_eq!((paths.slot(0, B, &sources), paths.slot(0, A, &sources)), (0, 1));
        // The index of A belongs to another address now.
        let sources = busy(&[12, 11]);
        assert_eq!(paths.slot(0, A, &sources), 1);
        assert_eq!(paths.get(1).map(|slot| slot.address), Some([12; 16]));
    }

    #[test]
    fn slots_are_bounded_and_the_first_one_is_shared_then() {
        let mut paths = paths(1);
        let sources = busy(&[10, 11, 12]);
        assert_eq!([A, B, 2].map(|source| paths.slot(0, source, &sources)), [0, 1, 0]);
        assert_eq!(
            paths.get(0).map(|slot| slot.address),
            Some([10; 16]),
            "the slot stays with sessions of the first address"
        );
        assert_eq!(paths.len(), 2);
        // All sessions of B have ended.
        let mut sources = sources;
        sources[1] = ports(11);
        assert_eq!(paths.slot(0, 2, &sources), 1);
    }
}
