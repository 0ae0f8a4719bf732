//! Writes to standard error without delaying or ending the process. If the reader is slow or gone, or the disk is
//! full, lines are lost.
//!
//! Before [`write_in_background`] the thread that logs a line also writes it. Afterwards another thread writes all
//! lines. Lines that find its queue full are lost and counted.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Maximum number of lines that wait to be written.
const WAITING: usize = 1024;

static QUEUE: OnceLock<flume::Sender<Message>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

enum Message {
    /// Text with its line ends.
    Text(Vec<u8>),
    /// Request to answer when everything before it is written.
    Flush(flume::Sender<()>),
}

/// Sends one message for each call, and never fails.
pub(crate) struct Output;

impl Write for Output {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) if queue.try_send(Message::Text(text.to_vec())).is_ok() => {}
            Some(_) => _ = LOST.fetch_add(1, Ordering::Relaxed),
            None => _ = io::stderr().write_all(text),
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a line of plain text.
pub(crate) fn line(text: &str) {
    let _ = Output.write(format!("{text}\n").as_bytes());
}

/// Starts a thread that writes all lines. It has the privileges of the calling thread.
///
/// # Errors
/// Returns the kernel's error if it creates no thread.
pub(crate) fn write_in_background() -> io::Result<()> {
    let (sender, messages) = flume::bounded(WAITING);
    let keep = move || write_all(&messages, &LOST, &mut io::stderr());
    std::thread::Builder::new().name("oxide-log".to_owned()).spawn(keep)?;
    let _ = QUEUE.set(sender);
    Ok(())
}

/// Waits until all logged lines are written, at most `within`.
pub(crate) fn flush(within: Duration) {
    let Some(queue) = QUEUE.get() else { return };
    let (answer, written) = flume::bounded(1);
    if queue.send_timeout(Message::Flush(answer), within).is_ok() {
        let _ = written.recv_timeout(within);
    }
}

fn write_all(messages: &flume::Receiver<Message>, lost: &AtomicU64, to: &mut impl Write) {
    for message in messages {
        let lines = lost.swap(0, Ordering::Relaxed);
        if lines > 0 {
            let _ = writeln!(to, "oxide: {lines} log messages were lost: standard error was not read in time");
        }
        match message {
            Message::Text(text) => _ = to.write_all(&text),
            Message::Flush(answer) => _ = answer.try_send(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn lost_lines_are_counted_before_next_line() {
        let (sender, messages) = flume::unbounded();
        let (answer, flushed) = flume::bounded(1);
        sender.send(Message::Text(b"after the gap\n".to_vec())).unwrap();
        sender.send(Message::Flush(answer)).unwrap();
        drop(sender);
        let mut text = Vec::new();
        write_all(&messages, &AtomicU64::new(7), &mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.starts_with("oxide: 7 log messages were lost") && text.ends_with("time\nafter the gap\n"),
            "{text}"
        );
        flushed.try_recv().unwrap();
    }

    #[test]
    fn failing_output_ends_nothing() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (sender, messages) = flume::unbounded();
        let (answer, flushed) = flume::bounded(1);
        sender.send(Message::Text(b"a line\n".to_vec())).unwrap();
        sender.send(Message::Flush(answer)).unwrap();
        drop(sender);
        write_all(&messages, &AtomicU64::new(1), &mut Full);
        flushed.try_recv().unwrap();
    }
}
