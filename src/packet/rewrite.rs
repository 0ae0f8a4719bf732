//! New MACs, addresses and ports for a parsed datagram, in place.
//!
//! Kept: DSCP, ECN, flow label, identification, DF, payload. Changed: MACs, addresses, ports, TTL or
//! hop limit less one, and both checksums by what changed (RFC 1624), so that a datagram that came
//! damaged leaves damaged. Owns nothing; called by whoever owns the frame.

use super::checksum::ChecksumDelta;
use super::{Endpoint, Flow, MacAddr};
use crate::telemetry::DropReason;

/// What a datagram gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    /// Ethernet source.
    pub source_mac: MacAddr,
    /// Ethernet destination.
    pub destination_mac: MacAddr,
    /// Who seems to send it.
    pub source: Endpoint,
    /// Whom it goes to.
    pub destination: Endpoint,
}

/// A [`Rewrite`] of the datagrams of one flow, with the checksums' changes worked out: made once for
/// each direction of a session, applied to each packet.
#[derive(Debug, Clone, Copy)]
pub struct Translation {
    new: Rewrite,
    ipv4: bool,
    change: FlowChecksumDelta,
}

/// What a translation of one flow does to checksums: worked out once, in four bytes, to be kept for a session. For
/// the flow's own packets; [`reversed`](Self::reversed) for those that come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowChecksumDelta {
    /// Addresses: to the checksum of an IPv4 header.
    l3: u16,
    /// Addresses and ports: to the UDP checksum.
    l4: u16,
}

impl FlowChecksumDelta {
    /// From the ends of `old` to those of `new`, of the same family or the other.
    ///
    /// # Errors
    /// [`DropReason::IpVersion`] unless the ends of each flow are of one family.
    #[inline]
    pub fn new(old: &Flow, new: &Flow) -> Result<Self, DropReason> {
        if [old, new].iter().any(|flow| flow.source.is_ipv4() != flow.destination.is_ipv4()) {
            return Err(DropReason::IpVersion);
        }
        // All ones and all zeroes add nothing, so that the mapped prefix needs no exception: neither where
        // it stays, nor where the address under it becomes one of IPv6 (`translate`).
        let l3 = ChecksumDelta::default()
            .bytes(&old.source.address, &new.source.address)
            .bytes(&old.destination.address, &new.destination.address);
        let l4 = l3.word(old.source.port, new.source.port).word(old.destination.port, new.destination.port);
        Ok(Self { l3: l3.to_bits(), l4: l4.to_bits() })
    }

    /// What translating the answers does, from the ends of `new` turned round to those of `old`: every `~m + m'` is
    /// `~m' + m`, and so is their sum.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self { l3: !self.l3, l4: !self.l4 }
    }

    /// To the IPv4 header's checksum: addresses, and one hop less. TTL is the high byte of its word, so that this is
    /// the same change for every TTL.
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
    /// Works out what `new` does to datagrams of the flow `old`.
    ///
    /// # Errors
    /// [`DropReason::IpVersion`] unless all four ends are of one family: see [`translate`](super::translate)
    /// for two.
    #[inline]
    pub fn new(old: &Flow, new: &Rewrite) -> Result<Self, DropReason> {
        if old.source.is_ipv4() != new.source.is_ipv4() {
            return Err(DropReason::IpVersion);
        }
        let change = FlowChecksumDelta::new(old, &Flow { source: new.source, destination: new.destination })?;
        Ok(Self::with(new, change, old.source.is_ipv4()))
    }

    /// As [`new`](Self::new), with the work done before: `change` is from the flow to the ends of `new`, all of one
    /// family.
    #[must_use]
    #[inline]
    pub fn with(new: &Rewrite, change: FlowChecksumDelta, ipv4: bool) -> Self {
        Self { new: *new, ipv4, change }
    }

    /// What the datagrams get.
    #[must_use]
    pub fn rewrite(&self) -> &Rewrite {
        &self.new
    }

    /// A next hop's MAC has changed; the checksums do not cover MACs.
    pub fn set_macs(&mut self, source: MacAddr, destination: MacAddr) {
        (self.new.source_mac, self.new.destination_mac) = (source, destination);
    }

    /// Rewrites one datagram of the flow this was made for. `frame` starts at the destination MAC;
    /// `l3`, `l4` and `ipv4` are as parsed.
    ///
    /// # Errors
    /// [`DropReason::TtlExpired`] if TTL or hop limit would reach zero, [`DropReason::IpVersion`] if
    /// the packet is of the other family, [`DropReason::Truncated`] if the offsets are not those of a
    /// parsed frame. The frame is unchanged then.
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

/// Rewrites one parsed datagram, whose flow is `old`. For one packet of a flow; for many, make a
/// [`Translation`] once.
///
/// # Errors
/// As [`Translation::new`] and [`Translation::apply`]; the frame is unchanged then.
pub fn apply(frame: &mut [u8], l3: u8, l4: u8, ipv4: bool, old: &Flow, new: &Rewrite) -> Result<(), DropReason> {
    Translation::new(old, new)?.apply(frame, l3, l4, ipv4)
}

/// A router discards what would leave with zero (RFC 1812 section 5.3.1, RFC 8200 section 3).
#[inline]
pub(super) fn one_hop_less(hops: u8) -> Result<u8, DropReason> {
    if hops <= 1 { Err(DropReason::TtlExpired) } else { Ok(hops - 1) }
}

/// Both MACs, the first `IP` bytes of the IP header, the UDP header.
type Headers<'a, const IP: usize> = (&'a mut [u8; 12], &'a mut [u8; IP], &'a mut [u8; 8]);

#[inline]
fn headers<const IP: usize>(frame: &mut [u8], l3: u8, l4: u8) -> Option<Headers<'_, IP>> {
    let (link, rest) = frame.split_at_mut_checked(usize::from(l3))?;
    let (ip, udp) = rest.split_at_mut_checked(usize::from(l4.checked_sub(l3)?))?;
    Some((link.first_chunk_mut()?, ip.first_chunk_mut()?, udp.first_chunk_mut()?))
}

/// A [`Rewrite`] of a datagram whose headers are where they are without VLAN tag, IPv4 options and extension
/// headers, so that all places are constants. By reference to where a session keeps it: nothing is copied but to
/// the packet.
#[derive(Debug, Clone, Copy)]
pub struct FixedHeaderRewrite<'a> {
    /// Ethernet destination and source, as in the frame.
    pub macs: &'a [u8; 12],
    /// Address and port.
    pub source: (&'a [u8; 16], u16),
    /// Address and port.
    pub destination: (&'a [u8; 16], u16),
    /// From the old ends to these.
    pub change: FlowChecksumDelta,
}

impl FixedHeaderRewrite<'_> {
    /// Rewrites the packet that begins with `head`, of the family that all four addresses are of, and with more
    /// than one hop left: as [`Translation::apply`] does.
    #[inline(always)]
    pub fn apply(&self, head: &mut [u8; 64], ipv4: bool) {
        head[..12].copy_from_slice(self.macs);
        let (source, destination) = (self.source.0, self.destination.0);
        if ipv4 {
            head[22] = head[22].wrapping_sub(1);
            let checksum = self.change.l3().apply(u16::from_be_bytes([head[24], head[25]]));
            head[24..26].copy_from_slice(&checksum.to_be_bytes());
            head[26..30].copy_from_slice(&source[12..]);
            head[30..34].copy_from_slice(&destination[12..]);
            self.udp::<34>(head);
        } else {
            head[21] = head[21].wrapping_sub(1);
            head[22..38].copy_from_slice(source);
            head[38..54].copy_from_slice(destination);
            self.udp::<54>(head);
        }
    }

    /// The UDP header at `AT`.
    #[inline(always)]
    fn udp<const AT: usize>(&self, head: &mut [u8; 64]) {
        let Some(udp) = head[AT..].first_chunk_mut::<8>() else { return };
        udp[..2].copy_from_slice(&self.source.1.to_be_bytes());
        udp[2..4].copy_from_slice(&self.destination.1.to_be_bytes());
        let checksum = self.change.l4().apply_udp(u16::from_be_bytes([udp[6], udp[7]]));
        udp[6..].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
