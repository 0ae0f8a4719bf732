//! The other end of the control socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::protocol::{ControlError, ControlRequest, ControlResponse};

/// Longest answer, bytes: a thousand sessions, or the status of a thousand queues.
const MAX_ANSWER: u64 = 16 << 20;

/// A relay could not be asked, or did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody there.
    #[error("no relay at {}: {source}{}", path.display(), remedy(.source))]
    NoRelay {
        /// Where it was looked for.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The connection broke, or no answer came in time.
    #[error("the relay at {} did not answer: {text}", path.display())]
    NoAnswer {
        /// Where it is.
        path: PathBuf,
        /// What happened.
        text: String,
    },
    /// The relay said no.
    #[error(transparent)]
    Control(#[from] ControlError),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => " (is it running? --socket names another place)",
        io::ErrorKind::ConnectionRefused => " (it has ended; --socket names another place)",
        io::ErrorKind::PermissionDenied => " (only the owner of the relay's process may: try sudo)",
        _ => "",
    }
}

/// A connection to a running relay.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the relay whose control socket is at `path`.
    ///
    /// # Errors
    /// [`ClientError::NoRelay`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream =
            UnixStream::connect(path).map_err(|source| ClientError::NoRelay { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer, at most `within`.
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`]; [`ClientError::Control`] with the relay's words.
    pub fn ask(&mut self, request: &ControlRequest, within: Duration) -> Result<Value, ClientError> {
        let line = self.exchange(request, within).map_err(|error| ClientError::NoAnswer {
            path: self.path.clone(),
            text: match error.kind() {
                io::ErrorKind::WouldBlock => format!("not within {within:?}"),
                io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
                _ => error.to_string(),
            },
        })?;
        match serde_json::from_str(&line) {
            Ok(ControlResponse::Ok(value)) => Ok(value),
            Ok(ControlResponse::Error(error)) => Err(error.into()),
            Err(error) => {
                Err(ClientError::NoAnswer { path: self.path.clone(), text: format!("not an answer: {error}") })
            }
        }
    }

    fn exchange(&mut self, request: &ControlRequest, within: Duration) -> io::Result<String> {
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        let stream = self.stream.get_mut();
        stream.set_write_timeout(Some(within))?;
        stream.set_read_timeout(Some(within))?;
        // A relay with too many connections has said so and hung up: what it said is still to be read.
        let sent = stream.write_all(&bytes);
        let mut line = String::new();
        (&mut self.stream).take(MAX_ANSWER).read_line(&mut line)?;
        if line.ends_with('\n') {
            return Ok(line);
        }
        sent.and(Err(io::ErrorKind::UnexpectedEof.into()))
    }
}
