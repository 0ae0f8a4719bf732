//! Tests that a failed start reports its cause and the command that fixes it, returns its exit code, and leaves nothing
//! behind. Runs the real binary in a network namespace.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/netns.rs"]
mod netns;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use netns::{Lab, in_namespace, skip_unless_root};

struct Setup {
    dir: tempfile::TempDir,
}

fn setup(lab: &Lab) -> Setup {
    lab.veth("r0", "x0", 1, "02:00:00:00:01:01", "02:00:00:00:01:02");
    lab.address("r0", "10.1.0.1/24");
    Setup { dir: tempfile::tempdir().unwrap() }
}

impl Setup {
    fn config(&self, engine: &str) -> PathBuf {
        let path = self.dir.path().join("relay.toml");
        let text = format!(
            "[engine]\nring_size = 256\n{engine}\n[[relay]]\nname = \"a\"\nlisten = \"10.1.0.1:5000\"\n\
             upstreams = [\"10.1.0.2:6000\"]\nallow_private = true\n"
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs `oxide relay` behind `wrapper`, which must fail by itself. Returns its output.
    fn refused(&self, wrapper: &[&str], engine: &str) -> String {
        let mut words: Vec<&str> = wrapper.to_vec();
        words.extend(["timeout", "20", env!("CARGO_BIN_EXE_oxide"), "relay", "--config"]);
        let output = Command::new(words[0]).args(&words[1..]).arg(self.config(engine)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        text
    }

    fn start(&self, engine: &str) -> Running {
        self.start_in(&[], engine)
    }

    /// Starts `oxide relay` behind `wrapper`, which must become ready.
    fn start_in(&self, wrapper: &[&str], engine: &str) -> Running {
        let (report, log) = (self.dir.path().join("report.json"), self.dir.path().join("log"));
        let _ = std::fs::remove_file(&report);
        let mut words: Vec<&str> = wrapper.to_vec();
        words.extend([env!("CARGO_BIN_EXE_oxide"), "relay", "--report", report.to_str().unwrap(), "--config"]);
        let child = Command::new(words[0])
            .args(&words[1..])
            .arg(self.config(engine))
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut running = Running { child };
        let deadline = Instant::now() + Duration::from_secs(20);
        let said = || std::fs::read_to_string(&log).unwrap();
        while !report.exists() {
            assert!(Instant::now() < deadline, "not ready: {}", said());
            assert!(running.child.try_wait().unwrap().is_none(), "not started: {}", said());
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    /// Returns the output of the last started relay so far.
    fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // After SIGKILL no code of the relay runs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const R0: &str = "interfaces = [\"r0\"]";

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
}

/// Returns true if the program runs behind `wrapper` on this machine. A kernel without user namespaces, or a build folder
/// that another user cannot enter, prevents it.
fn can(test: &str, wrapper: &[&str]) -> bool {
    let mut words = wrapper.to_vec();
    words.extend([env!("CARGO_BIN_EXE_oxide"), "--version"]);
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let _ = writeln!(std::io::stderr(), "SKIPPED-OK {test}: {why}");
    }
    output.status.success()
}

fn nothing_left(lab: &Lab) {
    assert!(!lab.ip("link show dev r0").contains("prog/xdp"), "the XDP program is still attached");
}

#[test]
fn interface_absent_or_down() {
    if skip_unless_root("interface_absent_or_down") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        assert_says(&setup.refused(&[], "interfaces = [\"nowhere\"]"), &["nowhere"]);
        lab.ip("link set r0 down");
        assert_says(&setup.refused(&[], R0), &["r0", "ip link set"]);
        nothing_left(lab);
    });
}

#[test]
fn other_program_or_other_relay() {
    if skip_unless_root("other_program_or_other_relay") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        let first = setup.start(R0);
        assert_says(&setup.refused(&[], R0), &["r0", "program"]);
        drop(first);
        // After SIGKILL it starts again at once, although the kernel has not finished with the first one.
        drop(setup.start(R0));
        drop(setup.start(R0));
        nothing_left(lab);
    });
}

#[test]
fn mtu_larger_than_frame() {
    if skip_unless_root("mtu_larger_than_frame") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        lab.ip("link set r0 mtu 3000");
        assert_says(&setup.refused(&[], R0), &["3000", "frame_size", "mtu"]);
        drop(setup.start("interfaces = [\"r0\"]\nframe_size = 4096"));
        lab.ip("link set r0 mtu 9000");
        assert_says(&setup.refused(&[], "interfaces = [\"r0\"]\nframe_size = 4096"), &["9000", "mtu"]);
        nothing_left(lab);
    });
}

#[test]
fn missing_capability_is_named() {
    if skip_unless_root("missing_capability_is_named") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        // CAP_SYS_ADMIN replaces two of them, so remove it as well.
        for (capability, named) in [("net_raw", "CAP_NET_RAW"), ("bpf", "CAP_BPF"), ("net_admin", "CAP_NET_ADMIN")] {
            let drop = format!("--bounding-set=-sys_admin,-{capability}");
            // The process is checked before any interface: the message is about the process and has the remedy for a unit.
            assert_says(&setup.refused(&["setpriv", &drop], R0), &[named, "AmbientCapabilities"]);
        }
        nothing_left(lab);
    });
}

#[test]
fn low_memlock_is_named() {
    if skip_unless_root("low_memlock_is_named") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        // 1 MiB is enough for an executor, and less than the packet memory. Without CAP_IPC_LOCK the limit counts.
        let wrapper = ["prlimit", "--memlock=1048576:1048576", "setpriv", "--bounding-set=-ipc_lock,-sys_resource"];
        assert_says(&setup.refused(&wrapper, R0), &["memlock"]);
        nothing_left(lab);
    });
}

/// The relay starts as Docker, Kubernetes or a unit starts it: with the required privileges only.
#[test]
fn container_with_required_privileges_starts() {
    if skip_unless_root("container_with_required_privileges_starts") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        let bounding = ["setpriv", "--no-new-privs", "--bounding-set=-all,+net_admin,+net_raw,+bpf,+ipc_lock"];
        drop(setup.start_in(&bounding, R0));
        assert_says(&setup.said(), &["capabilities NET_ADMIN NET_RAW BPF IPC_LOCK,"]);

        // Without CAP_IPC_LOCK the limit applies: 8 MiB, a common default, is enough for a small queue.
        let limit = ["prlimit", "--memlock=8388608:8388608"];
        let without = [&limit[..], &["setpriv", "--bounding-set=-all,+net_admin,+net_raw,+bpf"]].concat();
        drop(setup.start_in(&without, R0));

        // Run as the unit's DynamicUser, with ambient capabilities.
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(setup.dir.path(), all).unwrap();
        let user = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all,+net_admin,+net_raw,+bpf,+ipc_lock",
            "--ambient-caps=-all,+net_admin,+net_raw,+bpf,+ipc_lock",
        ];
        if can("container_with_required_privileges_starts: as user 65534", &user) {
            drop(setup.start_in(&user, R0));
        }
        nothing_left(lab);
    });
}

/// The file systems are those of a container: none for BPF, and /sys and /proc/sys read-only.
#[test]
fn container_file_systems() {
    if skip_unless_root("container_file_systems") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        // The file system for BPF is not mounted on every machine.
        let _ = Command::new("umount").args(["-l", "/sys/fs/bpf"]).output();
        lab.run("mount", "-o remount,bind,ro /sys");
        assert!(std::fs::write("/sys/class/net/r0/gro_flush_timeout", "0").is_err(), "/sys can be written");
        lab.run("mount", "--bind /proc/sys /proc/sys");
        lab.run("mount", "-o remount,bind,ro /proc/sys");
        drop(setup.start(R0));
        nothing_left(lab);
    });
}

/// Capabilities of a user namespace are not valid for the host.
#[test]
fn user_namespace_is_refused() {
    if skip_unless_root("user_namespace_is_refused") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        let wrapper = ["unshare", "--user", "--map-root-user"];
        if !can("user_namespace_is_refused", &wrapper) {
            return;
        }
        let said = setup.refused(&wrapper, R0);
        assert_says(&said, &["user namespace", "--userns=host"]);
        nothing_left(lab);
    });
}

#[test]
fn impossible_plan_or_simd_level_is_refused() {
    if skip_unless_root("impossible_plan_or_simd_level_is_refused") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        assert_says(&setup.refused(&[], "interfaces = [\"r0\"]\nqueues = [5]"), &["5", "r0"]);
        assert_says(&setup.refused(&[], "interfaces = [\"r0\"]\npin = [4000]"), &["4000"]);
        assert_says(&setup.refused(&[], "interfaces = [\"r0\"]\nnuma = 60"), &["60"]);
        assert_says(&setup.refused(&[], "interfaces = [\"r0\"]\nzero_copy = \"require\""), &["zero-copy", "r0"]);
        assert_says(&setup.refused(&[], "interfaces = [\"r0\"]\nsimd = \"neon\""), &["neon", "auto"]);
        nothing_left(lab);
    });
}
