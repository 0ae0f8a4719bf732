//! Provides a network namespace with a pair of four-queue veths per test:
//!
//! ```text
//!   va (peer, pass-all program where needed) ---- vb (the interface that is steered)
//! ```

use std::fs;
use std::io::Write;
use std::process::Command;

/// Runs `body` in a thread with its own network namespace, which ends with its last descriptor. Prints the reason and
/// returns if this machine does not support it.
pub(crate) fn in_namespace(test: &str, body: impl FnOnce() + Send + 'static) {
    if let Some(reason) = cannot() {
        skipped(test, reason);
        return;
    }
    let thread = std::thread::spawn(move || {
        own_namespace().unwrap();
        // Set this before the veth exists, or router solicitations arrive in between.
        for which in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1").unwrap();
        }
        ip("link set lo up");
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Prints past the test harness, which hides the output of a passing test.
pub(crate) fn skipped(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

fn cannot() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    if Command::new("ip").arg("-Version").output().is_err() {
        return Some("needs iproute2 (apt-get install iproute2)");
    }
    // Try it in a thread that ends at once.
    let veth = std::thread::spawn(|| {
        own_namespace().is_ok()
            && Command::new("ip").args(["link", "add", "type", "veth"]).status().is_ok_and(|status| status.success())
    });
    (!veth.join().unwrap_or(false)).then_some("cannot make a network namespace with a veth")
}

/// Gives the calling thread a new network namespace. The function is deprecated only for flags that affect
/// descriptors.
#[allow(deprecated)]
fn own_namespace() -> rustix::io::Result<()> {
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)
}

/// Creates `va` and `vb`, up, MTU 1500, with this number of queues in each direction at both ends.
pub(crate) fn veth() {
    ip("link add va numrxqueues 4 numtxqueues 4 address 02:00:00:00:00:0a type veth \
        peer name vb numrxqueues 4 numtxqueues 4 address 02:00:00:00:00:0b");
    ip("link set va up");
    ip("link set vb up");
}

/// Runs `ip` with these arguments in the calling thread's namespace; returns its output.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns true if iproute2 shows an XDP program on the interface.
pub(crate) fn has_xdp(interface: &str) -> bool {
    ip(&format!("link show dev {interface}")).contains("prog/xdp")
}
