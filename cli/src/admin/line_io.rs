//! Reads and writes lines of limited length on a Unix socket, asynchronously.

use std::io;

use tokio::net::UnixStream;

/// Returns the next line of `stream` without its line feed, or `None` at the end of the stream. Between calls, `rest`
/// holds the bytes after the line.
///
/// # Errors
/// Returns `InvalidData` if the first `most` bytes contain no line feed, otherwise the kernel's error.
pub(super) async fn read(stream: &UnixStream, rest: &mut Vec<u8>, most: usize) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = rest.iter().take(most).position(|&byte| byte == b'\n') {
            let mut line: Vec<u8> = rest.drain(..=end).collect();
            line.pop();
            return Ok(Some(line));
        }
        if rest.len() >= most {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.readable().await?;
        let mut chunk = [0; 1024];
        match stream.try_read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(n) => rest.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes all of `bytes`.
///
/// # Errors
/// Returns the kernel's error.
pub(super) async fn write(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
