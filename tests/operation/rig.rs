//! Sets up two interfaces with two queues each, an echo server and a ready relay, with the actions of an operator.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::netns::{Far, Lab, in_namespace, skip_unless_root};

pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Bench {
    pub(crate) clients: Far,
    stop: Arc<AtomicBool>,
    dir: tempfile::TempDir,
    pub(crate) child: Child,
    systemd: std::os::unix::net::UnixDatagram,
    faults: std::fs::File,
    /// Messages to systemd so far.
    notices: String,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.path("log")).unwrap_or_default());
        }
    }
}

impl Bench {
    /// Starts two queues, an echo server and the relay.
    pub(crate) fn new(lab: &Lab, more: &str) -> Self {
        Self::with(lab, more, |_, _| {})
    }

    /// Starts the same; `change` gets the directory of the test and the command that starts the relay.
    pub(crate) fn with(lab: &Lab, more: &str, change: impl FnOnce(&Path, &mut Command)) -> Self {
        let (clients, servers) = (lab.second_namespace(), lab.second_namespace());
        clients_side(lab, &clients);
        lab.veth("r1", "s0", 2, "02:00:00:00:02:01", "02:00:00:00:02:02");
        lab.give("s0", &servers);
        lab.address("r1", "10.2.0.1/24");
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        servers.run(move |lab| {
            lab.address("s0", "10.2.0.2/24");
            let socket = UdpSocket::bind("10.2.0.2:6000").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !until.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                    let port = from.port().to_string();
                    let answer = if buffer[..length] == *b"who am I" { port.as_bytes() } else { &buffer[..length] };
                    let _ = socket.send_to(answer, from);
                }
            });
        });
        let dir = tempfile::tempdir().unwrap();
        write_config(&dir.path().join("relay.toml"), &dir.path().join("ctl.sock"), more);
        let systemd = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).unwrap();
        systemd.set_nonblocking(true).unwrap();
        // Open for reading and writing, so that it has a reader before the relay listens.
        assert!(Command::new("mkfifo").arg(dir.path().join("faults")).status().unwrap().success());
        let faults = std::fs::File::options().read(true).write(true).open(dir.path().join("faults")).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_oxide"));
        command
            .args(["relay", "--config", dir.path().join("relay.toml").to_str().unwrap()])
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .env("WATCHDOG_USEC", "900000")
            .arg("--inject-faults-from")
            .arg(dir.path().join("faults"))
            .stdout(Stdio::null())
            .stderr(log);
        change(dir.path(), &mut command);
        let child = command.spawn().unwrap();
        let mut bench = Self { clients, stop, dir, child, systemd, faults, notices: String::new() };
        bench.wait("the relay is ready", |b| {
            assert!(b.child.try_wait().unwrap().is_none(), "the relay ended at once");
            b.ctl(&["queues"]).status.success()
        });
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    pub(crate) fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let until = Instant::now() + SOON;
        while !done(self) {
            assert!(Instant::now() < until, "timeout: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Writes a line for `cli/src/bin/oxide/faults.rs`.
    pub(crate) fn inject(&mut self, line: &str) {
        writeln!(self.faults, "{line}").unwrap();
    }

    pub(crate) fn ctl(&self, words: &[&str]) -> Output {
        let socket = self.path("ctl.sock");
        Command::new(env!("CARGO_BIN_EXE_oxide"))
            .args(["ctl", "--socket", socket.to_str().unwrap()])
            .args(words)
            .output()
            .unwrap()
    }

    /// Returns the output of `ctl`, which must succeed.
    pub(crate) fn ctl_output(&self, words: &[&str]) -> String {
        let output = self.ctl(words);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "ctl {words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Returns exit code and error of `ctl`, which must fail.
    pub(crate) fn refused(&self, words: &[&str]) -> (i32, String) {
        let output = self.ctl(words);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    pub(crate) fn queues(&self) -> Value {
        serde_json::from_str(&self.ctl_output(&["--json", "queues"])).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect("127.0.0.1:9797").unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Returns how many of `flows` new clients get `rounds` answers each.
    pub(crate) fn answered(&self, port: u16, flows: usize, rounds: usize) -> usize {
        self.clients.run(move |_| {
            let sockets: Vec<_> = (0..flows).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect();
            sockets.iter().for_each(|s| s.set_read_timeout(Some(Duration::from_millis(400))).unwrap());
            let mut answered = 0;
            for _ in 0..rounds {
                sockets.iter().for_each(|s| drop(s.send_to(b"hello", ("10.1.0.1", port))));
                answered += sockets.iter().filter(|s| s.recv_from(&mut [0; 64]).is_ok()).count();
            }
            answered
        })
    }

    pub(crate) fn serves(&mut self, port: u16) {
        self.wait("every client is answered", |b| b.answered(port, 4, 1) == 4);
    }

    /// Waits until systemd gets the message `words` after this call.
    pub(crate) fn notified(&mut self, words: &str) {
        self.wait(words, |b| {
            let mut buffer = [0; 4096];
            while let Ok(length) = b.systemd.recv(&mut buffer) {
                b.notices += std::str::from_utf8(&buffer[..length]).unwrap();
            }
            let found = b.notices.find(words);
            found.inspect(|&at| drop(b.notices.drain(..at + words.len()))).is_some()
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn end(&mut self) -> i32 {
        let mut code = None;
        self.wait("the relay ends", |b| {
            code = b.child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code().unwrap_or(-1)
    }
}

/// Creates the link to the clients, also again after it was deleted.
pub(crate) fn clients_side(lab: &Lab, clients: &Far) {
    lab.veth("r0", "c0", 2, "02:00:00:00:01:01", "02:00:00:00:01:02");
    lab.give("c0", clients);
    lab.address("r0", "10.1.0.1/24");
    clients.run(|lab| lab.address("c0", "10.1.0.2/24"));
}

pub(crate) fn write_config(path: &std::path::Path, socket: &std::path::Path, more: &str) {
    let admin = if more.contains("[admin]") { "" } else { "[admin]\n" };
    let text = format!(
        "[engine]\ninterfaces = [\"r0\", \"r1\"]\nring_size = 256\n{more}\n{admin}socket = \"{}\"\n[[relay]]\nname = \
         \"a\"\nlisten = \"10.1.0.1:5000\"\nupstreams = [\"10.2.0.2:6000\"]\nallow_private = true\n",
        socket.display()
    );
    std::fs::write(path, text).unwrap();
}

pub(crate) fn lab(test: &'static str, more: &'static str, run: impl FnOnce(&Lab, &mut Bench) + Send + 'static) {
    if skip_unless_root(test) {
        return;
    }
    in_namespace(move |lab| run(lab, &mut Bench::new(lab, more)));
}
