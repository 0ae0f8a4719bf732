//! Checks kernel, permissions, limits and CPUs.

use super::CheckStatus::{Fail, Pass, Unknown, Warn};
use super::{Attempt, Check, CheckContext, Hidden, Probes};
use crate::plan::{Page, WarningCode};
use crate::render::table::bytes;
use crate::request::Queues;
use crate::snapshot::{Amount, CpuQuota, HostLimits};

const MACHINE: &str = "machine";
/// Oldest kernel that the relay was tested on.
const KERNEL_FLOOR: (u32, u32) = (6, 1);

pub(super) fn checks(cx: &CheckContext<'_>) -> Vec<Check> {
    let all = [
        kernel,
        af_xdp,
        capabilities,
        confinement,
        bpf,
        io_uring,
        memlock,
        huge_pages,
        cpus,
        cpu_quota,
        isolation,
        clock,
        governor,
        irqbalance,
    ];
    all.iter().map(|check| check(cx)).collect()
}

fn check(id: &str, status: super::CheckStatus, observed: impl Into<String>, wanted: &str) -> Check {
    Check::new(id, MACHINE, status, observed, wanted)
}

fn kernel(p: &CheckContext<'_>) -> Check {
    let wanted = "Linux 6.1 or later, and not 6.17";
    let release = p.snapshot.limits.kernel.clone().unwrap_or_default();
    match p.snapshot.limits.kernel_version() {
        None => check("kernel", Unknown, "version unknown", wanted).remedy("uname -r"),
        Some(version) if version < KERNEL_FLOOR => check("kernel", Fail, release, wanted)
            .remedy("install a newer kernel (Debian: linux-image-amd64 of backports)"),
        // quilkin reports that AF_XDP is broken in this version.
        Some((6, 17)) => check("kernel", Warn, release, wanted).remedy("use 6.12 LTS, or 6.18 and later"),
        Some(_) => check("kernel", Pass, release, wanted),
    }
}

fn af_xdp(p: &CheckContext<'_>) -> Check {
    let wanted = "an AF_XDP socket can be opened";
    match &p.probes.af_xdp {
        None => check("af-xdp", Unknown, "not tried: the report is for another machine", wanted),
        Some(Attempt::Done) => check("af-xdp", Pass, "a socket was opened and closed", wanted),
        Some(Attempt::Refused(errno)) if errno == "EAFNOSUPPORT" => {
            let remedy = "use a kernel with CONFIG_XDP_SOCKETS=y: grep XDP_SOCKETS /boot/config-$(uname -r)";
            check("af-xdp", Fail, "EAFNOSUPPORT: this kernel has no AF_XDP", wanted).remedy(remedy)
        }
        Some(Attempt::Refused(errno)) => {
            let (who, remedy) = explain_refusal(&p.snapshot.limits, p.probes, &[&["CAP_NET_RAW"]]);
            check("af-xdp", Fail, format!("{errno}: {who}"), wanted).remedy(remedy)
        }
    }
}

/// Finds the cause of an EPERM. It checks in this order: capability, user namespace, seccomp filter, security module,
/// kernel lockdown. Each group in `needs` lists alternative capabilities, the weakest first. Returns the cause and
/// the remedy.
pub(super) fn explain_refusal(limits: &HostLimits, probes: &Probes, needs: &[&[&str]]) -> (String, String) {
    let least: Vec<&str> = needs.iter().filter_map(|group| group.first().copied()).collect();
    if limits.capabilities.is_none() {
        return ("capabilities are unknown".into(), format!("grep CapEff /proc/self/status; {}", grant(&least)));
    }
    let held = |group: &&&[&str]| group.iter().any(|c| limits.has_capability(c) == Some(true));
    let missing: Vec<&&[&str]> = needs.iter().filter(|group| !held(group)).collect();
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(|group| group.join(" or ")).collect();
        let least: Vec<&str> = missing.iter().filter_map(|group| group.first().copied()).collect();
        return (format!("{} is missing", names.join(", and ")), grant(&least));
    }
    let capability = least.join(", ");
    if limits.initial_user_namespace == Some(false) {
        let remedy = "run in the initial user namespace (podman: --userns=host, as root)";
        return (format!("{capability} is valid only in this user namespace"), remedy.into());
    }
    if probes.seccomp == Some(2) {
        let remedy = "allow socket(AF_XDP) and bpf in the profile (docker: --security-opt seccomp=PROFILE.json)";
        return (format!("{capability} is held; a seccomp filter is active"), remedy.into());
    }
    let label = probes.label.as_deref().filter(|label| !label.starts_with("unconfined") && *label != "kernel");
    if let Some(label) = label {
        return (
            format!("{capability} is held; the security module confines this process as {label}"),
            "extend its profile: see journalctl -k | grep -i denied".into(),
        );
    }
    if let Some(mode) = probes.lockdown.as_deref().filter(|mode| *mode != "none") {
        let remedy = "boot without lockdown= (secure boot sets it), or sign what it refuses";
        return (format!("{capability} is held; the kernel is locked down ({mode})"), remedy.into());
    }
    (format!("{capability} is held; no seccomp filter and no profile was found"), "see journalctl -k".into())
}

fn grant(capabilities: &[&str]) -> String {
    let lower = capabilities.join(",").to_lowercase();
    format!("unit file: AmbientCapabilities={}; or: setcap {lower}+ep BINARY; or run as root", capabilities.join(" "))
}

fn capabilities(p: &CheckContext<'_>) -> Check {
    let wanted = "CAP_NET_RAW, CAP_NET_ADMIN, and CAP_BPF (or CAP_SYS_ADMIN)";
    let limits = &p.snapshot.limits;
    let Some(held) = &limits.capabilities else {
        return check("capabilities", Unknown, "unknown", wanted).remedy("grep CapEff /proc/self/status");
    };
    let has = |name: &str| limits.has_capability(name) == Some(true);
    let admin = has("CAP_SYS_ADMIN");
    let wants = [
        ("CAP_NET_RAW", !has("CAP_NET_RAW")),
        ("CAP_NET_ADMIN", !has("CAP_NET_ADMIN") && !admin),
        ("CAP_BPF", !has("CAP_BPF") && !admin),
    ];
    let missing: Vec<&str> = wants.into_iter().filter(|(_, lacks)| *lacks).map(|(name, _)| name).collect();
    if missing.is_empty() && limits.initial_user_namespace == Some(false) {
        // bpf(2) checks the initial namespace (bpf_capable, include/linux/bpf.h).
        let remedy = "run in the initial user namespace (podman: as root, --userns=host)";
        return check("capabilities", Fail, "held only in this user namespace, where CAP_BPF has no effect", wanted)
            .remedy(remedy);
    }
    if missing.is_empty() && !has("CAP_NET_ADMIN") {
        let observed = "CAP_SYS_ADMIN loads the program, but without CAP_NET_ADMIN no next hop is resolved and busy \
                        polling is not preferred";
        return check("capabilities", Warn, observed, wanted).remedy(grant(&["CAP_NET_ADMIN"]));
    }
    if missing.is_empty() {
        return check("capabilities", Pass, held.join(" "), wanted);
    }
    check("capabilities", Fail, format!("missing: {}", missing.join(" ")), wanted).remedy(grant(&missing))
}

fn confinement(p: &CheckContext<'_>) -> Check {
    let wanted = "no seccomp filter, profile or lockdown that could refuse bpf and AF_XDP";
    let probes = p.probes;
    let mut found = Vec::new();
    if probes.seccomp == Some(2) {
        found.push("a seccomp filter".to_owned());
    }
    if let Some(label) = probes.label.as_deref().filter(|l| !l.starts_with("unconfined") && *l != "kernel") {
        found.push(format!("profile {label}"));
    }
    if let Some(mode) = probes.lockdown.as_deref().filter(|mode| *mode != "none") {
        found.push(format!("lockdown {mode}"));
    }
    if p.snapshot.limits.initial_user_namespace == Some(false) {
        found.push("a separate user namespace: capabilities do not lift memlock".to_owned());
    }
    match (probes.seccomp, found.is_empty()) {
        (_, false) => check("confinement", Warn, found.join(", "), wanted)
            .remedy("if af-xdp or self-test fails, check these first"),
        (None, true) => check("confinement", Unknown, "unknown", wanted).remedy("grep Seccomp /proc/self/status"),
        (Some(_), true) => check("confinement", Pass, "none found", wanted),
    }
}

fn bpf(p: &CheckContext<'_>) -> Check {
    let wanted = "net.core.bpf_jit_enable = 1";
    match p.probes.bpf_jit {
        Some(0) => {
            check("bpf", Warn, "the XDP program is interpreted", wanted).remedy("sysctl net.core.bpf_jit_enable=1")
        }
        Some(_) => check("bpf", Pass, "the XDP program is compiled", wanted),
        None => {
            let (observed, remedy) = match p.probes.bpf_jit_hidden {
                Some(Hidden::Absent) => (
                    "not visible in this network namespace",
                    "read it on the host: nsenter --net=/proc/1/ns/net sysctl net.core.bpf_jit_enable",
                ),
                Some(Hidden::Forbidden) => ("only root can read it", "sudo sysctl net.core.bpf_jit_enable"),
                None => ("unknown: the report is for another machine", "sysctl net.core.bpf_jit_enable"),
            };
            check("bpf", Unknown, observed, wanted).remedy(remedy)
        }
    }
}

fn io_uring(p: &CheckContext<'_>) -> Check {
    let wanted = "kernel.io_uring_disabled = 0, or plain threads are used instead";
    match p.snapshot.limits.io_uring_disabled {
        Some(0) => check("io-uring", Pass, "allowed by the kernel", wanted),
        Some(1) if p.snapshot.limits.has_capability("CAP_SYS_ADMIN") == Some(true) => {
            check("io-uring", Pass, "allowed for privileged processes, such as this one", wanted)
        }
        Some(value) => {
            let seen = format!("kernel.io_uring_disabled = {value}: plain threads are used");
            check("io-uring", Warn, seen, wanted).remedy("sysctl kernel.io_uring_disabled=0")
        }
        // The setting exists since Linux 6.6. Before, only seccomp can forbid io_uring.
        None if p.snapshot.limits.kernel_version().is_some_and(|v| v < (6, 6)) => {
            check("io-uring", Pass, "this kernel has no setting for it", wanted)
        }
        None => check("io-uring", Unknown, "unknown", wanted).remedy("sysctl kernel.io_uring_disabled"),
    }
}

/// Returns the packet memory of the plan in bytes. Without a plan it is computed from the number of actors that the
/// request implies.
fn packet_memory(p: &CheckContext<'_>) -> u64 {
    let actors = match (&p.plan, &p.request.queues) {
        (Ok(plan), _) => plan.actors.len() as u64,
        (Err(_), Queues::List(list)) => list.len() as u64,
        (Err(_), Queues::Auto) => {
            let queues = p.request.interfaces.iter().filter_map(|name| p.snapshot.nic(name)?.rx_queues);
            queues.max().unwrap_or(1).into()
        }
    };
    actors.max(1).saturating_mul(p.request.umem_bytes_per_queue)
}

fn memlock(p: &CheckContext<'_>) -> Check {
    let limits = &p.snapshot.limits;
    // Each port of an actor registers the memory itself, and the kernel counts it each time.
    let needed = packet_memory(p).saturating_mul(p.request.interfaces.len().max(1) as u64);
    let wanted = format!("{} for the packet memory, or CAP_IPC_LOCK", bytes(needed));
    let new = |status, observed: String| Check::new("memlock", MACHINE, status, observed, &wanted);
    let remedy = format!("unit file: LimitMEMLOCK={needed}; shell: ulimit -l {}", needed.div_ceil(1024));
    let initial = limits.initial_user_namespace != Some(false);
    if initial && limits.has_capability("CAP_IPC_LOCK") == Some(true) {
        return new(Pass, "CAP_IPC_LOCK lifts the limit".into());
    }
    let raise = initial && limits.has_capability("CAP_SYS_RESOURCE") == Some(true);
    match (limits.memlock, limits.memlock_max) {
        (None, _) => new(Unknown, "unknown".into()).remedy("ulimit -l"),
        (Some(Amount::Unlimited), _) => new(Pass, "unlimited".into()),
        (Some(Amount::Bytes(soft)), _) if soft >= needed => new(Pass, bytes(soft)),
        (Some(Amount::Bytes(soft)), Some(Amount::Unlimited)) => {
            new(Warn, format!("{} (raisable)", bytes(soft))).remedy(remedy)
        }
        (Some(Amount::Bytes(soft)), Some(Amount::Bytes(hard))) if hard >= needed || raise => {
            new(Warn, format!("{} (raisable)", bytes(soft))).remedy(remedy)
        }
        (Some(Amount::Bytes(soft)), _) => new(Fail, bytes(soft)).remedy(remedy),
    }
}

fn huge_pages(p: &CheckContext<'_>) -> Check {
    let wanted = "free 2 MiB pages for all packet memory on its nodes";
    if !p.request.huge_pages {
        return check("huge-pages", Pass, "not requested", wanted);
    }
    let Ok(plan) = &p.plan else { return check("huge-pages", Unknown, "there is no plan", wanted) };
    if p.probes.own.as_ref().is_some_and(|own| own.huge_pages) {
        return check("huge-pages", Pass, "in use by the running relay", wanted);
    }
    let short =
        plan.warnings.iter().find(|w| matches!(w.code, WarningCode::HugePagesShort | WarningCode::HugePagesUnknown));
    match short {
        Some(w) if w.code == WarningCode::HugePagesShort => {
            check("huge-pages", Warn, format!("{}: {}", w.subject, w.text), wanted).remedy(w.remedy.clone())
        }
        Some(w) => check("huge-pages", Unknown, format!("{}: {}", w.subject, w.text), wanted).remedy(w.remedy.clone()),
        None => {
            let huge = plan.actors.iter().filter(|actor| actor.page == Page::Huge).count();
            check("huge-pages", Pass, format!("enough for {huge} actors"), wanted)
        }
    }
}

fn cpus(p: &CheckContext<'_>) -> Check {
    let wanted = "one cpu for housekeeping and one for each queue";
    let usable = p.snapshot.usable_cpus();
    let queues = p.plan.as_ref().map_or(1, |plan| plan.actors.len());
    let observed = format!("cpu {usable} for {queues} queues");
    let remedy = format!("allow {} cpus (AllowedCPUs=, taskset -c), or serve fewer queues", queues + 1);
    match usable.len() {
        0 => check("cpus", Fail, "none", wanted).remedy(remedy),
        n if n <= queues => check("cpus", Warn, observed, wanted).remedy(remedy),
        _ => check("cpus", Pass, observed, wanted),
    }
}

fn cpu_quota(p: &CheckContext<'_>) -> Check {
    let wanted = "no quota, or at least one cpu for each actor";
    match p.snapshot.limits.cpu_quota {
        None => check("cpu-quota", Unknown, "unknown", wanted).remedy("cat /sys/fs/cgroup/cpu.max"),
        Some(CpuQuota::Unlimited) => check("cpu-quota", Pass, "none", wanted),
        Some(CpuQuota::MilliCpus(milli)) => {
            let actors = p.plan.as_ref().map_or(1, |plan| plan.actors.len()) as u64;
            let observed = format!("{}.{:03} cpus for {actors} actors", milli / 1000, milli % 1000);
            if milli >= 1000 * actors {
                return check("cpu-quota", Pass, observed, wanted);
            }
            check("cpu-quota", Warn, observed, wanted).remedy("raise CPUQuota= or resources.limits.cpu")
        }
    }
}

/// Never fails or warns: most hosts do not need isolated cores.
fn isolation(p: &CheckContext<'_>) -> Check {
    let wanted = "isolated cores for the lowest latency; not needed";
    match &p.snapshot.limits.isolated_cpus {
        None => check("isolation", Unknown, "unknown", wanted),
        Some(cpus) if cpus.is_empty() => check("isolation", Pass, "no cpu is isolated", wanted),
        Some(cpus) => check("isolation", Pass, format!("cpu {cpus} is isolated"), wanted),
    }
}

fn clock(p: &CheckContext<'_>) -> Check {
    let wanted = "a clock read without a system call: tsc, kvm-clock, arch_sys_counter";
    match p.snapshot.limits.clock_source.as_deref() {
        None => check("clock", Unknown, "unknown", wanted),
        Some(slow @ ("hpet" | "acpi_pm" | "jiffies" | "refined-jiffies")) => {
            let remedy = "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource; why not: dmesg | grep -i tsc";
            check("clock", Warn, slow, wanted).remedy(remedy)
        }
        Some(source) => check("clock", Pass, source, wanted),
    }
}

fn governor(p: &CheckContext<'_>) -> Check {
    let wanted = "performance (or schedutil), not powersave";
    match p.probes.governor.as_deref() {
        None => check("governor", Unknown, "no frequency control found, as in most virtual machines", wanted),
        Some("powersave") => {
            check("governor", Warn, "powersave", wanted).remedy("cpupower frequency-set -g performance")
        }
        Some(governor) => check("governor", Pass, governor, wanted),
    }
}

fn irqbalance(p: &CheckContext<'_>) -> Check {
    let wanted = "no process moves the NIC's interrupts away from their actors";
    match p.probes.irqbalance {
        None => check("irqbalance", Unknown, "other processes cannot be seen", wanted).remedy("pgrep -x irqbalance"),
        Some(false) => check("irqbalance", Pass, "irqbalance is not running", wanted),
        Some(true) => check("irqbalance", Warn, "irqbalance is running", wanted)
            .remedy("systemctl stop irqbalance, or exclude the actors' cpus: IRQBALANCE_BANNED_CPULIST in /etc/default/irqbalance"),
    }
}

/// Checks the whole plan, after the checks of the interfaces.
pub(super) fn plan_checks(p: &CheckContext<'_>) -> Vec<Check> {
    let wanted = "every queue on its own core, on the node of its NIC";
    match &p.plan {
        // Without interfaces only the machine was checked.
        Err(_) if p.request.interfaces.is_empty() => {
            vec![check("plan", Unknown, "no interface was named", wanted).remedy("oxide doctor --config FILE")]
        }
        Err(refusal) => {
            let one = |r: &crate::plan::Reason| {
                check("plan", Fail, format!("{}: {}", r.subject, r.text), "a plan").remedy(r.remedy.clone())
            };
            refusal.reasons.iter().map(one).collect()
        }
        Ok(plan) => {
            let find = |code| plan.warnings.iter().find(|w| w.code == code);
            let smt = match find(WarningCode::SmtShared) {
                Some(w) => check("smt", Warn, w.text.clone(), "one actor on a physical core").remedy(w.remedy.clone()),
                None => check("smt", Pass, "no two actors on one physical core", "one actor on a physical core"),
            };
            let whole = match find(WarningCode::CpuShared) {
                Some(w) => check("plan", Warn, w.text.clone(), wanted).remedy(w.remedy.clone()),
                None => check("plan", Pass, format!("{} actors", plan.actors.len()), wanted),
            };
            vec![smt, whole]
        }
    }
}
