//! Tests that a sandboxed relay can do everything it needs and nothing else.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

use serde_json::Value;

use crate::netns::Lab;
use crate::reads::accounting_balances;
use crate::rig::{Bench, clients_side, lab, write_config};

/// Number of SIGSYS (asm-generic/signal.h).
const SIGSYS: i32 = 31;

/// Makes the relay attempt an action on itself. Returns the result from its log.
fn done(bench: &mut Bench, line: &str) -> String {
    let before = bench.log().len();
    bench.inject(line);
    let quoted = format!("\"line\":\"{line}\"");
    let mut said = String::new();
    bench.wait(line, |b| {
        said = b.log().split_off(before).lines().find(|l| l.contains(&quoted)).unwrap_or_default().to_owned();
        !said.is_empty()
    });
    said
}

/// Changes the program of `r0` as another privileged process.
fn inject_program_fault(what: &str) -> ProgramFault {
    ProgramFault(Command::new(env!("CARGO_BIN_EXE_oxide")).args(["inject-program-fault", what, "r0"]).spawn().unwrap())
}

/// Ends the process when the test ends.
struct ProgramFault(Child);

impl Drop for ProgramFault {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The relay cannot read other processes' programs: it reports what it knows and how to find the rest.
fn names_who_is_in_its_place(bench: &mut Bench) {
    let other = inject_program_fault("replace");
    bench.wait("the queues wait and name the next step", |b| {
        b.queues()["queues"][0]["state"] == "waiting" && b.log().contains("bpftool prog show id")
    });
    drop(other);
    bench.wait("all queues run without the other program", |b| b.queues()["state"] == "running");
    bench.serves(5001);
}

/// Tests traffic, each restart scope, a reload of a file that an editor replaced, a re-created interface, ctl and
/// metrics. Every thread must have the filters.
fn does_all_it_must(lab: &Lab, bench: &mut Bench) {
    bench.serves(5000);
    for depth in ["handler", "port", "queue"] {
        let before = bench.queues()["queues"][0]["restarts"].as_u64().unwrap();
        bench.ctl_output(&["restart", "r0:0", "--depth", depth]);
        bench.wait("the queue runs again", |b| {
            let queue = &b.queues()["queues"][0];
            queue["restarts"].as_u64().unwrap() > before && queue["state"] == "running"
        });
        bench.serves(5000);
    }
    let (config, new) = (bench.path("relay.toml"), bench.path("new.toml"));
    write_config(&new, &bench.path("ctl.sock"), "batch_size = 16");
    let text = std::fs::read_to_string(&new).unwrap().replace("10.1.0.1:5000", "10.1.0.1:5001");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, &config).unwrap();
    assert!(bench.ctl_output(&["reload"]).contains("engine.batch_size: 64 -> 16"));
    bench.serves(5001);
    assert!(inject_program_fault("detach").0.wait().unwrap().success());
    bench.serves(5001);
    names_who_is_in_its_place(bench);
    let before = bench.queues()["queues"][0]["restarts"].as_u64().unwrap();
    done(bench, "panic r0:0 4");
    bench.wait("the handler panics", |b| {
        b.answered(5001, 1, 1);
        b.queues()["queues"][0]["restarts"].as_u64().unwrap() > before
    });
    done(bench, "panic r0:0 0");
    bench.serves(5001);
    lab.ip("link delete r0");
    bench.wait("the queues wait for the interface", |b| b.queues()["queues"][0]["state"] != "running");
    clients_side(lab, &bench.clients);
    bench.wait("the queues run again", |b| b.queues()["state"] == "running");
    bench.serves(5001);
    let (code, metrics) = bench.get("/metrics");
    assert_eq!(code, 200);
    // After a panic, restarts of every scope and a lost interface.
    accounting_balances(&metrics);
    for layer in ["capabilities", "no_new_privs", "landlock", "seccomp"] {
        let line = format!("oxide_sandbox_info{{layer=\"{layer}\",state=\"on\"}} 1");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    for restart in
        ["depth=\"handler\",cause=\"panic\"", "depth=\"port\",cause=\"asked\"", "depth=\"queue\",cause=\"asked\""]
    {
        let line = format!("oxide_queue_restarts_total{{queue=\"0\",{restart}}} ");
        let count = metrics.lines().find_map(|l| l.strip_prefix(&line)).unwrap_or_else(|| panic!("{line}: {metrics}"));
        assert_ne!(count, "0", "{line}");
    }
    let status: Value = serde_json::from_str(&bench.ctl_output(&["status"])).unwrap();
    assert_eq!((&status["balanced"], &status["sandbox"][3]["state"]), (&true.into(), &"on".into()), "{status:#}");
    for thread in std::fs::read_dir(format!("/proc/{}/task", bench.child.id())).unwrap() {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2\n") && status.contains("Seccomp_filters:\t3\n"), "{status}");
    }
}

/// Tests the actions of an attacker who controls the process.
fn does_nothing_else(bench: &mut Bench) {
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("mine");
    for (what, whom) in [
        ("read", "/etc/shadow"),
        ("read", "/etc/hostname"),
        ("write", file.to_str().unwrap()),
        ("write", bench.path("relay.toml").to_str().unwrap()),
        ("write", "/proc/sys/net/ipv4/ip_forward"),
        ("spawn", "/bin/true"),
        ("connect", "127.0.0.1:9797"),
    ] {
        let said = done(bench, &format!("{what} {whom}"));
        assert!(said.contains("cannot inject a fault") && said.contains("(os error"), "{what} {whom}: {said}");
    }
    assert!(!file.exists());
    bench.serves(5001);
    bench.inject("exec /bin/true");
    let mut status = None;
    bench.wait("the relay is ended", |b| {
        status = b.child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().signal(), Some(SIGSYS));
}

#[test]
fn sandboxed_relay_on_io_uring() {
    lab("sandboxed_relay_on_io_uring", "", |lab, bench| {
        does_all_it_must(lab, bench);
        does_nothing_else(bench);
    });
}

#[test]
fn sandboxed_relay_on_plain_threads() {
    lab("sandboxed_relay_on_plain_threads", "executor = \"thread\"", |lab, bench| {
        does_all_it_must(lab, bench);
        does_nothing_else(bench);
    });
}

/// Without the sandbox the same actions succeed.
#[test]
fn relay_without_sandbox() {
    lab("relay_without_sandbox", "[admin]\nsandbox = \"off\"\nhttp = \"off\"", |_, bench| {
        bench.serves(5000);
        assert!(bench.log().contains("sandbox: off"), "{}", bench.log());
        for what in ["read /etc/shadow", "read /etc/hostname", "spawn /bin/true"] {
            let said = done(bench, what);
            assert!(said.contains("injected a fault"), "{what}: {said}");
        }
    });
}
