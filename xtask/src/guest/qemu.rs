//! One boot: QEMU's command line, its console, and its end.
//!
//! Only software emulation is used: a nested KVM that opens may still fail on an ordinary kernel. QEMU belongs to
//! this process (`setpriv --pdeathsig KILL`), runs at low priority and has a hard time limit.

use super::packages::Packages;
use crate::process::{Cancel, Result, failed, io_error, path_with_sbin};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The network cards of the relay in the guest; both ends are igb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nics {
    /// Emulated 82576 with eight queues, RSS and zero-copy on Linux 6.18 and newer.
    Igb,
    /// virtio-net with one queue pair, behind an emulated IOMMU as zero-copy needs it.
    Virtio,
    /// virtio-net with twice as many queue pairs as CPUs, on taps of a network namespace: needs root.
    VirtioSpare,
}

impl Nics {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Nics::Igb => "igb",
            Nics::Virtio => "virtio",
            Nics::VirtioSpare => "virtio-spare",
        }
    }
}

/// CPUs of the guest, two on each of two NUMA nodes.
const CPUS: u32 = 4;
/// Queue pairs of [`Nics::VirtioSpare`].
const SPARE_PAIRS: u32 = 2 * CPUS;
/// Time until the first process of the guest runs. Of a hundred boots, two hung in an emulated timer.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// Builds both wires of [`Nics::VirtioSpare`] and becomes the program that follows.
const TAPS: &str = "set -e
ip link add br0 type bridge mcast_snooping 0; ip link add br1 type bridge mcast_snooping 0
for n in 1 2 3 4; do
  case $n in 2|3) queues=multi_queue;; *) queues=;; esac
  ip tuntap add dev t$n mode tap $queues; ip link set t$n master br$((n / 3)) txqueuelen 10000 up
done
for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 > $f; done
ip link set br0 up; ip link set br1 up; exec \"$@\"";

/// What one boot needs.
#[derive(Debug)]
pub(super) struct Boot<'a> {
    pub(super) packages: &'a Packages,
    pub(super) kernel: &'a Path,
    pub(super) initrd: &'a Path,
    /// The folder that the guest mounts on /host.
    pub(super) share: &'a Path,
    pub(super) nics: Nics,
    pub(super) limit: Duration,
}

/// How a boot ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The guest's program ended with this status.
    Status(i32),
    /// The guest did not reach its first process.
    NoBoot,
    /// The time limit passed, or the guest stopped before its program ended.
    Early(&'static str),
}

impl Boot<'_> {
    /// Boots and gives each console line to `each`. A line `@monitor COMMAND` goes to QEMU's monitor.
    pub(super) fn run(&self, cancel: &Cancel, mut each: impl FnMut(&str)) -> Result<Ended> {
        let monitor = self.share.join("monitor");
        let _ = std::fs::remove_file(&monitor);
        let mut command = self.command(&monitor);
        let mut child = Owned(command.spawn().map_err(io_error("cannot start qemu-system-x86_64"))?);
        let Some(output) = child.0.stdout.take() else { return failed("qemu has no console") };
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(std::io::Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    return;
                }
            }
        });
        let started = Instant::now();
        let (mut up, mut ended) = (false, None);
        loop {
            cancel.check()?;
            match lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => {
                    up |= line.starts_with("@up");
                    if let Some(status) = line.strip_prefix("@end ") {
                        ended = status.parse().ok();
                    }
                    if let Some(command) = line.strip_prefix("@monitor ") {
                        tell_monitor(&monitor, command)?;
                    }
                    each(&line);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            if started.elapsed() > self.limit {
                return Ok(ended.map_or(Ended::Early("the time limit passed"), Ended::Status));
            }
            if !up && started.elapsed() > BOOT_LIMIT {
                return Ok(Ended::NoBoot);
            }
        }
        Ok(match ended {
            Some(status) => Ended::Status(status),
            None if up => Ended::Early("the guest stopped before its tests ended"),
            None => Ended::NoBoot,
        })
    }

    fn command(&self, monitor: &Path) -> Command {
        let qemu = self.packages.qemu().join("root");
        let library = qemu.join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "nice", "-n", "10"]);
        if self.nics == Nics::VirtioSpare {
            command.args(["unshare", "--net", "--mount", "--", "sh", "-c", TAPS, "sh"]);
        }
        // Only QEMU itself sees its libraries: the tools before it are the host's.
        let path = format!("LD_LIBRARY_PATH={}:{}", library.display(), qemu.join("lib/x86_64-linux-gnu").display());
        command.args(["env", &path]).arg(qemu.join("usr/bin/qemu-system-x86_64"));
        for folder in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(qemu.join(folder));
        }
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initrd);
        command
            .arg("-virtfs")
            .arg(format!("local,path={},mount_tag=host,security_model=none,readonly=on", self.share.display()));
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", monitor.display()));
        command.args(arguments(self.nics).split_whitespace());
        // A busy host delays the emulated timer, and the kernel's check of it fails. The reserved range is where
        // virtio_net in zero-copy may take its header from, a fault of that driver.
        command.args([
            "-append",
            "console=ttyS0 rdinit=/init panic=-1 quiet no_timer_check nokaslr memmap=64M$0x40000000",
        ]);
        command.env("PATH", path_with_sbin()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command
    }
}

/// Machine, memory, nodes and network. NICs have MAC 52:54:00:00:00:0N: 1 is the client's end, 2 and 3 are the
/// relay's, 4 is the server's end. 1 and 2 share a wire, 3 and 4 another.
fn arguments(nics: Nics) -> String {
    let mut text = format!(
        "-machine q35 -accel tcg,thread=multi -cpu max -smp {CPUS},sockets=2,cores=2,threads=1 -m 3G -nodefaults \
         -no-user-config -display none -no-reboot -serial stdio \
         -object memory-backend-ram,id=m0,size=1536M -object memory-backend-ram,id=m1,size=1536M \
         -numa node,memdev=m0,cpus=0-1 -numa node,memdev=m1,cpus=2-3 -numa dist,src=0,dst=1,val=21 \
         -device pxb-pcie,id=px0,bus=pcie.0,bus_nr=32,numa_node=0 -device pxb-pcie,id=px1,bus=pcie.0,bus_nr=96,numa_node=1"
    );
    let virtio = "virtio-net-pci,disable-legacy=on,iommu_platform=on,rx_queue_size=1024";
    let spare = format!("{virtio},mq=on,vectors={}", 2 * SPARE_PAIRS + 2);
    for n in 1..=4_u32 {
        let relay = n == 2 || n == 3;
        let device = match nics {
            Nics::Virtio if relay => virtio,
            Nics::VirtioSpare if relay => &spare,
            _ => "igb",
        };
        let backend = if nics == Nics::VirtioSpare {
            let queues = if relay { SPARE_PAIRS } else { 1 };
            format!("tap,id=h{n},ifname=t{n},script=no,downscript=no,vhost=off,queues={queues}")
        } else {
            format!("hubport,id=h{n},hubid={}", n.div_ceil(2))
        };
        // All on node 0, so that a test can take node 1's CPUs and memory away or force them.
        let _ = write!(
            text,
            " -netdev {backend} -device pcie-root-port,id=rp{n},bus=px0,chassis={0},slot={0} \
             -device {device},id=nic{n},bus=rp{n},netdev=h{n},mac=52:54:00:00:00:0{n}",
            10 + n
        );
    }
    text
}

/// Gives one line to the human monitor, through the machine protocol (docs/interop/qmp-spec.rst of QEMU).
fn tell_monitor(socket: &PathBuf, command: &str) -> Result<()> {
    let what = || format!("qemu's monitor, {command}");
    let stream = UnixStream::connect(socket).map_err(io_error(what()))?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(io_error(what()))?;
    let mut lines = BufReader::new(&stream).lines();
    let request = serde_json::json!({"execute": "human-monitor-command", "arguments": {"command-line": command}});
    for message in [r#"{"execute":"qmp_capabilities"}"#.to_owned(), request.to_string()] {
        (&stream).write_all(format!("{message}\n").as_bytes()).map_err(io_error(what()))?;
    }
    // A greeting, two answers, and events between them.
    let mut answers = 0;
    while answers < 2 {
        let line = match lines.next() {
            Some(line) => line.map_err(io_error(what()))?,
            None => return failed(format!("{}: no answer", what())),
        };
        let value: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(error) = value.get("error") {
            return failed(format!("{}: {error}", what()));
        }
        answers += u32::from(value.get("return").is_some());
    }
    Ok(())
}

/// QEMU's process, killed when dropped.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_has_the_chosen_cards_and_ends_are_igb() {
        let count = |nics, what| arguments(nics).matches(what).count();
        assert_eq!((count(Nics::Igb, "-device igb"), count(Nics::Igb, "virtio-net")), (4, 0));
        assert_eq!((count(Nics::Virtio, "-device igb"), count(Nics::Virtio, "virtio-net")), (2, 2));
        assert_eq!(count(Nics::VirtioSpare, "queues=8"), 2);
        // Two wires with two ends each.
        assert_eq!((count(Nics::Igb, "hubid=1"), count(Nics::Igb, "hubid=2")), (2, 2));
    }
}
