//! Runs the relay between client, router and server namespaces, with requests and answers for tests.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::netns::{Far, Lab};

/// Limits the time for an expected event.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Is a ready relay, killed when dropped.
pub(crate) struct Relay {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

impl Relay {
    /// Starts the relay in this namespace and waits until it runs. One queue, so that a flow stays on it.
    pub(crate) fn start(interfaces: &[&str], entries: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = interfaces.iter().map(|name| format!("\"{name}\"")).collect();
        let text = format!(
            "[engine]\ninterfaces = [{}]\nring_size = 256\n[sessions]\nsource_ports = \"20000-29999\"\ndrain_s = 0\n\
             [admin]\nhttp = \"off\"\nsocket = \"{}\"\n{entries}",
            names.join(", "),
            dir.path().join("ctl.sock").display()
        );
        std::fs::write(dir.path().join("relay.toml"), text).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_oxide"))
            .args(["relay", "--config", dir.path().join("relay.toml").to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut relay = Self { child, dir };
        let until = Instant::now() + SOON;
        while !relay.ctl("status").contains("\"state\":\"running\"") {
            assert!(relay.child.try_wait().unwrap().is_none(), "the relay ended at once");
            assert!(Instant::now() < until, "the relay is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        relay
    }

    /// Returns the relay's log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Returns the output of `oxide ctl` without blanks.
    pub(crate) fn ctl(&self, words: &str) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_oxide"))
            .args(["ctl", "--socket", self.dir.path().join("ctl.sock").to_str().unwrap()])
            .args(words.split(' '))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).split_whitespace().collect()
    }
}

/// Returns one `[[relay]]` entry with one upstream.
pub(crate) fn entry(name: &str, listen: &str, upstream: &str) -> String {
    format!("[[relay]]\nname = \"{name}\"\nlisten = \"{listen}\"\nupstreams = [\"{upstream}\"]\nallow_private = true\n")
}

/// Creates a veth with one queue between this namespace and `far`; `far` gets `there`, which is up at return.
pub(crate) fn link(lab: &Lab, here: &str, far: &Far, there: &str) {
    let mac = |side: u8| {
        let hash = here.bytes().fold(7_u8, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte));
        format!("02:00:00:00:{hash:02x}:{side:02x}")
    };
    lab.veth(here, there, 1, &mac(1), &mac(2));
    lab.give(there, far);
    lab.running(here);
}

/// Adds addresses in `far`.
pub(crate) fn addresses(far: &Far, dev: &str, list: &[&str]) {
    let (dev, list) = (dev.to_owned(), list.iter().map(|&address| address.to_owned()).collect::<Vec<_>>());
    far.run(move |lab| list.iter().for_each(|address| lab.address(&dev, address)));
}

/// Starts a server in `far` that answers with the client's address and the payload. It ends with the test's process.
pub(crate) fn echo(far: &Far, at: &str) {
    let at = at.to_owned();
    far.run(move |_| {
        let socket = UdpSocket::bind(at.as_str()).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let mut answer = format!("{from} ").into_bytes();
                answer.extend_from_slice(&buffer[..length]);
                let _ = socket.send_to(&answer, from);
            }
        });
    });
}

/// Returns a client's socket in `far`, bound to `from`.
pub(crate) fn client(far: &Far, from: &str) -> UdpSocket {
    let from = from.to_owned();
    far.run(move |_| UdpSocket::bind(from.as_str()).unwrap())
}

/// Sends one request to `to` and returns the client address that the server saw. `None` without an answer within
/// `wait`.
pub(crate) fn ask_once(client: &UdpSocket, to: &str, wait: Duration) -> Option<SocketAddr> {
    client.set_read_timeout(Some(wait)).unwrap();
    let to: SocketAddr = to.parse().unwrap();
    client.send_to(b"?", to).unwrap();
    let mut buffer = [0; 2048];
    let (length, from) = client.recv_from(&mut buffer).ok()?;
    assert_eq!(from, to, "the answer must come from the listen address");
    let text = std::str::from_utf8(&buffer[..length]).unwrap();
    Some(text.split_once(' ').unwrap().0.parse().unwrap())
}

/// Sends requests until there is an answer.
pub(crate) fn ask(client: &UdpSocket, to: &str) -> SocketAddr {
    until("an answer", || ask_once(client, to, Duration::from_secs(1)))
}

/// Waits until `look` returns a value.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "timeout: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Parses an address.
pub(crate) fn at(text: &str) -> IpAddr {
    text.parse().unwrap()
}
