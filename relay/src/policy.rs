//! Decides which addresses a relay may send to. It denies by default, because a relay that sends to its own host or
//! network gives outsiders access to it.
//!
//! The check covers the address itself and every IPv4 address that an IPv6 address contains (coturn CVE-2026-27624:
//! `::ffff:127.0.0.1` passed the deny list). The module depends only on `std`, so the configuration can use it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Names the reason why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// `0.0.0.0/8`, `::`.
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// `224.0.0.0/4`, `ff00::/8`.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// `240.0.0.0/4`; IPv6 forms that no router carries.
    Reserved,
    /// Metadata service of a cloud, which gives secrets to its guests.
    Metadata,
    /// An address of this host, or one that a relay listens on.
    Own,
    /// RFC 1918, RFC 6598, RFC 4193: allowed with `allow_private = true`.
    Private,
}

impl Class {
    /// Returns the text for messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Class::Unspecified => "an unspecified address",
            Class::Loopback => "a loopback address",
            Class::LinkLocal => "a link-local address",
            Class::Multicast => "a multicast address",
            Class::Broadcast => "the broadcast address",
            Class::Reserved => "a reserved address",
            Class::Metadata => "a cloud metadata address",
            Class::Own => "an address of this host or of a relay entry",
            Class::Private => "a private address",
        }
    }
}

/// Describes a refused address and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Denied {
    /// Refused address.
    pub target: IpAddr,
    /// Contained IPv4 address that caused the refusal; `None` if the address itself did.
    pub embedded: Option<Ipv4Addr>,
    /// Reason.
    pub class: Class,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.embedded {
            None => write!(f, "{} is {}", self.target, self.class.name()),
            Some(inner) => write!(f, "{} carries {inner}, which is {}", self.target, self.class.name()),
        }
    }
}

/// Checks whether a relay may send to `target`.
///
/// `own` are this host's addresses and those its relays listen on. `allow_private` allows only [`Class::Private`].
///
/// # Errors
/// Returns [`Denied`] with the class. If several classes apply, [`Class::Private`] comes last.
pub fn check(target: IpAddr, allow_private: bool, own: &[IpAddr]) -> Result<(), Denied> {
    let deny = |embedded, class| Err(Denied { target, embedded, class });
    let mut private = None;
    let inner = match target {
        IpAddr::V4(_) => [None; 2],
        IpAddr::V6(v6) => embedded(v6),
    };
    for (address, inside) in
        std::iter::once((target, None)).chain(inner.into_iter().flatten().map(|v4| (IpAddr::V4(v4), Some(v4))))
    {
        let is_own = own.iter().any(|mine| mine.to_canonical() == address.to_canonical());
        match if is_own { Some(Class::Own) } else { class(address) } {
            None => {}
            Some(Class::Private) => private = private.or(Some(inside)),
            Some(class) => return deny(inside, class),
        }
    }
    match private {
        Some(inside) if !allow_private => deny(inside, Class::Private),
        _ => Ok(()),
    }
}

/// Returns the class of an address without contained addresses; `None` for a normal unicast address.
fn class(address: IpAddr) -> Option<Class> {
    match address {
        IpAddr::V4(v4) => class_v4(v4),
        IpAddr::V6(v6) => class_v6(v6),
    }
}

fn class_v4(address: Ipv4Addr) -> Option<Class> {
    let octets = address.octets();
    Some(match octets {
        // AWS, Azure, GCP, OpenStack, Oracle; ECS tasks; EKS pods; Alibaba; Azure's wire server; Oracle classic.
        [169, 254, 169, 254] | [169, 254, 170, 2] | [169, 254, 170, 23] => Class::Metadata,
        [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => Class::Metadata,
        [0, ..] => Class::Unspecified,
        [127, ..] => Class::Loopback,
        [169, 254, ..] => Class::LinkLocal,
        [224..=239, ..] => Class::Multicast,
        [255, 255, 255, 255] => Class::Broadcast,
        [240..=255, ..] => Class::Reserved,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Class::Private,
        _ => return None,
    })
}

fn class_v6(address: Ipv6Addr) -> Option<Class> {
    const METADATA: [Ipv6Addr; 3] = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), // AWS
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),  // EKS pods
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),  // GCP
    ];
    if METADATA.contains(&address) {
        return Some(Class::Metadata);
    }
    if address.is_unspecified() {
        return Some(Class::Unspecified);
    }
    if address.is_loopback() {
        return Some(Class::Loopback);
    }
    Some(match address.segments() {
        [0xff00..=0xffff, ..] => Class::Multicast,
        [0xfe80..=0xfebf, ..] => Class::LinkLocal,
        [0xfe00..=0xfe7f, ..] => Class::Reserved,
        // fec0::/10: site-local, deprecated by RFC 3879, still private where it is used.
        [0xfec0..=0xfeff, ..] | [0xfc00..=0xfdff, ..] => Class::Private,
        // RFC 8215: the prefix of a local translator, whose configuration decides which addresses it reaches.
        [0x64, 0xff9b, 1, ..] => Class::Reserved,
        _ => return None,
    })
}

/// Returns the IPv4 addresses that `address` contains, in every form in use.
fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let s = address.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match s {
        // `::` and `::1` contain no IPv4 address.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // IPv4-compatible and -mapped (RFC 4291), -translated (RFC 2765), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => [v4(high, low), None],
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [v4(high, low), None],
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => [v4(high, low), None],
        // Teredo (RFC 4380): the server, and the client with all bits inverted.
        [0x2001, 0, high, low, _, _, client_high, client_low] => [v4(high, low), v4(!client_high, !client_low)],
        // ISATAP (RFC 5214).
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => [v4(high, low), None],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn verdict(target: &str, allow_private: bool) -> Option<Class> {
        let own = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        check(target.parse().unwrap(), allow_private, &own).err().map(|denied| denied.class)
    }

    /// Returns an IPv4 address and all its forms inside an IPv6 address.
    fn forms(v4: &str) -> Vec<String> {
        let v4: Ipv4Addr = v4.parse().unwrap();
        let [a, b, c, d] = v4.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let mut forms = vec![
            v4.to_string(),
            format!("::ffff:{v4}"),
            format!("::ffff:{high:x}:{low:x}"),
            format!("0:0:0:0:0:ffff:{high:x}:{low:x}"),
            format!("::ffff:0:{v4}"),
            format!("64:ff9b::{v4}"),
            format!("2002:{high:x}:{low:x}::1"),
            format!("2001:0:{high:x}:{low:x}:0:0:f7f7:f7f7"),
            format!("2001:0:808:808:0:0:{:x}:{:x}", !high, !low),
            format!("2001:db8:1::5efe:{v4}"),
            format!("2001:db8:1::200:5efe:{v4}"),
        ];
        if u32::from(v4) > 1 {
            forms.push(format!("::{v4}"));
        }
        forms
    }

    #[test]
    fn denied_ipv4_is_denied_in_every_ipv6_form() {
        for (v4, wanted) in [
            ("0.0.0.0", Class::Unspecified),
            ("0.1.2.3", Class::Unspecified),
            ("127.0.0.1", Class::Loopback),
            ("127.255.255.254", Class::Loopback),
            ("169.254.1.1", Class::LinkLocal),
            ("169.254.169.254", Class::Metadata),
            ("169.254.170.2", Class::Metadata),
            ("100.100.100.200", Class::Metadata),
            ("168.63.129.16", Class::Metadata),
            ("224.0.0.1", Class::Multicast),
            ("239.255.255.255", Class::Multicast),
            ("240.0.0.1", Class::Reserved),
            ("255.255.255.255", Class::Broadcast),
            ("192.0.2.1", Class::Own),
        ] {
            for form in forms(v4) {
                for allow_private in [false, true] {
                    assert_eq!(verdict(&form, allow_private), Some(wanted), "{form}");
                }
            }
        }
    }

    #[test]
    fn private_is_denied_until_allowed_in_every_ipv6_form() {
        for v4 in [
            "10.0.0.0",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "100.127.255.255",
        ] {
            for form in forms(v4) {
                assert_eq!(verdict(&form, false), Some(Class::Private), "{form}");
                assert_eq!(verdict(&form, true), None, "{form}");
            }
        }
        for v6 in ["fc00::1", "fd12:3456:789a::1", "fec0::1"] {
            assert_eq!((verdict(v6, false), verdict(v6, true)), (Some(Class::Private), None), "{v6}");
        }
    }

    #[test]
    fn denied_ipv6_ranges() {
        for (v6, wanted) in [
            ("::", Some(Class::Unspecified)),
            ("::1", Some(Class::Loopback)),
            ("fe80::1", Some(Class::LinkLocal)),
            ("febf::1", Some(Class::LinkLocal)),
            ("fe00::1", Some(Class::Reserved)),
            ("ff02::1", Some(Class::Multicast)),
            ("fd00:ec2::254", Some(Class::Metadata)),
            ("fd00:ec2::23", Some(Class::Metadata)),
            ("fd20:ce::254", Some(Class::Metadata)),
            ("64:ff9b:1::7f00:1", Some(Class::Reserved)),
            ("2001:db8::1", Some(Class::Own)),
            ("2001:db8::2", None),
            ("2606:4700:4700::1111", None),
        ] {
            for allow_private in [false, true] {
                assert_eq!(verdict(v6, allow_private), wanted, "{v6}");
            }
        }
    }

    #[test]
    fn addresses_next_to_denied_ranges_pass() {
        for v4 in ["1.0.0.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"]
            .into_iter()
            .chain([
                "128.0.0.1",
                "169.253.255.255",
                "172.15.255.255",
                "172.32.0.0",
                "192.167.255.255",
                "223.255.255.255",
            ])
        {
            for form in forms(v4) {
                assert_eq!(verdict(&form, false), None, "{form}");
            }
        }
    }

    #[test]
    fn teredo_client_address_is_checked() {
        let denied = check("2001:0:808:808::80ff:fffe".parse().unwrap(), true, &[]).unwrap_err();
        assert_eq!((denied.embedded, denied.class), (Some(Ipv4Addr::LOCALHOST), Class::Loopback));
        assert!(denied.to_string().contains("carries 127.0.0.1"), "{denied}");
    }
}
