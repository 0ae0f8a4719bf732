//! Reads one interface through rtnetlink: index, MTU and attached XDP programs. Each call sends one blocking request.
//! It is used for attachment, never on the packet path.

use std::io;

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use super::AttachMode;

// Numbers of include/uapi/linux/rtnetlink.h, if_link.h and netlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const NLA_F_NESTED: u16 = 1 << 15;
const NETLINK_HEADER: usize = 16;
const LINK_HEADER: usize = 16;

/// Describes one interface at the time of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    /// Largest IP packet, in bytes.
    pub(super) mtu: u32,
    /// Id of the program in native mode, or 0.
    pub(super) native_program: u32,
    /// Id of the program in generic mode, or 0.
    pub(super) generic_program: u32,
}

impl Interface {
    /// Reads the interface of that name in the calling thread's network namespace. Returns `ENODEV` if there is none.
    pub(super) fn find(name: &str) -> io::Result<Self> {
        // IFNAMSIZ counts the NUL; a longer name cannot exist.
        if name.is_empty() || name.len() > 15 || name.contains('\0') {
            return Err(rustix::io::Errno::NODEV.into());
        }
        let mut attributes = Vec::new();
        push_attribute(&mut attributes, IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
        parse(&ask(RTM_GETLINK, NLM_F_REQUEST, 0, &attributes)?)
    }

    /// Returns the attached programs with their modes.
    pub(super) fn programs(&self) -> impl Iterator<Item = (AttachMode, u32)> {
        [(AttachMode::Native, self.native_program), (AttachMode::Generic, self.generic_program)]
            .into_iter()
            .filter(|&(_, id)| id != 0)
    }

    /// Detaches a program that was attached without a link (`ip link set dev X xdp off`).
    pub(super) fn detach_unlinked(&self, mode: AttachMode) -> io::Result<()> {
        self.set_program(mode, -1)
    }

    /// Attaches a program's descriptor without a link. With -1, it detaches the current program.
    pub(super) fn set_program(&self, mode: AttachMode, program: i32) -> io::Result<()> {
        let mut xdp = Vec::new();
        push_attribute(&mut xdp, IFLA_XDP_FD, &program.to_ne_bytes());
        push_attribute(&mut xdp, IFLA_XDP_FLAGS, &mode.flags().to_ne_bytes());
        let mut attributes = Vec::new();
        push_attribute(&mut attributes, IFLA_XDP | NLA_F_NESTED, &xdp);
        ask(RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, self.index, &attributes).map(drop)
    }
}

/// Sends one request and returns the answer after the netlink header. The answer to an acknowledgement is empty.
fn ask(kind: u16, flags: u16, index: u32, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let mut message = Vec::with_capacity(NETLINK_HEADER + LINK_HEADER + attributes.len());
    message.extend(((NETLINK_HEADER + LINK_HEADER + attributes.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // Sequence and port: one request per socket needs neither.
    message.extend([0; 4]); // Family and type.
    message.extend(index.to_ne_bytes());
    message.extend([0; 8]); // Flags and change mask.
    message.extend(attributes);

    let socket: OwnedFd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &message, SendFlags::empty())?;
    let mut answer = vec![0; 32 * 1024];
    let (length, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::empty())?;
    answer.truncate(length);

    let broken = || io::Error::new(io::ErrorKind::InvalidData, "truncated rtnetlink answer");
    let kind = u16_at(&answer, 4).ok_or_else(broken)?;
    if kind == NLMSG_ERROR {
        let code = u32_at(&answer, NETLINK_HEADER).ok_or_else(broken)?.cast_signed();
        return if code == 0 { Ok(Vec::new()) } else { Err(io::Error::from_raw_os_error(-code)) };
    }
    if kind != RTM_NEWLINK {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("rtnetlink answered with message {kind}")));
    }
    Ok(answer.split_off(NETLINK_HEADER))
}

fn parse(link: &[u8]) -> io::Result<Interface> {
    let index = u32_at(link, 4);
    let attributes = link.get(LINK_HEADER..);
    let (Some(index), Some(attributes)) = (index, attributes) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "truncated rtnetlink answer"));
    };
    let number = |value: &[u8]| u32_at(value, 0).unwrap_or(0);
    let mut interface = Interface { index, mtu: 0, native_program: 0, generic_program: 0 };
    for (kind, value) in Attributes(attributes) {
        match kind {
            IFLA_MTU => interface.mtu = number(value),
            IFLA_XDP => {
                for (kind, value) in Attributes(value) {
                    match kind {
                        IFLA_XDP_DRV_PROG_ID => interface.native_program = number(value),
                        IFLA_XDP_SKB_PROG_ID => interface.generic_program = number(value),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(interface)
}

/// Iterates over netlink attributes. It ends at the first one that does not fit.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & !NLA_F_NESTED;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

fn push_attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(((4 + value.len()) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|&b| u16::from_ne_bytes(b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|&b| u32::from_ne_bytes(b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn loopback_is_found_and_unknown_name_is_not() {
        let lo = Interface::find("lo").unwrap();
        assert_eq!((lo.index, lo.mtu), (1, 65536));
        for name in ["", "no-such-if0", "a-name-of-16-char", "nul\0inside"] {
            let error = Interface::find(name).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name:?}");
        }
    }

    #[test]
    fn truncated_link_message_does_not_panic() {
        let mut xdp = Vec::new();
        push_attribute(&mut xdp, IFLA_XDP_DRV_PROG_ID, &7_u32.to_ne_bytes());
        push_attribute(&mut xdp, IFLA_XDP_SKB_PROG_ID, &8_u32.to_ne_bytes());
        let mut link = vec![0; LINK_HEADER];
        link[4] = 3;
        push_attribute(&mut link, IFLA_IFNAME, b"odd\0\0");
        push_attribute(&mut link, IFLA_MTU, &1500_u32.to_ne_bytes());
        push_attribute(&mut link, IFLA_XDP | NLA_F_NESTED, &xdp);
        let whole = parse(&link).unwrap();
        assert_eq!(whole, Interface { index: 3, mtu: 1500, native_program: 7, generic_program: 8 });
        assert_eq!(whole.programs().count(), 2);
        for length in 0..link.len() {
            assert_eq!(parse(&link[..length]).is_ok(), length >= LINK_HEADER);
        }
    }
}
