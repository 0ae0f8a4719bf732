//! Lists the forwarders with their command lines and requirements. A new peer needs one entry.

use super::lab::Lab;
use crate::process::{Error, Result, Running, Session, failed, has_program, io_error};
use rustix::process::Signal;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Holds the paths of programs that the workspace builds.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(super) oxide: PathBuf,
    pub(crate) lab: PathBuf,
    pub(super) l2fwd: PathBuf,
}

/// Describes the load of a forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) frame: u32,
    pub(super) flows: u32,
    pub(super) queues: u32,
    /// Number of relay entries, on ports from 5000.
    pub(super) entries: u32,
    /// Maximum number of sessions of the relay; 0 means twice the flows.
    pub(super) capacity: u32,
    /// Number of entries in each ring of the relay; 0 means its default.
    pub(super) ring_size: u32,
}

impl Load {
    pub(super) const fn new(frame: u32, flows: u32) -> Self {
        Self { frame, flows, queues: 1, entries: 1, capacity: 0, ring_size: 0 }
    }

    /// Returns the number of upstreams. Sessions share 32 Ki source ports of an address; for more flows the relay
    /// gets more entries, each with its own upstream.
    pub(super) fn upstreams(self) -> u32 {
        self.flows.div_ceil(32768)
    }

    /// Returns the number of UDP ports that the generator uses in alternation.
    pub(super) fn ports(self) -> u32 {
        self.entries.max(self.upstreams())
    }
}

/// Describes a forwarder.
pub(super) struct Subject {
    pub(super) name: &'static str,
    /// Program that must be on the PATH (or file that must exist), and its Debian package; `None` for the workspace's
    /// own.
    pub(super) needs: Option<(&'static str, &'static str)>,
    /// Whether kernel sockets receive the packets: then live frames need GRO on vb.
    gro: bool,
    /// Function that returns the command line.
    argv: fn(&Tools, &Session, Load) -> Result<Vec<String>>,
    /// Note for the reader.
    pub(super) note: &'static str,
}

impl Subject {
    /// Returns whether the forwarder can run here.
    pub(super) fn present(&self) -> bool {
        self.needs
            .is_none_or(|(what, _)| if what.starts_with('/') { Path::new(what).exists() } else { has_program(what) })
    }

    /// Returns whether it forwards without user space. Then it has no user side, and works partly on the generator's
    /// core.
    pub(super) fn in_kernel(&self) -> bool {
        ["nft-dnat", "xdp-tx", "xdp-redirect"].contains(&self.name)
    }

    /// Starts the forwarder in the testbed.
    pub(super) fn start(&self, session: &Session, lab: &Lab, tools: &Tools, load: Load) -> Result<Forwarder> {
        lab.restore(session, self.gro, load.upstreams())?;
        let argv = (self.argv)(tools, session, load)?;
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let process = lab.inner.spawn(session, self.name, &[&OWN_SYS, &argv[..]].concat())?;
        Ok(Forwarder { process })
    }
}

/// Holds a running forwarder.
#[derive(Debug)]
pub(super) struct Forwarder {
    pub(super) process: Running,
}

impl Forwarder {
    /// Stops it, and cleans up what it leaves on the interfaces.
    pub(super) fn stop(mut self, session: &Session, lab: &Lab) -> Result<()> {
        self.process.signal(Signal::INT);
        let end = Instant::now() + Duration::from_secs(2);
        while self.process.poll().is_none() && Instant::now() < end {
            session.cancel.sleep(Duration::from_millis(5))?;
        }
        drop(self.process);
        // Programs of libxdp stay attached after their process (xdp-tools#347), and so do nft's tables.
        const CLEAN: &str = "for d in vb vc; do for m in xdpdrv xdpgeneric; do ip link set dev $d $m off 2>/dev/null; done; \
            for q in /sys/class/net/$d/queues/rx-*/rps_cpus; do echo 0 > $q || exit 1; done; done; \
            command -v nft > /dev/null && nft flush ruleset; true";
        lab.inner.run(session, "clean", &[&OWN_SYS[..], &["sh", "-c", CLEAN]].concat()).map(drop)
    }
}

/// Runs a command with a /sys that shows the namespace's own interfaces, like `ip netns exec`. One forwarder sets
/// receive packet steering there, which must be reset before the next.
const OWN_SYS: [&str; 9] = ["unshare", "--mount", "--propagation", "unchanged", "--", "sh", "-c", WITH_SYSFS, "sh"];
const WITH_SYSFS: &str = "(mount --make-rprivate / || mount --make-rprivate /sys) 2>/dev/null && \
    mount -t sysfs sysfs /sys; mount -t bpf bpf /sys/fs/bpf 2>/dev/null; exec \"$@\"";

/// Name of the relay's report in the session's folder.
pub(super) const REPORT: &str = "report.json";

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn write(session: &Session, name: &str, text: &str) -> Result<String> {
    let path = session.dir.join(name);
    std::fs::write(&path, text).map_err(io_error(path.display()))?;
    Ok(path.display().to_string())
}

/// Returns the configuration of `oxide relay`. Its actors are pinned to core 1.
pub(super) fn relay_config(load: Load) -> String {
    let pins: Vec<&str> = (0..load.queues).map(|_| "1").take(1).collect();
    let mut text = format!("[engine]\ninterfaces = [\"vb\", \"vc\"]\npin = [{}]\n", pins.join(", "));
    if load.ring_size > 0 {
        let _ = writeln!(text, "ring_size = {}", load.ring_size);
    }
    let capacity = if load.capacity > 0 { load.capacity } else { (load.flows * 2).clamp(65_536, 16_777_216) };
    // The drain has no time: no packet arrives any more, and a longer end leaves no last report.
    let _ = write!(text, "\n[sessions]\ncapacity = {capacity}\nsource_ports = \"30000-65535\"\ndrain_s = 0\n");
    for n in 0..load.ports() {
        let upstream = if load.upstreams() > 1 { format!("10.100.{n}.2") } else { "10.78.0.2".to_owned() };
        let _ = write!(
            text,
            "\n[[relay]]\nname = \"r{n}\"\nlisten = \"10.77.0.2:{}\"\nupstreams = [\"{upstream}:6000\"]\nallow_private = true\n",
            5000 + n
        );
    }
    text
}

fn lab_fixture(tools: &Tools, arguments: &str) -> Vec<String> {
    let mut argv = vec![tools.lab.display().to_string(), "forward".to_owned()];
    argv.extend(words(arguments));
    argv
}

/// Returns the command line of testpmd. With two ports it sends packets out of the other port.
fn testpmd(mbufs: u32, vdevs: &str) -> Vec<String> {
    // Two threads run on core 1, and the main one sleeps. The memory files are useless with --no-shconf.
    words(&format!(
        "dpdk-testpmd --no-huge -m 256 --no-pci --no-shconf --no-telemetry --lcores 0@1,1@1 {vdevs} -- \
         --forward-mode=macswap --auto-start --total-num-mbufs={mbufs} --stats-period=60"
    ))
}

fn nginx(session: &Session) -> Result<Vec<String>> {
    let dir = session.dir.join("nginx");
    std::fs::create_dir_all(&dir).map_err(io_error(dir.display()))?;
    let dir = dir.display();
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nworker_processes 1;\ndaemon off;\nmaster_process off;\n\
         pid {dir}/pid;\nerror_log {dir}/error.log crit;\nevents {{ worker_connections 4096; }}\n\
         stream {{\n  server {{ listen 10.77.0.2:5000 udp; proxy_pass 10.78.0.2:6000; proxy_timeout 60s; }}\n}}\n"
    );
    let config = write(session, "nginx.conf", &text)?;
    Ok(words(&format!("taskset -c 1 nginx -p {dir} -c {config}")))
}

/// Sets up kernel forwarding with address translation, moved to core 1 by receive packet steering.
const NFT: &str = "nft 'table ip lab { chain pre { type nat hook prerouting priority dstnat; udp dport 5000 dnat to 10.78.0.2:6000; }; \
    chain post { type nat hook postrouting priority srcnat; oifname \"vc\" masquerade; }; }' && \
    for q in /sys/class/net/vb/queues/rx-*/rps_cpus; do echo 2 > $q; done; exec sleep infinity";

/// Lists every forwarder.
pub(super) const SUBJECTS: &[Subject] = &[
    Subject {
        name: "sink",
        needs: None,
        gro: false,
        argv: |tools, _, _| Ok(lab_fixture(tools, "sink")),
        note: "no forwarder: packets end at an XDP drop",
    },
    Subject {
        name: "relay",
        needs: None,
        gro: false,
        argv: |tools, session, load| {
            let config = write(session, "relay.toml", &relay_config(load))?;
            let mut argv = vec![tools.oxide.display().to_string()];
            argv.extend(words(&format!("relay --config {config} --report {}/{REPORT}", session.dir.display())));
            Ok(argv)
        },
        note: "",
    },
    Subject {
        name: "l2fwd",
        needs: None,
        gro: false,
        argv: |tools, _, _| {
            let mut argv = vec![tools.l2fwd.display().to_string()];
            argv.extend(words("vb vc 10.77.0.2 5000 02:00:00:00:00:0d"));
            Ok(argv)
        },
        note: "",
    },
    Subject {
        name: "engine-echo",
        needs: None,
        gro: false,
        argv: |tools, _, _| Ok(lab_fixture(tools, "engine")),
        note: "engine with a handler that returns packets",
    },
    Subject {
        name: "raw-echo",
        needs: None,
        gro: false,
        argv: |tools, _, _| Ok(lab_fixture(tools, "raw")),
        note: "the engine's socket in a bare loop",
    },
    Subject {
        name: "slow-echo",
        needs: None,
        gro: false,
        argv: |tools, _, _| Ok(lab_fixture(tools, "raw --slow-ns 200")),
        note: "raw-echo, 200 ns slower per packet on purpose",
    },
    Subject {
        name: "socket-echo",
        needs: None,
        gro: false,
        argv: |tools, _, _| Ok(lab_fixture(tools, "socket")),
        note: "a kernel socket, busy polling",
    },
    Subject {
        name: "raw-echo-poll",
        needs: None,
        gro: false,
        argv: |tools, _, _| Ok(lab_fixture(tools, "raw --block")),
        note: "the engine's socket in a bare loop, blocked in poll(2) when idle",
    },
    Subject {
        name: "engine-restart-handler",
        needs: None,
        gro: false,
        argv: |tools, _, load| Ok(lab_fixture(tools, &format!("engine --restart handler --queues {}", load.queues))),
        note: "",
    },
    Subject {
        name: "engine-restart-queue",
        needs: None,
        gro: false,
        argv: |tools, _, load| Ok(lab_fixture(tools, &format!("engine --restart queue --queues {}", load.queues))),
        note: "",
    },
    Subject {
        name: "mmsg",
        needs: None,
        gro: true,
        argv: |tools, _, _| Ok(lab_fixture(tools, "mmsg")),
        note: "recvmmsg+sendmmsg forward, no sessions",
    },
    Subject {
        name: "gro-gso",
        needs: None,
        gro: true,
        argv: |tools, _, _| Ok(lab_fixture(tools, "gro")),
        note: "recvmmsg+UDP_GRO/GSO forward, no sessions",
    },
    Subject {
        name: "tokio",
        needs: None,
        gro: true,
        argv: |tools, _, _| Ok(lab_fixture(tools, "tokio")),
        note: "tokio recv_from+send_to forward, no sessions",
    },
    Subject {
        name: "testpmd-af_xdp",
        needs: Some(("dpdk-testpmd", "dpdk-dev")),
        gro: false,
        // Two ports are used. With one port, the receive and transmit paths of the kernel write lines of one socket
        // from two cores, and in some runs the kernel side of a packet takes 1.4 us instead of 1.1
        // (docs/performance.md).
        argv: |_, _, _| {
            let port =
                |n, iface| format!("--vdev net_af_xdp{n},iface={iface},start_queue=0,queue_count=1,busy_budget=0");
            Ok(testpmd(16_384, &format!("{} {}", port(0, "vb"), port(1, "vc"))))
        },
        note: "DPDK macswap, in by vb, out by vc like the engine",
    },
    Subject {
        name: "testpmd-af_packet",
        needs: Some(("dpdk-testpmd", "dpdk-dev")),
        gro: true,
        argv: |_, _, _| Ok(testpmd(8192, "--vdev net_af_packet0,iface=vb,blocksz=4096,framesz=2048,framecnt=2048")),
        note: "DPDK macswap, same port",
    },
    Subject {
        name: "nginx",
        needs: Some(("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream")),
        gro: true,
        argv: |_, session, _| nginx(session),
        note: "stream, UDP",
    },
    Subject {
        name: "socat",
        needs: Some(("socat", "socat")),
        gro: true,
        argv: |_, _, _| Ok(words("taskset -c 1 socat -b 2048 UDP4-LISTEN:5000,bind=10.77.0.2 UDP4:10.78.0.2:6000")),
        note: "one flow only",
    },
    Subject {
        name: "nft-dnat",
        needs: Some(("nft", "nftables")),
        gro: true,
        argv: |_, _, _| Ok(vec!["sh".into(), "-c".into(), NFT.into()]),
        note: "kernel DNAT, on core 1 by RPS",
    },
    Subject {
        name: "xdp-tx",
        needs: None,
        gro: false,
        argv: |tools, _, _| Ok(lab_fixture(tools, "kernel --echo")),
        note: "in the kernel, on the generator's core: the testbed's upper bound",
    },
    Subject {
        name: "xdp-redirect",
        needs: None,
        gro: false,
        argv: |tools, _, _| Ok(lab_fixture(tools, "kernel")),
        note: "in the kernel, on the generator's core: the testbed's upper bound",
    },
    Subject {
        name: "quilkin",
        needs: Some(("quilkin", "cargo install quilkin")),
        gro: false,
        argv: |_, _, _| {
            Ok(words(
                "taskset -c 1 quilkin --service.udp --service.udp.port 5000 --provider.static.endpoints 10.77.0.1:6000 \
                 --service.udp.xdp --service.udp.xdp.network-interface vb",
            ))
        },
        note: "XDP, same port",
    },
];

/// Returns the forwarder with this name.
pub(super) fn named(name: &str) -> Result<&'static Subject> {
    SUBJECTS.iter().find(|s| s.name == name).ok_or_else(|| Error::Failed(format!("forwarder {name}: unknown")))
}

/// Fails if a program of the workspace was not built.
pub(super) fn check_built(tools: &Tools) -> Result<()> {
    for path in [&tools.oxide, &tools.lab, &tools.l2fwd] {
        if !path.is_file() {
            return failed(format!("{}: not built", path.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_is_present_if_its_program_exists() {
        let needing = |what: &'static str| Subject {
            name: "peer",
            needs: Some((what, "a package")),
            gro: false,
            argv: |_, _, _| Ok(vec![]),
            note: "",
        };
        assert!(needing("sh").present() && needing("/bin/sh").present());
        assert!(!needing("no-such-program-anywhere").present() && !needing("/no/such/file").present());
        assert_eq!(
            named("quilkin").ok().and_then(|quilkin| quilkin.needs).map(|(program, _)| program),
            Some("quilkin")
        );
        assert!(named("unknown").is_err());
    }

    #[test]
    fn relay_gets_one_upstream_per_32_ki_flows() {
        let many = relay_config(Load::new(64, 1 << 17));
        assert_eq!((many.matches("[[relay]]").count(), many.contains("10.100.3.2:6000")), (4, true));
        assert!(!many.contains("ring_size"), "{many}");
        let one = relay_config(Load { capacity: 1000, ring_size: 8192, ..Load::new(64, 256) });
        assert!(one.contains("pin = [1]\nring_size = 8192\n\n[sessions]"), "{one}");
        assert!(one.contains("capacity = 1000") && one.contains("10.78.0.2:6000"), "{one}");
    }
}
