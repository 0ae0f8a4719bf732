//! Limits the system calls with seccomp. The filters are installed before the first thread starts, so that they apply
//! to every thread.
//!
//! | answer | to |
//! |---|---|
//! | allowed | calls of start, restart, reload, packets and admin endpoints; found by strace(1) on the tests and the drill |
//! | the process ends (SIGSYS) | calls that no relay makes: run a program, load a module, mount, trace another process |
//! | ENOSYS | calls newer than these lists: libc then uses an older call |
//! | EPERM | everything else; the caller continues after the error |
//!
//! No filter sees the operations of io_uring. If an executor needs io_uring, an attacker who controls the process can
//! create any kind of socket. Landlock and the capabilities still limit it.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};

/// Calls that are allowed with any arguments.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // Memory. No page is both writable and executable: `mmap` and `mprotect` are limited below.
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_mlock, libc::SYS_mlock2,
    libc::SYS_munlock, libc::SYS_mbind, libc::SYS_get_mempolicy, libc::SYS_set_mempolicy, libc::SYS_move_pages,
    libc::SYS_membarrier,
    // Threads.
    libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_rseq, libc::SYS_set_tid_address,
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_sched_yield, libc::SYS_sched_setaffinity,
    libc::SYS_sched_getaffinity, libc::SYS_sched_setscheduler, libc::SYS_sched_getscheduler,
    libc::SYS_sched_setparam, libc::SYS_sched_getparam, libc::SYS_sched_setattr, libc::SYS_sched_getattr,
    libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min, libc::SYS_getcpu, libc::SYS_getpid,
    libc::SYS_gettid, libc::SYS_getppid, libc::SYS_getpriority, libc::SYS_setpriority,
    // Signals. abort(3) uses `tgkill`; `kill` is not needed.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack, libc::SYS_restart_syscall, libc::SYS_tgkill,
    // Time.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
    libc::SYS_gettimeofday, libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime,
    // Files. Landlock limits which ones.
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_write, libc::SYS_writev,
    libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_lseek, libc::SYS_openat, libc::SYS_openat2, libc::SYS_close,
    libc::SYS_close_range, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_faccessat,
    libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_getdents64, libc::SYS_fcntl, libc::SYS_dup, libc::SYS_dup3,
    libc::SYS_pipe2, libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_ftruncate,
    libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_getcwd, libc::SYS_fstatfs, libc::SYS_statfs,
    // Waiting.
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2, libc::SYS_eventfd2,
    // Sockets. Their kinds are limited below. `listen` is absent: all listeners are open before.
    libc::SYS_bind, libc::SYS_connect, libc::SYS_accept, libc::SYS_accept4, libc::SYS_sendto, libc::SYS_recvfrom,
    libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_recvmmsg, libc::SYS_getsockname,
    libc::SYS_getpeername, libc::SYS_setsockopt, libc::SYS_getsockopt, libc::SYS_shutdown, libc::SYS_socketpair,
    // Information about the process and the host.
    libc::SYS_prlimit64, libc::SYS_getrlimit, libc::SYS_getrusage, libc::SYS_times, libc::SYS_sysinfo,
    libc::SYS_uname, libc::SYS_getrandom, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid,
    libc::SYS_capget,
];

/// Calls that libc uses on x86-64 instead.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_unlink,
    libc::SYS_rename, libc::SYS_dup2, libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_wait, libc::SYS_time,
    libc::SYS_getdents, libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

const IO_URING: &[c_long] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Calls that end the process, because the relay never makes them.
#[rustfmt::skip]
const NEVER: &[c_long] = &[
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd, libc::SYS_kexec_load, libc::SYS_kexec_file_load, libc::SYS_init_module,
    libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_mount, libc::SYS_umount2, libc::SYS_move_mount,
    libc::SYS_open_tree, libc::SYS_fsopen, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_pivot_root,
    libc::SYS_chroot, libc::SYS_setns, libc::SYS_unshare, libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff,
    libc::SYS_open_by_handle_at, libc::SYS_userfaultfd, libc::SYS_perf_event_open, libc::SYS_add_key,
    libc::SYS_request_key, libc::SYS_keyctl, libc::SYS_acct, libc::SYS_settimeofday, libc::SYS_clock_settime,
    libc::SYS_sethostname, libc::SYS_setdomainname,
];

/// Call numbers that are equal on every architecture (arch/x86/entry/syscalls/syscall_64.tbl). They are so new that
/// libc has a fallback for them.
const NEW: std::ops::Range<c_long> = 424..512;

/// bpf(2) commands (enum bpf_cmd) to create, fill, query and detach maps, programs and links. No command pins,
/// iterates, or attaches without a link.
const BPF_COMMANDS: &[u64] = &[0, 1, 2, 3, 4, 5, 13, 14, 15, 18, 22, 28, 29, 30, 31, 34];
/// ioctl(2) requests: FIONREAD, FIONBIO, FIOCLEX; TCGETS, TIOCGWINSZ; name, flags, MTU, address and index of a
/// device; SIOCETHTOOL.
const IOCTLS: &[u64] =
    &[0x541b, 0x5421, 0x5451, 0x5401, 0x5413, 0x8910, 0x8912, 0x8913, 0x8921, 0x8927, 0x8933, 0x8946];
/// PR_SET_NAME, PR_GET_NAME, PR_SET_TIMERSLACK, PR_CAPBSET_READ, PR_SET_VMA (names of mappings).
const PRCTLS: &[u64] = &[15, 16, 29, 23, 0x5356_4d41];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Installs the filters. `io_uring` states whether an executor needs io_uring.
///
/// # Errors
/// Returns the kernel's error as text.
pub(super) fn restrict(io_uring: bool) -> Result<(), String> {
    for program in programs(io_uring).map_err(|e| e.to_string())? {
        apply_filter_all_threads(&program).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Builds the three filters in the order of their installation: the last one forbids further filters. If filters
/// disagree about a call, the kernel uses the strictest action (seccomp(2)).
fn programs(io_uring: bool) -> Result<[BpfProgram; 3], BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut allowed = allowed(io_uring)?;
    let new: Vec<c_long> = NEW.filter(|call| !allowed.contains_key(call) && !NEVER.contains(call)).collect();
    // The filter that answers ENOSYS decides about these calls.
    allowed.extend(plain(&new));
    let program = |rules: Rules, otherwise, then| SeccompFilter::new(rules, otherwise, then, arch)?.try_into();
    let errno = |error: i32| SeccompAction::Errno(error.unsigned_abs());
    Ok([
        program(plain(NEVER), SeccompAction::Allow, SeccompAction::KillProcess)?,
        program(plain(&new), SeccompAction::Allow, errno(libc::ENOSYS))?,
        program(allowed, errno(libc::EPERM), SeccompAction::Allow)?,
    ])
}

fn allowed(io_uring: bool) -> Result<Rules, BackendError> {
    let mut rules = plain(ALLOWED);
    rules.extend(plain(ALLOWED_HERE));
    if io_uring {
        rules.extend(plain(IO_URING));
    }
    // A filter cannot see the flags of clone3(2), so clone3 counts as a new call, and libc falls back to clone(2).
    // The rule allows threads and no processes.
    rules.insert(libc::SYS_clone, one_of([masked(0, libc::CLONE_THREAD as u64, libc::CLONE_THREAD as u64)?])?);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, one_of([masked(2, libc::PROT_EXEC as u64, 0)?])?);
    }
    rules.insert(libc::SYS_socket, sockets()?);
    rules.insert(libc::SYS_bpf, equal(0, BPF_COMMANDS)?);
    rules.insert(libc::SYS_ioctl, equal(1, IOCTLS)?);
    rules.insert(libc::SYS_prctl, equal(0, PRCTLS)?);
    Ok(rules)
}

/// Allows AF_XDP; Unix sockets for the service manager; netlink for routes, devices and the queues in use; datagram
/// sockets for ioctl(2) on devices. It allows no packet sockets, raw sockets or TCP sockets.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    let domain = |domain: i32| masked(0, u64::from(u32::MAX), domain as u64);
    // The higher bits of the type are flags (SOCK_NONBLOCK, SOCK_CLOEXEC).
    let datagrams = || masked(1, 0xf, libc::SOCK_DGRAM as u64);
    let protocol = |protocol: i32| masked(2, u64::from(u32::MAX), protocol as u64);
    [
        vec![domain(libc::AF_XDP)?],
        vec![domain(libc::AF_UNIX)?],
        vec![domain(libc::AF_NETLINK)?, protocol(libc::NETLINK_ROUTE)?],
        vec![domain(libc::AF_NETLINK)?, protocol(libc::NETLINK_GENERIC)?],
        vec![domain(libc::AF_NETLINK)?, protocol(libc::NETLINK_SOCK_DIAG)?],
        vec![domain(libc::AF_INET)?, datagrams()?],
        vec![domain(libc::AF_INET6)?, datagrams()?],
    ]
    .into_iter()
    .map(SeccompRule::new)
    .collect()
}

fn plain(calls: &[c_long]) -> Rules {
    calls.iter().map(|&call| (call, Vec::new())).collect()
}

/// Matches if argument `argument` is one of `values`. The kernel reads these arguments as 32 bits.
fn equal(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    let one = |&value| SeccompRule::new(vec![masked(argument, u64::from(u32::MAX), value)?]);
    values.iter().map(one).collect()
}

fn one_of<const N: usize>(conditions: [SeccompCondition; N]) -> Result<Vec<SeccompRule>, BackendError> {
    conditions.into_iter().map(|condition| SeccompRule::new(vec![condition])).collect()
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_system_call_is_in_one_list_and_filters_load() {
        let mut seen = std::collections::HashSet::new();
        let conditional = [
            libc::SYS_clone,
            libc::SYS_mmap,
            libc::SYS_mprotect,
            libc::SYS_socket,
            libc::SYS_bpf,
            libc::SYS_ioctl,
            libc::SYS_prctl,
        ];
        for call in [ALLOWED, ALLOWED_HERE, IO_URING, NEVER, &conditional].concat() {
            assert!(seen.insert(call), "call {call} is in two lists");
        }
        assert!(!seen.contains(&libc::SYS_clone3) && NEW.contains(&libc::SYS_clone3), "libc must fall back");
        // The limit is BPF_MAXINSNS of include/uapi/linux/bpf_common.h.
        let lengths = programs(true).unwrap().each_ref().map(Vec::len);
        assert!(lengths.iter().all(|length| *length <= 4096), "{lengths:?}");
        assert!(IO_URING.iter().all(|call| allowed(true).unwrap().contains_key(call)));
        assert!(IO_URING.iter().all(|call| !allowed(false).unwrap().contains_key(call)));
    }
}
