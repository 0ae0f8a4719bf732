//! Computes the Internet checksum completely (RFC 1071) or from a change (RFC 1624).
//!
//! All functions are pure. The sum is a `u64` in the byte order of the memory, so that no word is swapped: a ones'
//! complement sum does not depend on byte order (RFC 1071 section 2 B). Only [`Sum::fold`] converts it.

/// Holds a ones' complement sum that is not folded yet.
///
/// Up to 2^32 words of four bytes (16 GiB) cannot overflow it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// Returns the sum of the pseudo header of RFC 768: addresses, protocol 17, UDP length in bytes.
    #[must_use]
    #[inline]
    pub fn pseudo_ipv4(source: [u8; 4], destination: [u8; 4], udp_length: u16) -> Self {
        Self::default().bytes(&source).bytes(&destination).word(u16::from(super::UDP)).word(udp_length)
    }

    /// Returns the sum of the pseudo header of RFC 8200 section 8.1: addresses, UDP length in bytes, next header 17.
    #[must_use]
    #[inline]
    pub fn pseudo_ipv6(source: [u8; 16], destination: [u8; 16], udp_length: u16) -> Self {
        Self::default().bytes(&source).bytes(&destination).word(udp_length).word(u16::from(super::UDP))
    }

    /// Adds `data` as 16-bit words. An odd last byte is padded with zero. Each call starts a new word, so only the last
    /// call may have an odd length.
    #[must_use]
    #[inline(always)]
    pub fn bytes(self, data: &[u8]) -> Self {
        // This adds four bytes at a time to eight, which the compiler vectorises without carries.
        let (words, tail) = data.as_chunks::<4>();
        let sum = words.iter().fold(self.0, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        Self(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// Creates a sum from words in the byte order of the memory.
    #[inline]
    pub(crate) const fn of_words(sum: u64) -> Self {
        Self(sum)
    }

    /// Adds one word in host byte order.
    #[must_use]
    #[inline]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word.to_be() as u64)
    }

    /// Returns the sum as 16 bits in host byte order.
    #[must_use]
    #[inline]
    pub const fn fold(self) -> u16 {
        u16::from_be(fold(self.0))
    }

    /// Returns the value of the checksum field, which is the complement of the sum.
    #[must_use]
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// Folds the carries back in (RFC 1071 section 4.1). The halves are added with the carry. The result is zero only if
/// `sum` is zero.
#[inline]
const fn fold(sum: u64) -> u16 {
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    // A sum that overflowed is not all ones, so this addition cannot overflow.
    let sum = sum + carry as u32;
    let (sum, carry) = (sum as u16).overflowing_add((sum >> 16) as u16);
    sum + carry as u16
}

/// Returns the checksum of an IPv4 header of 20 to 60 bytes (options included), with its own field as zero.
///
/// `header` may be longer than the header. Returns `None` if it is shorter than its length field, or if that field is
/// below 20 bytes.
#[must_use]
#[inline]
pub fn ipv4_header(header: &[u8]) -> Option<u16> {
    let length = usize::from(header.first()? & 0x0f) * 4;
    let (before, rest) = header.get(..length)?.split_first_chunk::<10>()?;
    let (_, after) = rest.split_first_chunk::<2>()?;
    (length >= 20).then(|| Sum::default().bytes(before).bytes(after).checksum())
}

/// Returns whether the checksum of an IPv4 header without options is valid (RFC 1071: the sum over the header with its
/// checksum is all ones).
///
/// A ones' complement sum is a sum modulo 65535. Only a header of zeroes has the sum zero instead, and it has no valid
/// version.
#[must_use]
#[inline]
pub fn ipv4_header_verifies(header: &[u8; 20]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    sum.is_multiple_of(0xffff)
}

/// Returns the checksum of a UDP datagram, with its own field as zero. A result of zero becomes 0xFFFF, because zero
/// means no checksum (RFC 768).
///
/// `datagram` is the UDP header and the payload, with the length in `pseudo`. Returns `None` if it is shorter than a
/// UDP header.
#[must_use]
#[inline]
pub fn udp(pseudo: Sum, datagram: &[u8]) -> Option<u16> {
    let (header, payload) = datagram.split_first_chunk::<8>()?;
    let [a, b, c, d, e, f, _, _] = *header;
    Some(never_zero(pseudo.bytes(&[a, b, c, d, e, f]).bytes(payload).checksum()))
}

/// Returns whether the checksum of a UDP datagram is valid. A datagram without checksum (field zero) is not valid here;
/// the caller decides whether the checksum may be absent.
#[must_use]
#[inline]
pub fn udp_verifies(pseudo: Sum, datagram: &[u8]) -> bool {
    let zero = datagram.get(6..8).is_none_or(|field| field == [0, 0]);
    !zero && pseudo.bytes(datagram).fold() == 0xffff
}

const fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Holds the effect of changed words on a checksum (RFC 1624): the sum of `~m + m'` over these words.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChecksumDelta(Sum);

impl ChecksumDelta {
    /// Adds a change of bytes at an even offset from `old` to `new`.
    #[must_use]
    #[inline]
    pub fn bytes<const N: usize>(self, old: &[u8; N], new: &[u8; N]) -> Self {
        const { assert!(N.is_multiple_of(4), "only whole words of four bytes, because padding must not be complemented") };
        Self(self.0.bytes(&old.map(|byte| !byte)).bytes(new))
    }

    /// Adds a change of one word, such as a port, in host byte order.
    #[must_use]
    #[inline]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0.word(!old).word(new))
    }

    /// Returns the same change with its carries folded in. It is smaller, and can be added to others.
    #[must_use]
    #[inline]
    pub const fn folded(self) -> Self {
        Self(Sum(fold(self.0.0) as u64))
    }

    /// Returns the folded change as two bytes, for storage.
    pub(super) const fn to_bits(self) -> u16 {
        fold(self.0.0)
    }

    /// Restores a change from [`to_bits`](Self::to_bits).
    pub(super) const fn from_bits(bits: u16) -> Self {
        Self(Sum(bits as u64))
    }

    /// Returns the checksum after the change: `HC' = ~(~HC + ~m + m')` (RFC 1624, equation 3).
    #[must_use]
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        self.0.word(!checksum).checksum()
    }

    /// Returns the UDP checksum after the change. An absent checksum stays absent, and a result of zero becomes 0xFFFF.
    #[must_use]
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 { 0 } else { never_zero(self.apply(checksum)) }
    }
}

#[cfg(test)]
mod tests;
