//! What can go wrong with steering, told apart, each with its mend.

use std::fs;
use std::io;
use std::net::IpAddr;

use super::{AttachMode, MAX_ADDRESSES, MAX_QUEUES};

/// Steering could not be set up or changed. The text ends with the mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SteeringError {
    /// No such interface in this network namespace.
    #[error("interface {interface:?} does not exist in this network namespace; `ip -br link` lists those that do")]
    NoInterface {
        /// The name asked for.
        interface: String,
    },
    /// Another XDP program is attached.
    #[error(
        "{interface}: cannot attach in {wanted} mode, {holder} is attached already; stop its owner{}",
        if *linked { String::new() } else { format!(", or detach it by `ip link set dev {interface} xdp off`") }
    )]
    Busy {
        /// Interface.
        interface: String,
        /// Mode asked for.
        wanted: AttachMode,
        /// Mode, id and name of the program that is there, as far as the kernel tells.
        holder: String,
        /// A process holds it by a bpf_link: only that process, or a forced detachment, takes it off.
        linked: bool,
    },
    /// The kernel refused for lack of privilege.
    #[error("{step}: not permitted; {reason}")]
    NotPermitted {
        /// What was tried.
        step: &'static str,
        /// What is missing, and how to give it.
        reason: String,
    },
    /// The MTU is too large for a program that sees a packet in one buffer.
    #[error(
        "{interface}: MTU {mtu} is too large for native XDP ({source}); `ip link set dev {interface} mtu 1500`, or attach \
         in generic mode"
    )]
    Mtu {
        /// Interface.
        interface: String,
        /// Its MTU, bytes. The limit is the driver's: about a page less headroom, 3506 on veth.
        mtu: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The driver has too few queues for native XDP.
    #[error(
        "{interface}: too few receive queues for native XDP ({source}); a veth needs as many as its peer has transmit \
         queues: `ethtool -L {interface} rx N`, or `ethtool -L <peer> tx N`"
    )]
    Queues {
        /// Interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The driver refused native XDP for another reason.
    #[error(
        "{interface}: the driver refuses native XDP at MTU {mtu} ({source}); some want `ethtool -K {interface} lro off` or \
         fewer channels (`ethtool -L`), some have none: attach in generic mode"
    )]
    NoNative {
        /// Interface.
        interface: String,
        /// Its MTU, bytes.
        mtu: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel has no memory for maps or program.
    #[error(
        "{step}: no memory ({source}); free some, or raise the limit: `ulimit -l unlimited`, LimitMEMLOCK= in a unit"
    )]
    Memory {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel did not take the program or a map. The text holds the verifier's last words.
    #[error("cannot load the steering program: {reason}; it needs kernel 6.1 (`uname -r`); else please report it")]
    Load {
        /// The loader's and the verifier's text.
        reason: String,
    },
    /// An address that no packet for this host carries as its destination, or that is not to be steered.
    #[error("cannot steer {address}: not a unicast address; list the interface's own addresses one by one")]
    Address {
        /// The address.
        address: IpAddr,
    },
    /// The list is full.
    #[error(
        "cannot steer {address}: {MAX_ADDRESSES} addresses are listed already; deny one first, or use another interface"
    )]
    ListFull {
        /// The address that found no place.
        address: IpAddr,
    },
    /// No slot for a queue of that number.
    #[error(
        "{interface}: RX queue {queue} cannot be steered, slots are 0..{MAX_QUEUES}; `ethtool -L {interface} combined {MAX_QUEUES}`"
    )]
    Queue {
        /// Interface.
        interface: String,
        /// Index of the RX queue.
        queue: u32,
    },
    /// A descriptor that is not an AF_XDP socket was to be put into a queue's slot.
    #[error("RX queue {queue}: the kernel did not take this socket ({source}); it must be an open AF_XDP socket")]
    Socket {
        /// Index of the RX queue.
        queue: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Any other refusal.
    #[error("{interface}: {step}: {source}")]
    Kernel {
        /// Interface.
        interface: String,
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl SteeringError {
    /// Native attachment was refused by the driver, not by privilege or by another program: generic
    /// mode may still do.
    pub(super) fn is_refusal_of_native(&self) -> bool {
        matches!(self, Self::Mtu { .. } | Self::Queues { .. } | Self::NoNative { .. })
    }

    /// Returns the interface that the message names.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::NoInterface { interface }
            | Self::Busy { interface, .. }
            | Self::Mtu { interface, .. }
            | Self::Queues { interface, .. }
            | Self::NoNative { interface, .. }
            | Self::Queue { interface, .. }
            | Self::Kernel { interface, .. } => Some(interface),
            Self::NotPermitted { .. }
            | Self::Memory { .. }
            | Self::Load { .. }
            | Self::Address { .. }
            | Self::ListFull { .. }
            | Self::Socket { .. } => None,
        }
    }

    pub(super) fn kernel(interface: &str, step: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENODEV) => Self::NoInterface { interface: interface.to_owned() },
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { step, reason: missing_privilege() },
            Some(libc::ENOMEM) => Self::Memory { step, source },
            _ => Self::Kernel { interface: interface.to_owned(), step, source },
        }
    }
}

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Why the kernel said EPERM: capability, user namespace, seccomp or lockdown.
fn missing_privilege() -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let users = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    explain(&status, &users, &lockdown)
}

fn explain(status: &str, uid_map: &str, lockdown: &str) -> String {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim);
    let effective = u64::from_str_radix(field("CapEff:"), 16).unwrap_or(u64::MAX);
    let has = |capability: u32| effective >> capability & 1 == 1;

    let mut missing = Vec::new();
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if !missing.is_empty() {
        return format!(
            "{} missing; run as root, or `setcap cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep` on the program, or \
             AmbientCapabilities= in its unit",
            missing.join(" and ")
        );
    }
    // The initial user namespace maps all 2^32 - 1 ids onto themselves.
    if !uid_map.is_empty() && uid_map.split_whitespace().ne(["0", "0", "4294967295"]) {
        return "the capabilities count only in this user namespace, bpf(2) asks for the host's; run without one (rootful \
                container, `--userns=host`)"
            .to_owned();
    }
    if field("Seccomp:") == "2" {
        return "a seccomp filter is in force: the relay's own allows bpf(2), that of a container or a unit may not; allow it there"
            .to_owned();
    }
    if lockdown.contains("[integrity]") || lockdown.contains("[confidentiality]") {
        return "the kernel is locked down (/sys/kernel/security/lockdown) and may forbid bpf(2); see kernel_lockdown(7)".to_owned();
    }
    "the capabilities are there: look for a security module's refusal in `dmesg`, or a memory limit (`ulimit -l`)"
        .to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const HOST: &str = "         0          0 4294967295\n";

    #[test]
    fn each_cause_of_eperm_is_named() {
        let all = "CapEff:\t000001ffffffffff\nSeccomp:\t0\n";
        let cases = [
            ("CapEff:\t0000000000000000\n", HOST, "", "CAP_NET_ADMIN and CAP_BPF missing"),
            ("CapEff:\t0000008000000000\n", HOST, "", "CAP_NET_ADMIN missing"),
            ("CapEff:\t0000000000001000\n", HOST, "", "CAP_BPF missing"),
            (all, "0 1000 1\n", "", "user namespace"),
            ("CapEff:\t0000000000201000\nSeccomp:\t2\n", HOST, "", "seccomp"),
            (all, HOST, "none integrity [confidentiality]\n", "locked down"),
            (all, HOST, "[none] integrity confidentiality\n", "dmesg"),
            ("", "", "", "dmesg"),
        ];
        for (status, users, lockdown, wanted) in cases {
            let text = explain(status, users, lockdown);
            assert!(text.contains(wanted), "{status:?} {users:?} {lockdown:?}: {text}");
        }
    }
}
