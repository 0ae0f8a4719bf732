//! The topology inside the guest: client and server in namespaces of their own, the relay's two ports between them.

use crate::process::{Result, failed, io_error};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The relay's ports and their addresses of both families.
const PORTS: [(&str, &str, &str); 2] =
    [("ra", "198.18.0.1/24", "2001:db8:1::1/64"), ("rb", "198.19.0.1/24", "2001:db8:2::1/64")];
/// The ends: namespace, interface, addresses.
const ENDS: [(&str, &str, &str, &str); 2] =
    [("c", "c0", "198.18.0.2/24", "2001:db8:1::2/64"), ("s", "s0", "198.19.0.2/24", "2001:db8:2::2/64")];

/// Runs a command to its end; its standard output.
pub(super) fn run(argv: &[&str]) -> Result<String> {
    let Some((program, rest)) = argv.split_first() else { return failed("no command") };
    let output = Command::new(program).args(rest).stdin(Stdio::null()).output().map_err(io_error(argv.join(" ")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    failed(format!("{}: {}: {}{}", argv.join(" "), output.status, text(&output.stderr), text(&output.stdout)))
}

/// Runs a command line without quotes.
pub(super) fn run_line(line: &str) -> Result<String> {
    run(&line.split_whitespace().collect::<Vec<_>>())
}

/// Reads a file of /sys or /proc without its line end.
pub(super) fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(io_error(path))
}

/// Writes a file of /sys or /proc.
pub(super) fn write(path: &str, text: &str) -> Result<()> {
    fs::write(path, text).map_err(io_error(path))
}

/// Waits until `done` holds; the limit allows for software emulation on a loaded machine.
pub(super) fn wait_until(what: &str, limit_s: u64, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(limit_s);
    while !done() {
        if Instant::now() > end {
            return failed(format!("{what}: not within {limit_s} s"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The interface with MAC 52:54:00:00:00:0`n`.
pub(super) fn interface(n: u32) -> Option<String> {
    let entries = fs::read_dir("/sys/class/net").ok()?.flatten();
    let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.find(|name| {
        read(&format!("/sys/class/net/{name}/address")).is_ok_and(|mac| mac == format!("52:54:00:00:00:0{n}"))
    })
}

/// The driver of one of the relay's ports.
pub(super) fn driver(port: &str) -> String {
    let link = fs::read_link(format!("/sys/class/net/{port}/device/driver")).unwrap_or_default();
    link.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Builds the topology and waits until both wires carry packets.
pub(super) fn create() -> Result<()> {
    for (n, (namespace, name, v4, v6)) in [1, 4].into_iter().zip(ENDS) {
        let Some(nic) = interface(n) else { return failed(format!("no NIC with MAC number {n}")) };
        run_line(&format!("ip netns add {namespace}"))?;
        run_line(&format!("ip link set {nic} name {name} netns {namespace}"))?;
        let inside = |line: String| run_line(&format!("ip netns exec {namespace} {line}"));
        inside("ip link set lo up".to_owned())?;
        for key in ["accept_dad", "router_solicitations"] {
            inside(format!("sysctl -qw net.ipv6.conf.{name}.{key}=0"))?;
        }
        inside(format!("ethtool -K {name} rx off tso off gso off gro off"))?;
        inside(format!("ip link set {name} up"))?;
        inside(format!("ip addr add {v4} dev {name}"))?;
        inside(format!("ip addr add {v6} dev {name} nodad"))?;
    }
    for (n, (name, ..)) in [2, 3].into_iter().zip(PORTS) {
        bring_up(n, name)?;
    }
    wait_wires()
}

/// Names one of the relay's ports and gives it its addresses, as a network manager does after a NIC appeared.
pub(super) fn bring_up(n: u32, name: &str) -> Result<()> {
    wait_until("the NIC appears", 60, || interface(n).is_some())?;
    let nic = interface(n).unwrap_or_default();
    if nic != name {
        run_line(&format!("ip link set {nic} name {name}"))?;
    }
    for key in ["accept_dad", "router_solicitations"] {
        run_line(&format!("sysctl -qw net.ipv6.conf.{name}.{key}=0"))?;
    }
    if driver(name) == "igb" {
        for flow in ["udp4", "udp6"] {
            run_line(&format!("ethtool -N {name} rx-flow-hash {flow} sdfn"))?;
        }
    }
    run_line(&format!("ip link set {name} up"))?;
    for (_, v4, v6) in PORTS.iter().filter(|port| port.0 == name) {
        run_line(&format!("ip addr add {v4} dev {name}"))?;
        run_line(&format!("ip addr add {v6} dev {name} nodad"))?;
    }
    Ok(())
}

/// Waits until pings pass on both wires. igb loses its link for seconds whenever a program is attached or detached.
pub(super) fn wait_wires() -> Result<()> {
    for (namespace, target) in
        [("c", "198.18.0.1"), ("s", "198.19.0.1"), ("c", "2001:db8:1::1"), ("s", "2001:db8:2::1")]
    {
        wait_until(&format!("ping to {target}"), 60, || {
            run_line(&format!("ip netns exec {namespace} ping -c 1 -W 1 {target}")).is_ok()
        })?;
    }
    Ok(())
}

/// Whether a path exists.
pub(super) fn exists(path: &str) -> bool {
    Path::new(path).exists()
}
