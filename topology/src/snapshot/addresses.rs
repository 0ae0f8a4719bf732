//! Finds the interface of an address, and the interface of a name, in the calling thread's network namespace.

use std::net::IpAddr;

use super::netlink::{Netlink, find, u32_of};
use super::nics::{self, LinkReply};
use super::routes::address_of;

const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Describes an interface that has an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    /// Name of the interface.
    pub interface: String,
    /// Packets for its addresses arrive on other interfaces: it is a loopback or dummy, or a bridge or bond with a
    /// served member.
    pub elsewhere: bool,
}

/// Returns the interfaces with each of `addresses`, for an engine that serves `interfaces`; `None` if the kernel does
/// not answer.
pub(crate) fn holders(addresses: &[IpAddr], interfaces: &[String]) -> Option<Vec<(IpAddr, Vec<Holder>)>> {
    let links = nics::links().ok()?;
    let answers = Netlink::open(None).ok()?.dump(RTM_GETADDR, &[0; 8]).ok()?;
    let assigned: Vec<(IpAddr, u32)> = answers.iter().filter_map(|answer| assigned(answer)).collect();
    let served: Vec<&LinkReply> = links.iter().filter(|link| interfaces.contains(&link.nic.name)).collect();
    let holder = |index: u32| {
        let link = links.iter().find(|link| link.index == index)?;
        let has_served_member = served.iter().any(|member| member.master == Some(index));
        let elsewhere = link.loopback || link.nic.driver.as_deref() == Some("dummy") || has_served_member;
        Some(Holder { interface: link.nic.name.clone(), elsewhere })
    };
    let of = |address: &IpAddr| {
        let all = assigned.iter().filter(|(own, _)| own == address);
        (*address, all.filter_map(|(_, index)| holder(*index)).collect())
    };
    Some(addresses.iter().map(of).collect())
}

/// Returns address and interface index of one `struct ifaddrmsg` (rtnetlink(7)).
fn assigned(answer: &[u8]) -> Option<(IpAddr, u32)> {
    let index = u32_of(answer.get(4..8)?)?;
    let rest = answer.get(8..)?;
    // On a point-to-point link IFA_ADDRESS is the address of the other end.
    let address = find(rest, IFA_LOCAL).or_else(|| find(rest, IFA_ADDRESS)).and_then(address_of)?;
    Some((address, index))
}

/// Returns `names` with each alternative name (`ip link property`) replaced by the interface's own name.
#[must_use]
pub fn real_names(names: &[String]) -> Vec<String> {
    let links = nics::links().unwrap_or_default();
    let own = |name: &String| {
        let is_own = links.iter().any(|link| link.nic.name == *name);
        let by_alternative = || links.iter().find(|link| link.alternatives.contains(name));
        (!is_own).then(by_alternative).flatten().map_or_else(|| name.clone(), |link| link.nic.name.clone())
    };
    names.iter().map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_its_address_and_unknown_names_stay() {
        let local = IpAddr::from([127, 0, 0, 1]);
        if let Some(found) = holders(&[local], &[]) {
            assert!(found[0].1.iter().all(|holder| holder.interface == "lo" && holder.elsewhere), "{found:?}");
        }
        let names = ["lo".to_owned(), "no-such-alternative-name".to_owned()];
        assert_eq!(real_names(&names), names);
    }
}
