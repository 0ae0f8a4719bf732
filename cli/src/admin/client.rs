//! Connects to the control socket of a running relay.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::protocol::{ControlError, ControlRequest, ControlResponse};

/// Maximum length of an answer in bytes: a thousand sessions, or the status of a thousand queues.
const MAX_ANSWER: u64 = 16 << 20;

/// Describes why a request to a relay failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No relay listens.
    #[error("control socket {}: cannot connect: {source}{}", path.display(), remedy(.source))]
    NoRelay {
        /// Path of the socket.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The connection failed, or no answer arrived in time.
    #[error("control socket {}: no answer: {text}", path.display())]
    NoAnswer {
        /// Path of the socket.
        path: PathBuf,
        /// Reason.
        text: String,
    },
    /// The relay refused the request.
    #[error(transparent)]
    Control(#[from] ControlError),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; to fix: start the relay, or name its socket with --socket",
        io::ErrorKind::ConnectionRefused => "; to fix: start the relay again, or name another socket with --socket",
        io::ErrorKind::PermissionDenied => "; expected the user of the relay's process; to fix: use sudo",
        _ => "",
    }
}

/// Holds a connection to a running relay.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the relay whose control socket is at `path`.
    ///
    /// # Errors
    /// Returns [`ClientError::NoRelay`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream =
            UnixStream::connect(path).map_err(|source| ClientError::NoRelay { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Sends a request and waits at most `within` for the answer.
    ///
    /// # Errors
    /// Returns [`ClientError::NoAnswer`], or [`ClientError::Control`] with the relay's message.
    pub fn ask(&mut self, request: &ControlRequest, within: Duration) -> Result<Value, ClientError> {
        let line = self.exchange(request, within).map_err(|error| ClientError::NoAnswer {
            path: self.path.clone(),
            text: match error.kind() {
                io::ErrorKind::WouldBlock => format!("none within {within:?}"),
                io::ErrorKind::UnexpectedEof => "the relay closed the connection".to_owned(),
                _ => error.to_string(),
            },
        })?;
        match serde_json::from_str(&line) {
            Ok(ControlResponse::Ok(value)) => Ok(value),
            Ok(ControlResponse::Error(error)) => Err(error.into()),
            Err(error) => Err(ClientError::NoAnswer { path: self.path.clone(), text: format!("invalid: {error}") }),
        }
    }

    fn exchange(&mut self, request: &ControlRequest, within: Duration) -> io::Result<String> {
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        let stream = self.stream.get_mut();
        stream.set_write_timeout(Some(within))?;
        stream.set_read_timeout(Some(within))?;
        // A relay with too many connections has sent an error and closed the connection. The error is still to be
        // read.
        let sent = stream.write_all(&bytes);
        let mut line = String::new();
        (&mut self.stream).take(MAX_ANSWER).read_line(&mut line)?;
        if line.ends_with('\n') {
            return Ok(line);
        }
        sent.and(Err(io::ErrorKind::UnexpectedEof.into()))
    }
}
