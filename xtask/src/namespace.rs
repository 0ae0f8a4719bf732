//! Creates a network namespace without a name. It lives as long as one `sleep` that dies with xtask, so nothing stays
//! behind, even after `kill -9`.

use crate::process::{Result, Running, Session, failed, io_error};
use std::fs;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_secs(20);

/// Runs a program with a /sys that shows its own namespace's interfaces, like `ip netns exec`. If / is not a mount
/// point (a plain chroot), making /sys private is enough to keep the mount from the host.
pub(crate) const WITH_SYSFS: &str =
    "(mount --make-rprivate / || mount --make-rprivate /sys) 2>/dev/null && mount -t sysfs sysfs /sys; exec \"$@\"";

/// Holds one network namespace until it is dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    holder: Running,
    /// Option of nsenter that selects the namespace.
    net_option: String,
}

impl Namespace {
    pub(crate) fn create(session: &Session, name: &str) -> Result<Self> {
        let mut holder = session.spawn(name, &["unshare", "--net", "--", "sleep", "infinity"])?;
        let path = format!("/proc/{}/ns/net", holder.pid());
        let ours = fs::read_link("/proc/self/ns/net").map_err(io_error("/proc/self/ns/net (is /proc mounted?)"))?;
        let end = Instant::now() + Duration::from_secs(20);
        // The namespace exists once the link of the process differs from xtask's.
        while fs::read_link(&path).ok().is_none_or(|theirs| theirs == ours) {
            holder.must_run().map_err(|e| {
                crate::process::Error::Failed(format!("cannot create a network namespace: {e}; expected CAP_SYS_ADMIN"))
            })?;
            if Instant::now() > end {
                return failed(format!("{name}: no network namespace after 20 s"));
            }
            session.cancel.sleep(Duration::from_millis(2))?;
        }
        Ok(Self { holder, net_option: format!("--net={path}") })
    }

    /// Returns the process that keeps the namespace. `ip link ... netns PID` accepts its id.
    pub(crate) fn pid(&self) -> u32 {
        self.holder.pid()
    }

    /// Returns the command line that runs `argv` inside.
    pub(crate) fn argv<'a>(&'a self, argv: &[&'a str]) -> Vec<&'a str> {
        [&["nsenter", &self.net_option, "--"], argv].concat()
    }

    /// Runs `argv` inside, to its end.
    pub(crate) fn run(&self, session: &Session, name: &str, argv: &[&str]) -> Result<crate::process::Output> {
        session.run(name, &self.argv(argv), SHORT)
    }

    /// Starts `argv` inside.
    pub(crate) fn spawn(&self, session: &Session, name: &str, argv: &[&str]) -> Result<Running> {
        session.spawn(name, &self.argv(argv))
    }

    /// Reads a file under /proc/<holder>/net: counters of this namespace.
    pub(crate) fn proc_net(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/net/{file}", self.holder.pid());
        fs::read_to_string(&path).map_err(io_error(path))
    }

    /// Returns one of the kernel's UDP counters (`InCsumErrors`, `RcvbufErrors`), for both families together.
    pub(crate) fn udp_counter(&self, name: &str) -> Result<u64> {
        let snmp = self.proc_net("snmp")?;
        let mut udp = snmp.lines().filter_map(|l| l.strip_prefix("Udp: "));
        let (names, values) = (udp.next().unwrap_or_default(), udp.next().unwrap_or_default());
        let v4 = names.split(' ').zip(values.split(' ')).find(|(n, _)| *n == name).map(|(_, v)| v);
        let snmp6 = self.proc_net("snmp6")?;
        let v6 = snmp6.lines().find_map(|l| l.strip_prefix("Udp6")?.strip_prefix(name)).map(str::trim);
        match [v4, v6].map(|v| v.and_then(|v| v.parse::<u64>().ok())) {
            [Some(v4), Some(v6)] => Ok(v4 + v6),
            _ => failed(format!("no UDP counter {name} in /proc/net/snmp and snmp6")),
        }
    }
}
