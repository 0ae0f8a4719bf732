//! Defines the errors of steering. Each has its own variant and its remedy.

use std::fs;
use std::io;
use std::net::IpAddr;

use super::{AttachMode, MAX_ADDRESSES, MAX_QUEUES};

/// Reports that steering could not be set up or changed. The message ends with the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SteeringError {
    /// The interface does not exist in this network namespace.
    #[error(
        "{interface}: interface missing; expected an interface of this network namespace; to fix: choose one that \
         `ip -br link` lists"
    )]
    NoInterface {
        /// Requested name.
        interface: String,
    },
    /// Another XDP program is attached.
    #[error(
        "{interface}: cannot attach in {wanted} mode: already attached: {holder}; to fix: stop its owner{}",
        if *linked { String::new() } else { format!(", or detach it with `ip link set dev {interface} xdp off`") }
    )]
    Busy {
        /// Name of the interface.
        interface: String,
        /// Requested mode.
        wanted: AttachMode,
        /// Mode, id and name of the attached program, as far as the kernel reports them.
        holder: String,
        /// Whether a process holds it through a bpf_link. Then only that process, or a forced detachment, removes it.
        linked: bool,
    },
    /// The kernel refused for lack of a privilege.
    #[error("cannot {step}: not permitted; {reason}")]
    NotPermitted {
        /// Refused step.
        step: &'static str,
        /// Missing privilege, with the remedy.
        reason: String,
    },
    /// The MTU is too large for a program that sees a packet in one buffer.
    #[error(
        "{interface}: MTU {mtu} is too large for native XDP: {source}; to fix: `ip link set dev {interface} mtu 1500`, \
         or use generic mode"
    )]
    Mtu {
        /// Name of the interface.
        interface: String,
        /// MTU in bytes. The driver sets the limit: about a page without headroom, 3506 on veth.
        mtu: u32,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The driver has too few queues for native XDP.
    #[error(
        "{interface}: too few receive queues for native XDP: {source}; expected as many as the veth peer has transmit \
         queues; to fix: `ethtool -L {interface} rx N`, or `ethtool -L <peer> tx N`"
    )]
    Queues {
        /// Name of the interface.
        interface: String,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The driver refused native XDP for another reason.
    #[error(
        "{interface}: the driver refuses native XDP at MTU {mtu}: {source}; to fix: try `ethtool -K {interface} lro \
         off` or fewer channels (`ethtool -L`), or use generic mode"
    )]
    NoNative {
        /// Name of the interface.
        interface: String,
        /// MTU in bytes.
        mtu: u32,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The kernel has no memory for the maps or the program.
    #[error(
        "cannot {step}: no memory: {source}; to fix: free some, or raise the limit with `ulimit -l unlimited` or \
         LimitMEMLOCK="
    )]
    Memory {
        /// Refused step.
        step: &'static str,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The kernel refused the program or a map. The text ends with the verifier's message.
    #[error(
        "steering program: cannot load: {reason}; expected kernel 6.1 or later; to fix: check \
         `uname -r`, or please report it"
    )]
    Load {
        /// Messages of the loader and the verifier.
        reason: String,
    },
    /// The address cannot be the destination of a packet to this host, or must not be steered.
    #[error(
        "{address}: cannot be steered; expected a unicast address; to fix: list the interface's own addresses one \
         by one"
    )]
    Address {
        /// The address.
        address: IpAddr,
    },
    /// The list of destinations is full.
    #[error(
        "{address}: cannot be steered: {MAX_ADDRESSES} addresses are listed; expected at most that; to fix: remove \
         one first, or use another interface"
    )]
    ListFull {
        /// The address that did not fit.
        address: IpAddr,
    },
    /// The XSKMAP has no entry for this queue number.
    #[error(
        "{interface}: RX queue {queue} cannot be steered; expected a number below {MAX_QUEUES}; to fix: \
         ethtool -L {interface} combined {MAX_QUEUES}"
    )]
    Queue {
        /// Name of the interface.
        interface: String,
        /// Number of the RX queue.
        queue: u32,
    },
    /// The descriptor for an XSKMAP entry is not an AF_XDP socket.
    #[error("RX queue {queue}: the kernel refused the socket: {source}; expected an open AF_XDP socket")]
    Socket {
        /// Number of the RX queue.
        queue: u32,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The kernel refused for another reason.
    #[error("{interface}: cannot {step}: {source}")]
    Kernel {
        /// Name of the interface.
        interface: String,
        /// Refused step.
        step: &'static str,
        /// Error of the kernel.
        source: io::Error,
    },
}

impl SteeringError {
    /// Returns whether the driver refused native mode, without a missing privilege or another program. Generic mode may
    /// then work.
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

/// Explains an EPERM of the kernel: capability, user namespace, seccomp or lockdown.
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
            "{} missing; to fix: run as root, use `setcap cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep` on the \
             program, or set AmbientCapabilities= in its unit",
            missing.join(" and ")
        );
    }
    // The initial user namespace maps all 2^32 - 1 ids to themselves.
    if !uid_map.is_empty() && uid_map.split_whitespace().ne(["0", "0", "4294967295"]) {
        return "the capabilities apply only in this user namespace; expected those of the host; to fix: run \
                without a user namespace (rootful container, `--userns=host`)"
            .to_owned();
    }
    if field("Seccomp:") == "2" {
        return "a seccomp filter of a container or a unit may forbid bpf(2); the relay's own filter allows it; to \
                fix: allow bpf(2) there"
            .to_owned();
    }
    if lockdown.contains("[integrity]") || lockdown.contains("[confidentiality]") {
        return "the kernel is locked down (/sys/kernel/security/lockdown) and may forbid bpf(2); to fix: see \
                kernel_lockdown(7)"
            .to_owned();
    }
    "no capability is missing; to fix: look for a refusal by a security module in `dmesg`, or a memory \
     limit (`ulimit -l`)"
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
