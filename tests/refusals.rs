//! What stands in the way of a start is named, with the command that mends it; the exit code says so;
//! nothing is left behind. The real binary, in a namespace of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/netns.rs"]
mod netns;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
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

    /// Runs `oxide relay` behind `wrapper`, which must end by itself, and fail: what it said.
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
        let report = self.dir.path().join("report.json");
        let _ = std::fs::remove_file(&report);
        let child = Command::new(env!("CARGO_BIN_EXE_oxide"))
            .args(["relay", "--report", report.to_str().unwrap(), "--config"])
            .arg(self.config(engine))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let running = Running { child };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !report.exists() {
            assert!(Instant::now() < deadline, "not ready");
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }
}

struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGKILL: nothing of ours runs after it.
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

fn nothing_left(lab: &Lab) {
    assert!(!lab.ip("link show dev r0").contains("prog/xdp"), "a program was left attached");
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
fn another_program_or_another_relay() {
    if skip_unless_root("another_program_or_another_relay") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        let first = setup.start(R0);
        assert_says(&setup.refused(&[], R0), &["r0", "program"]);
        drop(first);
        // Killed with -9: started again at once, although the kernel has not finished with the first one.
        drop(setup.start(R0));
        drop(setup.start(R0));
        nothing_left(lab);
    });
}

#[test]
fn mtu_that_does_not_fit() {
    if skip_unless_root("mtu_that_does_not_fit") {
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
fn a_capability_that_is_missing() {
    if skip_unless_root("a_capability_that_is_missing") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        // CAP_SYS_ADMIN stands in for two of them, so it goes as well.
        for (capability, named) in [("net_raw", "CAP_NET_RAW"), ("bpf", "CAP_BPF"), ("net_admin", "CAP_NET_ADMIN")] {
            let drop = format!("--bounding-set=-sys_admin,-{capability}");
            // The process is judged before any interface: the words are of the process, with the mend for a unit.
            assert_says(&setup.refused(&["setpriv", &drop], R0), &[named, "AmbientCapabilities"]);
        }
        nothing_left(lab);
    });
}

#[test]
fn memlock_that_is_too_low() {
    if skip_unless_root("memlock_that_is_too_low") {
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

#[test]
fn what_the_planner_or_the_cpu_cannot_give() {
    if skip_unless_root("what_the_planner_or_the_cpu_cannot_give") {
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
