//! Address arithmetic: networks of a prefix length, and which addresses a packet may be routed to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bits of an address of this family.
pub(super) fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The network address of `address`/`length`; a length past the family's width is the width.
pub(super) fn first(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & !host_bits_v4(length)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !host_bits_v6(length)).into(),
    }
}

/// The last address of `address`/`length`: the directed broadcast address of an IPv4 network.
pub(super) fn last(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() | host_bits_v4(length)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() | host_bits_v6(length)).into(),
    }
}

/// Whether `address` is in the network of `own`/`length`.
pub(super) fn contains(own: IpAddr, length: u8, address: IpAddr) -> bool {
    own.is_ipv4() == address.is_ipv4() && first(own, length) == first(address, length)
}

/// Whether a packet can be routed to a canonical address at all.
pub(super) fn is_unicast(address: IpAddr) -> bool {
    match address {
        // 0.0.0.0/8 is "this network" (RFC 1122).
        IpAddr::V4(v4) => v4.octets()[0] != 0 && !v4.is_broadcast() && !v4.is_multicast() && !v4.is_loopback(),
        IpAddr::V6(v6) => {
            !v6.is_unspecified() && !v6.is_multicast() && !v6.is_loopback() && !v6.is_unicast_link_local()
        }
    }
}

/// Whether an address of ours may be the source of a packet that leaves its link.
pub(super) fn is_global(address: IpAddr) -> bool {
    is_unicast(address)
        && match address {
            IpAddr::V4(v4) => !v4.is_link_local(),
            IpAddr::V6(_) => true,
        }
}

fn host_bits_v4(length: u8) -> u32 {
    u32::MAX.checked_shr(length.into()).unwrap_or(0)
}

fn host_bits_v6(length: u8) -> u128 {
    u128::MAX.checked_shr(length.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks_of_every_length() {
        let (v4, v6): (IpAddr, IpAddr) = ([10, 1, 2, 3].into(), Ipv6Addr::from_bits(u128::MAX).into());
        assert_eq!(first(v4, 0), IpAddr::from([0; 4]));
        assert_eq!((first(v4, 24), last(v4, 24)), ([10, 1, 2, 0].into(), [10, 1, 2, 255].into()));
        assert_eq!((first(v4, 32), last(v4, 33), first(v4, 255)), (v4, v4, v4));
        assert_eq!((first(v6, 128), first(v6, 0)), (v6, Ipv6Addr::UNSPECIFIED.into()));
        assert!(contains(v4, 8, [10, 255, 0, 0].into()) && !contains(v4, 16, [10, 2, 0, 0].into()));
        assert!(!contains(v4, 0, v6), "families do not mix");
    }

    #[test]
    fn routable_addresses() {
        for no in ["0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "fe80::1"] {
            assert!(!is_unicast(no.parse().unwrap()), "{no}");
        }
        for yes in ["10.0.0.1", "169.254.1.1", "240.0.0.1", "fd00::1", "2001:db8::1"] {
            assert!(is_unicast(yes.parse().unwrap()), "{yes}");
        }
        assert!(!is_global("169.254.1.1".parse().unwrap()));
    }
}
