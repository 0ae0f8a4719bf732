//! Looks an interface up by name. Each use repeats the lookup, because the number changes when the interface is
//! re-created.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::packet::MacAddr;

/// Describes an interface of the calling thread's network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Name of the interface.
    pub name: String,
    /// Interface number in the kernel.
    pub ifindex: u32,
    /// Hardware address.
    pub mac: MacAddr,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
}

impl Device {
    /// Looks `name` up (netdevice(7)).
    ///
    /// # Errors
    /// Returns the error of the kernel: ENODEV if there is no such interface, or EINVAL for an invalid name.
    pub fn named(name: &str) -> io::Result<Self> {
        // SAFETY: socket(2) takes no pointers.
        let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let index = ask(&socket, name, libc::SIOCGIFINDEX as libc::Ioctl)?;
        let flags = ask(&socket, name, libc::SIOCGIFFLAGS as libc::Ioctl)?;
        let mtu = ask(&socket, name, libc::SIOCGIFMTU as libc::Ioctl)?;
        let hardware = ask(&socket, name, libc::SIOCGIFHWADDR as libc::Ioctl)?;
        // SAFETY: SIOCGIFINDEX fills the index member.
        let ifindex = unsafe { index.ifr_ifru.ifru_ifindex };
        // SAFETY: SIOCGIFFLAGS fills the flags member.
        let flags = unsafe { flags.ifr_ifru.ifru_flags };
        // SAFETY: SIOCGIFMTU fills the MTU member.
        let mtu = unsafe { mtu.ifr_ifru.ifru_mtu };
        // SAFETY: SIOCGIFHWADDR fills the hardware address member.
        let hardware = unsafe { hardware.ifr_ifru.ifru_hwaddr };
        let mut mac = [0u8; 6];
        for (to, from) in mac.iter_mut().zip(hardware.sa_data) {
            *to = from as u8;
        }
        Ok(Self {
            name: name.to_owned(),
            ifindex: ifindex.unsigned_abs(),
            mac: MacAddr(mac),
            mtu: mtu.unsigned_abs(),
            up: i32::from(flags) & libc::IFF_UP != 0,
        })
    }
}

fn ask(socket: &OwnedFd, name: &str, request: libc::Ioctl) -> io::Result<libc::ifreq> {
    // SAFETY: an all-zero ifreq is a valid value of its type.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= ifreq.ifr_name.len() || name.bytes().any(|b| b == 0) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIF* read the name and write the union of the given ifreq, which lives through the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut ifreq) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ifreq)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn loopback_is_found_and_unknown_name_is_not() {
        let lo = Device::named("lo").unwrap();
        assert!(lo.ifindex >= 1 && lo.mac == MacAddr::default() && lo.mtu >= 1500);
        assert_eq!(Device::named("oxide-none").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        for bad in ["", "a-name-of-sixteen", "nul\0"] {
            assert_eq!(Device::named(bad).unwrap_err().raw_os_error(), Some(libc::EINVAL), "{bad:?}");
        }
    }
}
