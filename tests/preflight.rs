//! Tests that a start, `config check` and the doctor report the same about the host. Runs the real binary in a network
//! namespace.
//!
//! ```text
//!   r0 10.1.0.1/24 ==== x0        r1 10.2.0.1/24 ==== x1
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/netns.rs"]
mod netns;

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use netns::{Lab, in_namespace, skip_unless_root};
use oxide_topology::doctor::{Check, CheckStatus};

const OXIDE: &str = env!("CARGO_BIN_EXE_oxide");

struct Setup {
    dir: tempfile::TempDir,
}

fn setup(lab: &Lab) -> Setup {
    for (at, (near, far)) in [("r0", "x0"), ("r1", "x1")].into_iter().enumerate() {
        let n = at + 1;
        lab.veth(near, far, 1, &format!("02:00:00:00:0{n}:01"), &format!("02:00:00:00:0{n}:02"));
        lab.address(near, &format!("10.{n}.0.1/24"));
    }
    lab.neighbour("r1", "10.2.0.2", "02:00:00:00:02:02");
    Setup { dir: tempfile::tempdir().unwrap() }
}

impl Setup {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, interfaces: &str, listen: &str, upstream: &str, more: &str) {
        let text = format!(
            "[engine]\ninterfaces = [{interfaces}]\nring_size = 256\n[admin]\nhttp = \"off\"\nsocket = \"{}\"\n{more}\n\
             [[relay]]\nname = \"a\"\nlisten = \"{listen}:5000\"\nupstreams = [\"{upstream}:6000\"]\nallow_private = true\n",
            self.path("ctl.sock").display()
        );
        std::fs::write(self.path("relay.toml"), text).unwrap();
    }

    fn oxide(&self, words: &[&str]) -> Output {
        Command::new(OXIDE).args(words).current_dir(self.dir.path()).output().unwrap()
    }

    fn check(&self) -> (i32, String) {
        let output = self.oxide(&["config", "check", "relay.toml"]);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    fn doctor(&self) -> Vec<Check> {
        let output = self.oxide(&["doctor", "--json", "--config", "relay.toml"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }

    /// Starts the relay and waits until it is ready or has ended.
    fn start(&self) -> Relay {
        let (report, log) = (self.path("report.json"), self.path("log"));
        let _ = std::fs::remove_file(&report);
        let child = Command::new(OXIDE)
            .args(["relay", "--config", "relay.toml", "--report", "report.json"])
            .current_dir(self.dir.path())
            .stderr(std::fs::File::create(log).unwrap())
            .spawn()
            .unwrap();
        let mut relay = Relay(child);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !report.exists() && relay.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "neither ready nor ended: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        relay
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }
}

struct Relay(Child);

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Checks that all three report `cause` of `subject`.
#[track_caller]
fn all_report(setup: &Setup, subject: &str, cause: &str) {
    let (_, text) = setup.check();
    assert!(text.lines().any(|line| line.contains(subject) && line.contains(cause)), "config check: {text}");
    let checks = setup.doctor();
    let reports = |check: &&Check| check.status >= CheckStatus::Warn && check.to_string().contains(cause);
    assert!(checks.iter().any(|check| check.subject == subject && reports(&check)), "doctor: {checks:#?}");
    drop(setup.start());
    let log = setup.log();
    assert!(log.lines().any(|line| line.contains(subject) && line.contains(cause)), "start: {log}");
}

#[test]
fn listen_address_that_no_served_interface_has() {
    if skip_unless_root("listen_address_that_no_served_interface_has") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        setup.config("\"r1\"", "10.1.0.1", "10.2.0.2", "");
        all_report(&setup, "listen 10.1.0.1", "r0, which is not served");
        setup.config("\"r0\", \"r1\"", "10.1.0.9", "10.2.0.2", "");
        all_report(&setup, "listen 10.1.0.9", "no interface of this host has it");

        // An address in a local route or on loopback answers clients.
        lab.ip("route add local 10.10.0.0/24 dev lo");
        lab.address("lo", "10.11.0.1/32");
        for address in ["10.10.0.7", "10.11.0.1"] {
            setup.config("\"r0\", \"r1\"", address, "10.2.0.2", "");
            assert_eq!(setup.check().1.matches("warning").count(), 0, "{}", setup.check().1);
            drop(setup.start());
            assert!(!setup.log().contains("\"WARN\""), "{}", setup.log());
            let checks = setup.doctor();
            assert!(
                checks.iter().all(|check| check.id != "listen" || check.status == CheckStatus::Pass),
                "{checks:#?}"
            );
        }
    });
}

#[test]
fn upstream_that_leaves_by_an_unserved_interface() {
    if skip_unless_root("upstream_that_leaves_by_an_unserved_interface") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        setup.config("\"r0\"", "10.1.0.1", "10.2.0.2", "");
        all_report(&setup, "upstream 10.2.0.2", "leaves by r1, which is not served");
        setup.config("\"r0\", \"r1\"", "10.1.0.1", "203.0.113.9", "");
        all_report(&setup, "upstream 203.0.113.9", "none");
    });
}

#[test]
fn interface_without_ethernet_or_carrier() {
    if skip_unless_root("interface_without_ethernet_or_carrier") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        lab.ip("tuntap add dev tun0 mode tun");
        lab.up("tun0");
        for (name, cause) in [("tun0", "no Ethernet frames"), ("lo", "loopback")] {
            setup.config(&format!("\"r0\", \"r1\", \"{name}\""), "10.1.0.1", "10.2.0.2", "");
            all_report(&setup, name, cause);
            assert!(!setup.log().contains("mtu"), "{}", setup.log());
        }
        lab.ip("link set x1 down");
        setup.config("\"r0\", \"r1\"", "10.1.0.1", "10.2.0.2", "");
        all_report(&setup, "r1", "no carrier");
    });
}

#[test]
fn file_without_entries() {
    if skip_unless_root("file_without_entries") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        std::fs::write(setup.path("relay.toml"), "[engine]\ninterfaces = [\"r0\"]\n").unwrap();
        let (code, text) = setup.check();
        assert!(code == 1 && text.contains("no [[relay]] entry"), "{code}: {text}");
        let mut relay = setup.start();
        assert_eq!(relay.0.wait().unwrap().code(), Some(1));
        assert!(setup.log().contains("no [[relay]] entry"), "{}", setup.log());
        let checks = setup.doctor();
        let listen = checks.iter().find(|check| check.id == "listen").unwrap();
        assert!(listen.status == CheckStatus::Fail && listen.observed.contains("no [[relay]] entry"), "{listen}");
        // Nothing is reported about another host.
        setup.config("\"nowhere0\"", "192.0.2.1", "198.51.100.2", "");
        let (code, text) = setup.check();
        assert!(code == 0 && text.contains("nowhere0") && text.matches("warning").count() == 1, "{code}: {text}");
    });
}

#[test]
fn alternative_name_of_an_interface() {
    if skip_unless_root("alternative_name_of_an_interface") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        lab.ip("link property add dev r0 altname enp0s31f6-port-with-a-long-name");
        setup.config("\"enp0s31f6-port-with-a-long-name\", \"r1\"", "10.1.0.1", "10.2.0.2", "");
        assert_eq!(setup.check().1.matches("warning").count(), 0, "{}", setup.check().1);
        assert!(setup.doctor().iter().all(|check| check.status < CheckStatus::Fail));
        let _relay = setup.start();
        assert!(setup.log().contains("(r0)"), "{}", setup.log());
        let reload = setup.oxide(&["ctl", "--socket", "ctl.sock", "reload"]);
        assert_eq!(String::from_utf8_lossy(&reload.stdout).trim(), "nothing has changed");
    });
}

#[test]
fn doctor_knows_its_running_relay() {
    if skip_unless_root("doctor_knows_its_running_relay") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        setup.config("\"r0\", \"r1\"", "10.1.0.1", "10.2.0.2", "");
        let failed = |checks: &[Check]| {
            checks.iter().filter(|c| c.status == CheckStatus::Fail).map(ToString::to_string).collect::<Vec<_>>()
        };
        let before = failed(&setup.doctor());
        let _relay = setup.start();
        let running = setup.doctor();
        assert_eq!(failed(&running), before);
        let relay = running.iter().find(|check| check.id == "relay").unwrap();
        assert!(relay.observed.contains("running"), "{relay}");
        // For the configuration of another relay it is a foreign program, and the remedy does not detach it.
        let text = std::fs::read_to_string(setup.path("relay.toml")).unwrap();
        std::fs::write(setup.path("relay.toml"), text.replace("ctl.sock", "other.sock")).unwrap();
        let strange = setup.doctor();
        let program = strange.iter().find(|check| check.id == "xdp-attached").unwrap();
        assert!(
            program.status == CheckStatus::Fail && program.remedy.as_ref().unwrap().contains("oxide relay"),
            "{program}"
        );
    });
}

/// A process without CAP_DAC_OVERRIDE cannot read all files that root can, and the relay gives this capability up.
#[test]
fn file_that_a_reload_cannot_read_is_reported_at_start() {
    if skip_unless_root("file_that_a_reload_cannot_read_is_reported_at_start") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        setup.config("\"r0\", \"r1\"", "10.1.0.1", "10.2.0.2", "");
        drop(setup.start());
        assert!(!setup.log().contains("a reload will not"), "{}", setup.log());
        let file = setup.path("relay.toml");
        std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let _relay = setup.start();
        assert!(setup.log().contains("a reload will not be able to read"), "{}", setup.log());
        assert!(setup.log().contains("owner 65534"), "{}", setup.log());
        let reload = setup.oxide(&["ctl", "--socket", "ctl.sock", "reload"]);
        let text = String::from_utf8_lossy(&reload.stderr).into_owned();
        assert!(reload.status.code() == Some(1) && text.contains("owner 65534") && !text.contains("sandbox"), "{text}");
    });
}

/// If the reader closes the pipe, as `| head` does, the command ends without a message.
#[test]
fn reader_that_goes_away_ends_every_command_quietly() {
    if skip_unless_root("reader_that_goes_away_ends_every_command_quietly") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        setup.config("\"r0\", \"r1\"", "10.1.0.1", "10.2.0.2", "");
        let _relay = setup.start();
        for words in [
            "config example",
            "config check relay.toml",
            "plan --config relay.toml --explain",
            "plan --config relay.toml --json",
            "doctor --config relay.toml",
            "ctl --socket ctl.sock status",
            "ctl --socket ctl.sock queues",
            "ctl --socket ctl.sock metrics",
            "ctl --socket ctl.sock sessions --json",
            "ctl --socket ctl.sock config",
            "top --socket ctl.sock --once",
            "top --socket ctl.sock --once --json",
            "top --socket ctl.sock",
            "sim --packets 2000",
            "sim --packets 2000 --json",
            "--help",
        ] {
            let mut child = Command::new(OXIDE)
                .args(words.split(' '))
                .current_dir(setup.dir.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            drop(child.stdout.take());
            let status = child.wait().unwrap();
            let mut text = String::new();
            child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            // The doctor may have its own exit code, if it finished its checks before writing.
            assert!(status.code() == Some(0) && !text.contains("panicked"), "oxide {words}: {status}: {text}");
        }
        // Without a reader of the log the relay continues.
        let mut relay = Command::new(OXIDE)
            .args(["relay", "--config", "other.toml"])
            .current_dir(setup.dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(relay.stderr.take());
        assert_eq!(relay.wait().unwrap().code(), Some(1), "the file does not exist; a panic would be 101");
    });
}

#[test]
fn options_of_ctl_are_accepted_behind_the_verb() {
    if skip_unless_root("options_of_ctl_are_accepted_behind_the_verb") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        setup.config("\"r0\", \"r1\"", "10.1.0.1", "10.2.0.2", "");
        let _relay = setup.start();
        for words in
            ["queues --socket ctl.sock --json", "--json queues --socket ctl.sock", "--socket ctl.sock queues --json"]
        {
            let output = setup.oxide(&[&["ctl"], &words.split(' ').collect::<Vec<_>>()[..]].concat());
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && text.starts_with('{'), "{words}: {output:?}");
        }
        let both = setup.oxide(&["ctl", "queues", "--socket", "ctl.sock", "--name", "relay"]);
        assert_eq!(both.status.code(), Some(2), "the options exclude each other: {both:?}");
    });
}

#[test]
fn second_relay_is_told_who_has_the_interface() {
    if skip_unless_root("second_relay_is_told_who_has_the_interface") {
        return;
    }
    in_namespace(|lab| {
        let setup = setup(lab);
        setup.config("\"r0\", \"r1\"", "10.1.0.1", "10.2.0.2", "");
        let _relay = setup.start();
        let text = std::fs::read_to_string(setup.path("relay.toml")).unwrap();
        std::fs::write(setup.path("other.toml"), text.replace("ctl.sock", "other.sock")).unwrap();
        let second = setup.oxide(&["relay", "--config", "other.toml"]);
        let text = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(second.status.code() == Some(1) && text.contains("an oxide relay"), "{text}");
        // No configuration field allows this.
        assert!(!text.contains("replaced in the configuration"), "{text}");
    });
}

/// Actors announce their end to each other; a mailbox that is already closed must not be reported as full.
#[test]
fn orderly_stop_warns_of_nothing() {
    if skip_unless_root("orderly_stop_warns_of_nothing") {
        return;
    }
    in_namespace(|lab| {
        let setup = Setup { dir: tempfile::tempdir().unwrap() };
        lab.veth("r0", "x0", 4, "02:00:00:00:01:01", "02:00:00:00:01:02");
        lab.address("r0", "10.1.0.1/24");
        lab.neighbour("r0", "10.1.0.2", "02:00:00:00:01:02");
        setup.config("\"r0\"", "10.1.0.1", "10.1.0.2", "[sessions]\ndrain_s = 0");
        for _ in 0..8 {
            let mut relay = setup.start();
            rustix::process::kill_process(rustix::process::Pid::from_child(&relay.0), rustix::process::Signal::TERM)
                .unwrap();
            assert_eq!(relay.0.wait().unwrap().code(), Some(0));
            let log = setup.log();
            assert!(!log.contains("\"WARN\"") && !log.contains("\"ERROR\""), "{log}");
        }
    });
}
