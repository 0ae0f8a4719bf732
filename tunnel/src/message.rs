//! The four messages of WireGuard (white paper, section 5.4). All numbers are little-endian.
//!
//! ```text
//!   initiation   1 0 0 0 | sender 4 | ephemeral 32 | static 32+16 | timestamp 12+16 | mac1 16 | mac2 16   = 148
//!   response     2 0 0 0 | sender 4 | receiver 4 | ephemeral 32 | empty 0+16 | mac1 16 | mac2 16          =  92
//!   cookie reply 3 0 0 0 | receiver 4 | nonce 24 | cookie 16+16                                           =  64
//!   data         4 0 0 0 | receiver 4 | counter 8 | packet n+16                                          >=  32
//! ```

/// Length of a handshake initiation, bytes.
pub const INITIATION_LEN: usize = 148;
/// Length of a handshake response, bytes.
pub const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply, bytes.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Length of the header of a data message, bytes.
pub const DATA_HEADER_LEN: usize = 16;
/// Length of an authentication tag, bytes.
pub const TAG_LEN: usize = 16;
/// Bytes that a data message adds to its padded packet.
pub const DATA_OVERHEAD: usize = DATA_HEADER_LEN + TAG_LEN;
/// Length of a keepalive: a data message without a packet, bytes.
pub const KEEPALIVE_LEN: usize = DATA_OVERHEAD;

pub(crate) const INITIATION: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;
pub(crate) const COOKIE_REPLY: u8 = 3;
pub(crate) const DATA: u8 = 4;

/// Reports that a datagram is none of the four messages: unknown type, reserved bytes set, or wrong length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("datagram of {length} bytes: not a WireGuard message; expected type 1 to 4 with its exact length")]
pub struct Malformed {
    /// Length of the datagram, bytes.
    pub length: usize,
}

/// Holds a datagram whose type and length fit each other. Nothing in it is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Starts a handshake.
    Initiation(&'a [u8; INITIATION_LEN]),
    /// Answers an initiation.
    Response(&'a [u8; RESPONSE_LEN]),
    /// Answers an initiation or a response with a cookie.
    CookieReply(&'a [u8; COOKIE_REPLY_LEN]),
    /// Carries one packet, or none.
    Data(DataHeader),
}

/// Holds the header of a data message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataHeader {
    /// Session index of the receiver.
    pub receiver: u32,
    /// Number of this message in its session.
    pub counter: u64,
}

impl<'a> Message<'a> {
    /// Reads the type and checks the length of a datagram.
    ///
    /// # Errors
    /// [`Malformed`] for everything that is not exactly one of the four messages.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = Malformed { length: datagram.len() };
        match datagram {
            [INITIATION, 0, 0, 0, ..] => datagram.try_into().map(Self::Initiation).map_err(|_| malformed),
            [RESPONSE, 0, 0, 0, ..] => datagram.try_into().map(Self::Response).map_err(|_| malformed),
            [COOKIE_REPLY, 0, 0, 0, ..] => datagram.try_into().map(Self::CookieReply).map_err(|_| malformed),
            [DATA, 0, 0, 0, ..] if datagram.len() >= DATA_OVERHEAD => {
                Ok(Self::Data(DataHeader { receiver: word(datagram, 4), counter: counter(datagram) }))
            }
            _ => Err(malformed),
        }
    }
}

impl DataHeader {
    /// Returns the header as bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; DATA_HEADER_LEN] {
        let [a, b, c, d] = self.receiver.to_le_bytes();
        let [e, f, g, h, i, j, k, l] = self.counter.to_le_bytes();
        [DATA, 0, 0, 0, a, b, c, d, e, f, g, h, i, j, k, l]
    }
}

/// Returns the 32-bit number at `offset`; zero beyond the end.
pub(crate) fn word(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |four| u32::from_le_bytes(*four))
}

fn counter(bytes: &[u8]) -> u64 {
    bytes.get(8..).and_then(<[u8]>::first_chunk).map_or(0, |eight| u64::from_le_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parse_accepts_exact_types_and_lengths_only(kind in 0_u8..7, reserved in any::<[bool; 3]>(), length in 0_usize..300) {
            let mut datagram = vec![0x5a; length];
            let header = [kind, reserved[0].into(), reserved[1].into(), reserved[2].into()];
            datagram.iter_mut().zip(header).for_each(|(to, from)| *to = from);
            let expected = length >= 4 && reserved == [false; 3] && match kind {
                1 => length == 148,
                2 => length == 92,
                3 => length == 64,
                4 => length >= 32,
                _ => false,
            };
            prop_assert_eq!(Message::parse(&datagram).is_ok(), expected);
        }

        #[test]
        fn data_header_reads_back(receiver: u32, counter: u64) {
            let header = DataHeader { receiver, counter };
            let mut datagram = header.to_bytes().to_vec();
            datagram.extend([0; TAG_LEN]);
            prop_assert_eq!(Message::parse(&datagram), Ok(Message::Data(header)));
        }
    }
}
