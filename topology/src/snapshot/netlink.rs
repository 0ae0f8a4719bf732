//! Implements a netlink client that only reads: it sends requests and parses attributes.
//!
//! It reads the network namespace of the calling thread; sysfs shows the namespace in which it was mounted. The
//! formats are in include/uapi/linux/netlink.h and genetlink.h; all numbers are in host byte order.

use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const HEADER: usize = 16;
/// Size of the receive buffer. A dump answer has at most 32 KiB per datagram (netlink_dump in
/// net/netlink/af_netlink.c).
const BUFFER: usize = 64 << 10;

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// Holds one netlink socket of one family.
pub(super) struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

/// Describes an error of a request.
#[derive(Debug)]
pub(super) struct NetlinkError {
    pub(super) step: &'static str,
    pub(super) cause: String,
}

fn failed(step: &'static str) -> impl Fn(rustix::io::Errno) -> NetlinkError {
    move |errno| NetlinkError { step, cause: errno.to_string() }
}

/// Holds the payload of one answer, after its netlink header.
pub(super) type Answer = Vec<u8>;

impl Netlink {
    /// Opens a socket: rtnetlink for `None`, otherwise `netlink::GENERIC`.
    pub(super) fn open(protocol: Option<Protocol>) -> Result<Self, NetlinkError> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(failed("socket"))?;
        let patience = std::time::Duration::from_secs(2);
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(patience)).map_err(failed("setsockopt"))?;
        Ok(Self { fd, sequence: 0 })
    }

    pub(super) fn generic() -> Result<Self, NetlinkError> {
        Self::open(Some(netlink::GENERIC))
    }

    /// Returns all answers to a dump request.
    pub(super) fn dump(&mut self, message: u16, payload: &[u8]) -> Result<Vec<Answer>, NetlinkError> {
        self.ask(message, NLM_F_REQUEST | NLM_F_DUMP, payload)
    }

    /// Returns the answer to a request for one object.
    pub(super) fn get(&mut self, message: u16, payload: &[u8]) -> Result<Vec<Answer>, NetlinkError> {
        self.ask(message, NLM_F_REQUEST | NLM_F_ACK, payload)
    }

    /// Returns the number of a generic netlink family, or an error if the kernel has none of that name.
    pub(super) fn family(&mut self, name: &str) -> Result<u16, NetlinkError> {
        let mut payload = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        put(&mut payload, CTRL_ATTR_FAMILY_NAME, &text);
        let answers = self.get(GENL_ID_CTRL, &payload)?;
        let id = answers.first().and_then(|a| find(a.get(4..)?, CTRL_ATTR_FAMILY_ID)).and_then(u16_of);
        id.ok_or(NetlinkError { step: "getfamily", cause: "answer without an id".into() })
    }

    fn ask(&mut self, message: u16, flags: u16, payload: &[u8]) -> Result<Vec<Answer>, NetlinkError> {
        self.sequence += 1;
        let mut request = Vec::with_capacity(HEADER + payload.len());
        request.extend_from_slice(&((HEADER + payload.len()) as u32).to_ne_bytes());
        request.extend_from_slice(&message.to_ne_bytes());
        request.extend_from_slice(&flags.to_ne_bytes());
        request.extend_from_slice(&self.sequence.to_ne_bytes());
        request.extend_from_slice(&[0; 4]);
        request.extend_from_slice(payload);
        rustix::net::send(&self.fd, &request, SendFlags::empty()).map_err(failed("send"))?;
        let mut answers = Vec::new();
        let mut buffer = vec![0_u8; BUFFER];
        loop {
            let (got, _) =
                rustix::net::recv(&self.fd, buffer.as_mut_slice(), RecvFlags::empty()).map_err(failed("recv"))?;
            if got == 0 {
                return Err(NetlinkError { step: "recv", cause: "empty answer".into() });
            }
            if self.read_datagram(buffer.get(..got).unwrap_or_default(), &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Reads one datagram. Returns true after the last part.
    fn read_datagram(&self, mut bytes: &[u8], answers: &mut Vec<Answer>) -> Result<bool, NetlinkError> {
        while let Some((length, kind, sequence)) = header(bytes) {
            let Some(payload) = bytes.get(HEADER..length) else { break };
            if sequence == self.sequence {
                match kind {
                    NLMSG_DONE => return Ok(true),
                    NLMSG_ERROR => {
                        let code = payload.first_chunk::<4>().map_or(0, |b| i32::from_ne_bytes(*b));
                        if code == 0 {
                            return Ok(true);
                        }
                        let errno = rustix::io::Errno::from_raw_os_error(code.wrapping_neg());
                        return Err(NetlinkError { step: "request", cause: errno.to_string() });
                    }
                    _ => answers.push(payload.to_vec()),
                }
            }
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(false)
    }
}

fn header(bytes: &[u8]) -> Option<(usize, u16, u32)> {
    let length = u32_of(bytes.get(..4)?)? as usize;
    let kind = u16_of(bytes.get(4..6)?)?;
    let sequence = u32_of(bytes.get(8..12)?)?;
    (length >= HEADER).then_some((length, kind, sequence))
}

/// Appends an attribute, padded to 4 bytes.
pub(super) fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Iterates over the attributes in `bytes`: kind without its flag bits, and value. Stops at the first malformed one.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_of(bytes.get(..2)?)?);
        let kind = u16_of(bytes.get(2..4)?)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Returns the value of the first attribute of this kind.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

pub(super) fn u16_of(value: &[u8]) -> Option<u16> {
    value.first_chunk().map(|b| u16::from_ne_bytes(*b))
}

pub(super) fn u32_of(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

pub(super) fn u64_of(value: &[u8]) -> Option<u64> {
    value.first_chunk().map(|b| u64::from_ne_bytes(*b))
}

pub(super) fn text_of(value: &[u8]) -> Option<String> {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    String::from_utf8(value.get(..end)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_come_back() {
        let mut bytes = Vec::new();
        put(&mut bytes, 3, b"eth0\0");
        put(&mut bytes, 4, &1500_u32.to_ne_bytes());
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(find(&bytes, 3).and_then(text_of).as_deref(), Some("eth0"));
        assert_eq!(find(&bytes, 4).and_then(u32_of), Some(1500));
        assert_eq!(find(&bytes, 5), None);
    }

    proptest! {
        #[test]
        fn random_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
        }
    }
}
