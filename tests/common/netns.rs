//! Provides network namespaces for tests that need root: one test, one thread, one namespace.
//!
//! The test that calls [`in_namespace`] owns the namespace; interfaces that existed before are never used. Threads and
//! commands started inside inherit the namespace. The kernel removes it with its contents when the last of them ends.
//! Use it with `#[path = "common/netns.rs"] mod netns;`.
//!
//! ```text
//!  in_namespace thread (Lab)              second_namespace thread (Far)
//!  +-----------------------+              +--------------------+
//!  | lo   va ---- vb       |  lab.give    | lo   vd            |
//!  |      vc --------------|--------------|------'             |
//!  +-----------------------+              +--------------------+
//! ```
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Returns true and prints the reason if `test` cannot have a network namespace here or a tool is missing.
pub(crate) fn skip_unless_root(test: &str) -> bool {
    let missing = |tool: &&str| Command::new(tool).arg("--version").output().is_err();
    let reason = if !rustix::process::geteuid().is_root() {
        "needs root for its network namespace".to_owned()
    } else if let Some(tool) = ["ip", "ethtool", "mount"].iter().find(|tool| missing(tool)) {
        format!("`{tool}` is missing (apt-get install iproute2 ethtool mount)")
    } else if let Err(error) = thread::spawn(leave).join().unwrap() {
        format!("cannot create a namespace: {error} (needs CAP_SYS_ADMIN)")
    } else {
        return false;
    };
    // Not eprintln: the test harness hides its output for a test that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
    true
}

/// Gives the calling thread its own network and mount namespaces.
fn leave() -> rustix::io::Result<()> {
    use rustix::thread::UnshareFlags;
    // This safe function is deprecated only because of CLONE_FILES, which is not used here.
    #[allow(deprecated)]
    rustix::thread::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS)
}

/// Runs `test` on a new thread in a new network namespace; forwards its panic.
///
/// Inside, `lo` is up, and `/sys` shows this namespace's interfaces. IPv6 works but sends no packets by itself: no
/// duplicate address detection, no link-local address, no router solicitation.
pub(crate) fn in_namespace(test: impl FnOnce(&Lab) + Send + 'static) {
    let thread = thread::Builder::new().name("lab".into()).spawn(move || test(&Lab::enter())).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Is a network namespace as used by the thread in it.
pub(crate) struct Lab {
    path: PathBuf,
}

impl Lab {
    fn enter() -> Self {
        leave().expect("unshare");
        let tid = rustix::thread::gettid().as_raw_nonzero();
        let lab = Self { path: format!("/proc/{}/task/{tid}/ns/net", std::process::id()).into() };
        // sysfs shows the namespace that mounted it; without this mount it shows the host's interfaces. Make the
        // mounts private first, or the host would see the mount. In a plain chroot / is no mount point, but /sys is.
        if !Command::new("mount").args(["--make-rprivate", "/"]).output().expect("mount").status.success() {
            lab.run("mount", "--make-rprivate /sys");
        }
        lab.run("mount", "-t sysfs sysfs /sys");
        // /proc/sys/net belongs to the thread that opens it. "all" does not affect later devices, "default" does.
        for conf in ["all", "default"] {
            for (name, value) in [
                ("disable_ipv6", "0"),
                ("accept_dad", "0"),
                ("autoconf", "0"),
                ("accept_ra", "0"),
                ("router_solicitations", "0"),
                ("addr_gen_mode", "1"),
            ] {
                // Absent if the kernel has no IPv6; tests that need IPv6 then fail by themselves.
                let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/{name}"), value);
            }
        }
        lab.ip("link set lo up");
        lab
    }

    /// Returns the path of this namespace for `ip link set DEV netns`.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Runs a command in this namespace; `arguments` are split at blanks. Panics with its output if it fails.
    pub(crate) fn run(&self, program: &str, arguments: &str) -> String {
        let output = Command::new(program).args(arguments.split_whitespace()).output().expect(program);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let trouble = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{program} {arguments}`: {}\n{text}{trouble}", output.status);
        text
    }

    /// Runs `ip <arguments>`.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.run("ip", arguments)
    }

    /// Writes /proc/sys/`name` (slashes) of this namespace.
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        std::fs::write(format!("/proc/sys/{name}"), value).unwrap_or_else(|e| panic!("sysctl {name}={value}: {e}"));
    }

    /// Gives interfaces created later a link-local IPv6 address, as on a real host. It is off by default because the
    /// kernel announces the address on the wire (MLD). The kernel needs it for neighbour discovery, which it sends from
    /// that address only (ndisc_send_ns).
    pub(crate) fn link_local(&self) {
        self.sysctl("net/ipv6/conf/default/addr_gen_mode", "0");
    }

    /// Creates a veth pair with `queues` receive and transmit queues at both ends, both up. Offloads that leave partial
    /// checksums or super-packets are off.
    pub(crate) fn veth(&self, a: &str, b: &str, queues: u32, mac_a: &str, mac_b: &str) {
        let count = format!("numrxqueues {queues} numtxqueues {queues}");
        self.ip(&format!("link add {a} {count} address {mac_a} type veth peer name {b} {count} address {mac_b}"));
        for end in [a, b] {
            self.run("ethtool", &format!("-K {end} tx off gso off tso off"));
            self.up(end);
        }
        self.running(a);
    }

    /// Waits until `dev` has its carrier, which the kernel reports some time after both ends are up.
    pub(crate) fn running(&self, dev: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.attribute(dev, "operstate") != "up" {
            assert!(Instant::now() < deadline, "{dev} has no carrier");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs `ip link set DEV up`.
    pub(crate) fn up(&self, dev: &str) {
        self.ip(&format!("link set {dev} up"));
    }

    /// Adds an address with its prefix length: `10.0.0.1/24`, `fd00::1/64`.
    pub(crate) fn address(&self, dev: &str, address: &str) {
        // Even with accept_dad 0 an IPv6 address is tentative for a moment and cannot be bound.
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.ip(&format!("address add {address} dev {dev} {nodad}"));
    }

    /// Adds a permanent neighbour.
    pub(crate) fn neighbour(&self, dev: &str, address: &str, mac: &str) {
        self.ip(&format!("neighbour replace {address} lladdr {mac} nud permanent dev {dev}"));
    }

    /// Returns the kernel's index of an interface.
    pub(crate) fn index(&self, dev: &str) -> u32 {
        self.attribute(dev, "ifindex").parse().unwrap()
    }

    /// Reads /sys/class/net/`dev`/`name`.
    pub(crate) fn attribute(&self, dev: &str, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/sys/class/net/{dev}/{name}"));
        text.unwrap_or_else(|e| panic!("{name} of {dev}: {e}")).trim().to_owned()
    }

    /// Creates another namespace on its own thread, for the far side of a link.
    pub(crate) fn second_namespace(&self) -> Far {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, entered) = mpsc::channel();
        let thread = thread::Builder::new().name("far".into()).spawn(move || {
            let lab = Lab::enter();
            ready.send(lab.path.clone()).unwrap();
            while let Ok(job) = inbox.recv() {
                job(&lab);
            }
        });
        let path = entered.recv().expect("the far namespace did not start");
        Far { path, jobs: Some(jobs), thread: Some(thread.unwrap()) }
    }

    /// Moves an interface to the far side and sets it up there; it loses its addresses.
    pub(crate) fn give(&self, dev: &str, far: &Far) {
        self.ip(&format!("link set {dev} netns {}", far.path.display()));
        let dev = dev.to_owned();
        far.run(move |lab| lab.up(&dev));
    }
}

type Job = Box<dyn FnOnce(&Lab) + Send>;

/// Is a second namespace; dropping it removes the namespace.
pub(crate) struct Far {
    path: PathBuf,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Far {
    /// Returns the path of the namespace for `ip link set DEV netns`.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Runs `work` in the far namespace, waits for it, and forwards its panic. Threads that it starts stay there.
    pub(crate) fn run<R: Send + 'static>(&self, work: impl FnOnce(&Lab) -> R + Send + 'static) -> R {
        let (answer, result) = mpsc::channel();
        let job: Job = Box::new(move |lab| {
            let _ = answer.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(lab))));
        });
        self.jobs.as_ref().unwrap().send(job).expect("the far thread has ended");
        result.recv().expect("the far thread has ended").unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
