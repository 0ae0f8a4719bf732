//! Rewrites MAC addresses, addresses and ports of a parsed datagram in place.
//!
//! It keeps DSCP, ECN, flow label, identification, DF and payload. It changes MAC addresses, addresses and ports,
//! reduces TTL or hop limit by one, and updates both checksums by the change (RFC 1624). So a datagram that arrived
//! damaged stays damaged. The module owns nothing; the owner of the frame calls it.

use super::checksum::ChecksumDelta;
use super::{Endpoint, Flow, MacAddr};
use crate::telemetry::DropReason;

/// Holds the new values of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    /// New Ethernet source address.
    pub source_mac: MacAddr,
    /// New Ethernet destination address.
    pub destination_mac: MacAddr,
    /// New sender.
    pub source: Endpoint,
    /// New receiver.
    pub destination: Endpoint,
}

/// Holds a [`Rewrite`] for the datagrams of one flow, with its checksum changes. It is computed once for each direction
/// of a session and applied to each packet.
#[derive(Debug, Clone, Copy)]
pub struct Translation {
    new: Rewrite,
    ipv4: bool,
    change: FlowChecksumDelta,
}

/// Holds the checksum changes of one flow in four bytes. It is computed once and kept for a session. It applies to the
/// flow's own packets; [`reversed`](Self::reversed) returns the changes for the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowChecksumDelta {
    /// Change of the IPv4 header checksum by the addresses.
    l3: u16,
    /// Change of the UDP checksum by addresses and ports.
    l4: u16,
}

impl FlowChecksumDelta {
    /// Computes the changes from the ends of `old` to those of `new`, of the same or the other family.
    ///
    /// # Errors
    /// Returns [`DropReason::IpVersion`] unless both ends of each flow have one family.
    #[inline]
    pub fn new(old: &Flow, new: &Flow) -> Result<Self, DropReason> {
        if [old, new].iter().any(|flow| flow.source.is_ipv4() != flow.destination.is_ipv4()) {
            return Err(DropReason::IpVersion);
        }
        // All ones and all zeroes add nothing. So the mapped prefix needs no exception, neither where it stays nor
        // where the address after it becomes an IPv6 address (`translate`).
        let l3 = ChecksumDelta::default()
            .bytes(&old.source.address, &new.source.address)
            .bytes(&old.destination.address, &new.destination.address);
        let l4 = l3.word(old.source.port, new.source.port).word(old.destination.port, new.destination.port);
        Ok(Self { l3: l3.to_bits(), l4: l4.to_bits() })
    }

    /// Returns the changes for the answers, from the reversed ends of `new` to the reversed ends of `old`. Every `~m +
    /// m'` becomes `~m' + m`, and so does their sum.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self { l3: !self.l3, l4: !self.l4 }
    }

    /// Returns the change of the IPv4 header checksum by the addresses and by one hop less. TTL is the high byte of its
    /// word, so this is the same change for every TTL.
    #[inline(always)]
    const fn l3(self) -> ChecksumDelta {
        ChecksumDelta::from_bits(self.l3).word(0x0100, 0)
    }

    #[inline(always)]
    pub(super) const fn l4(self) -> ChecksumDelta {
        ChecksumDelta::from_bits(self.l4)
    }
}

impl Translation {
    /// Computes the translation of datagrams of the flow `old` to `new`.
    ///
    /// # Errors
    /// Returns [`DropReason::IpVersion`] unless all four ends have one family. The module
    /// [`translate`](super::translate) handles two families.
    #[inline]
    pub fn new(old: &Flow, new: &Rewrite) -> Result<Self, DropReason> {
        if old.source.is_ipv4() != new.source.is_ipv4() {
            return Err(DropReason::IpVersion);
        }
        let change = FlowChecksumDelta::new(old, &Flow { source: new.source, destination: new.destination })?;
        Ok(Self::with(new, change, old.source.is_ipv4()))
    }

    /// Creates a translation from a computed `change`, which leads from the flow to the ends of `new`, all of one
    /// family.
    #[must_use]
    #[inline]
    pub fn with(new: &Rewrite, change: FlowChecksumDelta, ipv4: bool) -> Self {
        Self { new: *new, ipv4, change }
    }

    /// Returns the new values of the datagrams.
    #[must_use]
    pub fn rewrite(&self) -> &Rewrite {
        &self.new
    }

    /// Sets the MAC addresses of a new next hop. The checksums do not cover them.
    pub fn set_macs(&mut self, source: MacAddr, destination: MacAddr) {
        (self.new.source_mac, self.new.destination_mac) = (source, destination);
    }

    /// Rewrites one datagram of this translation's flow. `frame` starts at the destination MAC; `l3`, `l4` and `ipv4`
    /// are the parsed values.
    ///
    /// # Errors
    /// Returns [`DropReason::TtlExpired`] if TTL or hop limit would become zero, [`DropReason::IpVersion`] if the
    /// packet has the other family, or [`DropReason::Truncated`] if the offsets are not those of a parsed frame. The
    /// frame does not change then.
    #[inline]
    pub fn apply(&self, frame: &mut [u8], l3: u8, l4: u8, ipv4: bool) -> Result<(), DropReason> {
        if ipv4 != self.ipv4 {
            return Err(DropReason::IpVersion);
        }
        let (macs, udp) = if ipv4 {
            let (macs, ip, udp) = headers::<20>(frame, l3, l4).ok_or(DropReason::Truncated)?;
            self.ipv4(ip)?;
            (macs, udp)
        } else {
            let (macs, ip, udp) = headers::<40>(frame, l3, l4).ok_or(DropReason::Truncated)?;
            self.ipv6(ip)?;
            (macs, udp)
        };
        macs[..6].copy_from_slice(&self.new.destination_mac.0);
        macs[6..].copy_from_slice(&self.new.source_mac.0);
        udp[..2].copy_from_slice(&self.new.source.port.to_be_bytes());
        udp[2..4].copy_from_slice(&self.new.destination.port.to_be_bytes());
        let checksum = self.change.l4().apply_udp(u16::from_be_bytes([udp[6], udp[7]]));
        udp[6..].copy_from_slice(&checksum.to_be_bytes());
        Ok(())
    }

    #[inline]
    fn ipv4(&self, ip: &mut [u8; 20]) -> Result<(), DropReason> {
        ip[8] = one_hop_less(ip[8])?;
        let checksum = self.change.l3().apply(u16::from_be_bytes([ip[10], ip[11]]));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        ip[12..16].copy_from_slice(&self.new.source.address[12..]);
        ip[16..].copy_from_slice(&self.new.destination.address[12..]);
        Ok(())
    }

    #[inline]
    fn ipv6(&self, ip: &mut [u8; 40]) -> Result<(), DropReason> {
        ip[7] = one_hop_less(ip[7])?;
        ip[8..24].copy_from_slice(&self.new.source.address);
        ip[24..].copy_from_slice(&self.new.destination.address);
        Ok(())
    }
}

/// Rewrites one parsed datagram of the flow `old`. For many packets of a flow, create a [`Translation`] once.
///
/// # Errors
/// Returns the errors of [`Translation::new`] and [`Translation::apply`]. The frame does not change then.
pub fn apply(frame: &mut [u8], l3: u8, l4: u8, ipv4: bool, old: &Flow, new: &Rewrite) -> Result<(), DropReason> {
    Translation::new(old, new)?.apply(frame, l3, l4, ipv4)
}

/// Reduces the hop count by one. A router discards a packet whose count would become zero (RFC 1812 section 5.3.1, RFC
/// 8200 section 3).
#[inline]
pub(super) fn one_hop_less(hops: u8) -> Result<u8, DropReason> {
    if hops <= 1 { Err(DropReason::TtlExpired) } else { Ok(hops - 1) }
}

/// Holds both MAC addresses, the first `IP` bytes of the IP header, and the UDP header.
type Headers<'a, const IP: usize> = (&'a mut [u8; 12], &'a mut [u8; IP], &'a mut [u8; 8]);

#[inline]
fn headers<const IP: usize>(frame: &mut [u8], l3: u8, l4: u8) -> Option<Headers<'_, IP>> {
    let (link, rest) = frame.split_at_mut_checked(usize::from(l3))?;
    let (ip, udp) = rest.split_at_mut_checked(usize::from(l4.checked_sub(l3)?))?;
    Some((link.first_chunk_mut()?, ip.first_chunk_mut()?, udp.first_chunk_mut()?))
}

/// Holds a [`Rewrite`] for datagrams without VLAN tag, IPv4 options and extension headers, so that all offsets are
/// constants. It refers to the values in a session, so that only the packet is written.
#[derive(Debug, Clone, Copy)]
pub struct FixedHeaderRewrite<'a> {
    /// Ethernet destination and source, in the order of the frame.
    pub macs: &'a [u8; 12],
    /// New source address and port.
    pub source: (&'a [u8; 16], u16),
    /// New destination address and port.
    pub destination: (&'a [u8; 16], u16),
    /// Checksum changes from the old ends to the new ones.
    pub change: FlowChecksumDelta,
}

impl FixedHeaderRewrite<'_> {
    /// Rewrites the packet that begins with `bytes`, like [`Translation::apply`]. The packet has the family of the four
    /// addresses, and more than one hop left.
    #[inline(always)]
    pub fn apply(&self, bytes: &mut [u8; 64], ipv4: bool) {
        bytes[..12].copy_from_slice(self.macs);
        let (source, destination) = (self.source.0, self.destination.0);
        if ipv4 {
            bytes[22] = bytes[22].wrapping_sub(1);
            let checksum = self.change.l3().apply(u16::from_be_bytes([bytes[24], bytes[25]]));
            bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
            bytes[26..30].copy_from_slice(&source[12..]);
            bytes[30..34].copy_from_slice(&destination[12..]);
            self.udp::<34>(bytes);
        } else {
            bytes[21] = bytes[21].wrapping_sub(1);
            bytes[22..38].copy_from_slice(source);
            bytes[38..54].copy_from_slice(destination);
            self.udp::<54>(bytes);
        }
    }

    /// Rewrites the UDP header at `AT`.
    #[inline(always)]
    fn udp<const AT: usize>(&self, bytes: &mut [u8; 64]) {
        let Some(udp) = bytes[AT..].first_chunk_mut::<8>() else { return };
        udp[..2].copy_from_slice(&self.source.1.to_be_bytes());
        udp[2..4].copy_from_slice(&self.destination.1.to_be_bytes());
        let checksum = self.change.l4().apply_udp(u16::from_be_bytes([udp[6], udp[7]]));
        udp[6..].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
