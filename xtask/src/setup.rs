//! The Debian packages this workspace needs: which, why, what is missing, and their installation.

use crate::process::{Cancel, Result, failed, has_program, is_root, path_with_sbin, run_visible};
use std::path::Path;
use std::process::{Command, Stdio};

/// Which command needs a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// Anything that compiles the workspace.
    Build,
    /// Tests and the demo: namespaces and veth.
    Lab,
    /// Tests alone.
    Test,
    /// The demo's traffic.
    Demo,
    /// The forwarders that the bench measures beside ours.
    Peers,
    /// The tier that runs kernels as lesser CPUs.
    LesserCpus,
}

impl For {
    const fn name(self) -> &'static str {
        match self {
            For::Build => "build",
            For::Lab => "test, demo, bench",
            For::Test => "test",
            For::Demo => "demo",
            For::Peers => "bench",
            For::LesserCpus => "test --tier qemu",
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

/// Every package, once. Names are those of Debian 12.
const PACKAGES: &[Package] = &[
    package("gcc", For::Build, "linker"),
    package("libc6-dev", For::Build, "what it links with"),
    package("pkg-config", For::Build, "finds hwloc"),
    package("libhwloc-dev", For::Build, "hwlocality: the machine's topology"),
    package("libudev-dev", For::Build, "hwloc's device discovery links it"),
    package("iproute2", For::Lab, "ip: veth, addresses"),
    package("ethtool", For::Lab, "checksum and segmentation offload of the veth ends"),
    package("util-linux", For::Lab, "unshare, nsenter, setpriv: network namespaces that die with us"),
    package("mount", For::Lab, "a /sys that shows the namespace's own interfaces"),
    package("nftables", For::Lab, "forwards in the kernel: the demo's control connection, and a peer of the bench"),
    package("valgrind", For::Test, "counts the instructions of the packet path"),
    package("clang", For::Test, "compiles the XDP program anew: is the committed object what its source says?"),
    package("bind9-dnsutils", For::Demo, "dig"),
    package("dnsperf", For::Demo, "DNS query load"),
    package("dnsmasq-base", For::Demo, "the DNS server behind the relay"),
    package("wireguard-go", For::Demo, "WireGuard in user space, both ends of the tunnel"),
    package("wireguard-tools", For::Demo, "wg: keys and peers"),
    package("iperf3", For::Demo, "TCP inside the tunnel, UDP both ways"),
    package("nginx", For::Demo, "serves the 100 MB file inside the tunnel"),
    package("curl", For::Demo, "fetches it"),
    package("dpdk-dev", For::Peers, "dpdk-testpmd"),
    package("librte-net-af-xdp23", For::Peers, "its AF_XDP driver"),
    package("librte-net-af-packet23", For::Peers, "its AF_PACKET driver"),
    package("libnginx-mod-stream", For::Peers, "nginx as a UDP proxy"),
    package("socat", For::Peers, "a UDP relay of one flow"),
    package("qemu-user", For::LesserCpus, "runs the tests of the vector kernels as a Nehalem and as a Haswell"),
];

/// What may be done about missing packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Install them.
    Install,
    /// Refuse and list (`--no-install`).
    Refuse,
}

/// Sees to it that every package for `wanted` is there.
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
        return failed(format!("--no-install: {} packages are missing. Install them with\n  {line}", names.len()));
    }
    install(cancel, &names, &line)?;
    let still = self::missing(&needed)?;
    if still.is_empty() {
        return Ok(());
    }
    let still: Vec<&str> = still.iter().map(|p| p.name).collect();
    failed(format!("apt-get ended well, but dpkg still misses: {}", still.join(" ")))
}

/// Says that everything is there (for `cargo xtask setup`).
pub(crate) fn report_complete() {
    println!("all {} Debian packages are installed", PACKAGES.len());
}

fn apt_line(names: &[&str]) -> String {
    let sudo = if is_root() { "" } else { "sudo " };
    format!("{sudo}apt-get install --no-install-recommends {}", names.join(" "))
}

/// No apt: the programs can still be there. Build packages cannot be checked, the programs can.
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
        println!("no apt-get here: going on, since every program needed is on the PATH");
        return Ok(());
    }
    let list: Vec<String> = needed.iter().map(|p| format!("  {:<16} {}", p.name, p.reason)).collect();
    failed(format!(
        "this is not a Debian system with apt-get, and these programs are missing: {}\n\
         Install your distribution's counterparts of these Debian packages:\n{}",
        absent.join(" "),
        list.join("\n")
    ))
}

fn missing<'a>(needed: &[&'a Package]) -> Result<Vec<&'a Package>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(needed.iter().map(|p| p.name))
        .env("PATH", path_with_sbin())
        .stderr(Stdio::null()) // it names the unknown ones there, and so do we
        .output()
        .map_err(crate::process::io_error("dpkg-query"))?;
    let known = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed = |name: &str| known.lines().any(|l| l.split_once(' ') == Some((name, "installed")));
    Ok(needed.iter().copied().filter(|p| !installed(p.name)).collect())
}

/// Run as root with the package names as arguments.
///
/// `policy-rc.d` (invoke-rc.d(8)) keeps the packages' daemons from starting; it is there only while
/// apt-get runs, and the shell removes it even if xtask is killed. Nor does a daemon installed here start at the next boot.
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
        return failed(format!("not root, and sudo is not installed. As root run\n  {line}"));
    };
    println!("installing them: {line}");
    command.args(["-c", INSTALL_SCRIPT, "xtask-setup"]).args(names).env("PATH", path_with_sbin());
    command.stdin(if is_root() { Stdio::null() } else { Stdio::inherit() });
    // sudo asks for a password on the terminal, which only the foreground group may read.
    let status = if is_root() {
        run_visible(cancel, &mut command)?
    } else {
        command.status().map_err(crate::process::io_error("sudo"))?
    };
    cancel.check()?;
    if status.success() {
        return Ok(());
    }
    let hint = if Path::new("/etc/debian_version").exists() { "" } else { " (this is not Debian: names may differ)" };
    failed(format!("the installation failed ({status}){hint}. By hand:\n  {line}"))
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
