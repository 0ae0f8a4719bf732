//! The listeners: opened before anything else is, so that what stands in their way is told at once.

use std::fs;
use std::io;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oxide_relay::config::{AdminConfig, ListenSetting};

/// Where HTTP is served by default.
pub const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9797);
/// Made by systemd-tmpfiles or by us.
const RUN: &str = "/run/oxide";

/// A listener that was wanted at a certain place cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// HTTP.
    #[error("admin.http = \"{address}\": {source}{}", mend_http(.source))]
    Http {
        /// Where.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The control socket.
    #[error("admin.socket = \"{}\": {source}{}", path.display(), mend_socket(.source))]
    Socket {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn mend_http(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (`ss -ltnp` shows who has it; another port, or http = \"off\", gives way)",
        io::ErrorKind::AddrNotAvailable => " (no address of this host: see `ip -br addr`)",
        _ => "",
    }
}

fn mend_socket(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another relay serves it: give this one a socket of its own)",
        io::ErrorKind::NotFound => " (make its directory first)",
        io::ErrorKind::PermissionDenied => " (take a path in a directory that this user may write to)",
        _ => "",
    }
}

/// Open listeners. The socket's file goes when this is dropped.
#[derive(Debug, Default)]
pub struct Listeners {
    pub(super) http: Option<TcpListener>,
    pub(super) socket: Option<UnixListener>,
    pub(super) path: Option<PathBuf>,
    /// HTTP may be asked for by any name.
    pub(super) named: bool,
    notes: Vec<String>,
}

impl Listeners {
    /// Opens what `config` asks for; `name` is the relay's, for the socket's default path.
    ///
    /// # Errors
    /// [`ListenError`] for a place that was named and cannot be had. A default place that cannot be had is a
    /// [note](Self::notes).
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
                    // There already, or not to be made: binding says which.
                    let _ = fs::DirBuilder::new().mode(0o755).create(directory);
                }
                if let Err(error) = listeners.bind(&path) {
                    listeners.notes.push(format!("no control socket: {error}"));
                }
            }
        }
        Ok(listeners)
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn http(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Where the control socket is.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Default places that could not be had, and why.
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

/// How long a place is waited for whose holder does not answer: a process that was killed holds it until the kernel has
/// taken it down, sockets and memory.
const DYING: Duration = Duration::from_secs(5);
/// For a holder that is alive to answer, whatever it says.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Binds; a place that is in use is tried again while its holder does not answer.
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

/// Whether anything comes back on a connection.
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

/// A socket at `path` that only its owner may use. One that a dead process left is replaced; one that
/// somebody serves is left alone.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    // Made beside and moved: at `path` it never has other rights than these, not for a moment.
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    let finish = || {
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        fs::rename(&beside, path)
    };
    finish().inspect_err(|_| drop(fs::remove_file(&beside)))?;
    Ok(listener)
}

/// Where the control socket of relay `name` is unless told otherwise: `/run/oxide` for root or where systemd made
/// it, `$XDG_RUNTIME_DIR/oxide` for others.
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

    /// Answers the first two who connect.
    fn answer_twice(listener: UnixListener) -> std::thread::JoinHandle<()> {
        listener.set_nonblocking(false).unwrap();
        std::thread::spawn(move || {
            for _ in 0..2 {
                let _ = listener.accept().and_then(|(mut stream, _)| stream.write_all(b"x"));
            }
        })
    }

    /// A relay that was killed holds its places until the kernel has taken it down, and answers nobody.
    #[test]
    fn place_of_a_dying_process_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.sock");
        let dying = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&path).unwrap());
        let address = dying.0.local_addr().unwrap();
        // Gone once each was asked: the answers never came.
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
        assert!(second.contains("another relay serves it"), "{second}");
        alive.join().unwrap();
        assert!(path.exists());
        // As kill -9 leaves it: the file is there, and nobody listens.
        let mut first = first;
        first.path = None;
        drop(first);
        assert!(path.exists());
        drop(Listeners::open(&config, "relay").unwrap());
        assert!(!path.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left beside it");
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
        assert!(error.contains("make its directory"), "{error}");
    }
}
