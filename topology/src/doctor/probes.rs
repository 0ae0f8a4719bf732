//! What the doctor sees of this machine beyond the snapshot: only looks, and one socket that is closed
//! again at once.

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// How an attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It worked.
    Done,
    /// Refused, by errno: `EPERM`.
    Refused(String),
}

/// Facts for the doctor; `None` where they could not be learned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes {
    /// An AF_XDP socket was opened and closed.
    pub af_xdp: Option<Attempt>,
    /// Seccomp mode of this process: 0 none, 1 strict, 2 filter.
    pub seccomp: Option<u32>,
    /// Label of the security module, such as AppArmor's profile.
    pub label: Option<String>,
    /// Kernel lockdown: `none`, `integrity`, `confidentiality`.
    pub lockdown: Option<String>,
    /// `net.core.bpf_jit_enable`.
    pub bpf_jit: Option<u32>,
    /// A process called irqbalance runs.
    pub irqbalance: Option<bool>,
    /// Frequency governor of the first CPU.
    pub governor: Option<String>,
}

impl Probes {
    /// Of this machine and process.
    #[must_use]
    pub fn live() -> Self {
        let text = |path: &str| Some(std::fs::read_to_string(path).ok()?.trim().to_owned());
        let status = text("/proc/self/status");
        let seccomp = status.as_deref().and_then(|s| s.lines().find_map(|line| line.strip_prefix("Seccomp:")));
        Self {
            af_xdp: Some(af_xdp()),
            seccomp: seccomp.and_then(|mode| mode.trim().parse().ok()),
            label: text("/proc/self/attr/current")
                .map(|l| l.trim_end_matches('\0').to_owned())
                .filter(|l| !l.is_empty()),
            lockdown: text("/sys/kernel/security/lockdown")
                .and_then(|l| Some(l.split_once('[')?.1.split_once(']')?.0.to_owned())),
            bpf_jit: text("/proc/sys/net/core/bpf_jit_enable").and_then(|t| t.parse().ok()),
            irqbalance: irqbalance(),
            governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        }
    }
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

/// `None` where other processes cannot be seen.
fn irqbalance() -> Option<bool> {
    // With hidepid, even process 1 is invisible, and absence says nothing.
    std::fs::read("/proc/1/comm").ok()?;
    let processes = std::fs::read_dir("/proc").ok()?;
    let names = processes.flatten().filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok());
    Some(names.into_iter().any(|name| name.trim() == "irqbalance"))
}
