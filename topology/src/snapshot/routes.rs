//! Finds the kernel's route to an address, and whether the hardware address of the next hop is known (rtnetlink(7)).
//! It only reads, in the calling thread's network namespace.

use std::net::IpAddr;

use super::netlink::{Netlink, find, u16_of, u32_of};
use super::nics;

const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTN_LOCAL: u8 = 2;
const NDA_DST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Neighbour states `NUD_INCOMPLETE | NUD_FAILED`.
const NUD_BAD: u16 = 0x21;

/// Describes the route of packets to an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelRoute {
    /// Interface that they leave by.
    pub interface: String,
    /// Gateway; `None` if the address is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Whether the hardware address of the next hop was found; `None` if nothing has requested it yet.
    pub resolved: Option<bool>,
    /// Whether the kernel treats packets to this address as its own.
    pub local: bool,
}

/// Returns whether the kernel treats packets to `address` as its own; `None` if it does not answer.
#[must_use]
pub fn takes_for_its_own(address: IpAddr) -> Option<bool> {
    let route = Router::open()?.route_to(address)?;
    Some(route.is_ok_and(|hop| hop.local))
}

/// Requests routes from the kernel. Interfaces and neighbours are read once.
pub(crate) struct Router {
    netlink: Netlink,
    names: Vec<(u32, String)>,
    /// Interface, address, and whether the neighbour answers.
    neighbours: Vec<(u32, IpAddr, bool)>,
}

impl Router {
    /// Opens the socket. Returns `None` if that fails.
    pub(crate) fn open() -> Option<Self> {
        let mut netlink = Netlink::open(None).ok()?;
        let answers = netlink.dump(RTM_GETNEIGH, &[0; 12]).unwrap_or_default();
        let neighbours = answers.iter().filter_map(|answer| neighbour(answer)).collect();
        Some(Self { netlink, names: nics::names(), neighbours })
    }

    /// Returns the route to `target`. The outer `None` means that the kernel gave no answer; the error is its
    /// refusal.
    pub(crate) fn route_to(&mut self, target: IpAddr) -> Option<Result<KernelRoute, String>> {
        let (family, address) = match target {
            IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
            IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
        };
        // The payload is struct rtmsg: family, dst_len, and ten zero bytes.
        let mut request = vec![0; 12];
        request[0] = family;
        request[1] = if family == AF_INET { 32 } else { 128 };
        super::netlink::put(&mut request, RTA_DST, &address);
        let answers = match self.netlink.get(RTM_GETROUTE, &request) {
            Ok(answers) => answers,
            Err(refused) => return Some(Err(refused.cause)),
        };
        let answer = answers.first()?;
        let local = *answer.get(7)? == RTN_LOCAL;
        let route = answer.get(12..)?;
        let index = find(route, RTA_OIF).and_then(u32_of)?;
        let gateway = find(route, RTA_GATEWAY).and_then(address_of);
        let interface = self.names.iter().find(|(i, _)| *i == index)?.1.clone();
        let next_hop = gateway.unwrap_or(target);
        let resolved = self.neighbours.iter().find(|(i, address, _)| (*i, *address) == (index, next_hop));
        Some(Ok(KernelRoute { interface, gateway, resolved: resolved.map(|(.., answers)| *answers), local }))
    }
}

pub(super) fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Parses struct ndmsg: family, 3 bytes of padding, ifindex, state.
fn neighbour(answer: &[u8]) -> Option<(u32, IpAddr, bool)> {
    let index = u32_of(answer.get(4..8)?)?;
    let state = u16_of(answer.get(8..10)?)?;
    let address = find(answer.get(12..)?, NDA_DST).and_then(address_of)?;
    Some((index, address, state & NUD_BAD == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_a_route() {
        // In a namespace whose loopback is down there is no route, and that is also an answer.
        match Router::open().and_then(|mut router| router.route_to(IpAddr::from([127, 0, 0, 1]))) {
            Some(Ok(hop)) => assert_eq!((hop.interface.as_str(), hop.gateway, hop.local), ("lo", None, true)),
            other => assert!(other.is_none_or(|answer| answer.is_err())),
        }
    }
}
