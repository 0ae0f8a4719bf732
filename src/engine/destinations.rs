//! Replaces the destinations on all interfaces, or on none.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::net::Tables;
use crate::xdp::steering::{Steering, SteeringError};

/// Lists the UDP destinations that the engine serves. The kernel keeps all other packets.
pub type Destinations = Vec<(IpAddr, RangeInclusive<u16>)>;

/// Computes the destinations from the current addresses.
pub(super) type DestinationsOf = Box<dyn Fn(&Tables) -> Destinations + Send>;

/// Holds the ports of each address. An IPv4-mapped address counts as its IPv4 address, as in the kernel's table.
pub(super) type ByAddress = BTreeMap<IpAddr, Vec<RangeInclusive<u16>>>;

/// Changes the destinations of one interface's program.
pub(super) trait AddressList {
    /// Sets the ports of an address, and removes all its other ports.
    fn set(&mut self, address: IpAddr, ports: &[RangeInclusive<u16>]) -> Result<(), SteeringError>;
    /// Removes an address.
    fn deny(&mut self, address: IpAddr) -> Result<(), SteeringError>;
}

impl AddressList for Steering {
    fn set(&mut self, address: IpAddr, ports: &[RangeInclusive<u16>]) -> Result<(), SteeringError> {
        Self::set(self, address, ports.iter().cloned())
    }

    fn deny(&mut self, address: IpAddr) -> Result<(), SteeringError> {
        Self::deny(self, address)
    }
}

/// Reports why the destinations were not replaced.
#[derive(Debug)]
pub(super) struct NotExchanged {
    /// Index of the interface that refused the change.
    pub(super) list: usize,
    /// Reason of the refusal.
    pub(super) error: SteeringError,
    /// Error of the rollback; `None` if every interface has its former destinations.
    pub(super) rollback: Option<SteeringError>,
}

/// Groups `destinations` by address.
pub(super) fn by_address(destinations: &Destinations) -> ByAddress {
    let mut table = ByAddress::new();
    for (address, ports) in destinations {
        table.entry(address.to_canonical()).or_default().push(ports.clone());
    }
    table
}

/// Replaces `from` by `to` on each of `lists`. An address in both is served without interruption. Addresses are removed
/// before others are added, because the table may not have space for both.
pub(super) fn exchange<'a, L: AddressList + 'a>(
    lists: impl Iterator<Item = &'a mut L>,
    from: &ByAddress,
    to: &ByAddress,
) -> Result<(), NotExchanged> {
    let mut done: Vec<&'a mut L> = Vec::new();
    for (index, list) in lists.enumerate() {
        let changed = change(list, from, to);
        done.push(list);
        let Err(error) = changed else { continue };
        // The rollback includes the list that failed, because a part of it has changed.
        let put_back = done.into_iter().map(|list| change(list, to, from));
        let rollback = put_back.fold(None, |first, result| first.or(result.err()));
        return Err(NotExchanged { list: index, error, rollback });
    }
    Ok(())
}

fn change(list: &mut impl AddressList, from: &ByAddress, to: &ByAddress) -> Result<(), SteeringError> {
    for address in from.keys().filter(|address| !to.contains_key(address)) {
        list.deny(*address)?;
    }
    for (address, ports) in to.iter().filter(|(address, ports)| from.get(address) != Some(ports)) {
        list.set(*address, ports)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

    use super::*;

    /// Simulates a table with a size limit, which refuses one address on request.
    struct Fake {
        table: ByAddress,
        capacity: usize,
        refuses: Option<IpAddr>,
        calls: Vec<IpAddr>,
    }

    impl Fake {
        fn new(capacity: usize, table: &ByAddress) -> Self {
            Self { table: table.clone(), capacity, refuses: None, calls: Vec::new() }
        }
    }

    impl AddressList for Fake {
        fn set(&mut self, address: IpAddr, ports: &[RangeInclusive<u16>]) -> Result<(), SteeringError> {
            self.calls.push(address);
            if self.refuses == Some(address) {
                return Err(SteeringError::Address { address });
            }
            if !self.table.contains_key(&address) && self.table.len() == self.capacity {
                return Err(SteeringError::ListFull { address });
            }
            self.table.insert(address, ports.to_vec());
            Ok(())
        }

        fn deny(&mut self, address: IpAddr) -> Result<(), SteeringError> {
            self.calls.push(address);
            self.table.remove(&address);
            Ok(())
        }
    }

    fn address(n: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, n).into()
    }

    /// Returns a table with port 7 of these addresses.
    fn table(addresses: std::ops::Range<u8>) -> ByAddress {
        by_address(&addresses.map(|n| (address(n), 7..=7)).collect())
    }

    #[test]
    fn full_tables_exchange_all_their_addresses() {
        let (from, to) = (table(0..8), table(100..108));
        let mut lists = [Fake::new(8, &from), Fake::new(8, &from)];
        exchange(lists.iter_mut(), &from, &to).unwrap();
        assert!(lists.iter().all(|list| list.table == to));
    }

    #[test]
    fn unchanged_address_is_not_touched() {
        let (from, to) = (table(0..3), table(1..4));
        let mut lists = [Fake::new(3, &from)];
        exchange(lists.iter_mut(), &from, &to).unwrap();
        assert_eq!(lists[0].table, to);
        assert_eq!(lists[0].calls, [address(0), address(3)]);
    }

    #[test]
    fn refusal_by_one_interface_leaves_all_lists_as_they_were() {
        let (from, to) = (table(0..8), table(4..12));
        for refusing in 0..3 {
            let mut lists = [Fake::new(8, &from), Fake::new(8, &from), Fake::new(8, &from)];
            lists[refusing].refuses = Some(address(11));
            let error = exchange(lists.iter_mut(), &from, &to).unwrap_err();
            assert_eq!(error.list, refusing);
            assert!(matches!(error.error, SteeringError::Address { .. }) && error.rollback.is_none());
            assert!(lists.iter().all(|list| list.table == from), "list {refusing} refused");
        }
    }

    #[test]
    fn failed_rollback_is_reported() {
        let (from, to) = (table(0..2), table(2..4));
        let mut lists = [Fake::new(2, &from), Fake::new(1, &from)];
        let error = exchange(lists.iter_mut(), &from, &to).unwrap_err();
        assert!(matches!(error.error, SteeringError::ListFull { .. }));
        assert!(error.rollback.is_some(), "the second table is too small for its former list");
    }

    #[test]
    fn mapped_address_is_its_ipv4_address() {
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().into();
        let table = by_address(&vec![(mapped, 1..=2), (address(1), 7..=7)]);
        assert_eq!(table, ByAddress::from([(address(1), vec![1..=2, 7..=7])]));
    }
}
