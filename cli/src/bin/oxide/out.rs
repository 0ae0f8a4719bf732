//! Prints the output of the commands. If the reader closes the pipe (`oxide ... | head`), the command ends without a
//! message; the macros of std would panic.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Writes to standard output. The process ends with exit code 0 if the reader has closed it.
pub(crate) struct Out;

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        read_on(io::stdout().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        read_on(io::stdout().flush())
    }
}

fn read_on<T>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

/// Writes to standard error. Text that cannot be written is lost.
pub(crate) struct Errors;

impl Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(io::stderr().write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints to standard output. If that fails, for example because the disk is full, the process ends with exit code 1.
pub(crate) fn print(text: Arguments<'_>) {
    if let Err(error) = Out.write_fmt(text) {
        let _ = writeln!(Errors, "oxide: standard output: {error}");
        std::process::exit(1);
    }
}

/// Prints to standard output.
macro_rules! out {
    ($($text:tt)*) => { $crate::out::print(format_args!($($text)*)) };
}

/// Prints a line to standard output.
macro_rules! outln {
    () => { $crate::out::print(format_args!("\n")) };
    ($($text:tt)*) => { $crate::out::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints a line to standard error.
macro_rules! errln {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!($crate::out::Errors, $($text)*);
    }};
}
