//! Output of the commands. A reader that goes away (`oxide ... | head`) ends a command quietly; the macros of std would
//! panic.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Standard output; the process ends with exit code 0 when nobody reads it any more.
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

/// Standard error; what nobody takes is lost.
pub(crate) struct Errors;

impl Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(io::stderr().write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to standard output; a full disk ends the process with exit code 1.
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
