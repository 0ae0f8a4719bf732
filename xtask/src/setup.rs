//! Lists the Debian packages that this workspace needs, finds missing ones and installs them.

use crate::process::{Cancel, Result, failed, has_program, is_root, path_with_sbin, run_visible};
use std::path::Path;
use std::process::{Command, Stdio};

/// Names the commands that need a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// Every command that compiles the workspace.
    Build,
    /// Tests and demo: namespaces and veth.
    Lab,
    /// Tests only.
    Test,
    /// Traffic of the demo.
    Demo,
    /// Peers of the bench.
    Peers,
    /// Test tier that runs the kernels on older CPUs.
    OlderCpus,
}

impl For {
    const fn name(self) -> &'static str {
        match self {
            For::Build => "build",
            For::Lab => "test, demo, bench",
            For::Test => "test",
            For::Demo => "demo",
            For::Peers => "bench",
            For::OlderCpus => "test --tier qemu",
        }
    }
}

struct Package {
    name: &'static str,
    needed: For,
    reason: &'static str,
}

const fn package(name: &'static str, needed: For, reason: &'static str) -> Package {
    Package { name, needed, reason }
}

/// Lists every package once. The names are those of Debian 12.
const PACKAGES: &[Package] = &[
    package("gcc", For::Build, "linker"),
    package("libc6-dev", For::Build, "libraries for the linker"),
    package("pkg-config", For::Build, "finds hwloc"),
    package("libhwloc-dev", For::Build, "hwlocality: the machine's topology"),
    package("libudev-dev", For::Build, "needed by hwloc's device discovery"),
    package("iproute2", For::Lab, "ip: veth, addresses"),
    package("ethtool", For::Lab, "checksum and segmentation offload of the veth ends"),
    package("util-linux", For::Lab, "unshare, nsenter, setpriv: network namespaces that end with xtask"),
    package("mount", For::Lab, "a /sys that shows the namespace's own interfaces"),
    package("nftables", For::Lab, "forwards in the kernel: the demo's control connection, and a peer of the bench"),
    package("valgrind", For::Test, "counts the instructions of the packet path"),
    package("clang", For::Test, "compiles the XDP program to compare it with the committed object"),
    package("bind9-dnsutils", For::Demo, "dig"),
    package("dnsperf", For::Demo, "DNS query load"),
    package("dnsmasq-base", For::Demo, "the DNS server behind the relay"),
    package("wireguard-go", For::Demo, "WireGuard in user space, both ends of the tunnel"),
    package("wireguard-tools", For::Demo, "wg: keys and peers"),
    package("iperf3", For::Demo, "TCP inside the tunnel, UDP both ways"),
    package("nginx", For::Demo, "serves the 100 MB file inside the tunnel"),
    package("curl", For::Demo, "fetches the file"),
    package("dpdk-dev", For::Peers, "dpdk-testpmd"),
    package("librte-net-af-xdp23", For::Peers, "its AF_XDP driver"),
    package("librte-net-af-packet23", For::Peers, "its AF_PACKET driver"),
    package("libnginx-mod-stream", For::Peers, "nginx as a UDP proxy"),
    package("socat", For::Peers, "a UDP relay of one flow"),
    package("qemu-user", For::OlderCpus, "runs the tests of the vector kernels on a Nehalem and on a Haswell"),
];

/// Selects what happens to missing packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Install them.
    Install,
    /// List them and fail (`--no-install`).
    Refuse,
}

/// Ensures that every package for `wanted` is installed.
pub(crate) fn ensure(cancel: &Cancel, wanted: &[For], policy: Policy) -> Result<()> {
    let needed: Vec<&Package> = PACKAGES.iter().filter(|p| wanted.contains(&p.needed)).collect();
    if !has_program("dpkg-query") || !has_program("apt-get") {
        return without_apt(&needed);
    }
    let missing = missing(&needed)?;
    if missing.is_empty() {
        return Ok(());
    }
    println!("Debian packages missing:");
    for p in &missing {
        println!("  {:<16} {:<16} {}", p.name, p.needed.name(), p.reason);
    }
    let names: Vec<&str> = missing.iter().map(|p| p.name).collect();
    let line = apt_line(&names);
    if policy == Policy::Refuse {
        return failed(format!("--no-install: {} packages are missing; to fix:\n  {line}", names.len()));
    }
    install(cancel, &names, &line)?;
    let still = self::missing(&needed)?;
    if still.is_empty() {
        return Ok(());
    }
    let still: Vec<&str> = still.iter().map(|p| p.name).collect();
    failed(format!("apt-get: it succeeded, but dpkg does not list: {}", still.join(" ")))
}

/// Reports that everything is installed (for `cargo xtask setup`).
pub(crate) fn report_complete() {
    println!("all {} Debian packages are installed", PACKAGES.len());
}

fn apt_line(names: &[&str]) -> String {
    let sudo = if is_root() { "" } else { "sudo " };
    format!("{sudo}apt-get install --no-install-recommends {}", names.join(" "))
}

/// Handles a system without apt, on which the programs may exist. Build packages cannot be checked.
fn without_apt(needed: &[&Package]) -> Result<()> {
    const PROGRAMS: &[(&str, For)] = &[
        ("cc", For::Build),
        ("ip", For::Lab),
        ("ethtool", For::Lab),
        ("nsenter", For::Lab),
        ("setpriv", For::Lab),
        ("dig", For::Demo),
        ("dnsperf", For::Demo),
        ("dnsmasq", For::Demo),
        ("wireguard-go", For::Demo),
        ("wg", For::Demo),
        ("iperf3", For::Demo),
        ("nginx", For::Demo),
        ("curl", For::Demo),
        ("nft", For::Demo),
    ];
    let wanted = |f: For| needed.iter().any(|p| p.needed == f);
    let absent: Vec<&str> = PROGRAMS.iter().filter(|(n, f)| wanted(*f) && !has_program(n)).map(|(n, _)| *n).collect();
    if absent.is_empty() {
        println!("no apt-get: continuing, because every needed program is on the PATH");
        return Ok(());
    }
    let list: Vec<String> = needed.iter().map(|p| format!("  {:<16} {}", p.name, p.reason)).collect();
    failed(format!(
        "setup: no apt-get, and these programs are missing: {}\n\
         To fix: install your distribution's equivalents of these Debian packages:\n{}",
        absent.join(" "),
        list.join("\n")
    ))
}

fn missing<'a>(needed: &[&'a Package]) -> Result<Vec<&'a Package>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(needed.iter().map(|p| p.name))
        .env("PATH", path_with_sbin())
        .stderr(Stdio::null()) // it prints unknown packages there; this function lists them itself
        .output()
        .map_err(crate::process::io_error("dpkg-query"))?;
    let known = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed = |name: &str| known.lines().any(|l| l.split_once(' ') == Some((name, "installed")));
    Ok(needed.iter().copied().filter(|p| !installed(p.name)).collect())
}

/// Installs packages. Runs as root with the package names as arguments.
///
/// `policy-rc.d` (invoke-rc.d(8)) prevents the start of the packages' daemons. It exists only while apt-get runs, and
/// the shell removes it even if xtask is killed. The script also disables a daemon's start at the next boot.
const INSTALL_SCRIPT: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
trap 'exit 130' INT
trap 'exit 143' TERM HUP
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
apt="apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0"
if ! ls /var/lib/apt/lists/*_Packages* > /dev/null 2>&1; then
    $apt -q update
    updated=1
fi
if ! $apt -q install -y --no-install-recommends "$@"; then
    # The lists may be older than the mirror.
    [ -z "${updated:-}" ] || exit 1
    $apt -q update
    $apt -q install -y --no-install-recommends "$@"
fi
for name in "$@"; do
    case "$name" in
    nginx)
        deb-systemd-helper disable nginx.service > /dev/null 2>&1 || true
        update-rc.d nginx disable > /dev/null 2>&1 || true
        ;;
    esac
done
"#;

fn install(cancel: &Cancel, names: &[&str], line: &str) -> Result<()> {
    let mut command = if is_root() {
        Command::new("sh")
    } else if has_program("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.arg("sh");
        sudo
    } else {
        return failed(format!("setup: not root, and sudo is not installed; to fix: run as root\n  {line}"));
    };
    println!("installing them: {line}");
    command.args(["-c", INSTALL_SCRIPT, "xtask-setup"]).args(names).env("PATH", path_with_sbin());
    command.stdin(if is_root() { Stdio::null() } else { Stdio::inherit() });
    // sudo reads the password from the terminal, which only the foreground group may read.
    let status = if is_root() {
        run_visible(cancel, &mut command)?
    } else {
        command.status().map_err(crate::process::io_error("sudo"))?
    };
    cancel.check()?;
    if status.success() {
        return Ok(());
    }
    let hint = if Path::new("/etc/debian_version").exists() { "" } else { " (not Debian: the names may differ)" };
    failed(format!("setup: the installation failed ({status}){hint}; to fix: run manually\n  {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_named_once_with_a_reason() {
        let mut names: Vec<&str> = PACKAGES.iter().map(|p| p.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PACKAGES.len());
        assert!(PACKAGES.iter().all(|p| !p.reason.is_empty()));
    }

    #[test]
    fn install_script_is_valid_shell() {
        let status = Command::new("sh").args(["-n", "-c", INSTALL_SCRIPT]).status();
        assert!(status.is_ok_and(|s| s.success()));
    }
}
