//! The Internet checksum: whole (RFC 1071), and by change (RFC 1624).
//!
//! Pure functions over bytes. The sum is kept in a `u64` in the order the bytes have in memory, so
//! that nothing is swapped per word: a ones' complement sum does not depend on byte order (RFC 1071
//! section 2 B), and only [`Sum::fold`] turns it.

/// A ones' complement sum that is not folded yet.
///
/// Adding up to 2^32 words of four bytes cannot overflow it: 16 GiB of packet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// The pseudo header of RFC 768: addresses, protocol 17, UDP length in bytes.
    #[must_use]
    #[inline]
    pub fn pseudo_ipv4(source: [u8; 4], destination: [u8; 4], udp_length: u16) -> Self {
        Self::default().bytes(&source).bytes(&destination).word(u16::from(super::UDP)).word(udp_length)
    }

    /// The pseudo header of RFC 8200 section 8.1: addresses, UDP length in bytes, next header 17.
    #[must_use]
    #[inline]
    pub fn pseudo_ipv6(source: [u8; 16], destination: [u8; 16], udp_length: u16) -> Self {
        Self::default().bytes(&source).bytes(&destination).word(udp_length).word(u16::from(super::UDP))
    }

    /// Adds `data` as 16-bit words, an odd last byte padded with zero. Each call starts a new word, so
    /// only the last one may have an odd length.
    #[must_use]
    #[inline(always)]
    pub fn bytes(self, data: &[u8]) -> Self {
        // Four bytes at a time into eight: the compiler makes vectors of this without carries.
        let (words, tail) = data.as_chunks::<4>();
        let sum = words.iter().fold(self.0, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// A sum of words in the order their bytes have in memory.
    #[inline]
    pub(crate) const fn of_words(sum: u64) -> Self {
        Self(sum)
    }

    /// Adds one word, host byte order.
    #[must_use]
    #[inline]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word.to_be() as u64)
    }

    /// The sum in 16 bits, host byte order.
    #[must_use]
    #[inline]
    pub const fn fold(self) -> u16 {
        u16::from_be(fold(self.0))
    }

    /// What goes into a checksum field: the complement of the sum.
    #[must_use]
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// Folds the carries back in (RFC 1071 section 4.1), halves added with the carry brought round; zero only if `sum` is
/// zero.
#[inline]
const fn fold(sum: u64) -> u16 {
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    // A sum that has overflowed is not all ones, so that this does not.
    let sum = sum + carry as u32;
    let (sum, carry) = (sum as u16).overflowing_add((sum >> 16) as u16);
    sum + carry as u16
}

/// Checksum of an IPv4 header of 20 to 60 bytes (options included), its own field taken as zero.
///
/// `header` may be longer than the header. `None` if it is shorter than its length field says, or
/// that field is below 20 bytes.
#[must_use]
#[inline]
pub fn ipv4_header(header: &[u8]) -> Option<u16> {
    let length = usize::from(header.first()? & 0x0f) * 4;
    let (before, rest) = header.get(..length)?.split_first_chunk::<10>()?;
    let (_, after) = rest.split_first_chunk::<2>()?;
    (length >= 20).then(|| Sum::default().bytes(before).bytes(after).checksum())
}

/// Whether the checksum of an option-free IPv4 header is right (RFC 1071: the sum over all of it,
/// checksum included, is all ones).
///
/// A ones' complement sum is a sum modulo 65535, and only a header of all zeroes, which has no version
/// either, sums to zero instead.
#[must_use]
#[inline]
pub fn ipv4_header_verifies(header: &[u8; 20]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    sum.is_multiple_of(0xffff)
}

/// Checksum of a UDP datagram, its own field taken as zero; a result of zero is sent as 0xFFFF, since
/// zero means "none" (RFC 768).
///
/// `datagram` is the UDP header and payload, as long as `pseudo` says. `None` if it is shorter than
/// a UDP header.
#[must_use]
#[inline]
pub fn udp(pseudo: Sum, datagram: &[u8]) -> Option<u16> {
    let (header, payload) = datagram.split_first_chunk::<8>()?;
    let [a, b, c, d, e, f, _, _] = *header;
    Some(never_zero(pseudo.bytes(&[a, b, c, d, e, f]).bytes(payload).checksum()))
}

/// Whether the checksum in a UDP datagram is right. A datagram without checksum (field zero) does not
/// verify: whether it may do without is the caller's question.
#[must_use]
#[inline]
pub fn udp_verifies(pseudo: Sum, datagram: &[u8]) -> bool {
    let zero = datagram.get(6..8).is_none_or(|field| field == [0, 0]);
    !zero && pseudo.bytes(datagram).fold() == 0xffff
}

const fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// What changing some covered words does to a checksum (RFC 1624): the sum of `~m + m'` over them.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChecksumDelta(Sum);

impl ChecksumDelta {
    /// Change of bytes at an even offset, `old` to `new`.
    #[must_use]
    #[inline]
    pub fn bytes<const N: usize>(self, old: &[u8; N], new: &[u8; N]) -> Self {
        const { assert!(N.is_multiple_of(4), "whole words of four bytes: the complement must have no padding") };
        Self(self.0.bytes(&old.map(|byte| !byte)).bytes(new))
    }

    /// Change of one word, such as a port; host byte order.
    #[must_use]
    #[inline]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0.word(!old).word(new))
    }

    /// The same change with its carries folded in: smaller, and adds up with others.
    #[must_use]
    #[inline]
    pub const fn folded(self) -> Self {
        Self(Sum(fold(self.0.0) as u64))
    }

    /// The folded change, to be kept in two bytes.
    pub(super) const fn to_bits(self) -> u16 {
        fold(self.0.0)
    }

    /// What [`to_bits`](Self::to_bits) kept.
    pub(super) const fn from_bits(bits: u16) -> Self {
        Self(Sum(bits as u64))
    }

    /// The checksum after the change: `HC' = ~(~HC + ~m + m')` (RFC 1624, equation 3).
    #[must_use]
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        self.0.word(!checksum).checksum()
    }

    /// The same for UDP: none stays none, and a result of zero is 0xFFFF.
    #[must_use]
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 { 0 } else { never_zero(self.apply(checksum)) }
    }
}

#[cfg(test)]
mod tests;
