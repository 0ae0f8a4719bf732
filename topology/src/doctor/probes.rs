//! Reads facts of this machine beyond the snapshot. It changes nothing, and opens one socket that it closes at once.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{OwnRelay, Traffic};
use crate::snapshot::{Holder, KernelRoute, Router, holders, port_choosers};

/// Reports the result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// The attempt succeeded.
    Done,
    /// The kernel refused with this errno, such as `EPERM`.
    Refused(String),
}

/// Describes how packets to a listen address arrive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reception {
    /// Interfaces that have the address.
    pub holders: Vec<Holder>,
    /// Whether the kernel treats packets to it as its own; `None` if unknown.
    pub local: Option<bool>,
}

/// Describes why a setting cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    /// It does not exist in this network namespace.
    Absent,
    /// It exists, but this user may not read it.
    Forbidden,
}

/// Holds facts for the doctor; `None` if a fact is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes {
    /// Result of opening an AF_XDP socket.
    pub af_xdp: Option<Attempt>,
    /// Seccomp mode of this process: 0 none, 1 strict, 2 filter.
    pub seccomp: Option<u32>,
    /// Label of the security module, such as an AppArmor profile.
    pub label: Option<String>,
    /// Kernel lockdown: `none`, `integrity`, `confidentiality`.
    pub lockdown: Option<String>,
    /// Value of `net.core.bpf_jit_enable`.
    pub bpf_jit: Option<u32>,
    /// Reason why that value cannot be read.
    pub bpf_jit_hidden: Option<Hidden>,
    /// Whether a process called irqbalance runs.
    pub irqbalance: Option<bool>,
    /// Frequency governor of the first CPU.
    pub governor: Option<String>,
    /// Value of `net.ipv4.ip_local_port_range`: the ports that the kernel gives to sockets.
    pub ephemeral_ports: Option<(u16, u16)>,
    /// Value of `net.ipv4.ip_local_reserved_ports`: the ports of that range that it does not give.
    pub reserved_ports: Vec<RangeInclusive<u16>>,
    /// Local addresses of the UDP sockets of this network namespace.
    pub udp_bound: Option<Vec<(IpAddr, u16)>>,
    /// Chains in which the kernel may give any port of this host to flows of other hosts.
    pub port_choosers: Option<Vec<String>>,
    /// Reception of packets to each listen address.
    pub listens: Vec<(IpAddr, Reception)>,
    /// Route of the kernel to each upstream, or its refusal.
    pub routes: Vec<(IpAddr, Result<KernelRoute, String>)>,
    /// Running relay of this configuration, if there is one.
    pub own: Option<OwnRelay>,
}

impl Probes {
    /// Reads the facts of this machine and process, and those of `traffic` and `interfaces`.
    #[must_use]
    pub fn live(interfaces: &[String], traffic: &Traffic) -> Self {
        let status = text("/proc/self/status");
        let bpf_jit = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
        let seccomp = status.as_deref().and_then(|s| s.lines().find_map(|line| line.strip_prefix("Seccomp:")));
        Self {
            af_xdp: Some(af_xdp()),
            seccomp: seccomp.and_then(|mode| mode.trim().parse().ok()),
            label: text("/proc/self/attr/current")
                .map(|l| l.trim_end_matches('\0').to_owned())
                .filter(|l| !l.is_empty()),
            lockdown: text("/sys/kernel/security/lockdown")
                .and_then(|l| Some(l.split_once('[')?.1.split_once(']')?.0.to_owned())),
            bpf_jit_hidden: bpf_jit.as_ref().err().map(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Hidden::Absent,
                _ => Hidden::Forbidden,
            }),
            bpf_jit: bpf_jit.ok().and_then(|t| t.trim().parse().ok()),
            irqbalance: irqbalance(),
            governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            ..Self::of_traffic(interfaces, traffic)
        }
    }

    /// Reads only the facts of `traffic`, in this network namespace.
    #[must_use]
    pub fn of_traffic(interfaces: &[String], traffic: &Traffic) -> Self {
        let mut router = Router::open();
        let mut ask = |address| router.as_mut().and_then(|router| router.route_to(address));
        let mut addresses: Vec<IpAddr> = traffic.listens.iter().map(|(address, _)| *address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let holders = holders(&addresses, interfaces);
        let reception = |(address, holders)| {
            let local = ask(address).map(|route| route.is_ok_and(|hop| hop.local));
            (address, Reception { holders, local })
        };
        let listens = holders.unwrap_or_default().into_iter().map(reception).collect();
        let mut upstreams = traffic.upstreams.clone();
        upstreams.sort_unstable();
        upstreams.dedup();
        Self {
            ephemeral_ports: text("/proc/sys/net/ipv4/ip_local_port_range").and_then(|t| {
                let (low, high) = t.split_once(char::is_whitespace)?;
                Some((low.parse().ok()?, high.trim().parse().ok()?))
            }),
            reserved_ports: text("/proc/sys/net/ipv4/ip_local_reserved_ports").map(|t| ranges(&t)).unwrap_or_default(),
            udp_bound: udp_bound(),
            port_choosers: port_choosers(),
            listens,
            routes: upstreams.into_iter().filter_map(|to| Some((to, ask(to)?))).collect(),
            ..Self::default()
        }
    }
}

fn text(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn af_xdp() -> Attempt {
    use rustix::io::Errno;
    match rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None) {
        Ok(_closed_here) => Attempt::Done,
        Err(errno) => Attempt::Refused(match errno {
            Errno::PERM => "EPERM".into(),
            Errno::ACCESS => "EACCES".into(),
            Errno::AFNOSUPPORT => "EAFNOSUPPORT".into(),
            Errno::NOSYS => "ENOSYS".into(),
            other => other.to_string(),
        }),
    }
}

/// Returns whether irqbalance runs, or `None` if other processes are invisible.
fn irqbalance() -> Option<bool> {
    // With hidepid even process 1 is invisible, so a missing process means nothing.
    std::fs::read("/proc/1/comm").ok()?;
    let processes = std::fs::read_dir("/proc").ok()?;
    let names = processes.flatten().filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok());
    Some(names.into_iter().any(|name| name.trim() == "irqbalance"))
}

/// Parses port ranges such as `8080,9000-9010`.
fn ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    let range = |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).collect()
}

/// Reads the calling thread's network namespace: /proc/net shows that of the process's first thread.
fn udp_bound() -> Option<Vec<(IpAddr, u16)>> {
    let v4 = std::fs::read_to_string("/proc/thread-self/net/udp").ok()?;
    // This file is absent without IPv6.
    let v6 = std::fs::read_to_string("/proc/thread-self/net/udp6").unwrap_or_default();
    Some(v4.lines().chain(v6.lines()).filter_map(local_end).collect())
}

/// Parses the second field of a line of /proc/net/udp: 32-bit words of the address in host byte order, and the port,
/// all in hex.
fn local_end(line: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = line.split_whitespace().nth(1)?.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?).to_canonical()
        }
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn proc_net_udp_lines_parse() {
        let line =
            " 1234: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0";
        if cfg!(target_endian = "little") {
            assert_eq!(local_end(line), Some(([127, 0, 0, 1].into(), 53)));
            let line = " 1: 00000000000000000000000001000000:1F90 x";
            assert_eq!(local_end(line), Some(("::1".parse().unwrap(), 8080)));
        }
        for bad in ["", "x", "  sl  local_address rem_address", "1: 0:1", "1: zzzzzzzz:0035", "1: 010000\u{20ac}:0035"]
        {
            assert_eq!(local_end(bad), None, "{bad}");
        }
    }

    #[test]
    fn reserved_ports_are_ranges() {
        assert_eq!(ranges("8080,9000-9010"), [8080..=8080, 9000..=9010]);
        assert_eq!(ranges(""), []);
    }

    #[test]
    fn own_socket_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let end = socket.local_addr().unwrap();
        assert!(udp_bound().unwrap().contains(&(end.ip(), end.port())));
    }
}
