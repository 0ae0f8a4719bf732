//! Opens the listeners of the admin endpoint. This happens before everything else, so that a conflict is reported at
//! once.

use std::fs;
use std::io;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oxide_relay::config::{AdminConfig, ListenSetting};

/// Default address of HTTP.
pub const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9797);
/// Directory of the default socket. systemd-tmpfiles or the relay creates it.
const RUN: &str = "/run/oxide";

/// Describes why a configured listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The HTTP listener failed.
    #[error("admin.http: cannot listen on {address}: {source}{}", remedy_http(.source))]
    Http {
        /// Configured address.
        address: SocketAddr,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The control socket failed.
    #[error("admin.socket: cannot listen on {}: {source}{}", path.display(), remedy_socket(.source))]
    Socket {
        /// Configured path.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
}

fn remedy_http(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; expected a free port; to fix: stop the process shown by `ss -ltnp`, or set another port or \"off\""
        }
        io::ErrorKind::AddrNotAvailable => "; expected a local address; to fix: choose one shown by `ip -br addr`",
        _ => "",
    }
}

fn remedy_socket(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another relay uses it; to fix: set another path",
        io::ErrorKind::NotFound => "; to fix: create its directory",
        io::ErrorKind::PermissionDenied => "; to fix: set a path in a directory that this user may write to",
        _ => "",
    }
}

/// Holds the open listeners. Dropping it removes the socket's file.
#[derive(Debug, Default)]
pub struct Listeners {
    pub(super) http: Option<TcpListener>,
    pub(super) socket: Option<UnixListener>,
    pub(super) path: Option<PathBuf>,
    /// Requests may use any host name.
    pub(super) named: bool,
    notes: Vec<String>,
}

impl Listeners {
    /// Opens the listeners of `config`. `name` is the relay's name and part of the default socket path.
    ///
    /// # Errors
    /// Returns [`ListenError`] if a configured listener cannot be opened. If a default listener cannot be opened,
    /// that becomes a [note](Self::notes).
    pub fn open(config: &AdminConfig, name: &str) -> Result<Self, ListenError> {
        let mut listeners = Self::default();
        listeners.named = config.allow_remote;
        match config.http {
            ListenSetting::Off => {}
            ListenSetting::At(address) => listeners.listen(address)?,
            ListenSetting::Auto => {
                if let Err(error) = listeners.listen(DEFAULT_HTTP) {
                    listeners.notes.push(format!("no HTTP: {error}"));
                }
            }
        }
        match &config.socket {
            ListenSetting::Off => {}
            ListenSetting::At(path) => listeners.bind(path)?,
            ListenSetting::Auto => {
                let path = default_socket(name);
                if let Some(directory) = path.parent() {
                    // This fails if the directory exists or cannot be created; binding reports the second case.
                    let _ = fs::DirBuilder::new().mode(0o755).create(directory);
                }
                if let Err(error) = listeners.bind(&path) {
                    listeners.notes.push(format!("no control socket: {error}"));
                }
            }
        }
        Ok(listeners)
    }

    /// Returns the address of HTTP, if it is open.
    #[must_use]
    pub fn http(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Returns the path of the control socket, if it is open.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Returns a message for each default listener that could not be opened.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn listen(&mut self, address: SocketAddr) -> Result<(), ListenError> {
        let bind = || patiently(|| TcpListener::bind(address), || answers(http_probe(address)));
        let listener = bind()
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(|source| ListenError::Http { address, source })?;
        self.http = Some(listener);
        Ok(())
    }

    fn bind(&mut self, path: &Path) -> Result<(), ListenError> {
        let bind = || patiently(|| bind(path), || answers(socket_probe(path)));
        let listener = bind().map_err(|source| ListenError::Socket { path: path.to_owned(), source })?;
        self.socket = Some(listener);
        self.path = Some(path.to_owned());
        Ok(())
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

/// Maximum wait for an address whose owner does not answer. A killed process keeps the address until the kernel has
/// freed its sockets and memory.
const DYING: Duration = Duration::from_secs(5);
/// Maximum time in which a live owner answers anything.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Binds. Repeats an attempt on an address in use while its owner does not answer.
fn patiently<T>(bind: impl Fn() -> io::Result<T>, answers: impl Fn() -> bool) -> io::Result<T> {
    let until = Instant::now() + DYING;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until && !answers() => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// Returns whether the connection delivers at least one byte.
fn answers(probe: io::Result<impl io::Read>) -> bool {
    probe.and_then(|mut stream| stream.read(&mut [0])).is_ok_and(|length| length > 0)
}

fn http_probe(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    Ok(stream)
}

fn socket_probe(path: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(b"{\"do\":\"queues\"}\n")?;
    Ok(stream)
}

/// Creates a socket at `path` that only its owner may use. It replaces the socket of a dead process, and fails if
/// another process listens.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    // The socket is created under another name and moved, so that it never has wider rights at `path`.
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    let finish = || {
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        fs::rename(&temporary, path)
    };
    finish().inspect_err(|_| drop(fs::remove_file(&temporary)))?;
    Ok(listener)
}

/// Returns the default path of relay `name`'s control socket: in `/run/oxide` for root or if systemd created it,
/// otherwise in `$XDG_RUNTIME_DIR/oxide`.
#[must_use]
pub fn default_socket(name: &str) -> PathBuf {
    let run = Path::new(RUN);
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("oxide"));
    let writable =
        rustix::fs::access(run, rustix::fs::Access::WRITE_OK).is_ok() || rustix::process::geteuid().is_root();
    let directory = if writable { run.to_owned() } else { own.unwrap_or_else(|| run.to_owned()) };
    directory.join(format!("{name}.sock"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Answers the first two connections.
    fn answer_twice(listener: UnixListener) -> std::thread::JoinHandle<()> {
        listener.set_nonblocking(false).unwrap();
        std::thread::spawn(move || {
            for _ in 0..2 {
                let _ = listener.accept().and_then(|(mut stream, _)| stream.write_all(b"x"));
            }
        })
    }

    /// Checks that a start waits for the addresses of a killed relay, which keeps them for a while and does not
    /// answer.
    #[test]
    fn place_of_a_dying_process_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.sock");
        let dying = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&path).unwrap());
        let address = dying.0.local_addr().unwrap();
        // Each listener closes after one connection, without an answer.
        std::thread::spawn(move || {
            let _asked = dying.0.accept();
            drop(dying.0);
            let _asked = dying.1.accept();
        });
        let config = AdminConfig::new(ListenSetting::At(address), ListenSetting::At(path));
        let listeners = Listeners::open(&config, "relay").unwrap();
        assert_eq!(listeners.http(), Some(address));
        assert!(listeners.socket().is_some());
    }

    #[test]
    fn control_socket_belongs_to_owner_and_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.sock");
        let config = AdminConfig::new(ListenSetting::Off, ListenSetting::At(path.clone()));
        let first = Listeners::open(&config, "relay").unwrap();
        let alive = answer_twice(first.socket.as_ref().unwrap().try_clone().unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = Listeners::open(&config, "relay").unwrap_err().to_string();
        assert!(second.contains("another relay uses it"), "{second}");
        alive.join().unwrap();
        assert!(path.exists());
        // A killed process leaves the file, and nothing listens.
        let mut first = first;
        first.path = None;
        drop(first);
        assert!(path.exists());
        drop(Listeners::open(&config, "relay").unwrap());
        assert!(!path.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "no other file is left");
    }

    #[test]
    fn configured_listener_is_required_and_default_one_optional() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let alive = std::thread::spawn(move || taken.accept().unwrap().0.write_all(b"x").map(|()| taken).unwrap());
        let config = AdminConfig::new(ListenSetting::At(address), ListenSetting::Off);
        let error = Listeners::open(&config, "relay").unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("ss -ltnp"), "{error}");
        drop(alive.join().unwrap());
        let nowhere = AdminConfig::new(ListenSetting::Off, ListenSetting::At("/nonexistent/a.sock".into()));
        let error = Listeners::open(&nowhere, "relay").unwrap_err().to_string();
        assert!(error.contains("create its directory"), "{error}");
    }
}
