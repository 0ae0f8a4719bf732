//! Lines over a Unix socket, bounded in length, on the async side.

use std::io;

use tokio::net::UnixStream;

/// The next line of `stream`, without its line feed; `None` at its end. `rest` holds what was read beyond a
/// line, between calls.
///
/// # Errors
/// `InvalidData` if there is no line feed within `most` bytes; otherwise the kernel's.
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
/// The kernel's.
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
